"""Elements as people look at them: [X/Fe] and [X/H], by atomic number, and whether the spectrum has told of them at all."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from scipy.special import chdtrc

from maury.labels import LabelSet
from maury.libraries.zero_points import ZeroPoints
from maury.posterior.diagnostics import Abundance, ElementLine
from maury.posterior.summary import QUANTILES, weighted_quantile
from maury.quantities import ELEMENTS

Array = NDArray[np.float64]
# Share of the prior's width above which an element counts as not measured.
_TOLD = 0.7
# Probability below which the lines of an element are said to disagree: of twenty elements one in five stars has one by chance.
DISAGREE = 0.01
_BY_NUMBER = {symbol: number for number, symbol in enumerate(ELEMENTS)}


def agreement(lines: Iterable[ElementLine], label: str) -> tuple[int, float]:
    """Return how many lines tell of a label, and the probability that they disagree as much by chance: chi-squared about their mean."""
    told = [(line.value, line.std) for line in lines if line.label == label]
    if len(told) < 2:
        return len(told), 1.0
    value, weight = np.array([x for x, _ in told]), np.array([s for _, s in told]) ** -2.0
    chi2 = float(weight @ (value - np.average(value, weights=weight)) ** 2)
    return len(told), float(chdtrc(len(told) - 1, chi2))


def abundances(
    labels: LabelSet,
    draws: Array,
    weights: Array,
    priors: Mapping[str, float],
    zero_points: ZeroPoints | None = None,
) -> tuple[Abundance, ...]:
    """Sum up elements.

    Parameters
    ----------
    labels, draws, weights
        Of a posterior, ``(n, n_labels)`` and ``(n,)``; iron is what ``m_h`` scales with.
    priors
        Standard deviation of the prior of each label that is an element over the metals.
    zero_points
        Of the library, if they were measured.
    """
    if "m_h" not in labels.names:
        return ()
    m_h, found = draws[:, labels.index("m_h")], []
    for name, prior in priors.items():
        symbol = name.removesuffix("_m").capitalize()
        if symbol not in ELEMENTS or name not in labels.names:
            continue
        x = draws[:, labels.index(name)]
        fe, h = ({q: weighted_quantile(v, weights, p) for q, p in QUANTILES.items()} for v in (x, x + m_h))
        std = [float(np.sqrt(weights @ (v - weights @ v) ** 2)) for v in (x, x + m_h)]
        share = std[0] / prior
        one = Abundance(
            symbol, name, fe["p16"], fe["p50"], fe["p84"], std[0], h["p16"], h["p50"], h["p84"], std[1],
            weighted_quantile(x, weights, 0.95), share, share < _TOLD,
        )  # fmt: skip
        if zero_points is not None and name in zero_points.points:
            point = zero_points.points[name]
            one = replace(
                one, fe_total=math.hypot(one.fe_std, point.fe.error), h_total=math.hypot(one.h_std, point.h.error),
                zero_point_fe=point.fe.value, zero_point_h=point.h.value,
            )  # fmt: skip
        found.append(one)
    return tuple(sorted(found, key=lambda entry: _BY_NUMBER[entry.element]))
