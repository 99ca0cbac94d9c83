"""Proposal densities over ``u``, and how they come to cover a posterior: about its modes, and by what weighted draws have shown of it."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor

from maury.batching import Question, Steps, ask, by_class
from maury.priors import log_standard_normal
from maury.sampling.importance import Weighted
from maury.sampling.modes import Modes

# Share of a mixture that stays with the given proposal, so that nothing it knows of is lost where the modes mislead.
_GIVEN_SHARE = 0.12
# Weights are even where a proposal is somewhat wider than the posterior, with heavier tails; and an uneven tail is mostly not seen at
# all: what few draws miss, they do not weigh.
_INFLATED, _DOF = 1.1, 5
# A Student-t's tails grow with the dimension: many coordinates need one nearer to the Gaussian.
FEW_DIMENSIONS, DOF_MANY = 8, 24
_MODE_FLOOR = 0.02
# Kernels that follow a posterior of another shape than a Student-t's.
_KERNELS = 40


class Proposal(ABC):
    """A normalised density over ``u`` that can be drawn from.

    A subclass gives `sample` and `log_prob`; it overrides `samples` and `log_probs` where several are better evaluated together, as
    flows that share a network are.
    """

    @abstractmethod
    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        """Draw ``(n, dim)``."""

    @abstractmethod
    def log_prob(self, u: Tensor) -> Tensor:
        """Log density, shape ``(n,)``, at ``u (n, dim)``."""

    @classmethod
    def samples(cls, asked: Sequence[tuple[Self, int, torch.Generator]]) -> list[Tensor]:
        """`sample` of several proposals, each as many draws as it is asked for."""
        return [proposal.sample(n, generator) for proposal, n, generator in asked]

    @classmethod
    def log_probs(cls, asked: Sequence[tuple[Self, Tensor]]) -> list[Tensor]:
        """`log_prob` of several proposals, each at its own points."""
        return [proposal.log_prob(u) for proposal, u in asked]


@dataclass(frozen=True)
class _Draws(Question[Tensor]):
    proposal: Proposal
    n: int
    generator: torch.Generator

    @classmethod
    def answer(cls, asked: Sequence[Self]) -> Sequence[Tensor]:
        def of(kind: Any, places: list[int]) -> Any:
            return kind.samples([(asked[i].proposal, asked[i].n, asked[i].generator) for i in places])

        return by_class([q.proposal for q in asked], of)


@dataclass(frozen=True)
class _LogProb(Question[Tensor]):
    proposal: Proposal
    u: Tensor

    @classmethod
    def answer(cls, asked: Sequence[Self]) -> Sequence[Tensor]:
        def of(kind: Any, places: list[int]) -> Any:
            return kind.log_probs([(asked[i].proposal, asked[i].u) for i in places])

        return by_class([q.proposal for q in asked], of)


def draw(proposal: Proposal, n: int, generator: torch.Generator) -> Steps[Tensor]:
    """Ask for ``(n, dim)`` draws."""
    return (yield from ask(_Draws(proposal, n, generator)))


def log_density(proposal: Proposal, u: Tensor) -> Steps[Tensor]:
    """Ask for the log density ``(n,)`` at ``u (n, dim)``."""
    return (yield from ask(_LogProb(proposal, u)))


@dataclass(frozen=True)
class StudentT(Proposal):
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
class Beside:
    """The density of one coordinate that a proposal does not have: mostly a Student-t, else N(0, 1).

    Attributes
    ----------
    place
        Of the coordinate among all.
    density
        The Student-t, of one dimension.
    prior_share
        Share of N(0, 1).
    """

    place: int
    density: StudentT
    prior_share: float = 0.1


def inserted(u: Tensor, column: Tensor, place: int) -> Tensor:
    """Put a column ``(n, 1)`` among those of ``u (n, dim - 1)``, at its place."""
    return torch.cat([u[:, :place], column, u[:, place:]], dim=1)


@dataclass(frozen=True)
class Extended:
    """A proposal of all coordinates, or of all but one, times a density of that one.

    Its draws and densities are asked for, so that those of several can be computed together.
    """

    proposal: Proposal
    beside: Beside | None = None

    def complete(self, u: Tensor, generator: torch.Generator) -> Tensor:
        """Put the missing coordinate beside each of the proposal's draws ``(n, dim - 1)``."""
        if self.beside is None:
            return u
        n = len(u)
        x = self.beside.density.sample(n, generator)
        prior = torch.rand(n, 1, generator=generator) < self.beside.prior_share
        normal = torch.randn(n, 1, generator=generator, dtype=torch.float64)
        return inserted(u, torch.where(prior, normal, x), self.beside.place)

    def seen(self, u: Tensor) -> Tensor:
        """Return the coordinates of ``u (n, dim)`` that the proposal has."""
        if self.beside is None:
            return u
        return torch.cat([u[:, : self.beside.place], u[:, self.beside.place + 1 :]], dim=1)

    def log_prob(self, u: Tensor, log_proposal: Tensor) -> Tensor:
        """Log density, shape ``(n,)``, given the proposal's."""
        if self.beside is None:
            return log_proposal
        x, prior_share = u[:, self.beside.place, None], self.beside.prior_share
        by_t = self.beside.density.log_prob(x) + math.log1p(-prior_share)
        by_prior = log_standard_normal(x[:, 0]) + math.log(prior_share)
        return log_proposal + torch.logaddexp(by_t, by_prior)


@dataclass(frozen=True)
class Mixture:
    """Student-t distributions and others and, perhaps, a given proposal, with weights that sum to 1; the given one's comes last.

    What is given is asked for, as others may share it; the parts are drawn from at once.
    """

    parts: Sequence[Proposal]
    weights: Tensor
    given: Extended | None = None

    def counts(self, n: int, generator: torch.Generator) -> Tensor:
        """How many of ``n`` draws each part gives: its share, the remainder at random."""
        counts = torch.floor(n * self.weights).long()
        rest = n - int(counts.sum())
        if rest:
            extra = torch.multinomial(self.weights, rest, replacement=True, generator=generator)
            counts += torch.bincount(extra, minlength=len(counts))
        return counts

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        """Draw ``(n, dim)``."""
        counts = self.counts(n, generator)
        of_given = self.given.proposal.sample(int(counts[-1]), generator) if self.given else None
        return self.gather(counts, of_given, generator)

    def gather(self, counts: Tensor, of_given: Tensor | None, generator: torch.Generator) -> Tensor:
        """Draw as many of each part as ``counts`` says, beside the given proposal's draws."""
        found = [p.sample(int(c), generator) for p, c in zip(self.parts, counts, strict=False) if c]
        if self.given is not None and of_given is not None:
            found.append(self.given.complete(of_given, generator))
        return torch.cat(found)

    def log_prob(self, u: Tensor, log_given: Tensor | None = None) -> Tensor:
        """Log density, shape ``(n,)``; ``log_given`` is the given proposal's, which is computed if it is not told."""
        each = [part.log_prob(u) for part in self.parts]
        if self.given is not None:
            known = self.given.proposal.log_prob(self.given.seen(u)) if log_given is None else log_given
            each.append(self.given.log_prob(u, known))
        return torch.logsumexp(torch.stack(each) + self.weights.log()[:, None], dim=0)

    def plus(self, parts: Sequence[Proposal], share: float, among: Tensor | None = None) -> Mixture:
        """Return the mixture with further parts, which have ``share`` of the weight: evenly, or as ``among (k,)`` says."""
        weights, at = (1 - share) * self.weights, len(self.parts)
        new = weights.new_full((len(parts),), share / len(parts)) if among is None else share * among
        return Mixture([*self.parts, *parts], torch.cat([weights[:at], new, weights[at:]]), self.given)


def average(mixtures: Sequence[Mixture], counts: Sequence[int]) -> Mixture:
    """Density of draws of which each mixture gave some; each has the parts of the one before it, and perhaps more."""
    last = mixtures[-1]
    total = torch.zeros_like(last.weights)
    for mixture, count in zip(mixtures, counts, strict=True):
        n = len(mixture.parts)
        total[:n] += count * mixture.weights[:n]
        total[len(last.parts) :] += count * mixture.weights[n:]
    return Mixture(last.parts, total / sum(counts), last.given)


def around(u: Tensor, factor: Tensor) -> list[StudentT]:
    """Student-t distributions about places ``(k, dim)`` with factors ``(k, dim, dim)``, somewhat wider than those."""
    dof = _DOF if u.shape[1] <= FEW_DIMENSIONS else DOF_MANY
    return [StudentT(place, _INFLATED * f, dof) for place, f in zip(u, factor, strict=True)]


def mode_shares(modes: Modes) -> Tensor:
    """Shares of a proposal about modes, by their mass, shape ``(k,)``; none is left out."""
    mass = torch.softmax(modes.log_mass, 0).clamp_min(_MODE_FLOOR)
    return mass / mass.sum()


def with_given(
    parts: Sequence[Proposal], shares: Tensor, given: Extended | None, share: float = _GIVEN_SHARE
) -> Mixture:
    """Return the mixture of parts with these shares, of which a given proposal takes its ``share``."""
    if given is None:
        return Mixture(parts, shares)
    of_given = torch.tensor([share], dtype=torch.float64)
    return Mixture(parts, torch.cat([(1 - share) * shares, of_given]), given)


def adapted(
    draws: Weighted, log_weights: Tensor, previous: Mixture, generator: torch.Generator, closely: bool
) -> Mixture:
    """Add a Student-t with the weighted draws' mean and covariance; half of the weight goes to it.

    ``closely``: most of that half goes to narrower ones about some of the draws, a kernel estimate that follows any shape.
    """
    w = log_weights.exp()
    mean = w @ draws.u
    offset = draws.u - mean
    covariance = (w[:, None] * offset).T @ offset
    # Few effective draws underestimate a covariance; the Student-t and this floor keep the proposal wider than the target.
    covariance += 1e-3 * torch.diag(covariance.diagonal()) + 1e-12 * torch.eye(len(mean)).to(covariance)
    factor = torch.linalg.cholesky(1.2 * covariance)
    if not closely:
        return previous.plus([StudentT(mean, factor)], 0.5)
    # The bandwidth that suits a normal density of as many draws as these are worth (Silverman 1986, eq. 4.14).
    d, ess = len(mean), 1 / float(w.square().sum())
    bandwidth = (4 / ((d + 2) * max(ess, 2 * d))) ** (1 / (d + 4))
    centres = draws.u[torch.multinomial(w, _KERNELS, replacement=True, generator=generator)]
    kernels = [StudentT(centre, bandwidth * factor) for centre in centres]
    return previous.plus([StudentT(mean, factor)], 0.1).plus(kernels, 0.5)
