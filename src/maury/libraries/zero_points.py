"""What a library makes of the elements of standards: by how much its lines' strengths are off together, element by element."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from maury.errors import ModelError
from maury.files import first_line, write_json

FILE = "zero_points.json"
# dex: how well any abundance of a standard is known at best, and how far two standards may be from what a third one would show.
_LEAST = 0.03


@dataclass(frozen=True)
class Offset:
    """An abundance of a star less what the literature says of it, and the error of that, dex."""

    value: float
    error: float


@dataclass(frozen=True)
class ZeroPoint:
    """Zero point of an element: what standards have more than the literature says, in [X/H] and in [X/Fe], and its error; dex."""

    h: Offset
    fe: Offset


@dataclass(frozen=True)
class ZeroPoints:
    """Zero points of a library's elements.

    Attributes
    ----------
    points
        By label.
    card
        How they were measured.
    """

    points: Mapping[str, ZeroPoint]
    card: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(
        cls, stars: Sequence[Mapping[str, ZeroPoint]], card: Mapping[str, Any] | None = None
    ) -> ZeroPoints:
        """Take the means of standards, ``by label`` each; labels that one of them lacks rest on the others.

        Raises
        ------
        ModelError
            If there are none.
        """
        names = list(dict.fromkeys(name for star in stars for name in star))
        if not names:
            raise ModelError("zero points need at least one standard with abundances that are known")
        points = {}
        for name in names:
            known = [star[name] for star in stars if name in star]
            points[name] = ZeroPoint(_mean([one.h for one in known]), _mean([one.fe for one in known]))
        return cls(points, dict(card or {}))

    def save(self, folder: Path) -> None:
        """Write ``zero_points.json`` in a folder."""
        write_json(folder / FILE, asdict(self))

    @classmethod
    def load(cls, path: Path) -> ZeroPoints:
        """Read what `save` wrote.

        Raises
        ------
        ModelError
            If it is damaged.
        """
        try:
            entry = json.loads(path.read_text(encoding="utf-8"))
            points = {
                str(name): ZeroPoint(*(Offset(float(o["value"]), float(o["error"])) for o in (point["h"], point["fe"])))
                for name, point in entry["points"].items()
            }  # fmt: skip
            numbers = [
                x for point in points.values() for o in (point.h, point.fe) for x in (o.value, o.error)
            ]
            if not all(map(math.isfinite, numbers)) or any(
                o.error <= 0 for p in points.values() for o in (p.h, p.fe)
            ):
                raise ValueError("offsets must be finite, and errors positive")
            return cls(points, dict(entry["card"]))
        except (
            OSError,
            ValueError,
            KeyError,
            TypeError,
            AttributeError,
            OverflowError,
            RecursionError,
        ) as error:
            raise ModelError(f"{path}: holds no zero points ({first_line(error)})") from None


def _mean(offsets: Sequence[Offset]) -> Offset:
    """Weighted mean; its error grows with how far standards disagree."""
    value = np.array([one.value for one in offsets])
    weight = 1 / (np.array([one.error for one in offsets]) ** 2 + _LEAST**2)
    mean = float(np.average(value, weights=weight))
    chi2 = float(weight @ (value - mean) ** 2) / max(len(offsets) - 1, 1)
    return Offset(mean, math.sqrt(max(chi2, 1.0) / weight.sum()))
