"""A second star in the spectrum: looked for where one star does not explain it, and kept where the evidence says so."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor

from maury.batching import LogLikelihoods, Steps, alone
from maury.errors import InferenceError
from maury.forward.binary import RATIO, Pair, pair_labels
from maury.inference.batch import Settings, posterior_of
from maury.labels import LabelSet
from maury.likelihood.pixels import Likelihood
from maury.likelihood.target import Target
from maury.models import Model, to_model_grid
from maury.names import meant
from maury.posterior.diagnostics import SecondStar
from maury.posterior.flags import FLAGS
from maury.posterior.result import Posterior
from maury.sampling.importance import KHAT_LIMIT
from maury.sampling.verify import verify_from

Companion = Literal["no", "auto", "yes"]
# Spectra of another library gain up to ten nats by a second star, and two stars at one velocity make up for many a fault of a library.
_FLAG = FLAGS["companion"]
# Flags under which "auto" looks for one: what one star and independent pixels do not explain.
_CAUSES = {"misfit", "novel", "correlated", "second_mode", "poor_fit", "high_jitter", "wrong_frame"}
# Companions that are tried at every velocity, km/s apart: parts of the priors of teff and logg, rotation, and share of the light.
_STEP = 8.0
_TEFF, _LOGG, _ROTATION, _RATIO = (0.1, 0.4, 0.8), (0.3, 0.8), 8.0, 0.2
_STARTS = 8


def with_companion(
    single: Posterior,
    model: Model,
    settings: Settings,
    companion: Companion,
    progress: Callable[[str], None] = lambda _: None,
) -> Posterior:
    """Return the posterior of two stars if a second one is wanted and found, else the single star's, which then tells what was tried.

    Parameters
    ----------
    single
        Posterior of the spectrum as of one star.
    model
        That it was inferred with.
    settings
        As of the single star's.
    companion
        ``"auto"`` looks where a flag says that one star is not enough and keeps a companion that gains 20 nats of evidence and moves at
        another velocity, by 5 km/s and 3 errors or more; ``"yes"`` returns two stars in any case.
    progress
        Told what stage begins.

    Raises
    ------
    InferenceError
        If ``companion`` is none of these, or the model holds a label.
    """
    if companion not in get_args(Companion):
        raise InferenceError(f"companion: no {companion!r}; {meant(companion, get_args(Companion))}")
    if companion == "no" or (companion == "auto" and not _CAUSES & {*single.flag_warn, *single.flag_bad}):
        return single
    if single.held or single.target is None or single.labels.names[-1] != "jitter":
        raise InferenceError(f"{model.name} holds labels: a companion needs all of them, and jitter")
    began = time.perf_counter()
    progress("companion")
    labels = pair_labels(single.labels)
    found = alone(_pair(single, model, labels, settings, False, lambda _: progress("companion")))
    gain = found.log_evidence - single.log_evidence
    believed = gain > _FLAG["nats"] and _moves_apart(found)
    used = believed or companion == "yes"
    if used and found.khat > KHAT_LIMIT:
        found = alone(_pair(single, model, labels, settings, True, lambda _: progress("companion")))
    told = SecondStar(gain, used, found.khat)
    chosen = found if used else single
    return replace(
        chosen,
        diagnostics=replace(chosen.diagnostics, models=single.diagnostics.models, companion=told),
        flag_warn=(*chosen.flag_warn, *[_FLAG.name] * believed),
        seconds=single.seconds + time.perf_counter() - began,
        evaluations=single.evaluations + found.evaluations,
    )


def _moves_apart(pair: Posterior) -> bool:
    first, second = (pair.draws[:, pair.labels.index(name)] for name in ("v_rad", "v_rad_2"))
    mean = float(pair.weights @ (second - first))
    error = float(pair.weights @ (second - first - mean) ** 2) ** 0.5
    return abs(mean) > max(_FLAG["kms"], _FLAG["sigma"] * error)


def _pair(
    single: Posterior,
    model: Model,
    labels: LabelSet,
    settings: Settings,
    nested: bool,
    progress: Callable[[str], None],
) -> Steps[Posterior]:
    spectrum, problem = single.spectrum, model.problem
    inside = np.zeros(spectrum.grid.n_pixels, dtype=bool)
    # The same pixels as the single star's, so that evidences compare.
    inside[single.fit.pixels] = True
    misfit = single.diagnostics.misfit
    novelty = None if misfit is None else misfit.p_novelty
    likelihood = Likelihood.of(
        spectrum, Pair(model.forward), labels, problem.degree, inside, emulator_error=problem.emulator_error,
        learned=problem.learned,
    )  # fmt: skip
    best = torch.from_numpy(single.draws[(single.log_likelihood + single.log_prior).argmax()])
    target = Target(likelihood, labels)
    target, starts, spent = yield from _search(target, best)
    of_flow = single.labels.select(model.estimator.labels.names)
    verified = yield from verify_from(
        target,
        starts,
        of_flow.to_normal(torch.from_numpy(single.flow_draws)),
        draws=settings.draws,
        generator=torch.Generator().manual_seed(settings.seed),
        noise=settings.noise,
        nested=nested,
        progress=progress,
    )
    verified = replace(verified, evaluations=verified.evaluations + spent)
    found = posterior_of(
        verified, spectrum, model, labels, to_model_grid(spectrum, model), novelty,
        settings.false_alarm,
    )  # fmt: skip
    return replace(found, provenance=single.provenance)


def _search(target: Target[Likelihood], best: Tensor) -> Steps[tuple[Target[Likelihood], Tensor, int]]:
    """Try companions of all velocities beside the single star's best labels ``(n_single,)``; return starts, one a velocity."""
    labels = target.labels
    v_rad = labels["v_rad_2"].prior
    velocity = torch.arange(v_rad.low + 1, v_rad.high, _STEP, dtype=torch.float64)
    rows = []
    for teff in _TEFF:
        for logg in _LOGG:
            row = torch.zeros(len(labels), dtype=torch.float64)
            row[: len(best) - 1], row[-1] = best[:-1], best[-1]
            for name, share in (("teff_2", teff), ("logg_2", logg)):
                prior = labels[name].prior
                row[labels.index(name)] = prior.low + share * (prior.high - prior.low)
            row[labels.index("v_sini_2")], row[labels.index(RATIO)] = _ROTATION, _RATIO
            many = row.repeat(len(velocity), 1)
            many[:, labels.index("v_rad_2")] = velocity
            rows.append(many)
    u = torch.stack([labels.to_normal(many) for many in rows])
    target = Target(target.likelihood.refer(labels.from_normal(u[0, 0])), labels)
    value = (yield LogLikelihoods(target, u.flatten(0, 1))).reshape(len(rows), len(velocity))
    of_velocity, template = value.max(0)
    order = of_velocity.argsort(descending=True)[:_STARTS]
    return target, u[template[order], order], value.numel()
