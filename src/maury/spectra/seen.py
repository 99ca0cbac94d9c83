"""What a spectrum was seen through, as networks take it: its line-spread function at two places of each chip of their grid.

The profile is what `LineSpread.transform` gives, whatever its form: a Fourier transform, of which a few dozen values tell all, since a
profile is smooth. A spectrum of other pixels than the networks' has been through `maury.spectra.regrid` too.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from maury.spectra.instrument import Instrument
from maury.spectra.linespread import LineSpread
from maury.spectra.regrid import response
from maury.spectra.spectrum import PixelGrid, Spectrum

# Values of each transform, denser at low frequencies, where far wings are; and the two places on a chip, as shares of its length:
# straight lines through them serve the whole chip best.
N_KNOTS = 48
PLACES = (0.2113, 0.7887)
Array = NDArray[np.float64]


def knots() -> Array:
    """Frequencies of the values, cycles a pixel of the networks' grid, shape ``(N_KNOTS,)``."""
    return np.asarray(0.5 * (np.arange(N_KNOTS) / (N_KNOTS - 1)) ** 2)


def places(instrument: Instrument) -> NDArray[np.int64]:
    """Pixels of the networks' grid at which profiles are taken, shape ``(n_chips, 2)``."""
    return np.array([[round(a + share * (b - 1 - a)) for share in PLACES] for a, b in instrument.grid.chips])


def profile(lsf: LineSpread, grid: PixelGrid, instrument: Instrument) -> NDArray[np.float32]:
    """Return the profile of a line-spread function on some pixels, shape ``(n_chips, 2, N_KNOTS, 2)``: real and imaginary parts.

    Parameters
    ----------
    lsf
        The line-spread function.
    grid
        The pixels that it is of.
    instrument
        Whose networks look.
    """
    at = places(instrument)
    dlnw = instrument.layout.log10_step * np.log(10)
    wanted = instrument.grid.wavelength[at.ravel()]
    rows = np.clip(np.searchsorted(grid.wavelength, wanted), 1, grid.n_pixels - 1)
    rows = np.where(
        wanted - grid.wavelength[rows - 1] < grid.wavelength[rows] - wanted, rows - 1, rows
    ).astype(np.int64)
    found = lsf.transform(grid, knots() / dlnw, rows)
    if not on_grid(grid, instrument):
        near = np.clip(rows, 1, grid.n_pixels - 2)
        step = np.minimum(
            np.log(grid.wavelength[near + 1] / grid.wavelength[near]),
            np.log(grid.wavelength[near] / grid.wavelength[near - 1]),
        )
        found = found * np.array([response(s, knots()) for s in step / dlnw])
    parts = np.stack([found.real, found.imag], axis=-1)
    return parts.reshape(*at.shape, N_KNOTS, 2).astype(np.float32)


def on_grid(grid: PixelGrid, instrument: Instrument) -> bool:
    """Whether pixels are those of the networks' grid."""
    common = instrument.grid.wavelength
    return len(grid.wavelength) == len(common) and bool(
        np.abs(np.log10(grid.wavelength / common)).max() < 1e-3 * instrument.layout.log10_step
    )


def seen_through(spectrum: Spectrum, instrument: Instrument) -> NDArray[np.float32]:
    """Return the `profile` of a spectrum, that of the networks' grid where it does not tell its line-spread function."""
    if spectrum.lsf is None:
        return profile(instrument.grid_lsf, instrument.grid, instrument)
    return profile(spectrum.lsf, spectrum.grid, instrument)
