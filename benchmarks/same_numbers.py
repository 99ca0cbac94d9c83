"""Do two states of the code find the same numbers? Posteriors of simulated spectra of one seed, as JSON lines, and their comparison.

    python benchmarks/same_numbers.py run --number 200 --output before.jsonl
    python benchmarks/same_numbers.py compare before.jsonl after.jsonl

The same machine and number of threads for both; with PYTHONPATH the code of another checkout is run. Stellar numbers, evidences, weights
and flags must agree to 1e-6 of their size; seconds may differ.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

TOLERANCE = 1e-6
_MAY_DIFFER = {"seconds"}
# Every fourth spectrum is looked at for a second star, and every tenth is inferred with independent pixels.
_COMPANION, _INDEPENDENT = 4, 10


def run(number: int, model: str, output: Path) -> None:
    import torch

    import maury
    from maury.checks.calibration import simulated_spectra

    torch.set_num_threads(1)
    loaded = maury.load_model(model)
    with output.open("w", encoding="utf-8") as lines:
        for i, (spectrum, *_) in enumerate(simulated_spectra(loaded, number, "native", 1)):
            found = maury.infer(
                spectrum,
                loaded,
                seed=i,
                noise="independent" if i % _INDEPENDENT == 0 else "auto",
                companion="auto" if i % _COMPANION == 0 else "no",
            )
            lines.write(json.dumps(found.to_json(), default=str) + "\n")
            lines.flush()


def leaves(value: Any, at: str = "") -> Iterator[tuple[str, Any]]:
    """Yield every number and text of a JSON value, with its place."""
    if isinstance(value, dict):
        for key, entry in value.items():
            if key not in _MAY_DIFFER:
                yield from leaves(entry, f"{at}.{key}".lstrip("."))
    elif isinstance(value, list):
        for i, entry in enumerate(value):
            yield from leaves(entry, f"{at}[{i}]")
    else:
        yield at, value


def same(a: Any, b: Any, tolerance: float = TOLERANCE) -> bool:
    if isinstance(a, bool) or isinstance(b, bool) or not isinstance(a, int | float):
        return bool(a == b)
    if not isinstance(b, int | float):
        return False
    if math.isnan(a) or math.isnan(b):
        return math.isnan(a) and math.isnan(b)
    return a == b or abs(a - b) <= tolerance * max(1.0, abs(a), abs(b))


def compare(before: Path, after: Path, tolerance: float = TOLERANCE) -> list[str]:
    """Return a line for every number that moved, and every one that is there only before."""
    old, new = (
        [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        for path in (before, after)
    )
    found = [] if len(old) == len(new) else [f"{len(old)} spectra before, {len(new)} after"]
    for i, (a, b) in enumerate(zip(old, new, strict=False)):
        found_after = dict(leaves(b))
        for place, value in leaves(a):
            if place not in found_after:
                found.append(f"{i}: {place} is gone (was {value!r})")
            elif not same(value, found_after[place], tolerance):
                found.append(f"{i}: {place} {value!r} -> {found_after[place]!r}")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    running = commands.add_parser("run")
    running.add_argument("--number", type=int, default=200)
    running.add_argument("--model", default="kurucz-apogee")
    running.add_argument("--output", type=Path, required=True)
    comparing = commands.add_parser("compare")
    comparing.add_argument("before", type=Path)
    comparing.add_argument("after", type=Path)
    comparing.add_argument("--tolerance", type=float, default=TOLERANCE)
    given = parser.parse_args()
    if given.command == "run":
        run(given.number, given.model, given.output)
        return
    moved = compare(given.before, given.after, given.tolerance)
    print("\n".join(moved) or "the same numbers")
    sys.exit(bool(moved))


if __name__ == "__main__":
    main()
