"""Rotational broadening: Gray's kernel with linear limb darkening, in Fourier space, exact at every v_sini.

D. F. Gray, The Observation and Analysis of Stellar Photospheres, ch. 18; the transform is in closed form, so that nothing is discretised.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

# Below this argument the closed forms cancel in single precision and the series is exact to 1e-9.
_SERIES = 0.8


def _parts(s: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """``J1(s)/s``, ``J2(s)/s``, ``j1(s)/s`` and ``j2(s)/s`` (j: spherical) for ``s >= 0``."""
    s2 = s.square()
    j1s = 0.5 - s2 / 16 + s2**2 / 384 - s2**3 / 18432 + s2**4 / 1474560
    j2s = s * (1 / 8 - s2 / 96 + s2**2 / 3072 - s2**3 / 184320)
    p1s = 1 / 3 - s2 / 30 + s2**2 / 840 - s2**3 / 45360 + s2**4 / 3991680
    p2s = s * (1 / 15 - s2 / 210 + s2**2 / 7560 - s2**3 / 498960)
    big = s.clamp_min(_SERIES)
    sin, cos, j1, inv = torch.sin(big), torch.cos(big), torch.special.bessel_j1(big), 1 / big
    p1 = (sin * inv - cos) * inv
    small = s < _SERIES
    return (
        torch.where(small, j1s, j1 * inv),
        torch.where(small, j2s, (2 * j1 * inv - torch.special.bessel_j0(big)) * inv),
        torch.where(small, p1s, p1 * inv),
        torch.where(small, p2s, (3 * p1 * inv - sin * inv) * inv),
    )


def rotation_transform(s: Tensor, limb_darkening: float) -> Tensor:
    """Fourier transform of the rotation profile.

    Parameters
    ----------
    s
        ``2 pi f v_sini / c >= 0`` with f the frequency in cycles per unit of ln(wavelength); any shape.
    limb_darkening
        Linear coefficient e in [0, 1].

    Returns
    -------
    Tensor
        ``[(1-e) 2 J1(s)/s + (e/2) 4 (sin s - s cos s)/s^3] / (1 - e/3)``, 1 at s = 0; differentiable in s.
    """
    return _Transform.apply(s, limb_darkening)


def rotation_transform_derivative(s: Tensor, limb_darkening: float) -> Tensor:
    """Derivative of `rotation_transform` with respect to ``s``."""
    _, j2s, _, p2s = _parts(s)
    e = limb_darkening
    # d(J1/s)/ds = -J2/s and d(j1/s)/ds = -j2/s.
    return -(2 * (1 - e) * j2s + 2 * e * p2s) / (1 - e / 3)


class _Transform(torch.autograd.Function):
    """Bessel functions have no gradient in torch; this one is known in closed form."""

    @staticmethod
    def forward(ctx: Any, s: Tensor, limb_darkening: float) -> Tensor:
        ctx.save_for_backward(s)
        ctx.limb_darkening = limb_darkening
        return transform_value(s, limb_darkening)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (s,) = ctx.saved_tensors
        return gradient * rotation_transform_derivative(s, ctx.limb_darkening), None


def transform_value(s: Tensor, e: float) -> Tensor:
    """Evaluate `rotation_transform` without a gradient."""
    s2 = s.square()
    big = s.clamp_min(_SERIES)
    inv = 1 / big
    disc = torch.special.bessel_j1(big) * inv
    ball = (torch.sin(big) * inv - torch.cos(big)) * inv.square()
    disc = torch.where(s < _SERIES, 0.5 - s2 / 16 + s2**2 / 384 - s2**3 / 18432 + s2**4 / 1474560, disc)
    ball = torch.where(s < _SERIES, 1 / 3 - s2 / 30 + s2**2 / 840 - s2**3 / 45360 + s2**4 / 3991680, ball)
    return (2 * (1 - e) * disc + 2 * e * ball) / (1 - e / 3)
