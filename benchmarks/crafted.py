"""Files that were made to stop a reader or to have it lie, one by one: what becomes of each, how long it takes, how much memory.

Run: ``.venv/bin/python benchmarks/crafted.py --output docs/results/crafted.json``; with ``--before SOURCE`` the readers of another ``src``
are tried first, in processes of the same limits (5 s of the processor, 1 GB). The files are those of
``tests/spectra/formats/hostile.py``, the large ones of 60 MB too. It ends with 1 if a file takes more than the limits, or ends in anything
but a spectrum or the message that is due.
"""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "spectra" / "formats"))

from bounded import attempt
from hostile import crafted

from maury.spectra import read_spectra

INDEX = "index.json"
# The network is not to be asked; whoever does is told apart from the files' errors.
_NOBODY = {name: "http://127.0.0.1:9" for name in ("http_proxy", "https_proxy")}


def tried(folder: Path) -> Iterator[dict[str, Any]]:
    """Read the files of a folder; yield what became of each."""
    for name, file, due in json.loads((folder / INDEX).read_text(encoding="utf-8")):
        found = attempt(folder / file, read_spectra)
        yield {
            "file": name,
            "bytes": (folder / file).stat().st_size,
            "due": due,
            "found": found["found"],
            "said": found.get("said", "").replace(f"{folder}/", "")[:300],
            "seconds": round(found["seconds"], 2),
            "peak_MB": round(found["peak_MB"]),
        }


def write(folder: Path) -> None:
    """Write the files; by another process, so that no library has threads in this one, which is forked."""
    process = os.fork()
    if process == 0:
        try:
            known = [(name, path.name, due) for name, path, due in crafted(folder, also_large=True)]
            (folder / INDEX).write_text(json.dumps(known), encoding="utf-8")
            os._exit(0)
        finally:
            os._exit(1)
    if os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]):
        raise SystemExit("the files could not be written")


def right(entry: dict[str, Any]) -> bool:
    """Tell whether a file was read, or refused by the message that is due."""
    if entry["due"] is None:
        return bool(entry["found"] == "read")
    return entry["found"] == "MauryError" and entry["due"] in entry["said"]


def other(source: Path, folder: Path) -> Iterator[dict[str, Any]]:
    """Do the same with the readers of another source tree."""
    environment = os.environ | _NOBODY | {"PYTHONPATH": str(source)}
    command = [sys.executable, __file__, "--lines", str(folder)]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield from map(json.loads, process.stdout)
    if process.returncode:
        raise SystemExit(f"the readers of {source} could not be tried")


def told(entry: dict[str, Any]) -> dict[str, Any]:
    """Return what became of a file, without what it is."""
    return {key: entry[key] for key in ("found", "said", "seconds", "peak_MB") if entry[key] != ""}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--before", type=Path, help="src of the readers to compare with")
    parser.add_argument("--lines", type=Path, help="print what becomes of a folder's files, a line each")
    parser.add_argument("--work", type=Path, help="where the files are kept; a temporary folder by default")
    parser.add_argument("--output", type=Path)
    given = parser.parse_args()
    if given.lines:
        for entry in tried(given.lines):
            print(json.dumps(entry), flush=True)
        return
    entries, wrong = [], []
    with TemporaryDirectory() as temporary:
        folder = given.work or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        if not (folder / INDEX).exists():
            write(folder)
        before = {}
        for entry in other(given.before, folder) if given.before else ():
            before[entry["file"]] = told(entry)
            print(f"before: {json.dumps(entry)}", flush=True)
        for entry in tried(folder):
            name = entry["file"]
            past = {"before": before[name]} if before else {}
            entries.append({"file": name, "bytes": entry["bytes"], **past, "after": told(entry)})
            wrong += [] if right(entry) else [name]
            print(json.dumps(entries[-1]), flush=True)
    after = [entry["after"] for entry in entries]
    figures = {
        "files": len(entries),
        "wrong": wrong,
        "slowest_s": max(entry["seconds"] for entry in after),
        "peak_MB": max(entry["peak_MB"] for entry in after),
        "each": entries,
    }
    if given.output:
        given.output.parent.mkdir(parents=True, exist_ok=True)
        given.output.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    print(f"{len(entries)} files, wrong: {wrong or 'none'}")
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
