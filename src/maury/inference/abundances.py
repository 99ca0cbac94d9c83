"""Abundances of many elements at once: drawn given the other labels, for which a spectrum is nearly linear in them, and weighed exactly.

With the elements integrated out as any other linear nuisance, the posterior of the star's few other labels is found as always. Given
those, the elements are Gaussian, with a mean and a covariance that the linear model tells. A draw of both has a density that is known, and
the exact likelihood, in which the elements change the spectrum as they do, gives its weight.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from maury.batching import Steps
from maury.errors import LabelError
from maury.forward.model import ForwardModel
from maury.inference.options import Options
from maury.inference.proposing import Proposing
from maury.inference.refine import Verified
from maury.likelihood.nuisances import Abundances, Departures
from maury.likelihood.problem import Problem
from maury.likelihood.target import Target
from maury.likelihood.ties import Tied
from maury.names import meant
from maury.sampling import verification
from maury.sampling.density import log_likelihood
from maury.sampling.importance import Weighted
from maury.sampling.modes import climb
from maury.sampling.proposal import StudentT
from maury.sampling.verification import weigh

Choice = str | Sequence[str]
_PRESETS = ("basic", "cno", "elements")
# Iron is what the metals scale with.
_IRON = {"fe_h": "m_h"}
# Climbs to the mode of all labels, each about what the one before has found.
_CLIMBS = 2
# Draws of the abundances for each draw of the other labels, rounds at most, and degrees of freedom of what they are drawn from.
_EACH, _ROUNDS, _DOF = 2, 4, 15
# Draws after which an uneven posterior of the other labels has effective ones enough.
_PATIENCE = 2000
# Effective draws for each abundance that the linear model's covariance counts as.
_TRUSTED = 2.0
# Abundances in which the spectra of cool stars are far from linear, and together: what is left of oxygen after CO makes OH and water.
_BENT = ("o_m", "c12_c13")
# Share of a label's range that climbs begin away from its ends.
_MARGIN = 0.05


def tied_labels(choice: Choice, problem: Problem) -> tuple[str, ...]:
    """Return the labels of a choice that a model does not infer by itself, in the library's order.

    Parameters
    ----------
    choice
        ``"basic"``: those that the model infers. ``"cno"``: carbon, nitrogen, oxygen and the isotopes of carbon too. ``"elements"``: all
        of the library's. Or names, separated by commas or one by one: ``mg_fe`` is ``mg_m``, since iron is what the metals scale with.
    problem
        The model's.

    Raises
    ------
    LabelError
        If the library does not have one of them.
    """
    ties, known = problem.forward.emulator.ties, problem.inferred.names
    names = choice.split(",") if isinstance(choice, str) else list(choice)
    wanted: set[str] = set()
    for name in (part.strip() for part in names):
        if name == "basic":
            continue
        if name == "elements":
            if not ties.ties:
                raise LabelError(f"labels: the library has no elements beside {', '.join(known)}")
            wanted |= set(ties.tied)
            continue
        if name == "cno":
            wanted |= _asked(("c_m", "n_m", "o_m", "c12_c13"), ties.tied, known)
            continue
        wanted |= _asked(
            (_IRON.get(name, name.removesuffix("_fe") + "_m" if name.endswith("_fe") else name),),
            ties.tied,
            known,
        )
    return tuple(name for name in ties.tied if name in wanted)


def _asked(names: Sequence[str], tied: Sequence[str], known: Sequence[str]) -> set[str]:
    for name in names:
        if name not in tied and name not in known:
            raise LabelError(
                f"labels: the library has no {name!r}; {meant(name, (*_PRESETS, *known, *tied))}"
            )
    return {name for name in names if name in tied}


def with_abundances(
    verified: Verified,
    problem: Problem,
    names: tuple[str, ...],
    options: Options,
    generator: torch.Generator,
    progress: Callable[[str], None] = lambda _: None,
) -> Steps[Verified]:
    """Return the posterior of a verified one's labels and of abundances beside them.

    Parameters
    ----------
    verified
        Posterior of the labels that a model infers by itself.
    problem
        That it was found with.
    names
        Labels that followed others so far, in the library's order.
    options
        Their ``draws``, ``ess`` and ``budget``.
    generator
        Source of randomness.
    progress
        Told what stage begins.
    """
    progress("abundances")
    full, u, spent = yield from _mode(verified, problem.inferring(names), names)
    bent = tuple(name for name in names if name in _BENT)
    names = tuple(name for name in names if name not in bent)
    if not names:
        names, bent = bent, ()
    basic, mode = _marginal(full, _target(verified.target, problem.inferring(bent)), u, names)
    modes = yield from climb(basic, mode[None])
    proposing = Proposing(basic, modes, None, generator)
    surrogate = proposing.by_surrogate()
    proposal = surrogate or (yield from proposing.without())
    weighed = yield from weigh(
        basic, proposal, options.draws, generator, partial(progress, "weigh"), enough=options.enough, patience=_PATIENCE,
        otherwise=None if surrogate is None else proposing.instead,
    )  # fmt: skip
    found, log_weights, khat, more = yield from _weighed(
        _Given.of(basic, weighed.draws.u, names, full), weighed.draws, full, options, generator
    )
    spent += modes.evaluations + proposing.evaluations + len(weighed.draws.u) + more
    return replace(
        verified,
        draws=found,
        log_weights=log_weights,
        khat=khat,
        log_evidence=found.log_evidence,
        method="refined",
        target=full,
        evaluations=verified.evaluations + spent,
        converged=khat <= verification.KHAT_LIMIT,
    )


def _target(before: Target[Tied], problem: Problem) -> Target[Tied]:
    """Return the posterior of a problem's labels, noise and continuum as before."""
    pixels, ties = before.likelihood.pixels, problem.forward.emulator.ties
    nuisances = tuple(n for n in pixels.nuisances if ties.ties or not isinstance(n, Departures))
    pixels = replace(pixels, model=problem.forward, nuisances=nuisances, linear=None, related=problem.related)
    return Target(problem.tied(pixels), problem.inferred)


def _mode(
    verified: Verified, everything: Problem, names: tuple[str, ...]
) -> Steps[tuple[Target[Tied], Tensor, int]]:
    """Find the mode of all labels, noise and continuum as of the verified posterior; return target, mode and evaluations spent."""
    before, full = verified.target, _target(verified.target, everything)
    theta = before.labels.from_normal(verified.modes.u[0])
    values = {name: theta[before.labels.index(name)] for name in before.labels.names}
    values |= {name: _inside(before, theta[None], name)[0] for name in names if name not in values}
    start = torch.stack([values[name] for name in full.labels.names])
    u, spent = full.labels.to_normal(start), 0
    for _ in range(_CLIMBS):
        full = full.linearised(u)
        modes = yield from climb(full, u[None])
        u, spent = modes.u[0], spent + modes.evaluations
    return full.linearised(u), u, spent


def _followed(basic: Target[Tied], theta: Tensor, name: str) -> Tensor:
    """Return what a tied label follows, ``(n,)``, of the inferred labels ``(n, n_labels)``; see `Ties.followed`."""
    emulator = basic.likelihood.pixels.model.emulator
    return emulator.ties.followed(basic.likelihood.complete(theta)[:, : len(emulator.labels)], name)


def _inside(basic: Target[Tied], theta: Tensor, name: str) -> Tensor:
    """Value ``(n,)`` of a tied label that has nothing beside what it follows, well inside of its range."""
    ties, value = basic.likelihood.pixels.model.emulator.ties, _followed(basic, theta, name)
    prior = ties.library[name].prior
    margin = _MARGIN * (prior.high - prior.low)
    return (value.exp() if ties.is_logarithmic(name) else value).clamp(
        prior.low + margin, prior.high - margin
    )


def _marginal(
    full: Target[Tied], before: Target[Tied], u: Tensor, names: tuple[str, ...]
) -> tuple[Target[Tied], Tensor]:
    """Return the posterior of the other labels, linear in the abundances about the mode ``u`` of all; and its own mode."""
    labels, theta = before.labels, full.labels.from_normal(u)
    own = theta[[full.labels.index(name) for name in labels.names]]
    model, scatters = before.likelihood.pixels.model, full.likelihood.pixels.model.emulator.ties.relations
    assert isinstance(model, ForwardModel), "a companion has no abundances of its own"
    ties = model.emulator.ties
    beside = {}
    for name in names:
        value = theta[full.labels.index(name)]
        followed = _followed(before, own[None], name)[0]
        beside[name] = float((value.log() if ties.is_logarithmic(name) else value) - followed)
    abundances = Abundances(
        labels=names, scatter=tuple(scatters[name].scatter for name in names), beside=tuple(beside.values())
    )
    pixels = replace(
        full.likelihood.pixels,
        model=model.tied(ties.moved(beside)),
        nuisances=(*full.likelihood.pixels.nuisances, abundances),
        linear=None,
        related=before.likelihood.pixels.related,
    )
    mode = labels.to_normal(own)
    return before.with_pixels(pixels).linearised(mode), mode


@dataclass(frozen=True)
class _Given:
    """The abundances given the other labels: Gaussian, of whitened amplitudes w.

    Attributes
    ----------
    columns
        The other labels' values, ``(n,)`` each, by name.
    middle
        Of the amplitudes, shape ``(n, k)``.
    factor
        Of their covariance, ``(k, k)``: amplitudes are ``middle + factor w``.
    followed
        What each abundance follows, ``(n, k)``.
    """

    full: Target[Tied]
    names: tuple[str, ...]
    columns: dict[str, Tensor]
    middle: Tensor
    factor: Tensor
    followed: Tensor

    @classmethod
    def of(cls, basic: Target[Tied], u: Tensor, names: tuple[str, ...], full: Target[Tied]) -> _Given:
        """Prepare it for other labels ``u (n, n_basic)``."""
        theta, linear = basic.labels.from_normal(u), basic.likelihood.pixels.linear
        assert linear is not None
        rows = [i for i, (nuisance, _) in enumerate(linear.of) if isinstance(nuisance, Abundances)]
        mean, covariance = basic.likelihood.pixels.amplitudes_given(basic.likelihood.complete(theta))
        factor = torch.linalg.cholesky(covariance[rows][:, rows] + 1e-9 * torch.eye(len(rows)).to(mean))
        followed = torch.stack([_mean(basic, theta, name) for name in names], 1)
        columns = dict(zip(basic.labels.names, theta.unbind(1), strict=True))
        return cls(full, names, columns, mean[:, rows], factor, followed)

    def at(self, rows: Tensor, w: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """All labels at whitened amplitudes ``w (m, k)`` beside the other labels of some rows ``(m,)``.

        Returns
        -------
        u, log_density, inside
            Shape ``(m, n_full)``; ``ln |dw/du|`` of the abundances, ``(m,)``; and whether those lie in the library's range.
        """
        ties = self.full.likelihood.pixels.model.emulator.ties
        amplitude = self.middle[rows] + w @ self.factor.T
        log_density = -self.factor.diagonal().log().sum().expand(len(w))
        inside = torch.ones(len(w), dtype=torch.bool)
        columns = {name: values[rows] for name, values in self.columns.items()}
        for k, name in enumerate(self.names):
            scatter, prior = ties.relations[name].scatter, self.full.labels[name].prior
            value = self.followed[rows, k] + scatter * amplitude[:, k]
            log_density = log_density - math.log(scatter)
            if ties.is_logarithmic(name):
                log_density, value = log_density - value, value.exp()
            inside &= (value > prior.low) & (value < prior.high)
            margin = 1e-6 * (prior.high - prior.low)
            columns[name] = value.clamp(prior.low + margin, prior.high - margin)
        labels = self.full.labels
        whole = labels.to_normal(torch.stack([columns[name] for name in labels.names], 1))
        places = [labels.index(name) for name in self.names]
        return whole, log_density + labels.scale(whole)[:, places].log().sum(1), inside


def _weighed(
    given: _Given, others: Weighted, full: Target[Tied], options: Options, generator: torch.Generator
) -> Steps[tuple[Weighted, Tensor, float, int]]:
    """Draw abundances beside each draw of the other labels, and weigh with the exact likelihood; adapt, and draw more, while they are few.

    Returns
    -------
    draws, log_weights, khat, evaluations
        The log weights are smoothed.
    """
    n, k = len(others.u), len(given.names)
    origin, identity = torch.zeros(k, dtype=torch.float64), torch.eye(k, dtype=torch.float64)
    parts = [StudentT(origin, identity, _DOF)]
    w, u = torch.empty(0, k, dtype=torch.float64), torch.empty(0, full.dim, dtype=torch.float64)
    value = jacobian = log_others = torch.empty(0, dtype=torch.float64)
    rows = torch.arange(n).repeat(_EACH)
    for _ in range(_ROUNDS):
        new = parts[-1].sample(len(rows), generator)
        whole, log_density, inside = given.at(rows, new)
        likelihood = yield from log_likelihood(full, whole)
        w, u = torch.cat([w, new]), torch.cat([u, whole])
        value = torch.cat([value, likelihood.masked_fill(~inside, -math.inf)])
        jacobian = torch.cat([jacobian, log_density])
        log_others = torch.cat([log_others, others.log_proposal[rows]])
        each = torch.stack([part.log_prob(w) for part in parts])
        log_proposal = log_others + jacobian + torch.logsumexp(each, 0) - math.log(len(parts))
        found = Weighted(u, value, full.log_prior(u), log_proposal)
        log_weights, khat = found.smoothed()
        if found.ess >= options.enough and khat <= verification.KHAT_LIMIT:
            break
        # Where abundances are not linear they are skewed: about the weighted draws the next ones are better placed.
        weights = torch.softmax(log_weights, 0)
        mean = weights @ w
        own, ess = ((w - mean).T * weights) @ (w - mean), 1 / float(weights.square().sum())
        covariance = (ess * own + _TRUSTED * k * identity) / (ess + _TRUSTED * k)
        parts.append(StudentT(mean * ess / (ess + k), torch.linalg.cholesky(covariance), _DOF))
    return found, log_weights, khat, len(u)


def _mean(basic: Target[Tied], theta: Tensor, name: str) -> Tensor:
    """Return what an abundance follows in other stars, ``(n,)``: that of the model less what lies beside it at the mode."""
    (abundances,) = (n for n in basic.likelihood.pixels.nuisances if isinstance(n, Abundances))
    return _followed(basic, theta, name) - abundances.beside[abundances.labels.index(name)]
