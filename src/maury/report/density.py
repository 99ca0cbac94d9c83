"""Smooth densities of weighted draws, for pictures: kernels of the draws' own covariance, cut off where the prior ends."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
# Of Scott's (1992) width, which is right for Gaussians and washes out everything else, along a line; in a plane a contour of few draws
# takes all of it to be smooth: with 200 effective ones it is a tenth too wide.
_NARROWER, _OF_PLANE = 0.75, 1.1
# Widths of a kernel beyond the edges that are computed too, so that nothing comes round at the other end.
_REACH = 4.0
# Of a pair of labels: beyond this the kernel would be thinner than a cell.
_STRAIGHT = 0.97


def effective(weights: Array) -> float:
    """Effective number of weighted draws."""
    share = weights / weights.sum()
    return float(1.0 / (share @ share))


def line(x: Array, weights: Array, low: float, high: float, bins: int) -> Array:
    """Return a label's density on equal bins, as the share of the weight that lies inside each.

    Parameters
    ----------
    x, weights
        Draws and their weights, shape ``(n,)``.
    low, high
        Ends of the axis; where the draws lean on one, the density is not bent down there.
    bins
        Number of bins.
    """
    share, spread = _about(x, weights)
    width = _NARROWER * effective(weights) ** (-1 / 5) * spread / (high - low) * bins
    counts, _ = np.histogram(x, bins, (low, high), weights=share)
    found = _blurred(counts, np.array([[max(width, 0.6) ** 2]]))
    return np.asarray(found * counts.sum() / max(float(found.sum()), 1e-300))


def plane(x: Array, y: Array, weights: Array, box: Array, bins: int) -> Array:
    """Return the density of two labels on equal cells, shape ``(bins, bins)``, the first axis along ``x``.

    Parameters
    ----------
    x, y, weights
        Draws and their weights, shape ``(n,)``.
    box
        Ends of both axes, shape ``(2, 2)``.
    bins
        Cells along an axis.
    """
    share, _ = _about(x, weights)
    counts, _, _ = np.histogram2d(x, y, bins, box, weights=share)
    both = np.vstack([x, y])
    centred = both - (both @ share)[:, None]
    covariance = (share * centred) @ centred.T
    cells = np.diff(box, axis=1)[:, 0] / bins
    deviation = np.sqrt(np.maximum(covariance.diagonal(), 1e-300))
    correlation = float(np.clip(covariance[0, 1] / (deviation[0] * deviation[1]), -_STRAIGHT, _STRAIGHT))
    width = np.maximum(_OF_PLANE * effective(weights) ** (-1 / 6) * deviation / cells, 0.6)
    mixed = correlation * width[0] * width[1]
    return _blurred(counts, np.array([[width[0] ** 2, mixed], [mixed, width[1] ** 2]]))


def heights(density: Array, shares: tuple[float, ...]) -> list[float]:
    """Heights of a density above which some shares of it lie."""
    ordered = np.sort(density.ravel())[::-1]
    mass = np.cumsum(ordered) / ordered.sum()
    return [float(ordered[min(int(np.searchsorted(mass, share)), len(ordered) - 1)]) for share in shares]


def _about(x: Array, weights: Array) -> tuple[Array, float]:
    share = weights / weights.sum()
    return share, float(np.sqrt(max(share @ (x - share @ x) ** 2, 0.0)))


def _blurred(counts: Array, covariance: Array) -> Array:
    """Fold counts with a Gaussian, its covariance in cells; what would go past an edge stays inside, in proportion."""
    pad = [int(np.ceil(_REACH * np.sqrt(v))) + 1 for v in covariance.diagonal()]
    shape = [n + p for n, p in zip(counts.shape, pad, strict=True)]
    frequency = np.meshgrid(*(np.fft.fftfreq(n) for n in shape), indexing="ij")
    form = sum(
        covariance[i, j] * frequency[i] * frequency[j] for i in range(counts.ndim) for j in range(counts.ndim)
    )
    kernel = np.exp(-2 * np.pi**2 * form)
    inside = tuple(slice(n) for n in counts.shape)

    def folded(values: Array) -> Array:
        wide = np.zeros(shape)
        wide[inside] = values
        return np.asarray(np.fft.ifftn(np.fft.fftn(wide) * kernel).real[inside])

    return np.clip(folded(counts), 0, None) / np.maximum(folded(np.ones_like(counts)), 0.05)
