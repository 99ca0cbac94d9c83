"""The Kiel diagram of some stars, as SVG."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from maury.display import number
from maury.posterior.flags import Kind
from maury.report.svg import ticks


@dataclass(frozen=True)
class Star:
    """A star in the diagram: its page (empty if it has none), what to make of it, and medians with total errors; K and dex."""

    name: str
    link: str
    kind: Kind
    teff: float
    logg: float
    d_teff: float
    d_logg: float
    m_h: float


def _colour(share: float) -> str:
    """Colour of a share (per cent) of the way from the poorest to the richest."""
    return f"color-mix(in oklab, var(--orange) {share:.0f}%, var(--blue))"


def kiel(stars: Sequence[Star]) -> str:
    """Draw surface gravity against effective temperature, hot and large stars at the left and at the bottom, with total errors.

    The colour is the metallicity. Two stars make a diagram, one does not.
    """
    from markupsafe import escape

    if len(stars) < 2:
        return ""
    width, height, left, right, top, bottom = 620.0, 400.0, 60.0, 78.0, 12.0, 46.0
    teff, logg, d_teff, d_logg, metals = (
        np.array([getattr(star, name) for star in stars])
        for name in ("teff", "logg", "d_teff", "d_logg", "m_h")
    )
    (low, high), (large, small) = _ends(teff, d_teff, 200.0), _ends(logg, d_logg, 0.3)

    def x(t: float) -> float:
        return left + (high - min(max(t, low), high)) / (high - low) * (width - left - right)

    def y(g: float) -> float:
        return top + (min(max(g, large), small) - large) / (small - large) * (height - top - bottom)

    floor, end = height - bottom, width - right
    parts = []
    for ends, axis in (((low, high), "x"), ((large, small), "y")):
        values, digits = ticks(*ends, 6)
        for value in values:
            if axis == "x":
                parts.append(f'<path class="grid" d="M{x(value):.1f} {top:g}V{floor:g}"/>')
                parts.append(
                    f'<text class="digits" x="{x(value):.1f}" y="{floor + 16:g}" text-anchor="middle">{value:.{digits}f}</text>'
                )
            else:
                parts.append(f'<path class="grid" d="M{left:g} {y(value):.1f}H{end:g}"/>')
                parts.append(
                    f'<text class="digits" x="{left - 6:g}" y="{y(value) + 4:.1f}" text-anchor="end">{number(value, digits)}</text>'
                )
    known = metals[np.isfinite(metals)]
    poor, rich = (float(known.min()), float(known.max())) if known.size else (0.0, 0.0)
    for star in stars:
        t, g, m = star.teff, star.logg, star.m_h
        share = 50 if rich <= poor or not np.isfinite(m) else 100 * (m - poor) / (rich - poor)
        cross = (
            f"M{x(t - star.d_teff):.1f} {y(g):.1f}H{x(t + star.d_teff):.1f}"
            f"M{x(t):.1f} {y(g - star.d_logg):.1f}V{y(g + star.d_logg):.1f}"
        )
        told = escape(f"{star.name}: {number(t, 0)} K, log g {number(g, 2)}, [M/H] {number(m, 2)}")
        inner = (
            f'<g style="--of:{_colour(share)}"><path class="cross" d="{cross}"/>'
            f'<circle class="star {star.kind}" cx="{x(t):.1f}" cy="{y(g):.1f}" r="5.5"><title>{told}</title></circle></g>'
        )
        parts.append(f'<a href="{escape(star.link)}" aria-label="{told}">{inner}</a>' if star.link else inner)
    parts += [
        f'<rect class="frame" x="{left:g}" y="{top:g}" width="{end - left:g}" height="{floor - top:g}"/>',
        f'<text class="name" x="{(left + end) / 2:g}" y="{height - 8:g}" text-anchor="middle">Teff [K]</text>',
        f'<text class="name" transform="translate(15 {(top + floor) / 2:g}) rotate(-90)" text-anchor="middle">log g [dex]</text>',
    ]
    if rich > poor:
        stops = "".join(
            f'<rect style="fill:{_colour(5 * k)}" x="{end + 16:g}" '
            f'y="{floor - (k + 1) * (floor - top) / 21:.1f}" width="14" height="{(floor - top) / 21 + 0.5:.1f}"/>'
            for k in range(21)
        )
        parts += [
            stops,
            f'<text class="digits" x="{end + 34:g}" y="{top + 9:g}">{number(rich, 2)}</text>',
            f'<text class="digits" x="{end + 34:g}" y="{floor:g}">{number(poor, 2)}</text>',
            f'<text class="name" transform="translate({end + 48:g} {(top + floor) / 2:g}) rotate(-90)" '
            'text-anchor="middle">[M/H] [dex]</text>',
        ]
    title = f"Kiel diagram of {len(stars)} stars: surface gravity against effective temperature"
    return f'<svg class="kiel" viewBox="0 0 {width:g} {height:g}" role="group" aria-label="{title}">{"".join(parts)}</svg>'


def _ends(values: NDArray[np.float64], errors: NDArray[np.float64], least: float) -> tuple[float, float]:
    """Return ends of an axis that holds values with their errors, not narrower than some least width on each side of the middle."""
    low, high = float((values - errors).min()), float((values + errors).max())
    pad = max(0.06 * (high - low), least - (high - low) / 2)
    return low - pad, high + pad
