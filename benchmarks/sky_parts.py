"""Parts of what ``maury check sky`` found: M dwarfs and other stars, and M dwarfs that took no part in ``modes.safetensors``.

``python benchmarks/sky_parts.py ../shared/data/real/labels.csv docs/results/sky/seen.jsonl docs/results/sky/m-dwarfs.csv --output
docs/results/sky/parts.json``. Rows of aspcapStar files below 3500 K are left out: their labels are the pipeline's own fit, uncalibrated
and beyond its grid.
"""

from __future__ import annotations

import argparse
import csv
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from maury.checks.sky import Seen, Star, against_literature, read_stars, repeats
from maury.files import writing

COOL = 3500.0


def main() -> None:
    """Run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("stars", type=Path)
    parser.add_argument("seen", type=Path)
    parser.add_argument("standards", type=Path)
    parser.add_argument("--output", type=Path, required=True)
    chosen = parser.parse_args()
    known = {(star.file, star.index): star for star in read_stars(chosen.stars)}
    lines = [json.loads(line) for line in chosen.seen.read_text(encoding="utf-8").splitlines()]
    found = [
        (known[line["key"][0], line["key"][1]], Seen.of(line["result"])) for line in lines if "key" in line
    ]
    found = [(star, one) for star, one in found if star.kind != "aspcapStar" or star.labels["teff"] > COOL]
    with chosen.standards.open(encoding="utf-8", newline="") as file:
        standards = {row["star_id"] for row in csv.DictReader(file)}

    def part(wanted: Callable[[Star], bool]) -> dict[str, Any]:
        stars = [star for star, _ in found if wanted(star)]
        seen = [one for star, one in found if wanted(star)]
        labels = {name: by["all"] for name, by in against_literature(stars, seen).items()}
        verdicts = Counter(one.verdict for one in seen)
        return {
            "spectra": len(stars),
            "labels": labels,
            "repeats": repeats(stars, seen),
            "verdicts": verdicts,
        }

    parts = {
        "all": part(lambda star: True),
        "m_dwarfs": part(lambda star: star.labels["teff"] < COOL),
        "m_dwarfs_that_took_no_part": part(
            lambda star: star.labels["teff"] < COOL and star.star not in standards
        ),
        "others": part(lambda star: star.labels["teff"] >= COOL),
    }
    with writing(chosen.output) as temporary:
        temporary.write_text(json.dumps(parts, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
