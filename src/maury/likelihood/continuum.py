"""The continuum of each chip: a Chebyshev series, linear in its coefficients, and its weighted normal equations.

``T_j T_k = (T_{j+k} + T_{|j-k|}) / 2``, so a chip's normal matrix needs only ``2 degree + 1`` moments of the weights: one
small matrix product for a whole batch of spectra.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.polynomial import chebyshev
from numpy.typing import NDArray
from torch import Tensor

# Of each chip's series.
DEGREE = 4
# Prior standard deviation of every continuum coefficient, relative to the reference continuum: far wider than any posterior, yet proper.
SPREAD = 0.3


def chebyshev_basis(n_pixels: int, degree: int) -> Tensor:
    """``T_0 .. T_degree`` over pixels spread evenly on [-1, 1], float64, shape ``(n_pixels, degree + 1)``."""
    t = np.linspace(-1, 1, n_pixels) if n_pixels > 1 else np.zeros(1)
    return torch.from_numpy(chebyshev.chebvander(t, degree))


def chip_basis(
    n_pixels: int, chips: Sequence[tuple[int, int]], degree: int, good: NDArray[np.bool_] | None = None
) -> list[tuple[slice, Tensor]]:
    """Bases of all chips with usable pixels, for arrays in which only the ``good`` pixels are left.

    Parameters
    ----------
    n_pixels
        Pixels of the full grid.
    chips
        Half-open ranges on the full grid.
    degree
        Of the Chebyshev series.
    good
        Pixels that are kept, shape ``(n_pixels,)``; all if None.

    Returns
    -------
    list of (slice, Tensor)
        Of each chip: its place among the kept pixels, and ``T_0 .. T_{2 degree}``, shape ``(n_kept, 2 degree + 1)``.
    """
    kept = np.ones(n_pixels, dtype=bool) if good is None else good
    out, offset = [], 0
    for start, stop in chips:
        inside = kept[start:stop]
        n = int(inside.sum())
        if n:
            basis = chebyshev_basis(stop - start, 2 * degree)[torch.from_numpy(inside)]
            out.append((slice(offset, offset + n), basis.contiguous()))
            offset += n
    return out


def normal_matrix(weights: Tensor, basis: Tensor) -> Tensor:
    """``sum_i w_i T_j(i) T_k(i)``, shape ``(..., degree + 1, degree + 1)``, of weights ``(..., n)`` and a basis to degree 2 d."""
    moments = weights @ basis.to(weights)
    j = torch.arange((basis.shape[1] + 1) // 2, device=weights.device)
    return 0.5 * (moments[..., j[:, None] + j] + moments[..., (j[:, None] - j).abs()])


def fit_continuum(flux: Tensor, ivar: Tensor, basis: Tensor, softening: float = 0.02) -> Tensor:
    """Least-squares continuum of one chip, shape ``(n_spectra, n)``; 1 where a chip has too few usable pixels.

    Parameters
    ----------
    flux, ivar
        Shape ``(n_spectra, n)``; ``ivar`` 0 where unusable.
    basis
        ``T_0 .. T_{2 degree}``, shape ``(n, 2 degree + 1)``.
    softening
        Fraction of the level below which a pixel's error earns it no further weight: lines are deeper than the noise.
    """
    degree = basis.shape[1] // 2
    good = ivar > 0
    level = ((flux * ivar).sum(1) / ivar.sum(1).clamp_min(1e-30)).abs().clamp_min(1e-30)[:, None]
    weights = torch.where(good, 1 / (1 / (ivar * level.square()).clamp_min(1e-12) + softening**2), 0.0)
    matrix = normal_matrix(weights, basis)
    right = (weights * flux / level) @ basis[:, : degree + 1].to(flux)
    ridge = 1e-4 * matrix[:, :1, :1] + 1e-20
    solution = torch.linalg.solve(matrix + ridge * torch.eye(degree + 1).to(matrix), right)
    continuum = (solution @ basis[:, : degree + 1].T.to(flux)).clamp_min(0.1) * level
    count = good.sum(1, keepdim=True)
    fallback = torch.where(count > 0, level, torch.ones_like(level)).expand_as(continuum)
    return torch.where(count > 4 * (degree + 1), continuum, fallback)
