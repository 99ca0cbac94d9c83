"""Rotational broadening: Gray's kernel with linear limb darkening, in Fourier space, exact at every v_sini.

D. F. Gray, The Observation and Analysis of Stellar Photospheres, ch. 18; the transform is in closed form,
so that the profile is never sampled.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor

# Below this argument the closed forms cancel in single precision and the series is exact to 1e-8.
_SERIES = 0.8
# Closed forms are tabulated up to this argument (100 km/s on the finest grid that is used), so finely that straight lines between the
# entries are right to 1.2e-7, the rounding of single precision: a look-up costs a fifth of a Bessel function.
_END, _PER_UNIT = 128, 512


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
    """Return the derivative of `rotation_transform` with respect to ``s``."""
    return _look_up(s, limb_darkening, derivative=True)


def rotation_transform_by_limb_darkening(s: Tensor, limb_darkening: float) -> Tensor:
    """Return the derivative of `rotation_transform` with respect to the limb darkening e: ``2/3 (T(e=1) - T(e=0)) / (1 - e/3)^2``."""
    full, none = _look_up(s, 1.0), _look_up(s, 0.0)
    return 2 / 3 * (full - none) / (1 - limb_darkening / 3) ** 2


class _Transform(torch.autograd.Function):
    """Bessel functions have no gradient in torch; this one is known in closed form."""

    @staticmethod
    def forward(ctx: Any, s: Tensor, limb_darkening: float) -> Tensor:
        ctx.save_for_backward(s)
        ctx.limb_darkening = limb_darkening
        return _look_up(s, limb_darkening)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (s,) = ctx.saved_tensors
        return gradient * rotation_transform_derivative(s, ctx.limb_darkening), None


def _look_up(s: Tensor, e: float, derivative: bool = False) -> Tensor:
    """Interpolate in the table; beyond its end, and in double precision, evaluate."""
    evaluate = closed_form_derivative if derivative else closed_form
    if s.dtype != torch.float32:
        return evaluate(s, e)
    place = s * _PER_UNIT
    # The last entry's slope is kept for arguments beyond, which are replaced.
    below = place.to(torch.int32).clamp_max(_END * _PER_UNIT)
    entry = _table(e, derivative, s.device).index_select(0, below.flatten()).unflatten(0, s.shape or (1,))
    out = torch.addcmul(entry[..., 0], entry[..., 1], place - below).reshape(s.shape)
    beyond = s > _END
    if bool(beyond.any()):
        out[beyond] = evaluate(s[beyond], e)
    return out


@cache
def _table(e: float, derivative: bool, device: torch.device) -> Tensor:
    """Entries and the differences to the next, shape ``(n, 2)``."""
    s = torch.arange(_END * _PER_UNIT + 2, dtype=torch.float64) / _PER_UNIT
    value = (closed_form_derivative if derivative else closed_form)(s, e)
    return torch.stack([value[:-1], value.diff()], dim=1).float().to(device)


def closed_form(s: Tensor, e: float) -> Tensor:
    """Evaluate `rotation_transform`."""
    s2 = s.square()
    big = s.clamp_min(_SERIES)
    inv = 1 / big
    disc = torch.special.bessel_j1(big) * inv
    ball = (torch.sin(big) * inv - torch.cos(big)) * inv.square()
    disc = torch.where(s < _SERIES, 0.5 - s2 / 16 + s2**2 / 384 - s2**3 / 18432 + s2**4 / 1474560, disc)
    ball = torch.where(s < _SERIES, 1 / 3 - s2 / 30 + s2**2 / 840 - s2**3 / 45360 + s2**4 / 3991680, ball)
    return (2 * (1 - e) * disc + 2 * e * ball) / (1 - e / 3)


def closed_form_derivative(s: Tensor, e: float) -> Tensor:
    """Evaluate `rotation_transform_derivative`."""
    s2 = s.square()
    big = s.clamp_min(_SERIES)
    inv, sin, cos = 1 / big, torch.sin(big), torch.cos(big)
    # d(J1/s)/ds = -J2/s and, for the spherical functions, d(j1/s)/ds = -j2/s.
    disc = (2 * torch.special.bessel_j1(big) * inv - torch.special.bessel_j0(big)) * inv
    ball = (3 * (sin * inv - cos) * inv.square() - sin * inv) * inv
    disc = torch.where(s < _SERIES, s * (1 / 8 - s2 / 96 + s2**2 / 3072 - s2**3 / 184320), disc)
    ball = torch.where(s < _SERIES, s * (1 / 15 - s2 / 210 + s2**2 / 7560 - s2**3 / 498960), ball)
    return -(2 * (1 - e) * disc + 2 * e * ball) / (1 - e / 3)
