"""A star without lines, for tests of readers and writers."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from maury.spectra.formats.writers import nominal_visit_grid
from maury.spectra.spectrum import Spectrum


def make_spectrum(n_pixels: int = 64, seed: int = 1, **changes: Any) -> Spectrum:
    """A flat, noisy star on three chips; few pixels, since nothing here depends on how many."""
    rng = np.random.default_rng(seed)
    grid = nominal_visit_grid(n_pixels)
    error = rng.uniform(3, 7, grid.n_pixels)
    spectrum = Spectrum(
        grid, rng.normal(500, error), error**-2, id="2M00242666+5341178", v_correction=-14.580788
    )
    return replace(spectrum, **changes)
