"""From a flow's answer to the verified posterior of a spectrum: refine, look for correlated residuals, propose, and weigh."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from maury.batching import Steps
from maury.inference.options import Options
from maury.inference.proposing import Proposing
from maury.inference.ridge import MOST_ALONG
from maury.labels import LabelSet
from maury.likelihood.outliers import outliers
from maury.likelihood.residuals import Noise, Residuals, autocorrelated, residual_fit
from maury.likelihood.screen import Screen
from maury.likelihood.target import Target
from maury.likelihood.ties import Tied
from maury.quantities import Role
from maury.sampling import verification
from maury.sampling.density import log_likelihood
from maury.sampling.importance import Weighted
from maury.sampling.modes import Modes, climb, find_modes, joined, spread_out
from maury.sampling.nested import nested_sampling
from maury.sampling.proposal import Proposal, draw, inserted
from maury.sampling.verification import ROUNDS, weigh

# Flow draws that are ranked by the exact posterior, and how many of them refinement starts from.
_RANKED = 32
_STARTS = 4
# Draws of the flow that are made in any case.
_FEWEST = 256
# Jitter at which the flow's draws are ranked.
_FIRST_JITTER = 0.01
# Nested sampling of six labels takes 40,000 to 60,000 likelihoods; it is not begun where the budget cannot see it through.
NESTED = 60_000
# Points all over the prior at which a likelihood with correlated residuals is looked at, climbs that begin among them, and sigma and nats
# from the best mode at which what they find is a mode of its own.
_LOOKS, _FAR_STARTS = 512, 8
_APART, _WITHIN = 3.0, 30.0
# Sigma that a mode may move before what was found at it is looked for again.
_FAR = 1.0
# Nats that a climb may leave: to where something is made linear or fitted anew, and to where the posterior is drawn from.
_LOOSELY, _CLOSELY = 0.3, 0.01
# Draws after which an uneven posterior has effective ones enough, unless their number is asked for.
_PATIENCE = 8000
# A draw that lies this much (nats) above every mode says that the climb has missed the mode; climbs go on from it, so many times.
_HIGHER, _CLIMBS = 2.0, 3


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
    converged
        False where the weights are not to be trusted, and the budget did not see nested sampling through.
    outliers
        Pixels that were left out.
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
    converged: bool = True
    outliers: int = 0

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
    """Choose starts among ``draws`` of the flow, and set the reference continuum by the best of them."""
    flow_draws = yield from draw(flow, max(draws, _FEWEST), generator)
    target = Target(likelihood, labels)
    u = flow_draws[:_RANKED]
    jitter = labels.place(Role.nuisance)
    if jitter is not None:
        prior = labels.labels[jitter].prior
        first = prior.to_normal(torch.tensor([[_FIRST_JITTER]], dtype=torch.float64))
        u = inserted(u, first.expand(len(u), 1), jitter)
    value = (yield from log_likelihood(target, u)) + target.log_prior(u)
    theta = labels.from_normal(u[value.argmax()])
    for _ in range(2):
        if jitter is not None:
            theta[jitter] = target.likelihood.excess_scatter(theta[None])[0].clamp(
                prior.low * 2, prior.high / 2
            )
        target = target.with_reference_continuum(theta)
    if jitter is not None:
        u[:, jitter] = labels.to_normal(theta)[jitter]
    return Start(target, spread_out(u, value, _STARTS), flow_draws, flow, _RANKED)


def _correlate(
    target: Target[Tied], modes: Modes, noise: Noise, jitter: int
) -> Steps[tuple[Target[Tied], Modes, Residuals | None, int]]:
    """Look for correlated residuals; where they are to be used, find the modes anew, and, if those have moved, both again.

    ``jitter`` is its place among the labels.
    """
    residuals, spent = None, 0
    if noise == "auto" and not autocorrelated(target, modes.u[0]):
        return target, modes, None, 1
    for _ in range(2):
        target, residuals, u = yield from residual_fit(target, modes.u[0], noise)
        spent += residuals.evaluations
        if not residuals.used:
            break
        # The second look refines what the first has added; it does not take it back.
        noise = "correlated"
        starts = modes.u.clone()
        starts[:, jitter] = u[jitter]
        before, modes = modes.u[0], (yield from climb(target, starts, tolerance=_CLOSELY))
        spent += modes.evaluations
        if _moved(modes, before, jitter) < _FAR:
            break
    return target, modes, residuals, spent


def _moved(modes: Modes, before: Tensor, jitter: int | None = None) -> float:
    """Sigma between the best mode and a place ``(n_labels,)``, the jitter's own way left out."""
    offset = modes.u[0] - before
    if jitter is not None:
        # What the jitter's way took along is none of the others'.
        covariance = modes.factor[0] @ modes.factor[0].T
        offset = offset - offset[jitter] * covariance[jitter] / covariance[jitter, jitter]
    return float(torch.linalg.solve_triangular(modes.factor[0], offset[:, None], upper=False).norm())


def _without_outliers(target: Target[Tied], u: Tensor) -> tuple[Target[Tied], int]:
    """Leave out what nothing in a star explains at the mode ``u (n_labels,)``; return how many pixels that were."""
    likelihood = target.likelihood
    if not likelihood.pixels.nuisances or target.labels.place(Role.nuisance) is None:
        return target, 0
    theta = likelihood.complete(target.labels.from_normal(u))
    found = outliers(likelihood.pixels, theta)
    if not found.any():
        return target, 0
    return target.with_pixels(likelihood.pixels.without(found, theta)), int(found.sum())


def _look_around(target: Target[Tied], modes: Modes) -> Steps[tuple[Modes, int]]:
    """Search the whole prior for modes beside those known, with velocities and jitter as of the best; return all, and evaluations spent.

    Correlated residuals flatten the likelihood by thousands of nats: maxima far from the flow's draws, which were made for independent
    pixels, then count as much as those among them. The search costs no likelihood: only what it finds is climbed to.
    """
    emulated = target.likelihood.pixels.model.emulator.labels.names
    free = [i for i, name in enumerate(target.labels.names) if name in emulated]
    if not free:
        return modes, 0
    screen = Screen(target, modes.u[0], free)
    known = modes.u[:1, free]
    cube = torch.quasirandom.SobolEngine(len(free), scramble=True, seed=0).draw(_LOOKS, dtype=torch.float64)
    u = torch.cat([known, torch.special.ndtri(cube.clamp(1e-3, 1 - 1e-3))])
    found = find_modes(screen, spread_out(u, screen.log_prob(u), _FAR_STARTS), tolerance=_LOOSELY)
    precision = torch.linalg.inv(modes.factor[0] @ modes.factor[0].T)[free][:, free]
    offset = found.u - known
    apart = ((offset @ precision) * offset).sum(1) > _APART**2
    near = found.log_prob > float(screen.log_prob(known)) - _WITHIN
    starts = screen.whole(found.u[apart & near])
    if not len(starts):
        return modes, 1
    ends = yield from climb(target, starts, tolerance=_CLOSELY)
    found = replace(joined(modes, ends), evaluations=ends.evaluations)
    return found, 1 + found.evaluations


def _beside(target: Target[Tied], modes: Modes, u: Tensor, log_posterior: Tensor) -> Steps[Modes]:
    """Climb from the best of some points ``(n, n_labels)`` that lie apart; add to the modes what is new, and drop what is then too low."""
    ends = yield from climb(target, spread_out(u, log_posterior, _FAR_STARTS))
    return replace(joined(modes, ends), evaluations=ends.evaluations)


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
        Their ``draws``, ``ess``, ``noise`` and ``budget``; residuals can be correlated only where a jitter is inferred.
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
    jitter = labels.place(Role.nuisance)
    progress("refine")
    first = yield from climb(target, start.u, tolerance=_LOOSELY)
    target = target.with_reference_continuum(labels.from_normal(first.u[0])).linearised(first.u[0])
    modes = yield from climb(target, first.u, tolerance=_CLOSELY)
    spent = start.evaluations + first.evaluations + modes.evaluations
    target, left_out = _without_outliers(target, modes.u[0])
    if left_out or target.likelihood.pixels.linear is not None:
        # What was taken out, and what nuisances take, has moved the mode, and with it what they are linear about: the noise is as of there.
        target = target.linearised(modes.u[0])
        modes = yield from climb(target, modes.u, tolerance=_CLOSELY)
        spent += modes.evaluations
    residuals = None
    if options.noise != "independent" and jitter is not None:
        target, modes, residuals, more = yield from _correlate(target, modes, options.noise, jitter)
        spent += more
        # Starts without a flow come from a search already.
        if residuals is not None and residuals.used and start.flow is not None:
            modes, more = yield from _look_around(target, modes)
            spent += more
    for climbs_left in reversed(range(_CLIMBS)):
        proposing = Proposing(target, modes, start.flow, generator)
        proposal = proposing.by_surrogate()
        otherwise = None if proposal is None else proposing.instead
        if proposal is None:
            proposal = yield from proposing.without()
        ceiling = float(modes.log_prob.max()) + _HIGHER if climbs_left else math.inf
        # Where nested sampling cannot follow, rounds go on as far as the budget reaches.
        left = options.budget - spent - proposing.evaluations - (MOST_ALONG if otherwise else 0)
        follows = left - (ROUNDS + 1) * options.draws >= NESTED
        limit = math.inf if follows else max(left, options.draws)
        weighed = yield from weigh(
            target, proposal, options.draws, generator, partial(progress, "weigh"),
            enough=options.enough, patience=_PATIENCE if options.ess is None else math.inf, limit=limit,
            ceiling=ceiling, otherwise=otherwise,
        )  # fmt: skip
        spent += len(weighed.draws.u) + proposing.evaluations
        if float(weighed.log_posterior.max()) <= ceiling:
            break
        modes = yield from _beside(target, modes, weighed.draws.u, weighed.log_posterior)
        spent += modes.evaluations
    return Verified(
        draws=weighed.draws,
        log_weights=weighed.log_weights,
        khat=weighed.khat,
        log_evidence=weighed.draws.log_evidence,
        method="refined",
        modes=modes,
        flow=start.flow_draws,
        target=target,
        evaluations=spent,
        residuals=residuals,
        converged=weighed.khat <= verification.KHAT_LIMIT and weighed.draws.ess >= (options.ess or 0),
        outliers=left_out,
    )


def nested(
    verified: Verified,
    options: Options,
    generator: torch.Generator,
    progress: Callable[[str], None] = lambda _: None,
) -> Verified:
    """Sample again by nested sampling what importance weights failed on, if the budget allows; other arguments as of `refine`."""
    left = options.budget - verified.evaluations
    if left < NESTED:
        return verified
    progress("nested sampling")
    sampled = nested_sampling(
        verified.target, generator, budget=left, progress=partial(progress, "nested sampling")
    )
    evaluations = verified.evaluations + sampled.evaluations
    if not sampled.converged:
        return replace(verified, evaluations=evaluations)
    return replace(
        verified,
        draws=sampled.draws,
        log_weights=sampled.log_weights,
        log_evidence=sampled.log_evidence,
        method="nested",
        evaluations=evaluations,
        converged=True,
    )
