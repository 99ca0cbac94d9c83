"""A fitted spectrum as pages draw it: relative to its continuum, with masks and lines."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from maury.constants import C_KMS
from maury.report.html import floats, octets

if TYPE_CHECKING:
    from maury.posterior.result import Posterior

CHIP_NAMES = ("blue chip", "green chip", "red chip")
USED, MASKED, OUTSIDE = 0, 1, 2
# A line whose model is not this deep (of the continuum) is marked as faint.
_FAINT = 0.03
# Angstrom on each side of a line in which its depth is read.
_CORE = 0.6


def velocity(posterior: Posterior) -> float:
    """Velocity of the best draw in the frame of the file, km/s: where the model's lines are."""
    if "v_rad" in posterior.labels.names:
        place = int(np.argmax(posterior.log_likelihood + posterior.log_prior))
        return float(posterior.draws[place, posterior.labels.index("v_rad")])
    return float(posterior.held.get("v_rad", 0.0))


def total_error(posterior: Posterior) -> NDArray[np.float64]:
    """Error of each used pixel with the correlated part of the noise, in the units of the spectrum, shape ``(n,)``."""
    fit, process = posterior.fit, posterior.diagnostics.residuals
    if process is None or not process.used:
        return fit.sigma
    deviation = process.amplitude * fit.continuum
    deviation += process.in_lines * np.clip(fit.continuum - fit.flux, 0, None)
    return np.hypot(fit.sigma, deviation)


def chip_names(posterior: Posterior) -> list[str]:
    """Return what the chips are called."""
    n = len(posterior.spectrum.grid.chips)
    return list(CHIP_NAMES) if n == len(CHIP_NAMES) else [f"chip {i + 1}" for i in range(n)]


def lines_of(posterior: Posterior) -> list[dict[str, Any]]:
    """Strong lines inside the used pixels, at the star's velocity, with the depth of the model there."""
    from maury.posterior.predictive import LINES

    fit = posterior.fit
    wavelength = posterior.spectrum.grid.wavelength[fit.pixels]
    with np.errstate(divide="ignore", invalid="ignore"):
        depth = 1 - fit.flux / fit.continuum
    factor = math.exp(math.atanh(velocity(posterior) / C_KMS))
    out = []
    for species, places in LINES.items():
        for rest in places:
            near = np.abs(wavelength - rest * factor) < _CORE
            if near.any():
                deep = float(np.nanmax(depth[near]))
                out.append(
                    {
                        "species": species,
                        "rest": rest,
                        "observed": rest * factor,
                        "depth": deep,
                        "faint": deep < _FAINT,
                    }
                )
    return sorted(out, key=lambda line: line["rest"])


def spectrum_data(posterior: Posterior) -> dict[str, Any]:
    """Return what the script draws: every pixel, relative to the fitted continuum."""
    spectrum, fit = posterior.spectrum, posterior.fit
    grid = spectrum.grid
    n = grid.n_pixels
    state = np.where(spectrum.good, OUTSIDE, MASKED)
    state[fit.pixels] = USED
    continuum, model, pull = (np.full(n, np.nan) for _ in range(3))
    for start, stop in grid.chips:
        member = (fit.pixels >= start) & (fit.pixels < stop)
        if member.any():
            # Masked pixels need a level too; beyond the last used pixel the continuum is held.
            continuum[start:stop] = np.interp(
                np.arange(start, stop), fit.pixels[member], fit.continuum[member]
            )
    model[fit.pixels] = fit.flux
    pull[fit.pixels] = fit.residual / total_error(posterior)
    level = float(np.nanmedian(np.abs(continuum))) or 1.0
    return {
        "wavelength": floats(grid.wavelength),
        "flux": floats(spectrum.flux / level),
        "model": floats(model / level),
        "continuum": floats(continuum / level),
        "pull": floats(pull),
        "state": octets(state),
        "level": level,
        "chips": [[int(a), int(b)] for a, b in grid.chips],
        "names": chip_names(posterior),
        "lines": lines_of(posterior),
        "windows": [[window.low, window.high] for window in posterior.windows],
        "doppler": math.exp(math.atanh(velocity(posterior) / C_KMS)),
    }
