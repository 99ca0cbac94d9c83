"""Residuals of standards as nuisances of a library: ``modes.safetensors`` of a model's folder."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from maury.libraries.emulator import MODES, Emulator, LogGrid
from maury.spectra.instrument import Instrument
from maury.weights import write_model

Array = NDArray[np.float64]
# Noise over signal of the Wiener filter that takes what spectra were seen through out of residuals.
_NOISE = 0.05


def sharpened(seen: Array, kernel: Array) -> Array:
    """Undo a broadening, as far as noise lets: a Wiener filter.

    Parameters
    ----------
    seen
        On the emulator's grid, shape ``(n_grid,)``.
    kernel
        Transform of the broadening at `frequencies`, shape ``(n_grid // 2 + 1,)``.
    """
    transform = np.fft.rfft(seen) * kernel / (kernel**2 + _NOISE)
    return np.asarray(np.fft.irfft(transform, len(seen)))


def frequencies(grid: LogGrid) -> Array:
    """Return angular frequencies of a real transform on the grid, per ln(wavelength)."""
    return np.asarray(2 * np.pi * np.fft.rfftfreq(grid.n_pixels, d=grid.dlnw))


def by_chip(vectors: Iterable[Array], grid: LogGrid, instrument: Instrument) -> Array:
    """Cut vectors ``(k, n_grid)`` into one for each chip, ``(k n_chips, n_grid)``: a library may be wrong on one only."""
    ranges = instrument.ranges
    middle = [0.5 * (a[1] + b[0]) for a, b in itertools.pairwise(ranges)]
    ends = [0.0, *middle, np.inf]
    at = grid.wavelength.numpy()
    return np.array(
        [
            np.where((at >= low) & (at < high), v, 0.0)
            for v in vectors
            for low, high in itertools.pairwise(ends)
        ]
    )


def write_modes(vectors: Array, emulator: Emulator, folder: Path, card: Mapping[str, Any]) -> None:
    """Write vectors ``(k, n_grid)``, one standard deviation each, with a card that tells their ``source``."""
    modes = torch.from_numpy(vectors).half()
    assert modes.shape[1] == emulator.grid.n_pixels
    write_model(
        folder / MODES, {"modes": modes, "amplitude": torch.ones(len(modes))}, {"kind": "modes", **card}
    )
