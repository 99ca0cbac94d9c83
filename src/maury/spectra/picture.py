"""A spectrum as a figure, made without pyplot: no global state, no display."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from maury.spectra.spectrum import Spectrum

_UNUSED = "#8A8A8A"
# Of the used pixels, what the axis shows of their fluxes: a few wild ones shall not squeeze the others.
_SHOWN = (0.002, 0.998)


def picture(spectrum: Spectrum) -> Figure:
    """Draw a spectrum chip by chip: flux (black), its error (light), and pixels that are not used (grey)."""
    from maury.figures import new_figure

    chips, unit = spectrum.grid.chips, str(spectrum.meta.get("flux_unit") or "")
    figure = new_figure(12, 0.8 + 2.2 * len(chips))
    axes = np.atleast_1d(figure.subplots(len(chips), 1))
    for axis, (start, stop) in zip(axes, chips, strict=True):
        chip = slice(start, stop)
        wavelength, flux, good = spectrum.grid.wavelength[chip], spectrum.flux[chip], spectrum.good[chip]
        with np.errstate(divide="ignore"):
            error = np.where(good, 1 / np.sqrt(spectrum.ivar[chip]), np.nan)
        # Beneath the used pixels, so that it shows where they have gaps, be it of a single pixel.
        axis.plot(wavelength, flux, color=_UNUSED, lw=0.5, alpha=0.6)
        axis.fill_between(wavelength, flux - error, flux + error, color="black", alpha=0.15, lw=0)
        axis.plot(wavelength, np.where(good, flux, np.nan), color="black", lw=0.7)
        if good.any():
            low, high = np.quantile(flux[good], _SHOWN)
            room = 0.15 * (high - low) or 1.0
            axis.set_ylim(low - room, high + room)
        axis.set_xlim(wavelength[0], wavelength[-1])
    # What a file says is text, never markup.
    axes[0].set_title(
        f"{spectrum.id or spectrum.path}, S/N {spectrum.snr:.0f}", fontsize=11, parse_math=False
    )
    figure.supylabel(f"flux [{unit}]" if unit else "flux", fontsize=10, parse_math=False)
    axes[-1].set_xlabel("vacuum wavelength [Angstrom]")
    return figure
