"""Do regions hold the truth as often as they promise? Credibilities that are uniform on [0, 1] if posteriors are right.

Each function takes one posterior's draws and gives the credibility at which the truth lies; the rest judges many of them together.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from maury.errors import ConfigError

Array = NDArray[np.float64]


def highest_density_credibility(log_density: Array, weights: Array, at_truth: float) -> float:
    """Mass of the smallest region whose edge the truth is on: draws ``(n,)`` that are denser than the truth.

    Hermans et al. 2022, arXiv:2110.06581.
    """
    return float(weights @ (log_density > at_truth))


def tarp_credibility(draws: Array, weights: Array, truth: Array, reference: Array) -> float:
    """Mass of the ball around a reference point on whose edge the truth lies.

    Lemos et al. 2023, arXiv:2302.03026: uniform over references chosen without regard to the truth only if the posterior is right.

    Parameters
    ----------
    draws, weights
        Shape ``(n, n_labels)``, in units in which distances mean something, and ``(n,)``, normalised.
    truth, reference
        Shape ``(n_labels,)``.
    """
    squared = np.square(draws - reference).sum(1)
    return float(weights @ (squared < np.square(truth - reference).sum()))


def central_credibility(ranks: Array) -> Array:
    """Mass of the central interval on whose edge the truth lies, from its rank: ``|2 r - 1|``."""
    return np.abs(2 * ranks - 1)


@dataclass(frozen=True)
class Coverage:
    """How often regions of each level hold the truth.

    Attributes
    ----------
    level, share
        Credibility and the share of truths within, shape ``(n_levels,)``.
    number
        Spectra.
    error
        Largest difference of the two anywhere.
    band
        What that stays below with 99 % probability if all is right (Kolmogorov's distribution).
    p_value
        Of a difference as large by chance.
    bias
        Mean of ``share - level``: positive where regions are too wide.
    """

    level: Array
    share: Array
    number: int
    error: float
    band: float
    p_value: float
    bias: float


def coverage(credibility: Array, n_levels: int = 101) -> Coverage:
    """Judge credibilities ``(n,)`` of many truths.

    Raises
    ------
    ConfigError
        If there are fewer than 20, one is not finite, or all are the same.
    """
    values = np.asarray(credibility, dtype=np.float64)
    if len(values) < 20:
        raise ConfigError(f"coverage needs at least 20 spectra, not {len(values)}; raise --number")
    if not np.isfinite(values).all():
        raise ConfigError(
            f"{int((~np.isfinite(values)).sum())} of {len(values)} credibilities are not finite"
        )
    if np.ptp(values) == 0:
        raise ConfigError(f"all credibilities are {values[0]:g}: the draws do not depend on the spectrum")
    level = np.linspace(0, 1, n_levels)
    share = np.searchsorted(np.sort(values), level, side="right") / len(values)
    test = stats.kstest(values, "uniform")
    return Coverage(
        level,
        share,
        len(values),
        float(test.statistic),
        float(stats.kstwo.ppf(0.99, len(values))),
        float(test.pvalue),
        float(0.5 - values.mean()),
    )


def needed(error: float) -> int:
    """Spectra with which a coverage error as small as this can be told from none, at 99 %."""
    return math.ceil((1.63 / error) ** 2)


def bins(values: Array, edges: Array) -> list[tuple[str, NDArray[np.bool_]]]:
    """Name and members of each bin of ``values (n,)``, half-open but for the last."""
    out = []
    for i, (low, high) in enumerate(itertools.pairwise(edges)):
        last = i == len(edges) - 2
        member = (values >= low) & ((values <= high) if last else (values < high))
        out.append((f"{low:g}-{high:g}", member))
    return out
