"""Write hashes.txt: the versions of constraints.txt, and of all that these need, with the SHA-256 of every file of theirs.

Usage: python docs/tools/lock.py UV, the program uv. ``make lock`` calls it, after a change of pyproject.toml or constraints.txt.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[2]
HASHES = ROOT / "hashes.txt"
# The builds of torch differ from index to index, and these are wanted by its builds for CUDA alone.
LEFT_OUT = re.compile(r"(torch==|nvidia-|cuda-|triton)")
HEADER = """\
# By make lock, from pyproject.toml (dev, docs) and constraints.txt, for every platform: what make installs, but torch and CUDA's libraries.
"""


def main() -> None:
    """Resolve, filter and write."""
    with tempfile.TemporaryDirectory() as folder:
        # What an editable checkout is built with.
        build, out = Path(folder) / "build.in", Path(folder) / "out.txt"
        build.write_text("hatchling>=1.28\neditables>=0.5\n", encoding="utf-8")
        command = [
            sys.argv[1],
            "pip",
            "compile",
            "pyproject.toml",
            str(build),
            "--extra",
            "dev",
            "--extra",
            "docs",
        ]
        options = ["--universal", "--generate-hashes", "--no-annotate", "--no-header", "--quiet"]
        versions = ["--constraint", "constraints.txt", "--python-version", "3.11.5"]
        subprocess.run([*command, *options, *versions, "--output-file", str(out)], cwd=ROOT, check=True)
        entries = re.split(r"\n(?=[A-Za-z0-9])", out.read_text(encoding="utf-8").strip())
    kept = [
        entry
        for entry in entries
        if not LEFT_OUT.match(entry) and "== 'emscripten'" not in entry.splitlines()[0]
    ]
    HASHES.write_text(HEADER + "\n".join(kept) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
