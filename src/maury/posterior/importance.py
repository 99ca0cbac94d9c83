"""Importance weights with the exact posterior, and what says whether to trust them."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from arviz_stats.base import array_stats
from torch import Tensor

from maury.errors import InferenceError


def pareto_smooth(log_weights: Tensor) -> tuple[Tensor, float]:
    """Pareto-smoothed normalised log weights ``(n,)`` and the shape k-hat of their tail.

    Vehtari, Simpson, Gelman, Yao & Gabry 2024, JMLR 25, 72; ArviZ's implementation. Below 0.7 the weights can be trusted.

    Raises
    ------
    InferenceError
        If no weight is finite, or one is NaN or +inf.
    """
    values = log_weights.numpy().astype(np.float64)
    if np.isnan(values).any() or np.isposinf(values).any():
        raise InferenceError("an importance weight is not a number: the proposal's density is missing somewhere")
    finite = np.isfinite(values)
    if not finite.any():
        raise InferenceError("no draw has any posterior density: the proposal missed the posterior altogether")
    if np.ptp(values[finite]) < 1e-12 and finite.all():
        return torch.from_numpy(values - np.log(len(values)) - values[0]), -math.inf
    smoothed, khat = array_stats.psislw(np.where(finite, values, values[finite].min() - 700))
    return torch.from_numpy(np.where(finite, smoothed, -np.inf)), float(khat)


def effective_sample_size(log_weights: Tensor) -> float:
    """``(sum w)^2 / sum w^2`` (Kish)."""
    w = (log_weights - log_weights.max()).exp()
    return float(w.sum().square() / w.square().sum())


@dataclass(frozen=True)
class Weighted:
    """Weighted draws of a posterior.

    Attributes
    ----------
    u
        Draws, shape ``(n, d)``.
    log_likelihood, log_prior, log_proposal
        Of each draw, shape ``(n,)``, over u.
    """

    u: Tensor
    log_likelihood: Tensor
    log_prior: Tensor
    log_proposal: Tensor

    @property
    def log_weights(self) -> Tensor:
        """Unnormalised log importance weights, shape ``(n,)``."""
        return self.log_likelihood + self.log_prior - self.log_proposal

    @property
    def ess(self) -> float:
        """Effective sample size of the raw weights."""
        return effective_sample_size(self.log_weights)

    @property
    def log_evidence(self) -> float:
        """Log of the mean weight: an unbiased estimate of the evidence."""
        return float(torch.logsumexp(self.log_weights, 0)) - math.log(len(self.u))

    @property
    def khat(self) -> float:
        """Shape of the weights' tail."""
        return pareto_smooth(self.log_weights)[1]
