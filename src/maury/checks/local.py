"""Are posteriors right everywhere, or only on average? A local test of coverage.

If credibilities of truths are uniform whatever the spectrum, nothing that is known of a spectrum predicts whether its truth lies inside a
region. A ridge regression of ``truth inside`` on labels and S/N, their squares and products predicts it; how far its predictions are from
the level is held against the same of credibilities that were drawn uniform (as Zhao et al. 2021, arXiv:2102.10473, and Linhart et al. 2023,
arXiv:2306.03580, with classifiers: here the null is exact, since a regression is linear in what is predicted).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from maury.errors import ConfigError

Array = NDArray[np.float64]
LEVELS = (0.5, 0.683, 0.9)
# Draws of the null; the ridge, in rows' worth of a standardised column.
_NULL, _RIDGE, FEWEST = 2000, 5.0, 60


@dataclass(frozen=True)
class Local:
    """What the test says.

    Attributes
    ----------
    statistic, p_value
        Mean squared distance of predicted coverage from the levels; the share of the null that is as large.
    lowest, highest
        Predicted coverage of the 68.3 % region where it is lowest and highest among the spectra.
    where_lowest, where_highest
        What is known of those spectra, by name.
    """

    statistic: float
    p_value: float
    lowest: float
    highest: float
    where_lowest: dict[str, float]
    where_highest: dict[str, float]


def local_coverage(credibility: Array, known: dict[str, Array], seed: int = 0) -> Local:
    """Test credibilities ``(n,)`` against what is known of each spectrum, ``(n,)`` by name.

    Raises
    ------
    ConfigError
        If there are fewer than 60.
    """
    n = len(credibility)
    if n < FEWEST:
        raise ConfigError(f"a local test needs at least {FEWEST} spectra, not {n}; raise --number")
    smoother = _smoother(np.column_stack(list(known.values())))
    levels = np.array(LEVELS)
    rng = np.random.default_rng(seed)

    def predicted(values: Array) -> Array:
        """Coverage less the levels that is predicted of each spectrum, ``(n, n_levels, ...)``."""
        inside = (values[:, None] <= levels.reshape(-1, *[1] * (values.ndim - 1))) * 1.0
        departure = inside - levels.reshape(-1, *[1] * (values.ndim - 1))
        return np.asarray(np.tensordot(smoother, departure, axes=1))

    found = predicted(credibility)
    statistic = float(np.square(found).mean())
    null = np.concatenate(
        [np.square(predicted(rng.random((n, 100)))).mean(axis=(0, 1)) for _ in range(_NULL // 100)]
    )
    of_68 = found[:, 1] + levels[1]
    low, high = int(of_68.argmin()), int(of_68.argmax())

    def where(i: int) -> dict[str, float]:
        return {name: float(values[i]) for name, values in known.items()}

    return Local(
        statistic,
        float((1 + (null >= statistic).sum()) / (1 + len(null))),
        float(of_68[low].clip(0, 1)),
        float(of_68[high].clip(0, 1)),
        where(low),
        where(high),
    )


def _smoother(known: Array) -> Array:
    """Matrix ``(n, n)`` of a ridge regression on standardised columns, their squares and products, and a constant."""
    rank = known.argsort(axis=0).argsort(axis=0)
    # By rank, so that no spectrum is far out.
    x = 2 * (rank + 0.5) / len(known) - 1
    i, j = np.triu_indices(x.shape[1])
    design = np.column_stack([x, x[:, i] * x[:, j]])
    design = (design - design.mean(0)) / np.maximum(design.std(0), 1e-9)
    design = np.column_stack([np.ones(len(x)), design])
    penalty = _RIDGE * np.eye(design.shape[1])
    penalty[0, 0] = 0
    return np.asarray(design @ np.linalg.solve(design.T @ design + penalty, design.T))
