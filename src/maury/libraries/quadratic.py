"""Quadratic models of a library's pixels, as apogee_tools has of PHOENIX: a second opinion, crude and independent.

``flux = coeffs . (1, x, x_i x_j)`` with ``x = (labels - pivots) / scales``, labels teff, logg and m_h, and i <= j; wavelengths in air. Four
files of NumPy: ``NAME_coeffs.npy (n_pixels, 10)``, ``NAME_pivots.npy`` and ``NAME_scales.npy (3,)``, ``NAME_wl.npy (n_pixels,)``.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from scipy.interpolate import CubicSpline
from torch import Tensor, nn

from maury.errors import ModelError
from maury.files import first_line
from maury.labels import LabelSet, label
from maury.libraries.coefficients import quadratic_slopes, quadratics
from maury.libraries.emulator import Emulator, LogGrid
from maury.libraries.process import fast_length
from maury.priors import Uniform
from maury.spectra.air import to_vacuum

_LABELS = ("teff", "logg", "m_h")
# Pixels of the grid in log10(wavelength): as fine as the emulators of spectra without a line-spread function.
_STEP = 4e-6
# Ranges in which each of the published ones was fitted.
RANGES = {
    "23k": ((2500.0, 3500.0), (3.5, 5.5), (-1.0, 1.0)),
    "50k": ((2500.0, 5200.0), (0.0, 5.0), (-1.0, 1.0)),
}


class Quadratic(nn.Module):
    """Labels in [-1, 1] to their linear and quadratic terms."""

    slope: Tensor
    offset: Tensor

    def __init__(self, slope: Tensor, offset: Tensor) -> None:
        super().__init__()
        self.register_buffer("slope", slope.float())
        self.register_buffer("offset", offset.float())

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(n, 3)`` to ``(n, 9)``."""
        return quadratics(self.slope * x + self.offset)[:, 1:]

    def jacobian(self, x: Tensor) -> Tensor:
        """Slopes by each label, ``(n, 3, 9)``."""
        return self.slope[:, None] * quadratic_slopes(self.slope * x + self.offset)[..., 1:]

    def settings(self) -> dict[str, int | str]:
        """Return that it cannot be built again from settings: it is read from its own files."""
        return {"kind": "quadratic"}


def read_quadratic(folder: Path, name: str) -> Emulator:
    """Read a quadratic model as an emulator without a line-spread function.

    Parameters
    ----------
    folder
        Of the four files.
    name
        What they begin with, one of `RANGES`.

    Raises
    ------
    ModelError
        If one is missing or damaged, or the range of that name is not known.
    """
    if name not in RANGES:
        raise ModelError(f"{folder}: the range of {name!r} is not known; there are {', '.join(RANGES)}")
    try:
        parts = [
            np.load(folder / f"{name}_{part}.npy", allow_pickle=False)
            for part in ("coeffs", "pivots", "scales", "wl")
        ]
    except (OSError, ValueError) as error:
        raise ModelError(f"{folder}: no quadratic model {name} ({first_line(error)})") from None
    coefficients, pivots, scales, air = (part.astype(np.float64) for part in parts)
    if coefficients.shape != (len(air), 10) or pivots.shape != (3,) or scales.shape != (3,):
        raise ModelError(f"{folder}: the files of {name} do not fit together")
    labels = LabelSet(
        tuple(
            label(key, Uniform(low=ends[0], high=ends[1]))
            for key, ends in zip(_LABELS, RANGES[name], strict=True)
        )
    )
    half = (labels.high - labels.low) / 2
    middle = labels.low + half
    network = Quadratic(
        half / torch.from_numpy(scales), (middle - torch.from_numpy(pivots)) / torch.from_numpy(scales)
    )
    wavelength = to_vacuum(air)
    start = float(np.log10(wavelength[0]))
    n = int((np.log10(wavelength[-1]) - start) / _STEP)
    grid = LogGrid(start, _STEP, fast_length(n + 64))
    rows = torch.from_numpy(CubicSpline(wavelength, coefficients)(grid.wavelength[:n].numpy()).T.copy())
    card = {"name": f"phoenix-{name}"}
    return Emulator(labels, grid, [(0, n)], rows[0], rows[1:], torch.ones(9), network, card).eval()
