"""Where a spectrum tells most of its labels: the stretches that a picture should show."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from maury.constants import C_KMS
from maury.posterior.diagnostics import Window
from maury.quantities import Role

if TYPE_CHECKING:
    from maury.likelihood.influence import Influence
    from maury.posterior.result import Posterior

Array = NDArray[np.float64]
# Windows of a picture, and their half width, km/s: a dozen resolution elements of APOGEE on each side, 9 Angstrom.
MOST, HALF = 6, 170.0
# Share of all that a spectrum tells of a label below which a window does not name it.
_NAMED = 0.03
# Pixels that a window needs.
_FEWEST = 5


def windows_of(posterior: Posterior) -> tuple[Window, ...]:
    """Return the windows of a posterior, by wavelength.

    Of one that was just inferred they are those that tell most of the star's labels, each with the labels that it tells of; of one whose
    file does not say, those in which the model changes most.

    Parameters
    ----------
    posterior
        From `maury.infer` or `maury.load`.
    """
    if posterior.diagnostics.windows:
        return posterior.diagnostics.windows
    wavelength = posterior.spectrum.grid.wavelength[posterior.fit.pixels]
    chips = np.zeros(len(wavelength), dtype=np.int64)
    for k, (start, stop) in enumerate(posterior.spectrum.grid.chips):
        chips[(posterior.fit.pixels >= start) & (posterior.fit.pixels < stop)] = k
    if posterior.target is not None and "no_star" not in posterior.flag_bad:
        from maury.likelihood.influence import Influence

        best = posterior.draws[(posterior.log_likelihood + posterior.log_prior).argmax()]
        u = posterior.labels.to_normal(torch.from_numpy(best[None]))[0]
        influence = Influence.at(posterior.target, u)
        told = _information(influence)
        if told and next(iter(told.values())).shape == wavelength.shape:
            return informative(told, wavelength, chips)
    return _named_nothing(informative({"": _structure(posterior, chips)}, wavelength, chips))


def informative(
    told: dict[str, Array], wavelength: Array, chips: NDArray[np.int64], most: int = MOST
) -> tuple[Window, ...]:
    """Choose windows that together tell most of all labels.

    One after the other, each takes what is most of what the ones before have left untold, so that no label goes without.

    Parameters
    ----------
    told
        Of each label, what single pixels tell of it, shape ``(n_pixels,)``.
    wavelength, chips
        Of the pixels, and which chip each is of; shape ``(n_pixels,)``.
    most
        Windows wanted.

    Examples
    --------
    >>> wavelength = np.linspace(16000.0, 16100.0, 1001)
    >>> told = {"teff": np.exp(-0.5 * (wavelength - 16040.0) ** 2)}
    >>> [(round(w.low), round(w.high)) for w in informative(told, wavelength, np.zeros(1001, int), 1)]
    [(16031, 16049)]
    """
    shares = {name: np.clip(x, 0, None) for name, x in told.items()}
    shares = {name: x / x.sum() for name, x in shares.items() if x.sum() > 0}
    left = {name: x.copy() for name, x in shares.items()}
    free = np.ones(len(wavelength), dtype=bool)
    found: list[Window] = []
    while left and len(found) < most:
        untold = sum(float(x.sum()) * x for x in left.values()) * free
        inside = _sums(untold, wavelength, chips)
        middle = int(inside.argmax())
        if inside[middle] <= 0:
            break
        # About the middle of what it tells, not of the first stretch that tells as much.
        member = _near(wavelength, chips, middle)
        centre = float(np.average(wavelength[member], weights=untold[member] + 1e-12 * inside[middle]))
        member = _near(wavelength, chips, int(np.abs(wavelength - centre).argmin()))
        taken = member & free
        names = {name: float(x[member].sum()) for name, x in shares.items()}
        least = min(_NAMED, max(names.values()))
        if taken.sum() >= _FEWEST:
            half = centre * HALF / C_KMS
            ordered = sorted(names.items(), key=lambda item: -item[1])
            told_of = tuple((name, share) for name, share in ordered if share >= least)
            found.append(Window(centre - half, centre + half, told_of))
        free &= ~member
        for x in left.values():
            x[member] = 0.0
    return tuple(sorted(found, key=lambda window: window.low))


def _information(influence: Influence) -> dict[str, Array]:
    """Return what each pixel tells of each of the star's labels but the velocity, which is everywhere; elements have lines of their own."""
    follow = influence.target.likelihood.pixels.model.emulator.ties.relations
    return {
        label.name: influence.alone(i)[0]
        for i, label in enumerate(influence.target.labels)
        if label.role is Role.stellar and not (label.name in follow and label.name.endswith("_m"))
    }


def _structure(posterior: Posterior, chips: NDArray[np.int64]) -> Array:
    """Squared slope of the model in units of the error: what a pixel tells of the velocity, and so where the lines are."""
    fit, out = posterior.fit, np.zeros(len(posterior.fit.pixels))
    for chip in np.unique(chips):
        member = np.flatnonzero(chips == chip)
        if len(member) > 1:
            out[member] = (np.gradient(fit.flux[member]) / fit.sigma[member]) ** 2
    return np.nan_to_num(out)


def _named_nothing(found: tuple[Window, ...]) -> tuple[Window, ...]:
    return tuple(Window(window.low, window.high) for window in found)


def _sums(values: Array, wavelength: Array, chips: NDArray[np.int64]) -> Array:
    """Sum over the window about each pixel, inside its chip."""
    out = np.zeros(len(values))
    for chip in np.unique(chips):
        member = chips == chip
        w, total = wavelength[member], np.r_[0.0, np.cumsum(values[member])]
        first = np.searchsorted(w, w * (1 - HALF / C_KMS))
        last = np.searchsorted(w, w * (1 + HALF / C_KMS), side="right")
        out[member] = total[last] - total[first]
    return out


def _near(wavelength: Array, chips: NDArray[np.int64], middle: int) -> NDArray[np.bool_]:
    half = wavelength[middle] * HALF / C_KMS
    return (np.abs(wavelength - wavelength[middle]) <= half) & (chips == chips[middle])
