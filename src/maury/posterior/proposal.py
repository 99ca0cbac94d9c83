"""Proposal densities over ``u``, in which the prior is N(0, I)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from maury.errors import LabelError
from maury.labels import LabelSet, log_standard_normal
from maury.networks.context import Context
from maury.networks.estimator import Estimator


class Proposal(Protocol):
    """A normalised density one can draw from."""

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        """Draw ``(n, n_labels)``."""

    def log_prob(self, u: Tensor) -> Tensor:
        """Log density, shape ``(n,)``, of ``u (n, n_labels)``."""


@dataclass(frozen=True)
class StudentT:
    """Multivariate Student-t: ``location (d,)``, lower-triangular ``factor (d, d)`` of its scale matrix, ``dof`` degrees of freedom."""

    location: Tensor
    factor: Tensor
    dof: int = 8

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        """Draw ``(n, d)``."""
        normal = torch.randn(n, len(self.location), generator=generator, dtype=torch.float64)
        # A chi-squared of integer dof as a sum of squares keeps to the one generator.
        chi2 = (
            torch.randn(n, self.dof, generator=generator, dtype=torch.float64).square().sum(1, keepdim=True)
        )
        return self.location + (normal @ self.factor.T) * (self.dof / chi2).sqrt()

    def log_prob(self, u: Tensor) -> Tensor:
        """Log density, shape ``(n,)``."""
        d, nu = len(self.location), self.dof
        x = torch.linalg.solve_triangular(self.factor, (u - self.location).T, upper=False)
        constant = math.lgamma((nu + d) / 2) - math.lgamma(nu / 2) - 0.5 * d * math.log(nu * math.pi)
        return (
            constant
            - self.factor.diagonal().log().sum()
            - 0.5 * (nu + d) * torch.log1p(x.square().sum(0) / nu)
        )


class Flow:
    """A flow's density of one spectrum's labels, under priors that may be narrower than those it was trained for.

    Draws outside the narrower support, a share ``outside`` of all, are replaced by draws from the prior there.

    Parameters
    ----------
    estimator, context
        The flow, and its context of the one spectrum.
    labels
        The estimator's labels with the priors wanted, without nuisances.

    Raises
    ------
    LabelError
        If a prior reaches beyond the one that the estimator was trained for, or there are other labels.
    """

    def __init__(self, estimator: Estimator, context: Context, labels: LabelSet) -> None:
        self.estimator, self.context, self.labels = estimator, context, labels
        trained = estimator.labels
        if labels.names != trained.names:
            raise LabelError(
                f"the estimator infers {', '.join(trained.names)}, not {', '.join(labels.names)}"
            )
        for label, wide in zip(labels, trained, strict=True):
            if label.prior.low < wide.prior.low or label.prior.high > wide.prior.high:
                raise LabelError(
                    f"prior of {label.name}: [{label.prior.low:g}, {label.prior.high:g}] reaches beyond "
                    f"[{wide.prior.low:g}, {wide.prior.high:g}], for which the model was trained"
                )
        self.same = labels == trained
        self.outside = 0.0

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        """Draw ``(n, n_labels)``; the first call measures the share outside."""
        u = self.estimator.sample(n, self.context, generator)
        if self.same:
            return u
        theta = self.estimator.labels.from_normal(u)
        inside = ((theta >= self.labels.low) & (theta <= self.labels.high)).all(1)
        if self.outside == 0:
            self.outside = float((~inside).double().mean().clamp(1e-3, 1))
        prior = torch.randn(u.shape, generator=generator, dtype=torch.float64)
        moved = self.labels.to_normal(theta.clamp(self.labels.low, self.labels.high))
        return torch.where(inside[:, None], moved, prior)

    @torch.no_grad()
    def log_prob(self, u: Tensor) -> Tensor:
        """Log density, shape ``(n,)``."""
        context = self.context.repeat(len(u))
        if self.same:
            return self.estimator.log_prob(u, context)
        wide = self.estimator.labels
        there = wide.to_normal(self.labels.from_normal(u))
        moved = self.estimator.log_prob(there, context)
        moved = moved + self.labels.log_abs_det(u) - wide.log_abs_det(there)
        # Far out in u the two maps meet the bound itself, and their ratio loses its meaning.
        moved = torch.where(moved.isfinite(), moved, -math.inf)
        prior = log_standard_normal(u).sum(-1) + math.log(max(self.outside, 1e-3))
        return torch.logaddexp(moved, prior)


@dataclass(frozen=True)
class FlowAndJitter:
    """The flow's density of the labels, times one of the jitter: mostly a Student-t about its best value, else its prior."""

    flow: Flow
    jitter: StudentT
    prior_share: float = 0.2

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        """Draw ``(n, n_labels + 1)``."""
        u = self.flow.sample(n, generator)
        j = self.jitter.sample(n, generator)
        prior = torch.rand(n, 1, generator=generator) < self.prior_share
        return torch.cat(
            [u, torch.where(prior, torch.randn(n, 1, generator=generator, dtype=torch.float64), j)], dim=1
        )

    def log_prob(self, u: Tensor) -> Tensor:
        """Log density, shape ``(n,)``."""
        j = u[:, -1:]
        by_t = self.jitter.log_prob(j) + math.log1p(-self.prior_share)
        by_prior = log_standard_normal(j[:, 0]) + math.log(self.prior_share)
        return self.flow.log_prob(u[:, :-1]) + torch.logaddexp(by_t, by_prior)


@dataclass(frozen=True)
class Mixture:
    """Proposals with weights that sum to 1."""

    parts: Sequence[Proposal]
    weights: Tensor

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        """Draw ``(n, d)``: each part gives its share, the remainder at random."""
        counts = torch.floor(n * self.weights).long()
        rest = n - int(counts.sum())
        if rest:
            extra = torch.multinomial(self.weights, rest, replacement=True, generator=generator)
            counts += torch.bincount(extra, minlength=len(counts))
        return torch.cat([p.sample(int(c), generator) for p, c in zip(self.parts, counts, strict=True) if c])

    def log_prob(self, u: Tensor) -> Tensor:
        """Log density, shape ``(n,)``."""
        each = torch.stack([part.log_prob(u) for part in self.parts])
        return torch.logsumexp(each + self.weights.log()[:, None], dim=0)
