"""From a flow's answer to a verified posterior: refine, propose, weigh, and check."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from maury.batching import Densities, Draws, LogLikelihoods, Steps
from maury.constants import BUDGET
from maury.inference.flow import Flow
from maury.labels import LabelSet
from maury.likelihood.residuals import Noise, Residuals, fit_residuals, hang_together
from maury.likelihood.target import LogLikelihood, Single, Target
from maury.sampling.importance import Weighted
from maury.sampling.modes import Modes, climb, joined, spread_out
from maury.sampling.nested import nested_sampling
from maury.sampling.proposal import Mixture, about_modes, adapted, along_jitter, average

KHAT_LIMIT = 0.7
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
# Nested sampling of six labels takes 40,000 to 60,000; it is not begun where the budget cannot see it through.
_NESTED = 60_000
# Points all over the prior at which a likelihood with correlated residuals is looked at, and climbs that begin among them; these labels
# are known well enough before.
_LOOKS, _FAR_STARTS = 256, 6
_KNOWN = ("v_rad", "v_sini", "jitter")
# A draw that lies this much (nats) above every mode says that the climb has missed the mode; climbs go on from it, so many times.
_HIGHER, _CLIMBS = 2.0, 3


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
    converged
        False where the weights are not to be trusted, and the budget did not see nested sampling through.
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
    converged: bool = True

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


def _look_around(target: Target[Single], modes: Modes) -> Steps[tuple[Modes, int]]:
    """Search the whole prior for modes beside those known, with velocities and jitter as of the best; return all, and evaluations spent.

    Correlated residuals flatten the likelihood by thousands of nats: maxima far from the flow's draws, which were made for independent
    pixels, then count as much as those among them.
    """
    free = [i for i, name in enumerate(target.labels.names) if name not in _KNOWN]
    if not free:
        return modes, 0
    u = modes.u[:1].repeat(_LOOKS, 1)
    cube = torch.quasirandom.SobolEngine(len(free), scramble=True, seed=0).draw(_LOOKS, dtype=torch.float64)
    u[:, free] = torch.special.ndtri(cube.clamp(1e-3, 1 - 1e-3))
    value = (yield LogLikelihoods(target, u)) + target.log_prior(u)
    found = yield from _beside(target, modes, u, value)
    return found, len(u) + found.evaluations


def _beside(target: Target[Single], modes: Modes, u: Tensor, log_posterior: Tensor) -> Steps[Modes]:
    """Climb from the best of some points ``(n, n_labels)`` that lie apart; add to the modes what is new, and drop what is then too low."""
    ends = yield from climb(target, spread_out(u, log_posterior, _FAR_STARTS))
    return replace(joined(modes, ends), evaluations=ends.evaluations)


@dataclass(frozen=True)
class Weighed:
    """Weighted draws, their smoothed and normalised log weights ``(n,)``, and the shape of the raw ones' tail."""

    draws: Weighted
    log_weights: Tensor
    khat: float

    @property
    def log_posterior(self) -> Tensor:
        """Log posterior of each draw but for the evidence, shape ``(n,)``."""
        return self.draws.log_likelihood + self.draws.log_prior


def _sizes(draws: int, limit: float) -> Iterator[int]:
    """Draws of each round: a pilot and its rest, eight rounds more, and then rounds that double all draws, up to the limit."""
    pilot, total, rounds = int(_PILOT * draws), draws, 0
    yield from (pilot, draws - pilot)
    while rounds < _ROUNDS or limit < math.inf:
        size = int(min(draws if rounds < _ROUNDS else total, limit - total))
        if size <= 0:
            return
        rounds, total = rounds + 1, total + size
        yield size


def weigh(
    target: Target[LogLikelihood],
    proposal: Mixture,
    draws: int,
    generator: torch.Generator,
    progress: Callable[[], None] = lambda: None,
    *,
    limit: float = math.inf,
    ceiling: float = math.inf,
) -> Steps[Weighed]:
    """Draw from a proposal and weigh with the exact posterior; adapt the proposal, and draw more, while the weights are uneven.

    Weights are against the mixture of all proposals used so far (Veach & Guibas' balance heuristic).

    Parameters
    ----------
    target
        The posterior.
    proposal
        To begin with.
    draws
        A round.
    generator
        Source of randomness.
    progress
        Called before every round; what it raises ends the weighing.
    limit
        Draws in all, beyond the first ``draws``: where it is finite, rounds go on up to it; eight are added at most where it is not.
    ceiling
        A log posterior that no draw should exceed: one that does ends the weighing.
    """
    proposals: list[Mixture] = []
    counts: list[int] = []
    flow = proposal.flow
    u = torch.empty(0, len(target.labels), dtype=torch.float64)
    log_likelihood = log_flow = torch.empty(0, dtype=torch.float64)
    for size in _sizes(draws, limit):
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
        found = Weighed(weighted, log_weights, khat)
        if float(found.log_posterior.max()) > ceiling:
            break
        if len(u) >= draws and khat <= KHAT_LIMIT and weighted.ess >= _ENOUGH * draws:
            break
        if len(u) > _ROUNDS * draws and khat <= KHAT_LIMIT:
            break
        if weighted.ess < _GOOD * len(u) or (len(u) >= draws and khat > KHAT_LIMIT):
            proposal = adapted(weighted, log_weights, proposal, generator, closely=len(u) >= draws)
    return found


def verify(
    likelihood: Single,
    labels: LabelSet,
    flow: Flow,
    *,
    draws: int,
    generator: torch.Generator,
    nested: bool = True,
    noise: Noise = "independent",
    budget: int = BUDGET,
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
    budget
        Likelihoods after which the best answer so far is given. Nested sampling is begun only where it leaves that 60,000.
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
        target, starts, flow_draws, flow, draws=draws, generator=generator, nested=nested, noise=noise,
        budget=budget - _RANKED, progress=progress,
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
    budget: int = BUDGET,
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
    spent = first.evaluations + modes.evaluations
    residuals = None
    if noise != "independent" and labels.names[-1] == "jitter":
        target, modes, residuals, more = yield from _correlate(target, modes, noise)
        spent += more
        if residuals is not None and residuals.used and flow is not None:
            modes, more = yield from _look_around(target, modes)
            spent += more
    for climbs_left in reversed(range(_CLIMBS)):
        ridge = None
        if labels.names[-1] == "jitter":
            ridge = yield from along_jitter(target, modes)
            spent += ridge.evaluations
        proposal = about_modes(modes, ridge, flow, labels)
        ceiling = float(modes.log_prob.max()) + _HIGHER if climbs_left else math.inf
        take_over = nested and budget - spent - (_ROUNDS + 1) * draws >= _NESTED
        # Rounds that nested sampling shall not follow go on as far as the budget reaches; a first look has its usual ones.
        limit = math.inf if take_over or not nested else max(budget - spent, draws)
        weighed = yield from weigh(
            target, proposal, draws, generator, partial(progress, "weigh"), limit=limit, ceiling=ceiling
        )
        spent += len(weighed.log_weights)
        if float(weighed.log_posterior.max()) <= ceiling:
            break
        modes = yield from _beside(target, modes, weighed.draws.u, weighed.log_posterior)
        spent += modes.evaluations
    result = Verified(
        weighed.draws, weighed.log_weights, weighed.khat, weighed.draws.log_evidence, "refined", modes, flow_draws,
        target, spent, residuals, converged=weighed.khat <= KHAT_LIMIT,
    )  # fmt: skip
    if result.converged or not nested or budget - spent < _NESTED:
        return result
    progress("nested sampling")
    sampled = nested_sampling(
        target, generator, budget=budget - spent, progress=partial(progress, "nested sampling")
    )
    if not sampled.converged:
        return replace(result, evaluations=spent + sampled.evaluations)
    return replace(
        result,
        draws=sampled.draws,
        log_weights=sampled.log_weights,
        log_evidence=sampled.log_evidence,
        method="nested",
        evaluations=spent + sampled.evaluations,
        converged=True,
    )
