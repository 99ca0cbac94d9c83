"""Proposal densities over ``u``, in which the prior is N(0, I), and how they come to cover a posterior.

About its modes, along its ridge in jitter, the flow, and what weighted draws have shown of it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from maury.batching import Newton, Steps
from maury.labels import LabelSet
from maury.likelihood.target import Single, Target, put_back, whole
from maury.priors import log_standard_normal
from maury.sampling.importance import Weighted
from maury.sampling.modes import Modes, climb_beside, laplace_factor

if TYPE_CHECKING:
    from maury.inference.flow import Flow


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
    """The flow's density of the labels, times one of the jitter: mostly a Student-t about its best value, else its prior.

    Without ``jitter`` it is the flow alone.
    """

    flow: Flow
    jitter: StudentT | None
    prior_share: float = 0.1

    def complete(self, u: Tensor, generator: torch.Generator) -> Tensor:
        """Put a jitter beside each of the flow's draws ``(n, n_labels)``."""
        if self.jitter is None:
            return u
        n = len(u)
        j = self.jitter.sample(n, generator)
        prior = torch.rand(n, 1, generator=generator) < self.prior_share
        return torch.cat(
            [u, torch.where(prior, torch.randn(n, 1, generator=generator, dtype=torch.float64), j)], dim=1
        )

    def stellar(self, u: Tensor) -> Tensor:
        """Return what the flow sees of ``u``."""
        return u if self.jitter is None else u[:, :-1]

    def log_prob(self, u: Tensor, log_flow: Tensor) -> Tensor:
        """Log density, shape ``(n,)``, given the flow's."""
        if self.jitter is None:
            return log_flow
        j = u[:, -1:]
        by_t = self.jitter.log_prob(j) + math.log1p(-self.prior_share)
        by_prior = log_standard_normal(j[:, 0]) + math.log(self.prior_share)
        return log_flow + torch.logaddexp(by_t, by_prior)


@dataclass(frozen=True)
class Mixture:
    """Student-t distributions and, perhaps, a flow, with weights that sum to 1; the flow's comes last.

    The flow's draws and densities are given to it, so that they can be computed for many spectra together.
    """

    parts: Sequence[StudentT]
    weights: Tensor
    flow: FlowAndJitter | None = None

    def counts(self, n: int, generator: torch.Generator) -> Tensor:
        """How many of ``n`` draws each part gives: its share, the remainder at random."""
        counts = torch.floor(n * self.weights).long()
        rest = n - int(counts.sum())
        if rest:
            extra = torch.multinomial(self.weights, rest, replacement=True, generator=generator)
            counts += torch.bincount(extra, minlength=len(counts))
        return counts

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        """Draw ``(n, d)``."""
        counts = self.counts(n, generator)
        from_flow = self.flow.flow.sample(int(counts[-1]), generator) if self.flow else None
        return self.gather(counts, from_flow, generator)

    def gather(self, counts: Tensor, from_flow: Tensor | None, generator: torch.Generator) -> Tensor:
        """Draw as many of each part as ``counts`` says, beside the flow's draws."""
        found = [p.sample(int(c), generator) for p, c in zip(self.parts, counts, strict=False) if c]
        if self.flow is not None and from_flow is not None:
            found.append(self.flow.complete(from_flow, generator))
        return torch.cat(found)

    def log_prob(self, u: Tensor, log_flow: Tensor | None = None) -> Tensor:
        """Log density, shape ``(n,)``; ``log_flow`` is the flow's, which is computed if it is not given."""
        each = [part.log_prob(u) for part in self.parts]
        if self.flow is not None:
            known = self.flow.flow.log_prob(self.flow.stellar(u)) if log_flow is None else log_flow
            each.append(self.flow.log_prob(u, known))
        return torch.logsumexp(torch.stack(each) + self.weights.log()[:, None], dim=0)

    def beside(self, parts: Sequence[StudentT], share: float) -> Mixture:
        """Return the mixture with other parts, which have ``share`` of the weight, evenly."""
        weights, at = (1 - share) * self.weights, len(self.parts)
        new = weights.new_full((len(parts),), share / len(parts))
        return Mixture([*self.parts, *parts], torch.cat([weights[:at], new, weights[at:]]), self.flow)


def average(mixtures: Sequence[Mixture], counts: Sequence[int]) -> Mixture:
    """Density of draws of which each mixture gave some; each has the parts of the one before it, and perhaps more."""
    last = mixtures[-1]
    total = torch.zeros_like(last.weights)
    for mixture, count in zip(mixtures, counts, strict=True):
        n = len(mixture.parts)
        total[:n] += count * mixture.weights[:n]
        total[len(last.parts) :] += count * mixture.weights[n:]
    return Mixture(last.parts, total / sum(counts), last.flow)


# Share of the proposal that stays with the flow, so that nothing it knows of is lost where the modes mislead.
_FLOW_SHARE = 0.12
# Weights are even where a proposal is somewhat wider than the posterior, with heavier tails; and an uneven tail is mostly not seen at
# all: what few draws miss, they do not weigh.
_INFLATED, _DOF = 1.1, 5
# A Student-t's tails grow with the dimension: many labels need one nearer to the Gaussian.
FEW_LABELS, DOF_MANY = 8, 24
_MODE_FLOOR = 0.02
# A jitter well below the noise has a long lower tail, where its likelihood no longer changes: a share of the draws takes it from its
# prior, so that no weight there grows large; and as many are this much wider in jitter, for what lies between.
_WIDE_SHARE = 0.1
_WIDE = 2.5
# Jitters, in u, at which the posterior's ridge is followed: steps of this size from the best one's, so many down and up.
_STEP, _DOWN, _UP, _LOWEST = 0.5, 6, 2, -3.0
# Kernels that follow a posterior of another shape than a Student-t's.
_KERNELS = 40


@dataclass(frozen=True)
class Ridge:
    """Where a posterior with jitter lies beside its modes.

    Attributes
    ----------
    along
        The most likely labels at jitters other than the best mode's; their factors have the breadth in jitter that each stands for.
    broad
        Factors of the modes with the emulator's error taken for known, shape ``(k, d, d)``.
    evaluations
        Likelihood evaluations spent.
    """

    along: Modes
    broad: Tensor
    evaluations: int


def along_jitter(target: Target[Single], modes: Modes) -> Steps[Ridge]:
    """Follow the posterior from its best mode to other jitters.

    A jitter below the noise is hardly told from none, nor from the emulator's error, which the other labels choose: the posterior is a
    curved ridge that no ellipsoid about its mode covers.
    """
    u, factor = modes.u[0], modes.factor[0]
    covariance = factor @ factor.T
    jitter = u[-1] + _STEP * torch.cat([-torch.arange(1.0, _DOWN + 1), torch.arange(1.0, _UP + 1)]).to(u)
    jitter = jitter[(jitter > _LOWEST) | (jitter > u[-1])]
    moved = (jitter - u[-1])[:, None] * covariance[-1] / covariance[-1, -1]
    starts = u + moved.clamp(-1, 1)
    starts[:, -1] = jitter
    along = yield from climb_beside(target, starts)
    along.factor[:, -1, -1] = _STEP
    likelihood, _ = whole(target, u)
    _, precision = yield Newton(put_back(target, replace(likelihood, error_known=True)), modes.u)
    return Ridge(along, laplace_factor(precision), along.evaluations + len(modes.u))


def about_modes(modes: Modes, ridge: Ridge | None, flow: Flow | None, labels: LabelSet) -> Mixture:
    """Student-t distributions about the modes and a share of the flow; of labels with jitter also along the ridge, and wide ones."""
    mass = torch.softmax(modes.log_mass, 0).clamp_min(_MODE_FLOOR)
    mass /= mass.sum()
    parts, shares = _about(modes.u, modes.factor), mass
    jitter = None
    if ridge is not None:
        wide = ridge.broad.clone()
        wide[:, -1] *= _WIDE
        free = ridge.broad.clone()
        free[:, -1] = torch.eye(len(labels)).to(free)[-1]
        anywhere = modes.u.clone()
        anywhere[:, -1] = 0.0
        parts += [*_about(ridge.along.u, ridge.along.factor), *_about(modes.u, wide), *_about(anywhere, free)]
        narrow = torch.softmax(torch.cat([modes.log_mass, ridge.along.log_mass]), 0)
        shares = torch.cat([(1 - 2 * _WIDE_SHARE) * narrow, _WIDE_SHARE * mass, _WIDE_SHARE * mass])
        jitter = StudentT(modes.u[0, -1:], 1.5 * modes.factor[0][-1:, :].norm().view(1, 1))
    if flow is None:
        return Mixture(parts, shares)
    of_flow = torch.tensor([_FLOW_SHARE], dtype=torch.float64)
    return Mixture(parts, torch.cat([(1 - _FLOW_SHARE) * shares, of_flow]), FlowAndJitter(flow, jitter))


def _about(u: Tensor, factor: Tensor) -> list[StudentT]:
    dof = _DOF if u.shape[1] <= FEW_LABELS else DOF_MANY
    return [StudentT(place, _INFLATED * f, dof) for place, f in zip(u, factor, strict=True)]


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
        return previous.beside([StudentT(mean, factor)], 0.5)
    # The bandwidth that suits a normal density of as many draws as these are worth (Silverman 1986, eq. 4.14).
    d, ess = len(mean), 1 / float(w.square().sum())
    bandwidth = (4 / ((d + 2) * max(ess, 2 * d))) ** (1 / (d + 4))
    centres = draws.u[torch.multinomial(w, _KERNELS, replacement=True, generator=generator)]
    kernels = [StudentT(centre, bandwidth * factor) for centre in centres]
    return previous.beside([StudentT(mean, factor)], 0.1).beside(kernels, 0.5)
