"""Irregular detector pixels onto a uniform logarithmic grid.

For networks only: likelihoods use the pixels as they are.
"""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray

from maury.spectra.instrument import Instrument
from maury.spectra.spectrum import Spectrum

# Half width of the local fit, in output pixels and in input spacings: three input pixels at least
# must lie inside.
_HALF_WIDTH = 1.7
_SPACINGS = 1.8
# A value is an interpolation only if a good input pixel lies this near (output pixels).
_NEAR = 0.8


def regrid(
    position: NDArray[np.float64], flux: NDArray[np.float64], ivar: NDArray[np.float64], n_out: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Local quadratic fit at each output pixel: no broadening to third order, masks and errors respected.

    Parameters
    ----------
    position
        Of each input pixel, in output pixels from 0, shape ``(n_in,)``.
    flux, ivar
        Shape ``(n_in,)``; ``ivar`` 0 where unusable.
    n_out
        Output pixels.

    Returns
    -------
    flux, ivar : ndarray, shape ``(n_out,)``
        ``ivar`` shares each input pixel's inverse variance among its two neighbours, so that the information
        is conserved; it is 0 where the output is not held by good pixels.
    """
    good = ivar > 0
    p, f, w = position[good], flux[good], ivar[good]
    nearest = np.round(p).astype(np.int64)
    spacing = np.gradient(position)[good] if len(position) > 1 else np.ones_like(p)
    half = np.maximum(_HALF_WIDTH, _SPACINGS * np.abs(spacing))
    # A few wild errors must not leave the fit to a single pixel.
    relative = w / np.median(w) if len(w) else w
    moments = np.zeros((8, n_out))
    share, near = np.zeros(n_out), np.zeros(n_out, dtype=bool)
    for offset in range(-int(np.ceil(half.max(initial=1))), int(np.ceil(half.max(initial=1))) + 1):
        index = nearest + offset
        d = p - index
        kernel = np.clip(1 - (d / half) ** 2, 0, None) * np.clip(relative, 1e-4, 4)
        use = (kernel > 0) & (index >= 0) & (index < n_out)
        i, d, k, used = index[use], d[use], kernel[use], f[use]
        for power in range(5):
            moments[power] += np.bincount(i, k, minlength=n_out)
            if power < 3:
                moments[5 + power] += np.bincount(i, k * used, minlength=n_out)
            k = k * d
        share += np.bincount(i, np.clip(1 - np.abs(d), 0, None) * w[use], minlength=n_out)
        near[i[np.abs(d) < _NEAR]] = True
    s0, s1, s2, s3, s4, r0, r1, r2 = moments
    # Cramer's rule for the constant term of the 3 x 3 normal equations.
    determinant = s0 * (s2 * s4 - s3**2) - s1 * (s1 * s4 - s2 * s3) + s2 * (s1 * s3 - s2**2)
    value = r0 * (s2 * s4 - s3**2) - s1 * (r1 * s4 - r2 * s3) + s2 * (r1 * s3 - r2 * s2)
    held = near & (determinant > 1e-3 * s0**3) & (share > 0)
    return np.where(held, value / np.where(held, determinant, 1), 0.0), np.where(held, share, 0.0)


def on_network_grid(
    spectrum: Spectrum, instrument: Instrument
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Flux and inverse variance on the grid that an instrument's networks take, ``(n_grid,)`` each; as they are if they lie on it."""
    layout = instrument.layout
    position = (np.log10(spectrum.grid.wavelength) - layout.log10_start) / layout.log10_step
    n = layout.number
    if len(position) == n and np.abs(position - np.arange(n)).max() < 1e-3:
        return spectrum.flux, spectrum.ivar
    flux, ivar = np.zeros(n), np.zeros(n)
    for start, stop in spectrum.grid.chips:
        chip = slice(start, stop)
        at = position[chip]
        # The fit reaches no farther than this beyond a chip's ends.
        reach = 2 + int(2 * _SPACINGS * np.abs(np.diff(at)).max(initial=1))
        low, high = max(int(at.min()) - reach, 0), min(int(at.max()) + reach, n)
        if low >= high:
            continue
        f, w = regrid(at - low, spectrum.flux[chip], spectrum.ivar[chip], high - low)
        there = slice(low, high)
        flux[there], ivar[there] = np.where(w > 0, f, flux[there]), np.where(w > 0, w, ivar[there])
    return flux, ivar


@cache
def _response_table(
    n_phases: int = 16,
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    spacing, frequency = np.linspace(0.3, 1.2, 19), np.linspace(0, 0.5, 51)
    out = np.ones((len(spacing), len(frequency)))
    for i, step in enumerate(spacing):
        half = max(_HALF_WIDTH, _SPACINGS * step)
        for_all = []
        for phase in (np.arange(n_phases) + 0.5) / n_phases:
            d = step * (phase + np.arange(-20, 20))
            d = d[np.abs(d) < half]
            kernel, powers = 1 - (d / half) ** 2, d[:, None] ** np.arange(3)
            fit = np.linalg.solve((powers * kernel[:, None]).T @ powers, (powers * kernel[:, None]).T)[0]
            for_all.append(np.cos(2 * np.pi * frequency[:, None] * d) @ fit)
        out[i] = np.mean(for_all, axis=0)
    return spacing, frequency, out


def response(spacing: float, frequency: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return what `regrid` leaves of a wave, on average over where pixels fall: it blurs what is near its own scale.

    Parameters
    ----------
    spacing
        Of the input pixels, in output pixels.
    frequency
        Cycles an output pixel, 0 to 0.5, any shape.
    """
    steps, waves, table = _response_table()
    place = np.clip((spacing - steps[0]) / (steps[1] - steps[0]), 0, len(steps) - 1.001)
    low = int(place)
    row = (1 - (place - low)) * table[low] + (place - low) * table[low + 1]
    return np.interp(frequency, waves, row)
