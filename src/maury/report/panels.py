"""The windows of a spectrum that tell most, each as a small picture: data, model, residual and lines. Reports and the page share them."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from maury.constants import C_KMS
from maury.display import number
from maury.posterior.diagnostics import Window
from maury.report.observed import lines_of, total_error, velocity
from maury.report.svg import short, ticks

if TYPE_CHECKING:
    from maury.posterior.result import Posterior

Array = NDArray[np.float64]
# Of a picture, in its own units: as many as pixels where three stand beside each other.
WIDTH, HEIGHT = 372.0, 236.0
_LEFT, _RIGHT, _TOP, _BOTTOM, _GAP = 46.0, 8.0, 22.0, 34.0, 8.0
_SHARE = 0.7
# Angstrom within which two marks are of one line; widths of a letter and of the space between two names.
_SAME, _LETTER, _SPACE = 0.6, 6.3, 5.0
# Residuals are shown to so many errors at least.
_ERRORS = 4.0


@dataclass(frozen=True)
class Panel:
    """A window as a picture.

    Attributes
    ----------
    low, high
        Vacuum Angstrom, in the frame of the file.
    title
        The wavelengths, and the labels that it tells of.
    svg
        The picture: an ``svg`` element in which everything has a class; all text in it is escaped.
    """

    low: float
    high: float
    title: str
    svg: str

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return asdict(self)


def panels(posterior: Posterior) -> list[Panel]:
    """Return the pictures of a posterior's windows (`maury.Posterior.windows`), by wavelength."""
    return [
        Panel(window.low, window.high, _title(window), _svg(posterior, window, k))
        for k, window in enumerate(posterior.windows, start=1)
    ]


def told_by(window: Window) -> str:
    """Say what a window tells of: ``log g 6 %, [C/M] 5 %``; nothing where that is not known."""
    return ", ".join(
        f"{short(name)} {max(share, 0.01):.0%}".replace("%", " %") for name, share in window.told[:3]
    )


def marks(posterior: Posterior, window: Window) -> list[tuple[float, str]]:
    """Lines in a window: where, in the frame of the file, and of what; strong features, and those that elements were read off."""
    from maury.quantities import ELEMENTS

    factor = math.exp(math.atanh(velocity(posterior) / C_KMS))
    found = [(line["observed"], str(line["species"])) for line in lines_of(posterior) if not line["faint"]]
    for line in posterior.diagnostics.lines:
        symbol = line.label.removesuffix("_m").capitalize()
        if symbol in ELEMENTS:
            found.append((line.wavelength * factor, symbol))
    kept: list[tuple[float, str]] = []
    for place, name in found:
        if not window.low < place < window.high:
            continue
        # "Mg I" and "Mg" at one place are one line.
        if any(abs(place - other) < _SAME and n.split()[0] == name.split()[0] for other, n in kept):
            continue
        kept.append((place, name.replace("Brackett", "Br")))
    return sorted(kept)


def _title(window: Window) -> str:
    told = told_by(window)
    return f"{window.low:.0f} to {window.high:.0f} Å" + (f": {told}" if told else "")


def _svg(posterior: Posterior, window: Window, place: int) -> str:
    from markupsafe import escape

    fit, grid = posterior.fit, posterior.spectrum.grid
    every = (grid.wavelength > window.low) & (grid.wavelength < window.high)
    used = every[fit.pixels]
    wavelength = grid.wavelength[fit.pixels][used]
    continuum = fit.continuum[used]
    observed, model = (fit.flux + fit.residual)[used] / continuum, fit.flux[used] / continuum
    pull = (fit.residual / total_error(posterior))[used]
    plot, floor = HEIGHT - _TOP - _BOTTOM - _GAP, HEIGHT - _BOTTOM
    upper, lower = _SHARE * plot, (1 - _SHARE) * plot
    base = _TOP + upper + _GAP
    values = np.r_[observed, model] if len(observed) else np.array([0.0, 1.0])
    bottom, top = float(values.min()), float(max(values.max(), 1.0))
    bottom, top = bottom - 0.06 * (top - bottom), top + 0.06 * (top - bottom)
    most = float(max(_ERRORS, min(np.abs(pull).max(initial=0.0) * 1.1, 12.0)))

    def x(w: Array | float) -> Array:
        return np.asarray(_LEFT + (w - window.low) / (window.high - window.low) * (WIDTH - _LEFT - _RIGHT))

    def y(v: Array | float) -> Array:
        return np.asarray(_TOP + (top - v) / (top - bottom) * upper)

    def r(v: Array | float) -> Array:
        return np.asarray(base + (0.5 - np.clip(v, -most, most) / (2 * most)) * lower)

    right = WIDTH - _RIGHT
    parts = [
        f'<rect class="p-band" x="{_LEFT:g}" y="{r(1.0):.1f}" width="{right - _LEFT:g}" height="{r(-1.0) - r(1.0):.1f}"/>'
    ]
    parts += _marked(marks(posterior, window), x, _TOP, _TOP + upper)
    jumps = np.flatnonzero(np.diff(fit.pixels[used]) > 1) + 1
    # Pixels out of use leave a gap.
    for name, place_of, curve in (("data", y, observed), ("model", y, model), ("resid", r, pull)):
        pieces = zip(np.split(x(wavelength), jumps), np.split(place_of(curve), jumps), strict=True)
        path = "".join(_line(px, py) for px, py in pieces if len(px))
        parts.append(f'<path class="p-{name}" d="{path}"/>')
    parts += [
        f'<rect class="p-frame" x="{_LEFT:g}" y="{_TOP:g}" width="{right - _LEFT:g}" height="{upper:.1f}"/>',
        f'<rect class="p-frame" x="{_LEFT:g}" y="{base:.1f}" width="{right - _LEFT:g}" height="{lower:.1f}"/>',
    ]
    across, digits = ticks(window.low, window.high, 5)
    for value in across:
        mark = float(x(value))
        anchor = "end" if mark > right - 14 else "middle"
        parts.append(f'<path class="p-tick" d="M{mark:.1f} {floor:g}v4"/>')
        parts.append(
            f'<text class="p-digits" x="{mark:.1f}" y="{floor + 15:g}" text-anchor="{anchor}">{value:.{digits}f}</text>'
        )
    up, digits = ticks(bottom, top, 4)
    half = float(math.floor(most / 2))
    beside = [(y(v), number(v, digits)) for v in up] + [(r(v), number(v, 0)) for v in (-half, 0.0, half)]
    for at_, text in beside:
        parts.append(
            f'<text class="p-digits" x="{_LEFT - 5:g}" y="{float(at_) + 3.6:.1f}" text-anchor="end">{text}</text>'
        )
    middle = (_LEFT + right) / 2
    parts += [
        f'<text class="p-axis" x="{middle:g}" y="{HEIGHT - 3:g}" text-anchor="middle">vacuum wavelength [Å]</text>',
        f'<text class="p-axis" transform="translate(10 {_TOP + upper / 2:.1f}) rotate(-90)" text-anchor="middle">flux / continuum</text>',
        f'<text class="p-axis" transform="translate(10 {base + lower / 2:.1f}) rotate(-90)" text-anchor="middle">resid. [σ]</text>',
    ]
    said = escape(f"Window {place}: {_title(window)}; observed spectrum, model, and residual")
    return f'<svg class="window" viewBox="0 0 {WIDTH:g} {HEIGHT:g}" role="img" aria-label="{said}">{"".join(parts)}</svg>'


def _line(x: Array, y: Array) -> str:
    points = "L".join(f"{a:.1f} {b:.1f}" for a, b in zip(x, y, strict=True))
    # A pixel by itself is a dot.
    return f"M{points}h.8" if len(x) == 1 else f"M{points}"


def _marked(found: list[tuple[float, str]], x: Any, top: float, bottom: float) -> list[str]:
    """Draw marks of lines, with names where there is room."""
    from markupsafe import escape

    parts, free = [], -1e9
    for place, name in found:
        at, half = float(x(place)), 0.5 * _LETTER * len(name)
        parts.append(f'<path class="p-mark" d="M{at:.1f} {top:g}V{bottom:.1f}"/>')
        if at - half > free + _SPACE:
            parts.append(
                f'<text class="p-name" x="{at:.1f}" y="{top - 6:g}" text-anchor="middle">{escape(name)}</text>'
            )
            free = at + half
    return parts
