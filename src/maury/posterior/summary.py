"""Numbers that sum up weighted draws."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from maury.labels import LabelSet

# Shares of the mass below the percentiles 16, 50 and 84: -1, 0 and +1 sigma of a Gaussian.
QUANTILES = {"p16": 0.158655, "p50": 0.5, "p84": 0.841345}


def weighted_quantile(values: NDArray[np.float64], weights: NDArray[np.float64], q: float) -> float:
    """Quantile of weighted draws ``(n,)``; the cumulative weight is taken at the middle of each draw."""
    order = np.argsort(values)
    cumulative = np.cumsum(weights[order]) - 0.5 * weights[order]
    return float(np.interp(q, cumulative, values[order]))


def summarise(
    labels: LabelSet, draws: NDArray[np.float64], weights: NDArray[np.float64]
) -> dict[str, dict[str, Any]]:
    """Percentiles 16, 50, 84, mean, standard deviation and unit of each label, of draws ``(n, n_labels)`` and weights ``(n,)``."""
    out = {}
    for i, label in enumerate(labels.labels):
        x = draws[:, i]
        mean = float(weights @ x)
        std = float(np.sqrt(weights @ (x - mean) ** 2))
        entry: dict[str, Any] = {key: weighted_quantile(x, weights, q) for key, q in QUANTILES.items()}
        out[label.name] = entry | {"mean": mean, "std": std, "unit": label.unit}
    return out
