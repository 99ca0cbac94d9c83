"""Elements in a report: [X/Fe] by atomic number, what each line says, and how elements and labels go together."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from maury.constants import C_KMS
from maury.display import number, with_error
from maury.libraries.synthesis.engine import SYMBOLS
from maury.posterior.abundances import DISAGREE, agreement
from maury.posterior.diagnostics import Abundance, ElementLine
from maury.report.observed import velocity
from maury.report.svg import short, ticks

if TYPE_CHECKING:
    from maury.posterior.result import Posterior

Array = NDArray[np.float64]
_NUMBER = {symbol: n for n, symbol in enumerate(SYMBOLS, start=1)}
# Height of a line's strip, and room at the ends of its picture, in units of the picture.
_STRIP, _WIDE, _EDGE = 7.0, 250.0, 4.0
# Dex that a picture of lines shows on each side at least.
_REACH = 0.2


def is_element(posterior: Posterior, name: str) -> bool:
    """Tell whether a label is an element that was asked for beside the model's own labels, and so is told among the elements."""
    asked = {entry.label for entry in posterior.diagnostics.abundances}
    return name in asked and name not in posterior.systematic


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def element_rows(posterior: Posterior) -> list[dict[str, Any]]:
    """Return what a report tells of each element: [X/Fe] and [X/H] with errors, or a limit, and its lines in words and as a picture."""
    factor = math.exp(math.atanh(velocity(posterior) / C_KMS))
    rows = []
    for entry in posterior.diagnostics.abundances:
        lines = sorted(
            (line for line in posterior.diagnostics.lines if line.label == entry.label),
            key=lambda one: -one.share,
        )
        _, p = agreement(lines, entry.label)
        rows.append(
            {
                "element": entry.element,
                "measured": entry.measured,
                "fe": with_error(entry.fe_p50, entry.fe_std) if entry.measured else f"< {number(entry.fe_ul95, 2)}",
                "h": with_error(entry.h_p50, entry.h_std) if entry.measured else "not measured",
                "share": _percent(entry.share),
                "n": len(lines),
                "disagree": f"{p:.1g}" if p < DISAGREE else "",
                "picture": _strips(entry, lines) if lines else "",
                "lines": [
                    {"wavelength": f"{line.wavelength:.1f}", "said": with_error(line.value, line.std), "share": _percent(line.share)}
                    for line in lines
                ],
                "observed": [line.wavelength * factor for line in lines],
            }
        )  # fmt: skip
    return rows


def _strips(entry: Abundance, lines: list[ElementLine]) -> str:
    """Draw what each line says by itself over what all say together: the strongest first."""
    from markupsafe import escape

    reach = max(_REACH, max(abs(line.value - entry.fe_p50) + line.std for line in lines))
    reach = min(reach, 5 * _REACH)
    height = _STRIP * len(lines) + 2 * _EDGE

    def x(value: float) -> float:
        at = _WIDE / 2 + (value - entry.fe_p50) / reach * (_WIDE / 2 - _EDGE)
        return min(max(at, _EDGE), _WIDE - _EDGE)

    low, high = x(entry.fe_p50 - entry.fe_std), x(entry.fe_p50 + entry.fe_std)
    parts = [
        f'<rect class="band" x="{low:.1f}" width="{max(high - low, 1):.1f}" height="{height:g}"/>',
        f'<path class="tick" d="M{x(entry.fe_p50):.1f} 0V{height:g}"/>',
    ]
    for k, line in enumerate(lines):
        y = _EDGE + (k + 0.5) * _STRIP
        parts.append(
            f'<path class="bar-of" d="M{x(line.value - line.std):.1f} {y:.1f}H{x(line.value + line.std):.1f}"/>'
        )
        parts.append(f'<circle class="dot" cx="{x(line.value):.1f}" cy="{y:.1f}" r="2.4"/>')
    said = escape(
        f"What each of {len(lines)} lines of {entry.element} says; the axis reaches {reach:.2f} dex on each side"
    )
    return f'<svg class="strips" viewBox="0 0 {_WIDE:g} {height:g}" role="img" aria-label="{said}">{"".join(parts)}</svg>'


def by_number(found: tuple[Abundance, ...]) -> str:
    """Draw [X/Fe] with errors by atomic number; an arrow down from the upper limit of what was not measured."""
    from markupsafe import escape

    width, height, left, right, top, bottom = 1000.0, 330.0, 58.0, 12.0, 16.0, 44.0
    floor = height - bottom
    told = [e for e in found if e.measured]
    ends = [v for e in told for v in (e.fe_p16, e.fe_p84)] + [0.0]
    low, high = min(ends) - 0.12, max(ends) + 0.12
    step = (width - left - right) / max(len(found), 1)

    def y(value: float) -> float:
        return top + (high - min(max(value, low), high)) / (high - low) * (floor - top)

    parts = []
    values, digits = ticks(low, high, 6)
    for value in values:
        parts.append(
            f'<path class="{"zero" if abs(value) < 1e-9 else "grid"}" d="M{left:g} {y(value):.1f}H{width - right:g}"/>'
        )
        parts.append(
            f'<text class="digits" x="{left - 7:g}" y="{y(value) + 4:.1f}" text-anchor="end">{number(value, digits)}</text>'
        )
    for k, entry in enumerate(found):
        at = left + (k + 0.5) * step
        if entry.measured:
            parts.append(f'<path class="bar-of" d="M{at:.1f} {y(entry.fe_p16):.1f}V{y(entry.fe_p84):.1f}"/>')
            parts.append(f'<circle class="dot" cx="{at:.1f}" cy="{y(entry.fe_p50):.1f}" r="4.5"/>')
        else:
            # From the limit, or from the frame where the limit is beyond it.
            end = y(entry.fe_ul95)
            parts.append(f'<path class="limit" d="M{at - 7:.1f} {end:.1f}h14m-7 0v22m-4 -6l4 6l4 -6"/>')
        parts.append(
            f'<text class="name" x="{at:.1f}" y="{floor + 18:g}" text-anchor="middle">{entry.element}</text>'
        )
        parts.append(
            f'<text class="digits" x="{at:.1f}" y="{floor + 33:g}" text-anchor="middle">{_NUMBER[entry.element]}</text>'
        )
    parts.append(
        f'<rect class="frame" x="{left:g}" y="{top:g}" width="{width - left - right:g}" height="{floor - top:g}"/>'
    )
    parts.append(
        f'<text class="name" transform="translate(14 {(top + floor) / 2:.1f}) rotate(-90)" text-anchor="middle">[X/Fe] [dex]</text>'
    )
    said = escape("Abundances over iron by atomic number: " + ", ".join(e.element for e in found))
    return f'<svg class="abundances" viewBox="0 0 {width:g} {height:g}" role="img" aria-label="{said}">{"".join(parts)}</svg>'


def correlations(posterior: Posterior) -> str:
    """Draw how labels and elements go together: blue where they rise together, orange where one rises as the other falls."""
    from markupsafe import escape

    names = [n for n in posterior.stellar.names if n not in posterior.held]
    columns = [posterior.labels.index(name) for name in names]
    draws, weights = posterior.draws[:, columns], posterior.weights
    centred = draws - weights @ draws
    covariance = (weights[:, None] * centred).T @ centred
    deviation = np.sqrt(np.maximum(covariance.diagonal(), 1e-300))
    matrix = covariance / np.outer(deviation, deviation)
    n, side, left, bottom = len(names), 25.0, 66.0, 66.0
    parts = []
    for i in range(n):
        y = i * side
        parts.append(
            f'<text class="name" x="{left - 6:g}" y="{y + 17:g}" text-anchor="end">'
            f"{escape(short(names[i]))}</text>"
        )
        for j in range(i):
            value = float(matrix[i, j])
            kind = "rise" if value > 0 else "fall"
            title = f"{short(names[i])} and {short(names[j])}: {number(value, 2)}"
            parts.append(
                f'<rect class="{kind}" x="{left + j * side:g}" y="{y:g}" width="{side - 1:g}" height="{side - 1:g}" '
                f'fill-opacity="{abs(value):.2f}"><title>{escape(title)}</title></rect>'
            )
            # Only strong ones are written out.
            if abs(value) >= 0.3:
                middle = left + j * side + side / 2 - 0.5
                parts.append(
                    f'<text class="corr" x="{middle:g}" y="{y + 16:g}" text-anchor="middle">{number(100 * value, 0)}</text>'
                )
        parts.append(
            f'<rect class="frame" x="{left + i * side:g}" y="{y:g}" width="{side - 1:g}" height="{side - 1:g}"/>'
        )
        middle = left + i * side + side / 2 + 4
        parts.append(
            f'<text class="name" transform="translate({middle:g} {n * side + 6:g}) rotate(-90)" text-anchor="end">'
            f"{escape(short(names[i]))}</text>"
        )
    width, height = left + n * side, n * side + bottom
    said = "Correlations of labels and elements, in per cent"
    return f'<svg class="correlations" viewBox="0 0 {width:g} {height:g}" role="img" aria-label="{said}">{"".join(parts)}</svg>'
