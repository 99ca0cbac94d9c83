"""From a flow's answer to a verified posterior: refine, propose, weigh, and check."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from maury.batching import Densities, Draws, LogLikelihoods, Steps
from maury.inference.flow import Flow
from maury.labels import LabelSet
from maury.likelihood.residuals import Noise, Residuals, fit_residuals, hang_together
from maury.likelihood.target import LogLikelihood, Single, Target
from maury.sampling.importance import KHAT_LIMIT, Weighted
from maury.sampling.modes import Modes, climb, spread_out
from maury.sampling.nested import nested_sampling
from maury.sampling.proposal import Mixture, about_modes, adapted, along_jitter, average

# Flow draws that are ranked by the exact posterior, and how many of them refinement starts from.
_RANKED = 64
_STARTS = 4
# Draws of the flow that are made in any case.
_FEWEST = 256
# The first draws, whose weighted covariance corrects the Laplace approximation for the rest.
_PILOT = 0.3
_GOOD = 0.65
_ROUNDS = 8
_ENOUGH = 0.3


@dataclass(frozen=True)
class Verified:
    """What `verify` found, over ``u``.

    Attributes
    ----------
    draws
        Weighted draws.
    log_weights
        Pareto-smoothed, normalised log weights, shape ``(n,)``.
    khat
        Shape of the raw weights' tail; of the last importance sampling if nested sampling took over.
    log_evidence
        Log of the integral of likelihood times prior.
    method
        ``"refined"`` or ``"nested"``.
    modes
        The maxima that were found.
    flow
        Draws of the flow alone, shape ``(n_flow, n_labels)``, without nuisances.
    target
        The exact posterior, with its reference continuum.
    evaluations
        Likelihood evaluations spent.
    residuals
        What was found of the residuals' correlation, if that was asked.
    """

    draws: Weighted
    log_weights: Tensor
    khat: float
    log_evidence: float
    method: str
    modes: Modes
    flow: Tensor
    target: Target[Single]
    evaluations: int
    residuals: Residuals | None = None

    @property
    def ess(self) -> float:
        """Effective sample size of the raw weights."""
        return self.draws.ess


def _start(likelihood: Single, labels: LabelSet, flow: Tensor) -> Steps[tuple[Target[Single], Tensor]]:
    """Choose starts among the flow's draws, and set the reference continuum by the best of them."""
    target = Target(likelihood, labels)
    u = flow[:_RANKED]
    with_jitter = labels.names[-1] == "jitter"
    if with_jitter:
        jitter = labels["jitter"].prior.to_normal(torch.tensor([[0.01]], dtype=torch.float64))
        u = torch.cat([u, jitter.expand(len(u), 1)], dim=1)
    value = (yield LogLikelihoods(target, u)) + target.log_prior(u)
    theta = labels.from_normal(u[value.argmax()])
    for _ in range(2):
        if with_jitter:
            prior = labels["jitter"].prior
            theta[-1] = target.likelihood.excess_scatter(theta[None])[0].clamp(prior.low * 2, prior.high / 2)
        target = Target(target.likelihood.refer(theta), labels)
    if with_jitter:
        u[:, -1] = labels.to_normal(theta)[-1]
    return target, spread_out(u, value, _STARTS)


def _correlate(
    target: Target[Single], modes: Modes, noise: Noise
) -> Steps[tuple[Target[Single], Modes, Residuals | None, int]]:
    """Look for correlated residuals; where they are to be used, find the modes anew, twice: each moves the other."""
    residuals, spent = None, 0
    if noise == "auto" and not hang_together(target, modes.u[0]):
        return target, modes, None, 1
    for _ in range(2):
        target, residuals, u = fit_residuals(target, modes.u[0], noise)
        spent += residuals.evaluations
        if not residuals.used:
            break
        # The second look refines what the first has added; it does not take it back.
        noise = "correlated"
        starts = modes.u.clone()
        starts[:, -1] = u[-1]
        modes = yield from climb(target, starts)
        spent += modes.evaluations
    return target, modes, residuals, spent


@dataclass(frozen=True)
class Weighed:
    """Weighted draws, their smoothed and normalised log weights ``(n,)``, and the shape of the raw ones' tail."""

    draws: Weighted
    log_weights: Tensor
    khat: float


def weigh(
    target: Target[LogLikelihood],
    proposal: Mixture,
    draws: int,
    generator: torch.Generator,
    progress: Callable[[], None] = lambda: None,
) -> Steps[Weighed]:
    """Draw from a proposal and weigh with the exact posterior; adapt the proposal, and draw more, while the weights are uneven.

    Weights are against the mixture of all proposals used so far (Veach & Guibas' balance heuristic). ``progress`` is called before every
    round; what it raises ends the weighing.
    """
    proposals: list[Mixture] = []
    counts: list[int] = []
    flow = proposal.flow
    u = torch.empty(0, len(target.labels), dtype=torch.float64)
    log_likelihood = log_flow = torch.empty(0, dtype=torch.float64)
    pilot = int(_PILOT * draws)
    for size in (pilot, draws - pilot, *[draws] * _ROUNDS):
        progress()
        number = proposal.counts(size, generator)
        from_flow = None
        if flow is not None and number[-1]:
            from_flow = yield Draws(flow.flow, int(number[-1]), generator)
        new = proposal.gather(number, from_flow, generator)
        u, log_likelihood = (
            torch.cat([u, new]),
            torch.cat([log_likelihood, (yield LogLikelihoods(target, new))]),
        )
        if flow is not None:
            log_flow = torch.cat([log_flow, (yield Densities(flow.flow, flow.stellar(new)))])
        proposals.append(proposal)
        counts.append(size)
        log_proposal = average(proposals, counts).log_prob(u, log_flow)
        weighted = Weighted(u, log_likelihood, target.log_prior(u), log_proposal)
        log_weights, khat = weighted.smoothed()
        if len(u) >= draws and khat <= KHAT_LIMIT and weighted.ess >= _ENOUGH * draws:
            break
        if weighted.ess < _GOOD * len(u) or (len(u) >= draws and khat > KHAT_LIMIT):
            proposal = adapted(weighted, log_weights, proposal, generator, closely=len(u) >= draws)
    return Weighed(weighted, log_weights, khat)


def verify(
    likelihood: Single,
    labels: LabelSet,
    flow: Flow,
    *,
    draws: int,
    generator: torch.Generator,
    nested: bool = True,
    noise: Noise = "independent",
    progress: Callable[[str], None] = lambda _: None,
) -> Steps[Verified]:
    """Correct a flow's posterior of one spectrum to the exact one; run by `alone`, or with others by `together`.

    Parameters
    ----------
    likelihood
        Of the spectrum.
    labels
        The labels inferred, ``jitter`` last if it is one of them.
    flow
        The flow of this spectrum.
    draws
        Importance draws a round; more rounds follow while the weights are uneven.
    generator
        Source of randomness.
    nested
        Whether nested sampling takes over where the weights are not to be trusted.
    noise
        Whether residuals may be correlated: ``"auto"`` adds a correlated part where the spectrum asks for one. Needs ``jitter``.
    progress
        Told what stage begins, and again before each round of draws and each batch of nested sampling; what it raises ends the inference.

    Raises
    ------
    InferenceError
        If no draw has any posterior density.
    """
    flow_draws = yield Draws(flow, max(draws, _FEWEST), generator)
    target, starts = yield from _start(likelihood, labels, flow_draws)
    found = yield from verify_from(
        target, starts, flow_draws, flow, draws=draws, generator=generator, nested=nested, noise=noise, progress=progress
    )  # fmt: skip
    return replace(found, evaluations=found.evaluations + _RANKED)


def verify_from(
    target: Target[Single],
    starts: Tensor,
    flow_draws: Tensor,
    flow: Flow | None = None,
    *,
    draws: int,
    generator: torch.Generator,
    nested: bool = True,
    noise: Noise = "independent",
    progress: Callable[[str], None] = lambda _: None,
) -> Steps[Verified]:
    """Find the modes from some starts ``(k, n_labels)``, propose about them, and weigh; other arguments and errors as of `verify`.

    The proposal has a share of the ``flow`` if it is given; its draws are handed on as they are.
    """
    labels = target.labels
    progress("refine")
    first = yield from climb(target, starts)
    target = Target(target.likelihood.refer(labels.from_normal(first.u[0])), labels)
    modes = yield from climb(target, first.u)
    evaluations = first.evaluations + modes.evaluations
    residuals = None
    if noise != "independent" and labels.names[-1] == "jitter":
        target, modes, residuals, spent = yield from _correlate(target, modes, noise)
        evaluations += spent

    ridge = None
    if labels.names[-1] == "jitter":
        ridge = yield from along_jitter(target, modes)
        evaluations += ridge.evaluations
    proposal = about_modes(modes, ridge, flow, labels)
    weighed = yield from weigh(target, proposal, draws, generator, partial(progress, "weigh"))
    weighted, log_weights, khat = weighed.draws, weighed.log_weights, weighed.khat
    evaluations += len(weighted.u)
    result = Verified(
        weighted, log_weights, khat, weighted.log_evidence, "refined", modes, flow_draws, target, evaluations,
        residuals,
    )  # fmt: skip
    if khat <= KHAT_LIMIT or not nested:
        return result
    progress("nested sampling")
    sampled = nested_sampling(target, generator, progress=partial(progress, "nested sampling"))
    return replace(
        result,
        draws=sampled.draws,
        log_weights=sampled.log_weights,
        log_evidence=sampled.log_evidence,
        method="nested",
        evaluations=evaluations + sampled.evaluations,
    )
