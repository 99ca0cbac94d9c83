"""The exact posterior of one spectrum, or of many side by side."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Generic, Protocol, TypeVar

import torch
from torch import Tensor

from maury.labels import LabelSet
from maury.likelihood.pixels import Curvature, Likelihood
from maury.likelihood.ties import Held
from maury.priors import log_standard_normal


class LogLikelihood(Protocol):
    """What a posterior needs of a likelihood; see `Likelihood`."""

    def log_prob(self, labels: Tensor) -> Tensor:
        """Log likelihood, shape ``(n,)``."""

    def log_prob_with_gradient(self, labels: Tensor) -> Tensor:
        """Return the same, differentiable in the labels."""

    def curvature(self, labels: Tensor) -> Curvature:
        """Gradient and information."""


# Of one spectrum.
Single = Likelihood | Held
L_co = TypeVar("L_co", bound=LogLikelihood, covariant=True)


@dataclass(frozen=True)
class Target(Generic[L_co]):
    """The exact posterior over ``u = labels.to_normal(theta)``, not normalised.

    Its prior is N(0, I), so that ``log_prob(u) = log L(theta(u)) + log N(u; 0, I)``.
    """

    likelihood: L_co
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

    def log_prob_with_gradient(self, u: Tensor) -> Tensor:
        """Return `log_prob`, differentiable in u by automatic differentiation."""
        theta = self.labels.from_normal(u)
        return self.likelihood.log_prob_with_gradient(theta) + self.log_prior(u)

    def newton(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """Gradient ``(n, d)`` and precision ``(n, d, d)`` at ``u``: Fisher information, the prior's 1, and the map's own curvature.

        The last, ``-g x''``, is what shapes a posterior that leans on a bound; it is kept where it is positive, as at every mode.
        """
        return self.newton_from(u, self.likelihood.curvature(self.labels.from_normal(u)))

    def newton_from(self, u: Tensor, curvature: Curvature) -> tuple[Tensor, Tensor]:
        """As `newton`, from the likelihood's curvature at ``u``."""
        theta = self.labels.from_normal(u)
        fisher = curvature.fisher
        for name in set(self.labels.names) & {"v_sini", "v_sini_2"}:
            i = self.labels.index(name)
            # The spectrum depends on v_sini squared: near 0 its slope vanishes, and the curvature is the slope over v_sini.
            fisher[:, i, i] += (-curvature.gradient[:, i] / theta[:, i].clamp_min(1e-3)).clamp_min(0)
        scale = self.labels.scale(u)
        gradient = curvature.gradient * scale
        diagonal = 1 + (-gradient * self.labels.bend(u)).clamp_min(0)
        precision = fisher * scale[:, :, None] * scale[:, None, :] + torch.diag_embed(diagonal)
        return gradient - u, precision


def whole(target: Target[Single], theta: Tensor) -> tuple[Likelihood, Tensor]:
    """Likelihood of all labels, and labels ``(..., n_labels)`` with those that are held beside them."""
    if isinstance(target.likelihood, Held):
        return target.likelihood.likelihood, target.likelihood.complete(theta)
    return target.likelihood, theta


def put_back(target: Target[Single], likelihood: Likelihood) -> Target[Single]:
    """Return the posterior with another likelihood of all labels, as `whole` took it out; what is held stays held."""
    outer = target.likelihood
    single = replace(outer, likelihood=likelihood) if isinstance(outer, Held) else likelihood
    return Target(single, target.labels)
