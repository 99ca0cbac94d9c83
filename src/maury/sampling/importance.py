"""Importance weights with the exact posterior, and what says whether to trust them."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from maury.posterior.psis import pareto_smooth


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

    def smoothed(self) -> tuple[Tensor, float]:
        """Pareto-smoothed, normalised log weights ``(n,)``, and the shape k-hat of their tail."""
        log_weights, khat = pareto_smooth(self.log_weights.numpy())
        return torch.from_numpy(log_weights), khat
