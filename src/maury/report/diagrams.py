"""Diagrams of many stars for a page's script: points where they are few, counts on a grid where they are many."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from maury.report.html import floats

Array = NDArray[np.float64]
_CELLS = (90, 64)


@dataclass(frozen=True)
class Axis:
    """One axis: its values ``(n,)``, title, and how it runs."""

    values: Array
    title: str
    log: bool = False
    reverse: bool = False

    @property
    def shown(self) -> Array:
        """Values as they are placed, NaN where there are none."""
        if not self.log:
            return self.values
        return np.log10(np.where(self.values > 0, self.values, np.nan))

    def ends(self) -> tuple[float, float]:
        """Range that holds 99.8 % of the values, a little wider."""
        known = self.shown[np.isfinite(self.shown)]
        if not known.size:
            return 0.0, 1.0
        low, high = np.quantile(known, [0.001, 0.999]) if known.size > 1000 else (known.min(), known.max())
        pad = 0.05 * (high - low) or 0.5
        return float(low - pad), float(high + pad)

    def to_json(self, ends: tuple[float, float]) -> dict[str, Any]:
        """Return title, ends and direction."""
        return {"title": self.title, "ends": ends, "log": self.log, "reverse": self.reverse}


def diagram(name: str, x: Axis, y: Axis, most: int, colour: Axis | None = None) -> dict[str, Any]:
    """Return what the script needs to draw ``y`` against ``x``.

    Parameters
    ----------
    name
        Of the canvas.
    x, y
        The axes, with as many values.
    most
        Up to so many values every one is a point that can be clicked; above, only counts are kept.
    colour
        Of points.
    """
    a, b = x.ends(), y.ends()
    found: dict[str, Any] = {"name": name, "x": x.to_json(a), "y": y.to_json(b)}
    if len(x.values) <= most:
        found |= {"px": floats(x.shown), "py": floats(y.shown)}
        if colour is not None:
            found["colour"] = colour.to_json(colour.ends()) | {"values": floats(colour.shown)}
        return found
    return found | grid(x.shown, y.shown, a, b)


def grid(x: Array, y: Array, a: tuple[float, float], b: tuple[float, float]) -> dict[str, Any]:
    """Count points on a grid of equal cells; those outside are counted at the edge's cells."""
    known = np.isfinite(x) & np.isfinite(y)
    counts, _, _ = np.histogram2d(np.clip(x[known], *a), np.clip(y[known], *b), bins=_CELLS, range=(a, b))
    return {"counts": floats(counts.T), "cells": _CELLS}


def sky(ra: Array, dec: Array, most: int) -> dict[str, Any] | None:
    """Return the sky in Mollweide's projection about right ascension 180, east to the left; None where no position is known."""
    known = np.isfinite(ra) & np.isfinite(dec) & (np.abs(dec) <= 90)
    if not known.any():
        return None
    x, y = np.full(len(ra), np.nan), np.full(len(ra), np.nan)
    x[known], y[known] = mollweide(ra[known], dec[known])
    found: dict[str, Any] = {"name": "sky", "sky": True, "missing": int((~known).sum())}
    if len(ra) <= most:
        return found | {"px": floats(x), "py": floats(y)}
    return found | grid(x, y, (-2.0, 2.0), (-1.0, 1.0))


def mollweide(ra: Array, dec: Array) -> tuple[Array, Array]:
    """Project degrees to ``x`` in [-2, 2] and ``y`` in [-1, 1], equal in area."""
    latitude = np.radians(dec)
    theta = latitude.copy()
    # Newton's steps on 2 t + sin 2t = pi sin(latitude); slow only at the very poles.
    for _ in range(30):
        slope = np.maximum(2 + 2 * np.cos(2 * theta), 1e-6)
        theta = theta - (2 * theta + np.sin(2 * theta) - math.pi * np.sin(latitude)) / slope
    theta = np.clip(theta, -math.pi / 2, math.pi / 2)
    east = np.radians((ra - 180) % 360)
    east = np.where(east > math.pi, east - 2 * math.pi, east)
    return -2 / math.pi * east * np.cos(theta), np.sin(theta)
