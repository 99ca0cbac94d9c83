"""Pixels that no star made: isolated hits and emission, found against a model."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from maury.likelihood.pixels import Likelihood
from maury.spectra.linespread import FWHM

# A peak of so many errors, which a medley of 10,000 pixels does not have by chance, and the level to which its neighbours must have come
# down where light falls on one pixel alone.
_PEAK, _FOOT = 7.0, 3.0
# Of the full width of a line: what is narrower came through no slit; emission is looked for up to so many widths.
_NARROW, _EMISSION = 0.6, 4.0
# Height of emission above the continuum, of the continuum: no star's spectrum rises there.
_ABOVE = 0.03
# Share of pixels above which they are no longer isolated, but the model is wrong.
_MOST = 0.03


@torch.no_grad()
def outliers(likelihood: Likelihood, labels: Tensor) -> NDArray[np.bool_]:
    """Find pixels off the model that nothing in a star explains.

    Two kinds are: peaks of either sign that are narrower than the line-spread function, and emission above the continuum.
    A model that is wrong in a line is neither: its residuals have the line's width and stay below the continuum.

    Parameters
    ----------
    likelihood
        Of one spectrum.
    labels
        Its most likely ones, all of the likelihood's, shape ``(n_labels,)``.

    Returns
    -------
    ndarray of bool, shape ``(n_pixels,)``
        Of the used pixels, each peak with the pixel on each side; none if they would be more than 3 %.
    """
    # The jitter that goes with most pixels: a few wild ones have raised what was fitted.
    usual = labels.clone()
    jitter = likelihood.jitter
    usual[jitter] = torch.minimum(labels[jitter], likelihood.excess_scatter(labels[None])[0].to(labels))
    fit = likelihood.fit(usual)
    z = fit.residual / fit.sigma
    height = (fit.flux + fit.residual) / np.maximum(fit.continuum, 1e-30) - 1
    found = np.zeros(len(z), dtype=bool)
    assert likelihood.line_width is not None
    size = np.abs(np.gradient(np.log(likelihood.wavelength))) if len(z) > 1 else np.ones(1)
    step = np.gradient(fit.pixels.astype(float)) if len(z) > 1 else np.ones(1)
    width = FWHM * likelihood.line_width / np.maximum(size / step, 1e-12)
    for first, last in _runs(np.abs(z) > _FOOT, fit.pixels):
        peak = first + int(np.abs(z[first:last]).argmax())
        if abs(z[peak]) < _PEAK:
            continue
        extent = fit.pixels[last - 1] - fit.pixels[first] + 1
        narrow = extent <= max(1.0, _NARROW * width[peak])
        emission = z[peak] > 0 and height[peak] > _ABOVE and extent <= _EMISSION * width[peak]
        if narrow or emission:
            found[max(first - 1, 0) : last + 1] = True
    return found if found.mean() <= _MOST else np.zeros_like(found)


def _runs(high: NDArray[np.bool_], pixels: NDArray[np.int64]) -> list[tuple[int, int]]:
    """Half-open stretches of neighbouring pixels that are high."""
    padded = np.concatenate([[False], high, [False]])
    edges = np.flatnonzero(padded[1:] != padded[:-1])
    out = []
    for first, last in zip(edges[::2], edges[1::2], strict=True):
        cuts = first + 1 + np.flatnonzero(np.diff(pixels[first:last]) > 1)
        starts = [int(first), *cuts.tolist()]
        out += list(zip(starts, [*starts[1:], int(last)], strict=True))
    return out
