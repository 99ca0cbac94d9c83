"""What share of the prior of Gupta et al. 2024, Table 1, the shipped models cover.

``python benchmarks/prior_volume.py --output docs/results/standards/prior_volume.json``
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch

from maury.constants import COOL_MODEL, DEFAULT_MODEL
from maury.files import writing
from maury.libraries.emulator import Emulator
from maury.models import folder
from maury.reproduce.priors import TABLE_1

STELLAR = {name: TABLE_1[name] for name in ("teff", "logg", "m_h")}
NUMBER = 200_000


def main() -> None:
    """Draw points of the box and count those that each model covers."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, required=True)
    arguments = parser.parse_args()
    share = torch.quasirandom.SobolEngine(3, scramble=True, seed=0).draw(NUMBER, dtype=torch.float64)
    low, high = (torch.tensor([ends[k] for ends in STELLAR.values()], dtype=torch.float64) for k in (0, 1))
    points = low + share * (high - low)
    inside = {}
    for name in (COOL_MODEL, DEFAULT_MODEL, "kurucz-apogee"):
        emulator = Emulator.load(folder(name) / "emulator.safetensors")
        ends = [emulator.labels[key].prior for key in STELLAR]
        here = torch.ones(NUMBER, dtype=torch.bool)
        for column, prior in enumerate(ends):
            here &= (points[:, column] >= prior.low) & (points[:, column] <= prior.high)
        if emulator.region is not None:
            here &= emulator.region.inside(points[:, 0], points[:, 1])
        inside[name] = here
    joined = inside[COOL_MODEL] | inside[DEFAULT_MODEL]
    rest, teff, logg = ~joined, points[:, 0], points[:, 1]
    figures = {
        "covered": {name: float(here.double().mean()) for name, here in inside.items()}
        | {
            "joined": float(joined.double().mean()),
            "before": float((inside[COOL_MODEL] | inside["kurucz-apogee"]).double().mean()),
        },
        "rest": {
            "below 3500 K, logg below 3": float((rest & (teff < 3500) & (logg < 3)).double().mean()),
            "below 3500 K, logg above 5.5": float((rest & (teff < 3500) & (logg > 5.5)).double().mean()),
            "above 3500 K, denser than the main sequence": float(
                (rest & (teff >= 3500) & (logg > 4)).double().mean()
            ),
        },
    }
    with writing(arguments.output) as temporary:
        temporary.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
