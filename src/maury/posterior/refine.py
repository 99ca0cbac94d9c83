"""From a flow's draws to the modes of the exact posterior: damped Gauss-Newton steps on the differentiable model."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from maury.forward.likelihood import Likelihood
from maury.labels import LabelSet, log_standard_normal

# Where u stops: the prior's mass beyond is 2e-9, and a Gauss-Newton step has no business there.
_U_MAX = 6.0


@dataclass(frozen=True)
class Target:
    """The exact posterior over ``u = labels.to_normal(theta)``, not normalised.

    Its prior is N(0, I), so that ``log_prob(u) = log L(theta(u)) + log N(u; 0, I)``.
    """

    likelihood: Likelihood
    labels: LabelSet

    def log_likelihood(self, u: Tensor) -> Tensor:
        """Log likelihood, shape ``(n,)``, of ``u (n, n_labels)``."""
        return self.likelihood.log_prob(self.labels.from_normal(u))

    def log_prior(self, u: Tensor) -> Tensor:
        """Log prior of ``u``, shape ``(n,)``."""
        return log_standard_normal(u).sum(-1)

    def log_prob(self, u: Tensor) -> Tensor:
        """Log posterior up to the evidence, shape ``(n,)``."""
        return self.log_likelihood(u) + self.log_prior(u)

    def newton(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """Gradient ``(n, d)`` and precision ``(n, d, d)`` (Fisher information plus the prior's 1) at ``u``."""
        curvature = self.likelihood.curvature(self.labels.from_normal(u))
        scale = self.labels.scale(u)
        precision = curvature.fisher * scale[:, :, None] * scale[:, None, :] + torch.eye(u.shape[1]).to(u)
        return curvature.gradient * scale - u, precision


@dataclass(frozen=True)
class Modes:
    """Local maxima: places ``(k, d)``, their log posterior ``(k,)`` and Cholesky factors of the Laplace covariances ``(k, d, d)``."""

    u: Tensor
    log_prob: Tensor
    factor: Tensor
    evaluations: int

    @property
    def log_mass(self) -> Tensor:
        """Laplace estimate of the log evidence of each mode up to a common constant, shape ``(k,)``."""
        return self.log_prob + self.factor.diagonal(dim1=1, dim2=2).log().sum(1)


def spread_out(u: Tensor, log_prob: Tensor, k: int) -> Tensor:
    """Choose up to ``k`` starts: the best, then the best that differ from those by a sixth of the draws' spread or more."""
    order = log_prob.argsort(descending=True)
    scale = u.std(0).clamp_min(1e-6)
    chosen = [int(order[0])]
    for i in order[1:].tolist():
        distance = ((u[chosen] - u[i]) / scale).abs().amax(1)
        if bool((distance > 1 / 6).all()):
            chosen.append(i)
        if len(chosen) == k:
            break
    return u[chosen]


def find_modes(target: Target, starts: Tensor, *, steps: int = 12, tolerance: float = 0.05) -> Modes:
    """Climb from each start ``(k, d)`` by Levenberg-Marquardt; return the distinct ends within 20 nats of the best.

    Stops when no start expects to gain more than ``tolerance`` nats by another step.
    """
    u = starts.clamp(-_U_MAX, _U_MAX).clone()
    value = target.log_prob(u)
    damping = torch.full((len(u),), 1e-2, dtype=torch.float64)
    gradient, precision = target.newton(u)
    evaluations = 2 * len(u)
    for _ in range(steps):
        diagonal = torch.diag_embed(precision.diagonal(dim1=1, dim2=2))
        step = torch.linalg.solve(precision + damping[:, None, None] * diagonal, gradient)
        if bool(((gradient * step).sum(1) < tolerance).all()):
            break
        # A label that counts in units of its prior never jumps by more than one.
        step = step / (step.abs().amax(1, keepdim=True)).clamp_min(1)
        trial = (u + step).clamp(-_U_MAX, _U_MAX)
        trial_value = target.log_prob(trial)
        better = trial_value > value
        u = torch.where(better[:, None], trial, u)
        value = torch.where(better, trial_value, value)
        damping = torch.where(better, damping / 10, damping * 10).clamp(1e-6, 1e6)
        gradient, precision = target.newton(u)
        evaluations += 2 * len(u)
    factor = torch.linalg.cholesky(torch.linalg.inv(precision))
    return _distinct(u, value, factor, precision, evaluations)


def _distinct(u: Tensor, value: Tensor, factor: Tensor, precision: Tensor, evaluations: int) -> Modes:
    keep: list[int] = []
    for i in value.argsort(descending=True).tolist():
        if value[i] < value.max() - 20:
            break
        offset = u[keep] - u[i]
        if all(float(d @ precision[j] @ d) > 4 for d, j in zip(offset, keep, strict=True)):
            keep.append(i)
    return Modes(u[keep], value[keep], factor[keep], evaluations)
