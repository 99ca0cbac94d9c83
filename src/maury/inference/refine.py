"""From a flow's answer to the verified posterior of a spectrum: refine, look for correlated residuals, propose, and weigh."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from maury.batching import Steps
from maury.inference.options import Options
from maury.inference.ridge import about_modes, along_jitter
from maury.labels import LabelSet
from maury.likelihood.residuals import Noise, Residuals, autocorrelated, fit_residuals
from maury.likelihood.target import Target
from maury.likelihood.ties import Tied
from maury.sampling.density import log_likelihood
from maury.sampling.importance import Weighted
from maury.sampling.modes import Modes, climb, spread_out
from maury.sampling.nested import nested_sampling
from maury.sampling.proposal import Proposal, draw
from maury.sampling.verification import weigh

# Flow draws that are ranked by the exact posterior, and how many of them refinement starts from.
_RANKED = 64
_STARTS = 4
# Draws of the flow that are made in any case.
_FEWEST = 256
# Jitter at which the flow's draws are ranked.
_FIRST_JITTER = 0.01


@dataclass(frozen=True)
class Verified:
    """A verified posterior, over ``u``.

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
    target: Target[Tied]
    evaluations: int
    residuals: Residuals | None = None

    @property
    def ess(self) -> float:
        """Effective sample size of the raw weights."""
        return self.draws.ess


@dataclass(frozen=True)
class Start:
    """Where verification of a spectrum begins.

    Attributes
    ----------
    target
        The exact posterior, with a first reference continuum.
    u
        Points to climb from, shape ``(k, n_labels)``.
    flow_draws
        Of the flow, shape ``(n_flow, n_stellar)``, handed on as they are.
    flow
        What the proposal has a share of, if anything.
    evaluations
        Likelihood evaluations spent so far.
    """

    target: Target[Tied]
    u: Tensor
    flow_draws: Tensor
    flow: Proposal | None = None
    evaluations: int = 0


def start_from(
    likelihood: Tied, labels: LabelSet, flow: Proposal, draws: int, generator: torch.Generator
) -> Steps[Start]:
    """Choose starts among ``draws`` of the flow, and set the reference continuum by the best of them; a jitter is the last label."""
    flow_draws = yield from draw(flow, max(draws, _FEWEST), generator)
    target = Target(likelihood, labels)
    u = flow_draws[:_RANKED]
    with_jitter = labels.names[-1] == "jitter"
    if with_jitter:
        first = torch.tensor([[_FIRST_JITTER]], dtype=torch.float64)
        u = torch.cat([u, labels["jitter"].prior.to_normal(first).expand(len(u), 1)], dim=1)
    value = (yield from log_likelihood(target, u)) + target.log_prior(u)
    theta = labels.from_normal(u[value.argmax()])
    for _ in range(2):
        if with_jitter:
            prior = labels["jitter"].prior
            theta[-1] = target.likelihood.excess_scatter(theta[None])[0].clamp(prior.low * 2, prior.high / 2)
        target = target.with_reference_continuum(theta)
    if with_jitter:
        u[:, -1] = labels.to_normal(theta)[-1]
    return Start(target, spread_out(u, value, _STARTS), flow_draws, flow, _RANKED)


def _correlate(
    target: Target[Tied], modes: Modes, noise: Noise
) -> Steps[tuple[Target[Tied], Modes, Residuals | None, int]]:
    """Look for correlated residuals; where they are to be used, find the modes anew, twice: each moves the other."""
    residuals, spent = None, 0
    if noise == "auto" and not autocorrelated(target, modes.u[0]):
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


def refine(
    start: Start,
    options: Options,
    generator: torch.Generator,
    progress: Callable[[str], None] = lambda _: None,
) -> Steps[Verified]:
    """Find the modes from some starts, propose about them, and weigh; run by `alone`, or with others by `together`.

    Parameters
    ----------
    start
        Where to begin.
    options
        Their ``draws`` and ``noise``; residuals can be correlated only where ``jitter`` is inferred.
    generator
        Source of randomness.
    progress
        Told what stage begins, and again before each round of draws; what it raises ends the inference.

    Raises
    ------
    InferenceError
        If no draw has any posterior density.
    """
    target, labels = start.target, start.target.labels
    with_jitter = labels.names[-1] == "jitter"
    progress("refine")
    first = yield from climb(target, start.u)
    target = target.with_reference_continuum(labels.from_normal(first.u[0]))
    modes = yield from climb(target, first.u)
    evaluations = start.evaluations + first.evaluations + modes.evaluations
    residuals = None
    if options.noise != "independent" and with_jitter:
        target, modes, residuals, spent = yield from _correlate(target, modes, options.noise)
        evaluations += spent
    ridge = None
    if with_jitter:
        ridge = yield from along_jitter(target, modes)
        evaluations += ridge.evaluations
    weighed = yield from weigh(
        target, about_modes(modes, ridge, start.flow), options.draws, generator, partial(progress, "weigh")
    )
    return Verified(
        draws=weighed.draws,
        log_weights=weighed.log_weights,
        khat=weighed.khat,
        log_evidence=weighed.draws.log_evidence,
        method="refined",
        modes=modes,
        flow=start.flow_draws,
        target=target,
        evaluations=evaluations + len(weighed.draws.u),
        residuals=residuals,
    )


def nested(
    verified: Verified, generator: torch.Generator, progress: Callable[[str], None] = lambda _: None
) -> Verified:
    """Sample again by nested sampling what importance weights failed on; other arguments as of `refine`."""
    progress("nested sampling")
    sampled = nested_sampling(verified.target, generator, progress=partial(progress, "nested sampling"))
    return replace(
        verified,
        draws=sampled.draws,
        log_weights=sampled.log_weights,
        log_evidence=sampled.log_evidence,
        method="nested",
        evaluations=verified.evaluations + sampled.evaluations,
    )
