"""Pictures as SVG text: they take the page's colours, stay sharp, and need no script."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from maury.display import digits_for, number
from maury.posterior.summary import QUANTILES, weighted_quantile
from maury.quantities import quantity
from maury.report.density import heights, line, plane

Array = NDArray[np.float64]
# One and two sigma of a two-dimensional Gaussian.
LEVELS = (0.865, 0.393)
_BINS = 48
# Width of a digit on an axis, and how far a number may reach into the gap beside its plot.
_DIGIT, _NEAR = 6.0, 3.0
# Labels up to which a corner plot has room for their units.
_ROOMY = 8


def short(name: str) -> str:
    """Return a label as axes write it."""
    return quantity(name).short or name


def long(name: str) -> str:
    """Return a label in words."""
    return quantity(name).long or name


def ticks(low: float, high: float, most: int) -> tuple[list[float], int]:
    """Round numbers between two ends, at most ``most``, and the decimals to write them with."""
    span = high - low
    power = 10.0 ** math.floor(math.log10(span / most))
    step = next(s for s in (power, 2 * power, 5 * power, 10 * power, 20 * power) if span / s <= most)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [k * step for k in range(first, last + 1)], max(0, -math.floor(math.log10(step) + 1e-9))


@dataclass(frozen=True)
class Sample:
    """Weighted draws ``(n, n_labels)`` under a CSS class."""

    style: str
    draws: Array
    weights: Array


def limits(samples: Sequence[Sample], low: Array, high: Array) -> Array:
    """Range of each label, inside the prior, for the first sample's picture; shape ``(n_labels, 2)``.

    It holds 99.5 % of the first, and the middle nine tenths of the others: a network's few stray draws would leave a speck of it.
    """
    out = []
    for i in range(len(low)):
        edges = [_edges(s.draws[:, i], s.weights, 0.0025 if k == 0 else 0.05) for k, s in enumerate(samples)]
        start, stop = min(e[0] for e in edges), max(e[1] for e in edges)
        pad = 0.08 * max(stop - start, 1e-9 * max(1.0, abs(start)))
        out.append((max(start - pad, low[i]), min(stop + pad, high[i])))
    return np.array(out)


def _edges(x: Array, weights: Array, outside: float) -> tuple[float, float]:
    order = np.argsort(x)
    cumulative = np.cumsum(weights[order]) / weights.sum()
    a, b = np.interp([outside, 1 - outside], cumulative, x[order])
    return float(a), float(b)


def _path(points: Array, close: bool = True) -> str:
    body = "L".join(f"{x:.1f} {y:.1f}" for x, y in points)
    return f"M{body}" + ("Z" if close else "")


def histogram(x: Array, weights: Array, low: float, high: float, bins: int = _BINS) -> Array:
    """Return a smooth density on equal bins; its sum is the share of the weight inside."""
    return line(x, weights, low, high, bins)


def _contours(sample: Sample, i: int, j: int, box: Array, side: float) -> list[str]:
    """Paths of the regions of `LEVELS` in a square of ``side``; closed, so that even-odd filling is right."""
    from contourpy import contour_generator

    density = plane(sample.draws[:, j], sample.draws[:, i], sample.weights, box[[j, i]], _BINS)
    if not density.any():
        return []
    # Zeros around close whatever leans on a bound.
    padded = np.pad(density, 1)
    place = (np.arange(-1, _BINS + 1) + 0.5) * side / _BINS
    place = place.clip(0, side)
    generator = contour_generator(place, side - place, padded.T)
    return [
        "".join(_path(np.asarray(line)) for line in generator.lines(height))
        for height in heights(density, LEVELS)
    ]


def said(x: Array, weights: Array) -> str:
    """Write a median with its 68 % errors: ``4437 ± 24``, or ``0.31 +0.04 −0.02`` where they differ."""
    low, middle, high = (weighted_quantile(x, weights / weights.sum(), q) for q in QUANTILES.values())
    digits = digits_for(min(high - middle, middle - low)) if low < middle < high else digits_for(high - low)
    plus, minus = number(high - middle, digits), number(middle - low, digits)
    errors = f"± {plus}" if plus == minus else f"+{plus} −{minus}"
    return f"{number(middle, digits)} {errors}"


def corner(samples: Sequence[Sample], names: Sequence[str], units: Sequence[str], box: Array) -> str:
    """Corner plot of samples, the first filled and the others as outlines; ``box (n_labels, 2)`` are the axes' ends.

    Returns
    -------
    str
        An ``svg`` element in which everything has a class; all text in it is escaped.
    """
    from markupsafe import escape

    n, side, gap, left, bottom, top = len(names), 110.0, 8.0, 62.0, 58.0, 20.0
    # The last label's title is as wide as its plot, and the first one's has room above it.
    width, height = left + n * (side + gap) + 34.0, top + n * (side + gap) + bottom
    parts = []
    for row in range(n):
        for column in range(row + 1):
            x, y = left + column * (side + gap), top + row * (side + gap)
            inner = [f'<rect class="frame" width="{side:g}" height="{side:g}"/>']
            for order, sample in reversed(list(enumerate(samples))):
                style = f"{sample.style} {'fill' if order == 0 else 'outline'}"
                if row == column:
                    inner.append(_bars(sample, samples, row, box, side, style))
                    if order == 0:
                        told = said(sample.draws[:, row], sample.weights)
                        inner.append(f'<text class="value" x="0" y="-5">{told}</text>')
                else:
                    paths = _contours(sample, row, column, box, side)
                    inner += [f'<path class="{style} level{k}" d="{d}"/>' for k, d in enumerate(paths)]
            inner += _axis_ticks(box[column], side, horizontal=True, label=row == n - 1)
            if row:
                inner += _axis_ticks(box[row], side, horizontal=False, label=column == 0)
            parts.append(f'<g transform="translate({x:g} {y:g})">{"".join(inner)}</g>')
    for k in range(n):
        roomy = units[k] and len(names) <= _ROOMY
        unit = f'<tspan class="unit"> [{escape(units[k])}]</tspan>' if roomy else ""
        text = f"{escape(short(names[k]))}{unit}"
        middle = left + k * (side + gap) + side / 2
        parts.append(
            f'<text class="name" x="{middle:g}" y="{height - 8:g}" text-anchor="middle">{text}</text>'
        )
        if k:
            y = top + k * (side + gap) + side / 2
            parts.append(
                f'<text class="name" transform="translate(16 {y:g}) rotate(-90)" text-anchor="middle">{text}</text>'
            )
    title = "Corner plot: " + ", ".join(short(name) for name in names)
    return (
        f'<svg class="corner" viewBox="0 0 {width:g} {height:g}" role="img" aria-label="{escape(title)}" '
        f'style="aspect-ratio:{width:g}/{height:g}">{"".join(parts)}</svg>'
    )


def _bars(sample: Sample, samples: Sequence[Sample], i: int, box: Array, side: float, style: str) -> str:
    top = max(histogram(s.draws[:, i], s.weights, *box[i]).max() for s in samples)
    return curve(histogram(sample.draws[:, i], sample.weights, *box[i]) / (1.1 * top or 1), side, side, style)


def curve(values: Array, width: float, height: float, style: str) -> str:
    """Return a density as a path: ``values`` of 0 to 1 at the middles of equal bins, closed along the bottom."""
    x = (np.arange(len(values)) + 0.5) / len(values) * width
    x[0], x[-1] = 0, width
    y = height * (1 - values)
    points = np.column_stack([np.r_[0, x, width], np.r_[height, y, height]])
    return f'<path class="{style}" d="{_path(points)}"/>'


def _axis_ticks(ends: Iterable[float], side: float, horizontal: bool, label: bool) -> list[str]:
    low, high = ends
    values, digits = ticks(low, high, 3)
    out = []
    for value in values:
        p = (value - low) / (high - low) * side
        if horizontal:
            out.append(f'<path class="tick" d="M{p:.1f} {side:g}v-4"/>')
            # A number at a corner would run into the neighbour's.
            half = _DIGIT * len(number(value, digits)) / 2
            if label and half - _NEAR < p < side - half + _NEAR:
                out.append(
                    f'<text class="digits" x="{p:.1f}" y="{side + 15:g}" text-anchor="middle">{number(value, digits)}</text>'
                )
        else:
            out.append(f'<path class="tick" d="M0 {side - p:.1f}h4"/>')
            if label and _DIGIT < p < side - _DIGIT:
                out.append(
                    f'<text class="digits" x="-5" y="{side - p + 4:.1f}" text-anchor="end">{number(value, digits)}</text>'
                )
    return out


def marginal(samples: Sequence[Sample], prior: Array, i: int, ends: Array, title: str) -> str:
    """Return one label's densities: samples as in `corner`, and the prior's ``(bins,)`` as a share of each bin."""
    from markupsafe import escape

    width, height = 260.0, 110.0
    shapes = [(s.style, histogram(s.draws[:, i], s.weights, *ends)) for s in samples]
    top = 1.08 * max(float(h.max()) for _, h in shapes)
    parts = [curve(np.minimum(prior / top, 1), width, height, "prior outline")]
    for order, (style, shape) in reversed(list(enumerate(shapes))):
        parts.append(curve(shape / top, width, height, f"{style} {'fill' if order == 0 else 'outline'}"))
    low, high = ends
    values, digits = ticks(low, high, 4)
    for value in values:
        x = (value - low) / (high - low) * width
        anchor = "start" if x < 14 else "end" if x > width - 14 else "middle"
        parts.append(f'<path class="tick" d="M{x:.1f} {height:g}v4"/>')
        parts.append(
            f'<text class="digits" x="{x:.1f}" y="{height + 18:g}" text-anchor="{anchor}">{number(value, digits)}</text>'
        )
    parts.append(f'<path class="tick" d="M0 {height:g}H{width:g}"/>')
    return (
        f'<svg class="marginal" viewBox="0 0 {width:g} {height + 24:g}" role="img" aria-label="{escape(title)}">'
        f"{''.join(parts)}</svg>"
    )
