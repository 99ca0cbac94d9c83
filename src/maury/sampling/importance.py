"""Importance weights with the exact posterior, and what says whether to trust them: Pareto-smoothed importance sampling.

Vehtari, Simpson, Gelman, Yao & Gabry 2024, JMLR 25, 72; the generalised Pareto fit is Zhang & Stephens 2009, Technometrics 51, 316.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from maury.errors import InferenceError

_MIN_TAIL = 5


def fit_pareto(excess: NDArray[np.float64]) -> tuple[float, float]:
    """Shape k and scale sigma of a generalised Pareto distribution, from excesses over a threshold, sorted, shape ``(n,)``.

    The posterior mean of Zhang & Stephens, with k drawn towards 0.5 by the weight of ten observations.
    """
    n = len(excess)
    m = 30 + int(np.sqrt(n))
    quartile = excess[int(n / 4 + 0.5) - 1]
    b = 1 / excess[-1] + (1 - np.sqrt(m / (np.arange(1, m + 1) - 0.5))) / (3 * quartile)
    k = np.log1p(-b[:, None] * excess).mean(axis=1)
    profile = n * (np.log(-b / k) - k - 1)
    weights = np.exp(profile - profile.max())
    b_mean = float(b @ weights / weights.sum())
    k_mean = float(np.log1p(-b_mean * excess).mean())
    return (n * k_mean + 5) / (n + 10), -k_mean / b_mean


def pareto_smooth(log_weights: NDArray[np.float64]) -> tuple[NDArray[np.float64], float]:
    """Smooth the largest weights by the quantiles of the Pareto distribution fitted to them.

    Parameters
    ----------
    log_weights
        Not normalised, shape ``(n,)``; ``-inf`` is a weight of 0.

    Returns
    -------
    log_weights : ndarray, shape ``(n,)``
        Smoothed and normalised.
    khat : float
        Shape of the tail: below 0.7 the weights can be trusted; ``inf`` where the tail holds too few distinct weights to tell,
        ``-inf`` where all weights are equal.

    Raises
    ------
    InferenceError
        If no weight is finite, or one is NaN or ``+inf``.
    """
    log_weights = np.asarray(log_weights, dtype=np.float64)
    if np.isnan(log_weights).any() or np.isposinf(log_weights).any():
        raise InferenceError(
            "an importance weight is not a number: the proposal's density is missing somewhere"
        )
    if not np.isfinite(log_weights).any():
        raise InferenceError(
            "no draw has any posterior density: the proposal missed the posterior altogether"
        )
    shifted = log_weights - log_weights.max()
    n = len(shifted)
    size = math.ceil(min(0.2 * n, 3 * math.sqrt(n)))
    order = np.argsort(shifted)
    tail = order[-size:]
    # Weights that underflow beside the largest are no tail.
    threshold = max(shifted[order[-size - 1]] if size < n else -np.inf, math.log(np.finfo(float).tiny))
    tail = tail[shifted[tail] > threshold]
    if np.ptp(shifted) < 1e-12:
        return shifted - np.logaddexp.reduce(shifted), -math.inf
    khat = math.inf
    if len(tail) >= _MIN_TAIL and np.ptp(shifted[tail]) > 0:
        excess = np.exp(shifted[tail]) - math.exp(threshold)
        khat, sigma = fit_pareto(excess)
        p = (np.arange(len(tail)) + 0.5) / len(tail)
        quantiles = sigma * (np.expm1(-khat * np.log1p(-p)) / khat if abs(khat) > 1e-8 else -np.log1p(-p))
        shifted = shifted.copy()
        # No smoothed weight exceeds the largest that was seen.
        shifted[tail] = np.minimum(np.log(quantiles + math.exp(threshold)), 0.0)
    return shifted - np.logaddexp.reduce(shifted), khat


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
