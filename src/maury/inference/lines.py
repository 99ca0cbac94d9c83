"""Which lines tell of an element, what each says by itself, and so whether they agree: the way spectroscopists check an abundance."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from maury.constants import C_KMS
from maury.likelihood.influence import Influence
from maury.posterior.diagnostics import ElementLine

Array = NDArray[np.float64]
# Lines of an element that are told at most, and the least share of the information that deserves it.
_MOST, _LEAST = 8, 0.03
# Widths of the line-spread function on each side of a line's middle that belong to it.
_REACH = 4.0


def element_lines(influence: Influence, names: tuple[str, ...]) -> tuple[ElementLine, ...]:
    """Find the lines of some labels.

    Parameters
    ----------
    influence
        The exact posterior, as linear about its mode.
    names
        Labels that are wanted.
    """
    labels, pixels = influence.target.labels, influence.target.likelihood.pixels
    values, scale = labels.from_normal(influence.u).numpy(), labels.scale(influence.u[None])[0].numpy()
    v_rad = float(values[labels.index("v_rad")]) if "v_rad" in labels.names else 0.0
    rest = pixels.wavelength * math.exp(-math.atanh(v_rad / C_KMS))
    assert pixels.line_width is not None, "whoever has no line-spread function has no pixels"
    found = []
    for name in names:
        place = labels.index(name)
        information, score = influence.alone(place)
        total = information.sum()
        for first, last in _stretches(information, pixels.wavelength, pixels.line_width, pixels.chip):
            told = information[first:last].sum()
            if told < _LEAST * total:
                continue
            offset, middle = score[first:last].sum() / told, first + int(information[first:last].argmax())
            found.append(
                ElementLine(
                    name, float(rest[middle]), float(told / total), float(values[place] + offset * scale[place]),
                    float(scale[place] / math.sqrt(told)),
                )
            )  # fmt: skip
    return tuple(found)


def _stretches(
    information: Array, wavelength: Array, width: Array, chip: NDArray[np.int64]
) -> list[tuple[int, int]]:
    """Half-open stretches about the pixels that tell most, by falling information; none overlap."""
    left, out = np.clip(information, 0, None).copy(), []
    for _ in range(_MOST):
        middle = int(left.argmax())
        if left[middle] <= 0:
            break
        near = np.abs(np.log(wavelength / wavelength[middle])) < _REACH * width[middle]
        near &= (chip == chip[middle]) & (left > -1)
        places = np.flatnonzero(near)
        first, last = int(places[0]), int(places[-1]) + 1
        out.append((first, last))
        left[first:last] = -1
    return sorted(out)
