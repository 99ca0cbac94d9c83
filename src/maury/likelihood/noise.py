"""How a spectrum's pixels scatter about the model: independently, or with correlated residuals.

A model spectrum is wrong over a line's width, not pixel by pixel. The correlated part is a Gaussian process on ln lambda with the
Matern-1/2 kernel ``a(x) a(x') exp(-|x - x'| / l)``: of all stationary kernels the one whose precision matrix is tridiagonal on any
pixels (an Ornstein-Uhlenbeck process; Rybicki & Press 1995, arXiv:comp-gas/9405004), so that a likelihood costs a tridiagonal solve.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.linalg import lapack, solve_banded
from torch import Tensor

from maury.constants import C_KMS
from maury.likelihood.continuum import normal_matrix

Array = NDArray[np.float64]
Bases = Sequence[tuple[slice, Tensor]]


def sum_of_logs(x: Tensor) -> Tensor:
    """``x.log().sum(1)`` of positive ``x (n, k)``, float64, from an eighth of the logarithms: of products of eight.

    Values between 1e-38 and 1e38 neither overflow nor underflow.
    """
    k = x.shape[1] // 8 * 8
    product = x[:, :k].unflatten(1, (8, -1)) if k else x.new_ones(len(x), 8, 0)
    for half in (4, 2, 1):
        product = product[:, :half] * product[:, half:]
    return product[:, 0].log().sum(1) + x[:, k:].log().sum(1)


@dataclass(frozen=True)
class Columns:
    """Directions beside the continuum's, the same for all spectra: ``values (k, n_pixels)``, and the continuum's bases."""

    values: Tensor
    bases: Bases

    @cached_property
    def products(self) -> list[Tensor]:
        """Of each chip, their products with the continuum's ``T_0 ..``, shape ``(n, k (degree + 1))``."""
        out = []
        for chip, basis in self.bases:
            t = basis[:, : basis.shape[1] // 2 + 1].to(self.values)
            out.append((self.values[:, chip].T[:, :, None] * t[:, None]).flatten(1).contiguous())
        return out


# Of each chip: ``B^T M C^-1 M B`` of its continuum, ``(n, degree + 1, degree + 1)``, and ``G^T C^-1 M B`` with the columns G beside it,
# ``(n, k, degree + 1)``; None without any.
Normals = list[tuple[Tensor, Tensor | None]]


class Covariance(Protocol):
    """Of n spectra with ``n_pixels`` pixels each, positive definite."""

    @property
    def log_det(self) -> Tensor:
        """Log determinants, shape ``(n,)``."""

    def solve(self, x: Tensor) -> Tensor:
        """Return the inverse covariance times ``x (n, k, n_pixels)``."""

    def inverse_diagonal(self) -> Tensor:
        """Diagonal of the inverse, shape ``(n, n_pixels)``."""

    def continuum_normals(self, m: Tensor, bases: Bases, columns: Columns | None = None) -> Normals:
        """Return the products of each chip's continuum, for the model ``m (n, n_pixels)``."""


@dataclass(frozen=True)
class Independent:
    """Pixels that scatter each by itself, with variances ``(n, n_pixels)``."""

    variance: Tensor

    @property
    def log_det(self) -> Tensor:
        """Log determinants, shape ``(n,)``."""
        return sum_of_logs(self.variance)

    def solve(self, x: Tensor) -> Tensor:
        """Return the inverse covariance times ``x (n, k, n_pixels)``."""
        return x / self.variance[:, None]

    def inverse_diagonal(self) -> Tensor:
        """Diagonal of the inverse, shape ``(n, n_pixels)``."""
        return 1 / self.variance

    def continuum_normals(self, m: Tensor, bases: Bases, columns: Columns | None = None) -> Normals:
        """Return the products of each chip's continuum, from moments of the weights."""
        weights = m / self.variance
        normals = [normal_matrix((weights * m)[:, chip], basis) for chip, basis in bases]
        if columns is None:
            return [(normal, None) for normal in normals]
        k = len(columns.values)
        cross = [
            (weights[:, chip] @ products).unflatten(1, (k, -1))
            for (chip, _), products in zip(bases, columns.products, strict=True)
        ]
        return list(zip(normals, cross, strict=True))


@dataclass(frozen=True)
class Correlation:
    """The residual process of one spectrum.

    Its standard deviation is ``amplitude + in_lines (1 - m)`` with m the spectrum at continuum 1: models are wrong in lines more than
    between them.

    Attributes
    ----------
    amplitude
        Relative to the reference continuum.
    in_lines
        Relative to the depth of the absorption.
    scale
        Length l, km/s.
    depth
        ``1 - m`` at the labels that it was fitted at, shape ``(n_pixels,)``: kept, so that labels do not choose their own errors.
    """

    amplitude: float
    in_lines: float
    scale: float
    depth: Array = field(repr=False, compare=False)

    @property
    def deviation(self) -> Array:
        """Standard deviation, shape ``(n_pixels,)``."""
        return self.amplitude + self.in_lines * np.clip(self.depth, 0.0, None)

    def decay(self, wavelength: Array, chip: NDArray[np.int64]) -> Array:
        """Correlation of each pixel with the one before it, shape ``(n_pixels,)``; 0 at a chip's first pixel."""
        step = np.abs(np.diff(np.log(wavelength))) * C_KMS / self.scale
        return np.concatenate([[0.0], np.where(np.diff(chip) == 0, np.exp(-step), 0.0)])


class Correlated:
    """Independent variances ``(n, n_pixels)`` and a residual process with the given deviation and decay ``(n_pixels,)``.

    With D the variances and Q the process's tridiagonal precision, ``(D + Q^-1)^-1 = W - W (Q + W)^-1 W``, ``W = 1 / D``, and
    ``|D + Q^-1| = |D| |Q + W| / |Q|``. Computed on the CPU by LAPACK, all spectra in one band.
    """

    def __init__(self, variance: Tensor, deviation: Array, decay: Array) -> None:
        self.like = variance
        w = 1 / variance.detach().cpu().numpy()
        self.weights, (n, p) = w, w.shape
        precision = 1 / (1 - decay**2)
        after = np.append(decay[1:], 0.0)
        diagonal = (precision + after**2 * np.append(precision[1:], 0.0)) / deviation**2
        off = -decay[1:] * precision[1:] / (deviation[1:] * deviation[:-1])
        band = np.tile(np.append(off, 0.0), n)[:-1]
        self.d, self.e, fault = lapack.dpttrf((w + diagonal).ravel(), band)
        assert fault == 0, "variances and amplitude are positive"
        log_det = (
            np.log(self.d).reshape(n, p).sum(1) - np.log(w).sum(1) - np.log(precision / deviation**2).sum()
        )
        self._log_det = torch.from_numpy(log_det)

    @property
    def log_det(self) -> Tensor:
        """Log determinants, shape ``(n,)``."""
        return self._log_det.to(self.like)

    def solve(self, x: Tensor) -> Tensor:
        """Return the inverse covariance times ``x (n, k, n_pixels)``."""
        given = x.detach().cpu().double().numpy()
        p = given.shape[2]
        out = np.empty_like(given)
        # One spectrum at a time, whose arrays stay in the processor's cache; the band is 0 between two of them.
        for i, w in enumerate(self.weights):
            wx = given[i] * w
            diagonal, band = self.d[i * p : (i + 1) * p], self.e[i * p : (i + 1) * p - 1]
            inner, _ = lapack.dpttrs(diagonal, band, wx.T)
            np.multiply(inner.T, w, out=out[i])
            np.subtract(wx, out[i], out=out[i])
        return torch.from_numpy(out).to(self.like)

    def inverse_diagonal(self) -> Tensor:
        """Diagonal of the inverse, shape ``(n, n_pixels)``: for L D L^T it obeys ``g_i = 1 / d_i + e_i^2 g_{i+1}``."""
        band = np.ones((2, len(self.d)))
        band[0, 1:] = -(self.e**2)
        inner = solve_banded((0, 1), band, 1 / self.d).reshape(self.weights.shape)
        return torch.from_numpy(self.weights - self.weights**2 * inner).to(self.like)

    def continuum_normals(self, m: Tensor, bases: Bases, columns: Columns | None = None) -> Normals:
        """Return the products of each chip's continuum; the chips do not know of each other and are solved side by side."""
        if not bases:
            return []
        k = bases[0][1].shape[1] // 2 + 1
        continuum = torch.cat([basis[:, :k] for _, basis in bases]).T * m[:, None]
        solved = self.solve(continuum)
        normals: Normals = []
        for chip, _ in bases:
            part, cross = solved[..., chip], None
            if columns is not None:
                # One product of two matrices for all spectra.
                cross = (part.flatten(0, 1) @ columns.values[:, chip].T).unflatten(0, part.shape[:2]).mT
            normals.append((continuum[..., chip] @ part.mT, cross))
        return normals


def innovations(residual: Array, variance: Array, deviation: Array, decay: Array) -> tuple[Array, Array]:
    """Whiten correlated residuals: what each pixel shows beyond what those before it predicted.

    A Kalman filter, which for the Ornstein-Uhlenbeck process is exact. Where the covariance is right, the first array is N(0, 1) and
    independent. It is linear in the residuals: columns of a design are whitened as they are.

    Parameters
    ----------
    residual
        Shape ``(..., n_pixels)``.
    variance
        Of the pixels, shape ``(n_pixels,)``.
    deviation, decay
        Of the process, see `Correlation`; shape ``(n_pixels,)``.

    Returns
    -------
    whitened, predicted
        Shape ``(..., n_pixels)`` each.
    """
    n = len(variance)
    total, gain = np.empty(n), np.empty(n)
    spread = 0.0
    for i, (v, s, keep) in enumerate(zip(variance.tolist(), deviation.tolist(), decay.tolist(), strict=True)):
        # The process itself has unit variance; s is what a pixel sees of it.
        spread = keep**2 * spread + 1 - keep**2
        total[i] = s * s * spread + v
        gain[i] = s * spread / total[i]
        spread *= 1 - gain[i] * s
    # What is expected of the process at a pixel: ``x_i = keep_i ((1 - gain s) x + gain r)_{i-1}``, a band of two diagonals.
    band = np.ones((2, n))
    band[1, :-1] = -decay[1:] * (1 - gain[:-1] * deviation[:-1])
    right = np.zeros_like(residual)
    right[..., 1:] = decay[1:] * gain[:-1] * residual[..., :-1]
    mean = solve_banded((1, 0), band, right.reshape(-1, n).T).T.reshape(residual.shape)
    predicted = deviation * mean
    return (residual - predicted) / np.sqrt(total), predicted
