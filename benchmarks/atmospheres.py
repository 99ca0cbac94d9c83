r"""How far a spectrum moves when its atmosphere is interpolated: nodes of the MARCS grid against the mean of their neighbours.

    python benchmarks/atmospheres.py turbospectrum/src src/maury/assets/lines/marcs-maury.lines MOLECULES \
        --output docs/results/standards/atmospheres.json

A node is left out and made of the two beside it, twice as far apart as a real cell's: in the middle of a cell the error is about a quarter.
Needs maury[synthesis] and the engine.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np

from maury.libraries.synthesis.atmospheres import AXES, MarcsCollection, mix
from maury.libraries.synthesis.calibration import Window
from maury.libraries.synthesis.engine import Star
from maury.libraries.synthesis.turbospectrum import Turbospectrum

# A giant, a metal-poor one, a cool one, the sun's neighbourhood, a cool dwarf.
NODES = (
    (4500.0, 2.5, 0.0),
    (4500.0, 2.0, -1.5),
    (3900.0, 1.0, 0.0),
    (5750.0, 4.5, -0.25),
    (3900.0, 4.5, 0.0),
)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("source", type=Path)
    parser.add_argument("lines", type=Path, nargs="+")
    parser.add_argument("--atmospheres", type=Path)
    parser.add_argument("--output", type=Path, required=True)
    given = parser.parse_args()
    marcs, engine, window = (
        MarcsCollection(given.atmospheres),
        Turbospectrum(given.source, given.lines),
        Window(resolution=22_500.0),
    )

    def spectrum(labels: tuple[float, float, float], atmosphere: object) -> np.ndarray:
        made = engine.synthesise(Star(*labels, v_micro=1.5), atmosphere)
        return window.smooth(made.wavelength, made.normalised)

    rows = []
    for node in NODES:
        truth = spectrum(node, marcs.node(*node))
        for i, name in enumerate(AXES):
            axis = marcs.axes[i]
            at = int(np.flatnonzero(axis == node[i])[0])
            low, high = float(axis[at - 1]), float(axis[at + 1])
            ends = [tuple(x if j == i else node[j] for j in range(3)) for x in (low, high)]
            if any(end not in marcs.nodes for end in ends):
                continue
            share = (node[i] - low) / (high - low)
            between = mix([marcs.node(*end) for end in ends], [1 - share, share], node)
            rms = float((spectrum(node, between) - truth).std())
            rows.append({"node": node, "label": name, "between": [low, high], "rms": rms})
            print(f"{node} {name} {low:g}..{high:g}: rms {rms:.1e}", flush=True)
    given.output.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
