"""Weights of one-dimensional interpolation on axes of any step; their products interpolate in several labels."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

# A value within this share of a step of a node counts as the node: float32 labels then need no corners beyond it.
SNAP = 1e-6


def snap(axis: NDArray[np.float64], x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Move values that lie on a node but for rounding onto it.

    Parameters
    ----------
    axis
        Node values, strictly rising, shape ``(m,)``.
    x
        Values, shape ``(n,)``.

    Returns
    -------
    ndarray
        Shape ``(n,)``.
    """
    step = np.diff(axis).min() if len(axis) > 1 else max(1.0, abs(float(axis[0])))
    upper = np.clip(np.searchsorted(axis, x), 0, len(axis) - 1)
    lower = np.maximum(upper - 1, 0)
    nearest = np.where(np.abs(axis[upper] - x) < np.abs(x - axis[lower]), axis[upper], axis[lower])
    return np.where(np.abs(nearest - x) <= SNAP * step, nearest, x)


def linear(axis: NDArray[np.float64], x: NDArray[np.float64]) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
    """Return the nodes about each value and their weights of linear interpolation.

    Parameters
    ----------
    axis
        Node values, strictly rising, shape ``(m,)``.
    x
        Values within the axis, shape ``(n,)``.

    Returns
    -------
    nodes, weights
        Positions on the axis and weights that sum to 1, both of shape ``(n, 2)``, or ``(n, 1)`` for an axis of one node.
        A value on a node gives it the weight 1 and the other 0 exactly.
    """
    cell, t = _cells(axis, x)
    if len(axis) == 1:
        return cell[:, None], np.ones((len(x), 1))
    return np.stack([cell, cell + 1], axis=1), np.stack([1 - t, t], axis=1)


def cubic(axis: NDArray[np.float64], x: NDArray[np.float64]) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
    """Return the nodes about each value and their weights of cubic Hermite interpolation.

    The slope at a node is that of the parabola through it and its two neighbours (at an end of the axis, through the last
    three nodes): on equal steps that is Catmull and Rom's spline, and on any steps a quadratic is reproduced exactly.

    Parameters
    ----------
    axis
        Node values, strictly rising, shape ``(m,)`` with m = 1 or m > 2.
    x
        Values within the axis, shape ``(n,)``.

    Returns
    -------
    nodes, weights
        As of `linear`, of shape ``(n, min(m, 4))``.
    """
    cell, t = _cells(axis, x)
    if len(axis) == 1:
        return cell[:, None], np.ones((len(x), 1))
    step = (axis[cell + 1] - axis[cell])[:, None]
    unit, slope, s = np.eye(len(axis)), _slopes(axis), t[:, None]
    full = (1 + 2 * s) * (1 - s) ** 2 * unit[cell] + s * (1 - s) ** 2 * step * slope[cell]
    full += s**2 * (3 - 2 * s) * unit[cell + 1] - s**2 * (1 - s) * step * slope[cell + 1]
    width = min(len(axis), 4)
    nodes = np.clip(cell - 1, 0, len(axis) - width)[:, None] + np.arange(width)
    return nodes, np.take_along_axis(full, nodes, axis=1)


def _cells(axis: NDArray[np.float64], x: NDArray[np.float64]) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
    """Cell number and place in it, 0 to 1, of each value."""
    if len(axis) == 1:
        return np.zeros(len(x), dtype=np.intp), np.zeros(len(x))
    cell = np.clip(np.searchsorted(axis, x, side="right") - 1, 0, len(axis) - 2)
    return cell, (x - axis[cell]) / (axis[cell + 1] - axis[cell])


def _slopes(axis: NDArray[np.float64]) -> NDArray[np.float64]:
    """Matrix ``(m, m)`` from values at the nodes to the slopes at the nodes."""
    slopes = np.zeros((len(axis), len(axis)))
    for i, x in enumerate(axis):
        first = min(max(i - 1, 0), len(axis) - 3)
        near = slice(first, first + 3)
        a, b, c = axis[near]
        slopes[i, near] = (
            (2 * x - b - c) / ((a - b) * (a - c)),
            (2 * x - a - c) / ((b - a) * (b - c)),
            (2 * x - a - b) / ((c - a) * (c - b)),
        )
    return slopes


METHODS: dict[str, Any] = {"linear": linear, "cubic": cubic}
