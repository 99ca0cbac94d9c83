"""The smooth continuum that library spectra are divided by."""

from __future__ import annotations

import torch
from torch import Tensor


def pseudo_continuum(log_flux: Tensor, x: Tensor) -> Tensor:
    """Smooth continuum of library spectra: a quadratic in ln(wavelength) fitted to ln(flux), lifted to its 95th percentile.

    Parameters
    ----------
    log_flux
        Shape ``(n, n_pixels)``.
    x
        ln(wavelength), shape ``(n_pixels,)``.

    Returns
    -------
    Tensor
        ln(continuum), shape ``(n, n_pixels)``; a continuous function of the flux, so that the emulator stays smooth in its labels.
    """
    t = 2 * (x - x.min()) / (x.max() - x.min()) - 1
    basis = torch.linalg.qr(torch.stack([torch.ones_like(t), t, t.square()], dim=1))[0].to(log_flux)
    smooth = (log_flux @ basis) @ basis.T
    return smooth + torch.quantile(log_flux - smooth, 0.95, dim=1, keepdim=True)
