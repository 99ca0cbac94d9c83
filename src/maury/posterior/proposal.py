"""Proposal densities over ``u``, in which the prior is N(0, I)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from maury.labels import log_standard_normal
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


@dataclass(frozen=True)
class FlowAndJitter:
    """The flow's density of the labels, times one of the jitter: mostly a Student-t about its best value, else its prior."""

    estimator: Estimator
    context: Tensor
    v_align: Tensor
    jitter: StudentT
    prior_share: float = 0.2

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        """Draw ``(n, n_labels + 1)``."""
        u = self.estimator.sample(n, self.context, self.v_align, generator)
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
        with torch.no_grad():
            labels = self.estimator.log_prob(
                u[:, :-1], self.context.expand(len(u), -1), self.v_align.expand(len(u))
            )
        return labels + torch.logaddexp(by_t, by_prior)


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
