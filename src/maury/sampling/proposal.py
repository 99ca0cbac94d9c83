"""Proposal densities over ``u``, in which the prior is N(0, I)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from maury.errors import LabelError
from maury.labels import LabelSet, log_standard_normal
from maury.networks.context import Context
from maury.networks.estimator import Estimator


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
        The flow, and its context of one spectrum or of several.
    labels
        The estimator's labels with the priors wanted, without nuisances.
    row
        Of the spectrum in the context.

    Raises
    ------
    LabelError
        If a prior reaches beyond the one that the estimator was trained for, or there are other labels.
    """

    def __init__(self, estimator: Estimator, context: Context, labels: LabelSet, row: int = 0) -> None:
        self.estimator, self.context, self.labels, self.row = estimator, context, labels, row
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
        return flow_draws([self], [n], [generator])[0]

    def log_prob(self, u: Tensor) -> Tensor:
        """Log density, shape ``(n,)``."""
        return flow_densities([self], [u])[0]

    def _brought_inside(self, u: Tensor, generator: torch.Generator) -> Tensor:
        """Take the estimator's draws to the narrower priors."""
        if self.same:
            return u
        theta = self.estimator.labels.from_normal(u)
        inside = ((theta >= self.labels.low) & (theta <= self.labels.high)).all(1)
        if self.outside == 0:
            self.outside = float((~inside).double().mean().clamp(1e-3, 1))
        prior = torch.randn(u.shape, generator=generator, dtype=torch.float64)
        moved = self.labels.to_normal(theta.clamp(self.labels.low, self.labels.high))
        return torch.where(inside[:, None], moved, prior)

    def _there(self, u: Tensor) -> Tensor:
        """Points of the narrower priors in the estimator's coordinates."""
        return u if self.same else self.estimator.labels.to_normal(self.labels.from_normal(u))

    def _from_there(self, u: Tensor, there: Tensor, log_prob: Tensor) -> Tensor:
        """Log density over ``u``, from the estimator's at ``there``."""
        if self.same:
            return log_prob
        moved = log_prob + self.labels.log_abs_det(u) - self.estimator.labels.log_abs_det(there)
        # Far out in u the two maps meet the bound itself, and their ratio loses its meaning.
        moved = torch.where(moved.isfinite(), moved, -math.inf)
        prior = log_standard_normal(u).sum(-1) + math.log(max(self.outside, 1e-3))
        return torch.logaddexp(moved, prior)


def flow_draws(
    flows: Sequence[Flow], numbers: Sequence[int], generators: Sequence[torch.Generator]
) -> list[Tensor]:
    """Draw ``(n_i, n_labels)`` of each flow; flows that share an estimator and a context are evaluated in one pass."""
    found: dict[int, Tensor] = {}
    for members in _sharing(flows):
        first = flows[members[0]]
        context = first.context.take(torch.tensor([flows[i].row for i in members]))
        u = first.estimator.sample_each(
            [numbers[i] for i in members], context, [generators[i] for i in members]
        )
        found |= {i: flows[i]._brought_inside(x, generators[i]) for i, x in zip(members, u, strict=True)}
    return [found[i] for i in range(len(flows))]


@torch.no_grad()
def flow_densities(flows: Sequence[Flow], u: Sequence[Tensor]) -> list[Tensor]:
    """Log density ``(n_i,)`` of each flow at its points ``u (n_i, n_labels)``; in one pass, as `flow_draws`."""
    found: dict[int, Tensor] = {}
    for members in _sharing(flows):
        first = flows[members[0]]
        there = [flows[i]._there(u[i]) for i in members]
        lengths = torch.tensor([len(x) for x in there])
        rows = torch.tensor([flows[i].row for i in members]).repeat_interleave(lengths)
        log_prob = first.estimator.log_prob(torch.cat(there), first.context.take(rows))
        parts = zip(members, there, log_prob.split(lengths.tolist()), strict=True)
        found |= {i: flows[i]._from_there(u[i], x, part) for i, x, part in parts}
    return [found[i] for i in range(len(flows))]


def _sharing(flows: Sequence[Flow]) -> list[list[int]]:
    groups: dict[tuple[int, int], list[int]] = {}
    for i, flow in enumerate(flows):
        groups.setdefault((id(flow.estimator), id(flow.context)), []).append(i)
    return list(groups.values())


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
