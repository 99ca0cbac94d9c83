"""A small collection of model atmospheres in the form of the real one, with what a test needs to know of it."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
from astropy.table import Table

from maury.libraries.synthesis.atmospheres import Atmosphere

TEFF, LOGG, M_H = (4000.0, 4250.0, 4500.0), (2.0, 2.5), (-0.5, -0.25, 0.0)
TAU = np.array(
    [-5.0 + 0.2 * i for i in range(11)] + [-2.9 + 0.1 * i for i in range(40)] + [1.2, 1.4, 1.6, 1.8, 2.0]
)


def atmosphere(teff: float, logg: float, m_h: float, spherical: bool = True) -> Atmosphere:
    """Temperature linear, pressures log-linear in the labels: interpolation must be exact."""
    pressure = 10 ** (4 + 0.5 * TAU + 0.5 * logg - 0.2 * m_h + 1e-4 * teff)
    structure = np.zeros((len(TAU), 13))
    structure[:, 0] = TAU + 0.5
    structure[:, 2] = teff * (1 + 0.05 * TAU) + 20 * m_h + 10 * logg
    structure[:, 3], structure[:, 4], structure[:, 5] = pressure * 1e-4, pressure, pressure * 1e-3
    structure[:, 7], structure[:, 8], structure[:, 9] = 1e-2 * pressure**0.1, pressure * 1e-12, 1.25
    structure[:, 12] = pressure / 10**logg
    return Atmosphere(teff, logg, m_h, spherical, 1e12 if spherical else 1.0, TAU, structure)


def write_collection(folder: Path, holes: tuple[tuple[float, float, float], ...] = ()) -> None:
    """Write all nodes; holes are filled with a copy of the first model, as the real collection's are."""
    folder.mkdir(parents=True, exist_ok=True)
    rows, texts = [], []
    for teff in TEFF:
        for logg in LOGG:
            for m_h in M_H:
                node = (teff, logg, m_h)
                filled = node in holes
                lines = (
                    atmosphere(*(node if not filled else (TEFF[0], LOGG[0], M_H[0])))
                    .to_marcs()
                    .rstrip("\n")
                    .split("\n")
                )
                lines += ["x"] * (310 - len(lines))
                rows.append(
                    (
                        len(rows),
                        f"s{teff:.0f}.mod" + (".filled" if filled else ""),
                        310,
                        teff,
                        logg,
                        2.0,
                        m_h,
                        0.0,
                    )
                )
                texts += lines
    names = ("index", "filename", "nlines", "teff", "logg", "vmicro", "metal", "alpha")
    Table(rows=rows, names=names).write(folder / "marcs_index.fits")
    with gzip.open(folder / "marcs_data.txt.gz", "wt", encoding="ascii") as file:
        file.write("\n".join(texts) + "\n")
