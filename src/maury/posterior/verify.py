"""From a flow's answer to a verified posterior: refine, propose, weigh, and check."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from maury.forward.held import Held
from maury.forward.target import LogLikelihood, Single, Target
from maury.labels import LabelSet
from maury.posterior.importance import Weighted
from maury.posterior.nested import nested_sampling
from maury.posterior.proposal import Flow, FlowAndJitter, Mixture, StudentT, average
from maury.posterior.refine import Modes, climb, climb_beside, spread_out
from maury.posterior.residuals import Noise, Residuals, fit_residuals, hang_together
from maury.posterior.together import Densities, Draws, LogLikelihoods, Newton, Steps

KHAT_LIMIT = 0.7
# Share of the proposal that stays with the flow, so that nothing it knows of is lost where the modes mislead.
_FLOW_SHARE = 0.12
# Weights are even where a proposal is somewhat wider than the posterior, with heavier tails; and an uneven tail is mostly not seen at
# all: what few draws miss, they do not weigh.
_INFLATED, _DOF = 1.1, 5
_MODE_FLOOR = 0.02
# A jitter well below the noise has a long lower tail, where its likelihood no longer changes: a share of the draws takes it from its
# prior, so that no weight there grows large; and as many are this much wider in jitter, for what lies between.
_WIDE_SHARE = 0.1
_WIDE = 2.5
# Jitters, in u, at which the posterior's ridge is followed: steps of this size from the best one's, so many down and up.
_STEP, _DOWN, _UP, _LOWEST = 0.5, 6, 2, 3.0
# Flow draws that are ranked by the exact posterior, and how many of them refinement starts from.
_RANKED = 64
_STARTS = 4
# Draws of the flow that are made in any case.
_FEWEST = 256
# The first draws, whose weighted covariance corrects the Laplace approximation for the rest.
_PILOT = 0.3
_GOOD = 0.65
_ROUNDS = 8
# Kernels that follow a posterior of another shape than a Student-t's.
_KERNELS = 40
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


def _along_jitter(target: Target[Single], modes: Modes) -> Steps[tuple[Modes, Tensor]]:
    """Follow the posterior from its best mode to other jitters; and find the modes' factors with the emulator's error taken for known.

    A jitter below the noise is hardly told from none, nor from the emulator's error, which the other labels choose: the posterior is a
    curved ridge that no ellipsoid about its mode covers.
    """
    u, factor = modes.u[0], modes.factor[0]
    covariance = factor @ factor.T
    jitter = u[-1] + _STEP * torch.cat([-torch.arange(1.0, _DOWN + 1), torch.arange(1.0, _UP + 1)]).to(u)
    jitter = jitter[jitter > -_LOWEST]
    moved = (jitter - u[-1])[:, None] * covariance[-1] / covariance[-1, -1]
    starts = u + moved.clamp(-1, 1)
    starts[:, -1] = jitter
    along = yield from climb_beside(target, starts)
    along.factor[:, -1, -1] = _STEP
    outer = target.likelihood
    whole = outer.likelihood if isinstance(outer, Held) else outer
    known = replace(whole, error_known=True)
    plain = replace(target, likelihood=replace(outer, likelihood=known) if isinstance(outer, Held) else known)
    _, precision = yield Newton(plain, modes.u)
    broad = torch.linalg.cholesky(torch.linalg.inv(precision))
    return replace(along, evaluations=along.evaluations + len(modes.u)), broad


def _proposal(modes: Modes, along: Modes | None, broad: Tensor, flow: Flow, labels: LabelSet) -> Mixture:
    """Student-t distributions about the modes and along the ridge of jitters, wide ones, and a share of the flow."""
    mass = torch.softmax(modes.log_mass, 0).clamp_min(_MODE_FLOOR)
    mass /= mass.sum()
    of_flow = torch.tensor([_FLOW_SHARE], dtype=torch.float64)
    parts = _about(modes.u, modes.factor)
    if along is None:
        return Mixture(parts, torch.cat([(1 - _FLOW_SHARE) * mass, of_flow]), FlowAndJitter(flow, None))
    wide = broad.clone()
    wide[:, -1] *= _WIDE
    free = broad.clone()
    free[:, -1] = torch.eye(len(labels)).to(free)[-1]
    anywhere = modes.u.clone()
    anywhere[:, -1] = 0.0
    parts += [*_about(along.u, along.factor), *_about(modes.u, wide), *_about(anywhere, free)]
    ridge = torch.softmax(torch.cat([modes.log_mass, along.log_mass]), 0)
    shares = torch.cat([(1 - 2 * _WIDE_SHARE) * ridge, _WIDE_SHARE * mass, _WIDE_SHARE * mass])
    jitter = StudentT(modes.u[0, -1:], 1.5 * modes.factor[0][-1:, :].norm().view(1, 1))
    return Mixture(parts, torch.cat([(1 - _FLOW_SHARE) * shares, of_flow]), FlowAndJitter(flow, jitter))


def _about(u: Tensor, factor: Tensor) -> list[StudentT]:
    return [StudentT(place, _INFLATED * f, _DOF) for place, f in zip(u, factor, strict=True)]


def _adapted(
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
            proposal = _adapted(weighted, log_weights, proposal, generator, closely=len(u) >= draws)
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
    progress("refine")
    first = yield from climb(target, starts)
    target = Target(target.likelihood.refer(labels.from_normal(first.u[0])), labels)
    modes = yield from climb(target, first.u)
    evaluations = _RANKED + first.evaluations + modes.evaluations
    residuals = None
    if noise != "independent" and labels.names[-1] == "jitter":
        target, modes, residuals, spent = yield from _correlate(target, modes, noise)
        evaluations += spent

    along, broad = None, modes.factor
    if labels.names[-1] == "jitter":
        along, broad = yield from _along_jitter(target, modes)
        evaluations += along.evaluations
    proposal = _proposal(modes, along, broad, flow, labels)
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
