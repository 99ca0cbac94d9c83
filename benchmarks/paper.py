"""Seven networks on the same spectra for the same minutes: nbi itself, its network in maury, and what maury has beside.

``python benchmarks/paper.py FOLDER --minutes 20 --nbi .venv-peers/nbi/bin/python --output docs/results/paper.json``

Each is a run of its own (``benchmarks/peers``). What is done is not done again, and a training that was stopped goes on; nbi's begins anew.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

from maury.files import writing

PEERS = Path(__file__).parent / "peers"
# `score` begins with the weights of `aligned`.
SEVEN = ("nbi", "paper", "resnet-gru", "transformer", "module", "aligned", "score")


def command(kind: str, options: argparse.Namespace) -> list[str]:
    """Return the command that trains and judges one."""
    rest = [
        str(options.folder),
        *([] if kind == "nbi" else [kind]),
        str(options.minutes),
        "--size",
        options.size,
    ]
    python, script = (options.nbi, "nbi_peer.py") if kind == "nbi" else (sys.executable, "maury_peer.py")
    return [str(python), str(PEERS / script), *rest]


def main() -> None:
    """Run what is not done; write one file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="trainings, the file of spectra, and peers.json")
    parser.add_argument("--minutes", type=float, default=20.0, help="of training, each")
    parser.add_argument("--only", nargs="+", choices=SEVEN, default=SEVEN)
    parser.add_argument(
        "--nbi", type=Path, help="a Python that has nbi beside maury, as of make peers; left out without"
    )
    parser.add_argument("--size", choices=("full", "tiny"), default="full")
    parser.add_argument("--output", type=Path, required=True)
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    found = options.folder / "peers.json"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(PEERS), os.environ.get("PYTHONPATH", "")])}
    for kind in options.only:
        done = json.loads(found.read_text(encoding="utf-8")) if found.exists() else {}
        if kind not in done and (kind != "nbi" or options.nbi is not None):
            subprocess.run(command(kind, options), env=environment, check=True)
    figures = json.loads(found.read_text(encoding="utf-8"))
    told = {
        "command": f"benchmarks/paper.py FOLDER --minutes {options.minutes:g} --size {options.size}",
        "cores": len(os.sched_getaffinity(0)),
        "load": os.getloadavg()[0],
        "networks": {kind: figures[kind] for kind in SEVEN if kind in figures},
        "information_limit": figures.get("information limit", {}).get("log_density_mean"),
    }
    with writing(options.output) as temporary:
        temporary.write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
