"""What is sampled: an unnormalised posterior over coordinates ``u`` in which the prior is N(0, I)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

from torch import Tensor

from maury.batching import Question, Steps, ask, by_class
from maury.priors import log_standard_normal


class Density(ABC):
    """A likelihood times the prior N(0, I) over ``u``, shape ``(n, dim)``, not normalised.

    A subclass gives `dim`, `log_likelihood` and `newton`; it overrides `log_likelihoods` and `newtons` where several such densities are
    better evaluated together.
    """

    @property
    @abstractmethod
    def dim(self) -> int:
        """Number of coordinates."""

    @abstractmethod
    def log_likelihood(self, u: Tensor) -> Tensor:
        """Log likelihood, shape ``(n,)``, of ``u (n, dim)``."""

    @abstractmethod
    def newton(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """Gradient ``(n, dim)`` of `log_prob` and a positive definite precision ``(n, dim, dim)`` at ``u (n, dim)``."""

    def log_prior(self, u: Tensor) -> Tensor:
        """Log prior of ``u``, shape ``(n,)``."""
        return log_standard_normal(u).sum(-1)

    def log_prob(self, u: Tensor) -> Tensor:
        """Log posterior up to the evidence, shape ``(n,)``."""
        return self.log_likelihood(u) + self.log_prior(u)

    def parameters(self, u: Tensor) -> Tensor:
        """Return what ``u`` stands for; ``u`` itself, unless a subclass has parameters of its own."""
        return u

    @classmethod
    def log_likelihoods(cls, pairs: Sequence[tuple[Self, Tensor]]) -> list[Tensor]:
        """`log_likelihood` of several densities, each at its own points."""
        return [density.log_likelihood(u) for density, u in pairs]

    @classmethod
    def newtons(cls, pairs: Sequence[tuple[Self, Tensor]]) -> list[tuple[Tensor, Tensor]]:
        """`newton` of several densities, each at its own points."""
        return [density.newton(u) for density, u in pairs]


@dataclass(frozen=True)
class _LogLikelihood(Question[Tensor]):
    density: Density
    u: Tensor

    @classmethod
    def answer(cls, asked: Sequence[Self]) -> Sequence[Tensor]:
        def of(kind: Any, places: list[int]) -> Any:
            return kind.log_likelihoods([(asked[i].density, asked[i].u) for i in places])

        return by_class([q.density for q in asked], of)


@dataclass(frozen=True)
class _Newton(Question[tuple[Tensor, Tensor]]):
    density: Density
    u: Tensor

    @classmethod
    def answer(cls, asked: Sequence[Self]) -> Sequence[tuple[Tensor, Tensor]]:
        def of(kind: Any, places: list[int]) -> Any:
            return kind.newtons([(asked[i].density, asked[i].u) for i in places])

        return by_class([q.density for q in asked], of)


def log_likelihood(density: Density, u: Tensor) -> Steps[Tensor]:
    """Ask for the log likelihood ``(n,)`` at ``u (n, dim)``."""
    return (yield from ask(_LogLikelihood(density, u)))


def newton(density: Density, u: Tensor) -> Steps[tuple[Tensor, Tensor]]:
    """Ask for gradient and precision at ``u (n, dim)``; see `Density.newton`."""
    return (yield from ask(_Newton(density, u)))
