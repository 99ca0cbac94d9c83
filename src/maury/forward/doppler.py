"""Doppler shift: a displacement in ln(wavelength), relativistic."""

from __future__ import annotations

import torch
from torch import Tensor

from maury.constants import C_KMS


def log_shift(v_rad: Tensor) -> Tensor:
    """Shift in ln(wavelength) of a source receding at ``v_rad`` km/s: ``0.5 ln((1 + b) / (1 - b))``, b = v/c."""
    return torch.atanh(v_rad / C_KMS)


def log_shift_derivative(v_rad: Tensor) -> Tensor:
    """Return the derivative of `log_shift` with respect to ``v_rad``, per km/s."""
    return 1 / (C_KMS * (1 - (v_rad / C_KMS).square()))


def add_velocities(v: float, w: float) -> float:
    """Compose a velocity measured in a moving frame with that frame's own, km/s: ``v + w + v w / c``.

    This is how a barycentric correction is applied (Wright & Eastman 2014, PASP 126, 838).
    """
    return v + w + v * w / C_KMS
