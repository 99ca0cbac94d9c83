"""Pictures as SVG text: they take the page's colours, stay sharp, and need no script."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from maury.display import number
from maury.quantities import quantity

Array = NDArray[np.float64]
# One and two sigma of a two-dimensional Gaussian.
LEVELS = (0.865, 0.393)
_BINS = 36
# Labels up to which a corner plot has room for their units.
_ROOMY = 8
_SMOOTH = 1.3


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
    """Range of each label that holds 99.5 % of every sample, a little wider, inside the prior; shape ``(n_labels, 2)``."""
    out = []
    for i in range(len(low)):
        edges = [_edges(s.draws[:, i], s.weights) for s in samples]
        start, stop = min(e[0] for e in edges), max(e[1] for e in edges)
        pad = 0.08 * max(stop - start, 1e-9 * max(1.0, abs(start)))
        out.append((max(start - pad, low[i]), min(stop + pad, high[i])))
    return np.array(out)


def _edges(x: Array, weights: Array) -> tuple[float, float]:
    order = np.argsort(x)
    cumulative = np.cumsum(weights[order]) / weights.sum()
    a, b = np.interp([0.0025, 0.9975], cumulative, x[order])
    return float(a), float(b)


def _path(points: Array, close: bool = True) -> str:
    body = "L".join(f"{x:.1f} {y:.1f}" for x, y in points)
    return f"M{body}" + ("Z" if close else "")


def histogram(x: Array, weights: Array, low: float, high: float, bins: int = _BINS) -> Array:
    """Return a smoothed density on equal bins; its sum is the share of the weight inside."""
    from scipy.ndimage import gaussian_filter1d

    counts, _ = np.histogram(x, bins, (low, high), weights=weights / weights.sum())
    return np.asarray(gaussian_filter1d(counts, 1.0, mode="nearest"))


def _contours(sample: Sample, i: int, j: int, box: Array, side: float) -> list[str]:
    """Paths of the regions of `LEVELS` in a square of ``side``; closed, so that even-odd filling is right."""
    from contourpy import contour_generator
    from scipy.ndimage import gaussian_filter

    counts, _, _ = np.histogram2d(
        sample.draws[:, j], sample.draws[:, i], _BINS, (box[j], box[i]), weights=sample.weights
    )
    density = gaussian_filter(counts, _SMOOTH, mode="nearest")
    if not density.any():
        return []
    ordered = np.sort(density.ravel())[::-1]
    mass = np.cumsum(ordered) / ordered.sum()
    # Zeros around close whatever leans on a bound.
    padded = np.pad(density, 1)
    place = (np.arange(-1, _BINS + 1) + 0.5) * side / _BINS
    place = place.clip(0, side)
    generator = contour_generator(place, side - place, padded.T)
    found = []
    for level in LEVELS:
        height = float(ordered[min(int(np.searchsorted(mass, level)), len(ordered) - 1)])
        found.append("".join(_path(np.asarray(line)) for line in generator.lines(height)))
    return found


def corner(samples: Sequence[Sample], names: Sequence[str], units: Sequence[str], box: Array) -> str:
    """Corner plot of samples, the first filled and the others as outlines; ``box (n_labels, 2)`` are the axes' ends.

    Returns
    -------
    str
        An ``svg`` element in which everything has a class; all text in it is escaped.
    """
    from markupsafe import escape

    n, side, gap, left, bottom = len(names), 110.0, 8.0, 62.0, 58.0
    width, height = left + n * (side + gap), n * (side + gap) + bottom
    parts = []
    for row in range(n):
        for column in range(row + 1):
            x, y = left + column * (side + gap), row * (side + gap)
            inner = [f'<rect class="frame" width="{side:g}" height="{side:g}"/>']
            for order, sample in reversed(list(enumerate(samples))):
                style = f"{sample.style} {'fill' if order == 0 else 'outline'}"
                if row == column:
                    inner.append(_bars(sample, samples, row, box, side, style))
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
            y = k * (side + gap) + side / 2
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
            if label:
                out.append(
                    f'<text class="digits" x="{p:.1f}" y="{side + 15:g}" text-anchor="middle">{number(value, digits)}</text>'
                )
        else:
            out.append(f'<path class="tick" d="M0 {side - p:.1f}h4"/>')
            if label:
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
