"""Hits by cosmic rays that a file has not masked: light narrower than the line-spread function, which came through no spectrograph."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import median_filter

from maury.spectra.spectrum import Spectrum

# Pixels over which the level beside a hit is taken, many lines wide.
_WINDOW = 101
# A hit doubles the level, or takes three times of it away, by so many errors: no star's line and no noise does.
_ABOVE, _BELOW, _SIGMA = 1.0, 2.0, 20.0
# Beside light that came through the slit a pixel away has more than this share of its peak.
_WING = 0.1
# Resolving power where neither file nor model tells one: APOGEE's.
_RESOLUTION = 22_500.0


def hits(spectrum: Spectrum) -> NDArray[np.bool_]:
    """Find pixels that a cosmic ray or a dead column spoilt, the next one on each side with them.

    A run of pixels far off the level is a hit if it is no wider than the line-spread function and falls on both sides to less than a
    tenth of its peak: what a line of the sky or of the star, however bright, does not do. Such pixels lie tens of thousands of errors off
    any model and would decide the fit alone.

    Parameters
    ----------
    spectrum
        On its own pixels.

    Returns
    -------
    ndarray of bool, shape ``(n_pixels,)``
        Of usable pixels.
    """
    found = np.zeros(spectrum.grid.n_pixels, dtype=bool)
    width: NDArray[np.int64] | None = None
    for start, stop in spectrum.grid.chips:
        place = start + np.flatnonzero(spectrum.good[start:stop])
        if len(place) < _WINDOW:
            continue
        flux, error = spectrum.flux[place], spectrum.ivar[place] ** -0.5
        level = median_filter(flux, _WINDOW, mode="nearest")
        excess = flux - level
        height = np.abs(level)
        tall = (excess > _ABOVE * height) | (excess < -_BELOW * height)
        tall &= np.abs(excess) > _SIGMA * error
        if not tall.any():
            continue
        width = _width(spectrum) if width is None else width
        padded = np.concatenate([[False], tall, [False]])
        edges = np.flatnonzero(padded[1:] != padded[:-1])
        for first, last in zip(edges[::2], edges[1::2], strict=True):
            run = place[first:last]
            if len(run) > width[run].max():
                continue
            peak = np.abs(excess[first:last]).max()
            beside = [i for i in (first - 1, last) if 0 <= i < len(place)]
            if all(np.abs(excess[i]) < _WING * peak for i in beside):
                found[place[max(first - 1, 0) : last + 1]] = True
    return found


def _width(spectrum: Spectrum) -> NDArray[np.int64]:
    """Whole pixels in the line-spread function's full width at half maximum, one at least, shape ``(n_pixels,)``."""
    from maury.spectra.linespread import log_pixel_size

    lsf = spectrum.lsf
    power = _RESOLUTION if lsf is None else lsf.resolving_power(spectrum.grid)
    pixels = 1 / np.maximum(power * np.abs(log_pixel_size(spectrum.grid)), 1e-9)
    return np.clip(np.nan_to_num(pixels, nan=1.0), 1, _WINDOW // 4).astype(np.int64)


def without_hits(spectrum: Spectrum) -> Spectrum:
    """Return a spectrum with its hits taken out of use, and their number as ``hits`` of its ``meta``; itself if there are none."""
    found = hits(spectrum)
    if not found.any():
        return spectrum
    return replace(spectrum.masked(found), meta=spectrum.meta | {"hits": int(found.sum())})
