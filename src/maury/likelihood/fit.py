"""A model spectrum beside the data."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Fit:
    """A model spectrum beside the data, on the used pixels.

    Attributes
    ----------
    pixels
        Their place on the spectrum's grid, shape ``(n,)``.
    flux, continuum, residual, sigma
        In the units of the spectrum, shape ``(n,)``; sigma is the error of single pixels: noise, jitter, emulator and library.
    whitened
        Residuals in units of their error, shape ``(n,)``; where they are correlated, what each shows beyond those before it. N(0, 1) and
        independent if the noise model is right.
    predicted
        What correlation let expect of each residual, in the units of the spectrum, shape ``(n,)``; 0 of independent pixels.
    rchi2
        Mean squared residual over the file's own variance.
    """

    pixels: NDArray[np.int64]
    flux: Array
    continuum: Array
    residual: Array
    sigma: Array
    whitened: Array
    predicted: Array
    rchi2: float

    @property
    def rchi2_jitter(self) -> float:
        """Mean squared whitened residual: near 1 where the noise model holds."""
        return float(np.mean(self.whitened**2))
