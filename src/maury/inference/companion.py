"""A second star in the spectrum: looked for where one star does not explain it, and kept where the evidence says so."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from maury.batching import Steps, alone
from maury.errors import InferenceError
from maury.forward.binary import RATIO, Pair, pair_labels
from maury.inference.batch import Case, posterior_of
from maury.inference.options import Options
from maury.inference.refine import Start, nested, refine
from maury.likelihood.nuisances import chosen
from maury.likelihood.pixels import Likelihood
from maury.likelihood.target import Target
from maury.likelihood.ties import Tied
from maury.models import Model, to_model_grid
from maury.posterior.diagnostics import Grade, SecondStar
from maury.posterior.flags import FLAGS
from maury.posterior.result import Posterior
from maury.quantities import Role
from maury.sampling.density import log_likelihood
from maury.sampling.verification import KHAT_LIMIT

# Spectra of another library gain up to ten nats by a second star, and two stars at one velocity make up for many a fault of a library.
_FLAG = FLAGS["companion"]
# Flags under which "auto" looks for one: what one star and independent pixels do not explain.
_CAUSES = {"novel", "second_light", "second_mode", "poor_fit", "high_jitter", "wrong_frame"}
# Companions that are tried at every velocity, km/s apart: parts of the priors of teff and logg, rotation, and share of the light.
_STEP = 8.0
_TEFF, _LOGG, _ROTATION, _RATIO = (0.1, 0.4, 0.8), (0.3, 0.8), 8.0, 0.2
_STARTS = 8


def _is_wanting(single: Posterior) -> bool:
    """Tell whether one star and independent pixels leave something unexplained."""
    flags, found = {*single.flag_warn, *single.flag_bad}, single.diagnostics
    misfit = found.misfit is not None and found.misfit.grade is not Grade.none
    autocorrelated = found.residuals is not None and found.residuals.used
    return "no_star" not in flags and bool(misfit or autocorrelated or _CAUSES & flags)


def with_companion(
    single: Posterior,
    model: Model,
    options: Options,
    progress: Callable[[str], None] = lambda _: None,
) -> Posterior:
    """Return the posterior of two stars if a second one is wanted and found, else the single star's, which then tells what was tried.

    Parameters
    ----------
    single
        Posterior of the spectrum as of one star.
    model
        That it was inferred with.
    options
        As of the single star's; ``companion="auto"`` looks where a flag says that one star is not enough and keeps a companion that gains
        20 nats of evidence and moves at another velocity, by 5 km/s and 3 errors or more; ``"yes"`` returns two stars in any case.
    progress
        Told what stage begins.

    Raises
    ------
    InferenceError
        If the model holds a label.
    """
    companion = options.companion
    if companion == "no" or (companion == "auto" and not _is_wanting(single)):
        return single
    if options.labels != "basic":
        raise InferenceError("a companion has no abundances of its own: infer with labels='basic'")
    if single.held or single.target is None or single.labels.place(Role.nuisance) is None:
        raise InferenceError(f"{model.name} holds labels: a companion needs all of them, and jitter")
    began = time.perf_counter()
    progress("companion")
    # Two stars take two passes of the forward model.
    options = replace(options, budget=max(options.budget // 2, 1))
    found, by_nested_sampling = _two_stars(single, model, options, lambda _: progress("companion"))
    gain = found.log_evidence - single.log_evidence
    believed = gain > _FLAG["nats"] and _moves_apart(found)
    used = believed or companion == "yes"
    if used and found.khat > KHAT_LIMIT:
        found = by_nested_sampling()
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


def _two_stars(
    single: Posterior, model: Model, options: Options, progress: Callable[[str], None]
) -> tuple[Posterior, Callable[[], Posterior]]:
    """Return the posterior of two stars by importance sampling, and what gives it by nested sampling."""
    spectrum, problem, labels = single.spectrum, model.problem, pair_labels(single.labels)
    inside = np.zeros(spectrum.grid.n_pixels, dtype=bool)
    # The same pixels as the single star's, so that evidences compare.
    inside[single.fit.pixels] = True
    likelihood = Likelihood.of(
        spectrum, Pair(model.forward), labels, problem.degree, inside, emulator_error=problem.emulator_error,
        learned=problem.learned,
    )  # fmt: skip
    nuisances = chosen(
        options.nuisances,
        likelihood.model,
        labels.names,
        problem.modes,
        lsf_is_assumed=spectrum.lsf_is_assumed,
    )
    likelihood = replace(likelihood, nuisances=nuisances, related=problem.related)
    best = torch.from_numpy(single.draws[(single.log_likelihood + single.log_prior).argmax()])
    case = Case(spectrum, model, options, labels, to_model_grid(spectrum, model), single.p_novelty)
    generator = torch.Generator().manual_seed(options.seed)
    two = Target(Tied.free(likelihood, len(labels)), labels)
    target, starts, spent = alone(_search(two, best, [labels.index(name) for name in single.labels.names]))
    flow_draws = single.labels.select(model.estimator.labels.names).to_normal(
        torch.from_numpy(single.flow_draws)
    )
    verified = alone(refine(Start(target, starts, flow_draws, None, spent), options, generator, progress))
    return posterior_of(case, verified), lambda: posterior_of(
        case, nested(verified, options, generator, progress)
    )


def _search(
    target: Target[Tied], best: Tensor, columns: list[int]
) -> Steps[tuple[Target[Tied], Tensor, int]]:
    """Try companions of all velocities beside the single star's best labels; return starts, one a velocity.

    ``best (n_single,)`` and the places ``columns`` of these labels among those of two stars.
    """
    labels = target.labels
    v_rad = labels["v_rad_2"].prior
    velocity = torch.arange(v_rad.low + 1, v_rad.high, _STEP, dtype=torch.float64)
    rows = []
    for teff in _TEFF:
        for logg in _LOGG:
            row = torch.zeros(len(labels), dtype=torch.float64)
            row[columns] = best
            for name, share in (("teff_2", teff), ("logg_2", logg)):
                prior = labels[name].prior
                row[labels.index(name)] = prior.low + share * (prior.high - prior.low)
            row[labels.index("v_sini_2")], row[labels.index(RATIO)] = _ROTATION, _RATIO
            many = row.repeat(len(velocity), 1)
            many[:, labels.index("v_rad_2")] = velocity
            rows.append(many)
    u = torch.stack([labels.to_normal(many) for many in rows])
    target = target.with_reference_continuum(labels.from_normal(u[0, 0]))
    value = (yield from log_likelihood(target, u.flatten(0, 1))).reshape(len(rows), len(velocity))
    of_velocity, template = value.max(0)
    order = of_velocity.argsort(descending=True)[:_STARTS]
    return target, u[template[order], order], value.numel()
