"""Continuum and nuisances of spectra, solved for: what they are, what they leave, and what is left once they are integrated out."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from maury.likelihood.continuum import SPREAD


@dataclass(frozen=True)
class Leftover:
    """What model, continuum and nuisances leave of a spectrum, all over the reference continuum.

    Attributes
    ----------
    residual, variance, squared
        Shape ``(n_pixels,)``: the residual, the variance without jitter, and what the squared jitter is multiplied by.
    log_likelihood
        Of the spectrum, not of the residual alone.
    """

    residual: Tensor
    variance: Tensor
    squared: Tensor
    log_likelihood: float


@dataclass(frozen=True)
class Reduced:
    """Products of a spectrum and of parts of a model over the noise, with continuum and nuisances integrated out.

    Attributes
    ----------
    gram
        Of the data less the model, and of each part, shape ``(1 + k, 1 + k)``.
    constant
        What the log likelihood has beside ``-1/2`` of the first of them.
    """

    gram: Tensor
    constant: float


@dataclass(frozen=True)
class Solution:
    """The most likely continuum and nuisances of n spectra, and how well they are known.

    Attributes
    ----------
    solved
        Inverse covariance times the residuals, shape ``(n, n_pixels)``.
    chips
        Of each chip's continuum: Cholesky factor of the precision, right side, departure from the reference without nuisances, and
        products with the nuisances' columns ``(n, k, degree + 1)``.
    factor, right, amplitudes
        Of the nuisances: Cholesky factor of the precision with the continuum integrated out, right side, and most likely amplitudes,
        shape ``(n, k)``; None without any.
    """

    solved: Tensor
    chips: list[tuple[Tensor, Tensor, Tensor, Tensor | None]]
    factor: Tensor | None = None
    right: Tensor | None = None
    amplitudes: Tensor | None = None

    @property
    def departures(self) -> list[Tensor]:
        """Departure of each chip's continuum from the reference, ``(n, degree + 1)``, beside the most likely nuisances."""
        if self.amplitudes is None:
            return [departure for *_, departure, _ in self.chips]
        return [
            departure - torch.cholesky_solve((cross.mT @ self.amplitudes[..., None]), factor)[..., 0]
            for factor, _, departure, cross in self.chips
            if cross is not None
        ]

    def log_integral(self) -> Tensor:
        """Return what the integral over continuum and nuisances adds to the log likelihood, shape ``(n,)``."""
        out = torch.zeros(len(self.solved)).to(self.solved)
        for factor, right, departure, _ in self.chips:
            out = out + 0.5 * (right * departure).sum(1) - factor.diagonal(dim1=-2, dim2=-1).log().sum(1)
            out = out - right.shape[1] * math.log(SPREAD)
        if self.factor is None or self.right is None or self.amplitudes is None:
            return out
        out = out + 0.5 * (self.right * self.amplitudes).sum(1)
        return out - self.factor.diagonal(dim1=-2, dim2=-1).log().sum(1)
