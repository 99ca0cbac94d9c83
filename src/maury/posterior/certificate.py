"""How far each number of a posterior can be trusted as a mean over weighted draws: its error, what it is worth, and its tail.

An overall k-hat and effective sample size say nothing of single labels: a few heavy draws far out may leave one label's mean without a
variance while all others are known (Vehtari et al. 2024, JMLR 25, 72, sect. 3.3).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from maury.labels import LabelSet
from maury.posterior.summary import QUANTILES, weighted_quantile
from maury.sampling.importance import pareto_smooth

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Certificate:
    """What the weights say of one label.

    Attributes
    ----------
    khat
        Pareto shape of the weights times the distance from the mean, with the weights' own the larger of the two: above 0.7 the label's
        tail is not known. None where there is no tail: of draws with equal weights.
    mcse
        Monte-Carlo standard errors of ``mean``, ``p16``, ``p50`` and ``p84``, in the label's unit.
    ess
        Independent draws that each of these is worth.
    """

    khat: float | None
    mcse: dict[str, float]
    ess: dict[str, float]

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return {"khat": self.khat, "mcse": self.mcse, "ess": self.ess}


def certify(
    labels: LabelSet, draws: Array, log_weights: Array, raw: Array | None = None
) -> dict[str, Certificate]:
    """Return what the weights say of each label.

    Parameters
    ----------
    labels, draws
        Draws ``(n, n_labels)`` of labels.
    log_weights
        Normalised or not, shape ``(n,)``; what means and quantiles are taken with.
    raw
        Importance weights before they were smoothed, shape ``(n,)``, whose tail is looked at; None where weights are none of importance
        sampling.
    """
    weights = np.exp(log_weights - log_weights.max())
    weights /= weights.sum()
    own = None if raw is None else pareto_smooth(raw)[1]
    return {
        label.name: Certificate(_khat(draws[:, i], weights, raw, own), *_errors(draws[:, i], weights))
        for i, label in enumerate(labels)
    }


def _khat(x: Array, weights: Array, raw: Array | None, own: float | None) -> float | None:
    if raw is None or own is None:
        return None
    distance = np.abs(x - weights @ x)
    with np.errstate(divide="ignore"):
        of_label = raw + np.log(distance)
    # Where weights are equal the distances alone have a tail, and a bounded one.
    found = max(own, pareto_smooth(of_label)[1]) if distance.max() > 0 else own
    return float(found) if math.isfinite(found) else None


def _errors(x: Array, weights: Array) -> tuple[dict[str, float], dict[str, float]]:
    """Delta method: the variance of a ratio of two means over independent draws."""
    squared = weights**2
    offset = x - weights @ x
    error = math.sqrt(squared @ offset**2)
    mcse = {"mean": error}
    ess = {"mean": _worth(float(weights @ offset**2), error)}
    for name, q in QUANTILES.items():
        of_share = math.sqrt(squared @ ((x <= weighted_quantile(x, weights, q)) - q) ** 2)
        ends = [weighted_quantile(x, weights, min(max(q + s * of_share, 0.0), 1.0)) for s in (-1, 1)]
        mcse[name] = (ends[1] - ends[0]) / 2
        ess[name] = _worth(q * (1 - q), of_share)
    return mcse, ess


def _worth(variance: float, error: float) -> float:
    return variance / error**2 if error > 0 else 0.0
