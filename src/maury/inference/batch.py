"""Inference of one spectrum or of several side by side: its likelihood, the flow, verification, flags.

Side by side, the flow and the forward model see batches, and correlated residuals are fitted on several threads. What is done for each
spectrum by itself, while the others wait: its likelihood is prepared (3 % of the time of a batch with independent pixels), its nuisances
made linear, outliers and correlated residuals looked for and the reference continuum chosen (6 %), what was found summed up, checked and
flagged (4 %), and, where the weights are not to be trusted (one spectrum in hundreds), nested sampling, of which each takes up to minutes:
of all steps the one that stalls a batch.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any, Unpack
from warnings import warn

import numpy as np
import torch
from numpy.typing import NDArray

from maury.batching import Steps, together
from maury.errors import LabelError, MauryWarning
from maury.inference.abundances import tied_labels, with_abundances
from maury.inference.arguments import as_priors, one_each, several_spectra
from maury.inference.flagging import check_misfit, faults, warnings
from maury.inference.flow import Flow, encoded, prepared
from maury.inference.lines import element_lines
from maury.inference.options import Keywords, Options
from maury.inference.refine import Verified, refine, start_from
from maury.inference.refine import nested as nested_again
from maury.labels import Label, LabelSet
from maury.libraries.systematic import Systematic
from maury.libraries.zero_points import ZeroPoints
from maury.likelihood.influence import Influence
from maury.likelihood.nuisances import LibraryByChip
from maury.likelihood.problem import Problem
from maury.likelihood.residuals import Residuals
from maury.likelihood.target import Target
from maury.likelihood.ties import Tied
from maury.models import DEFAULT, Model, NetworkInput, load_model, to_model_grid
from maury.networks.prepare import preparation_of
from maury.posterior.abundances import abundances
from maury.posterior.diagnostics import (
    Abundance,
    BetweenLibraries,
    Diagnostics,
    NuisanceFound,
    ResidualProcess,
)
from maury.posterior.flags import FLAGS
from maury.posterior.result import Posterior
from maury.posterior.store import provenance
from maury.posterior.summary import QUANTILES, summarise, weighted_quantile
from maury.priors import Prior, PriorLike, Uniform
from maury.quantities import Role
from maury.sampling import verification
from maury.sampling.importance import Weighted, effective_sample_size
from maury.spectra.spectrum import Spectrum

# km/s around 0 in which a spectrum that its survey moved to rest is searched.
_REST_V_RAD = 30.0


@dataclass(frozen=True)
class Case:
    """A spectrum, and what it is inferred with.

    Attributes
    ----------
    spectrum
        As the model's instrument observes it, without masked pixels.
    model, options
        With what it is explained, and how.
    labels
        Those inferred, with the priors of this spectrum.
    network_input
        As of `to_model_grid`.
    p_novelty
        See `maury.networks.novelty`; None where the model has no such score.
    """

    spectrum: Spectrum
    model: Model
    options: Options
    labels: LabelSet
    network_input: NetworkInput
    p_novelty: float | None = None


def labels_for(spectrum: Spectrum, model: Model, priors: Mapping[str, PriorLike]) -> LabelSet:
    """Return the model's labels with the priors that this spectrum is inferred under, as `labels_under` does.

    A spectrum at rest has a narrow one of ``v_rad``, unless another is wanted.
    """
    wanted = as_priors(priors)
    if spectrum.frame == "rest" and "v_rad" not in wanted:
        wanted["v_rad"] = Uniform(low=-_REST_V_RAD, high=_REST_V_RAD)
    return labels_under(model, wanted)


def labels_under(model: Model, wanted: Mapping[str, Prior]) -> LabelSet:
    """Return a model's labels with other priors.

    A prior that reaches beyond the range for which the model was trained is cut to it; a `MauryWarning` says so.

    Raises
    ------
    LabelError
        If a prior is of no label of the model, or of one that it holds, or lies outside the model's range.
    """
    for name in wanted:
        if name in model.problem.held:
            raise LabelError(f"prior of {name}: {model.name} holds it at {model.problem.held[name]:g}")
        tie = model.forward.emulator.ties.ties.get(name)
        if tie is not None:
            follows = " and ".join(tie.follows) or "nothing: it is what other stars have"
            raise LabelError(
                f"prior of {name}: {model.name} does not infer it; it follows {follows}, with a scatter of {tie.scatter:g}"
            )
    labels = model.labels.with_priors(wanted)
    cut = {
        name: _cut(labels[name], model.estimator.labels[name])
        for name in model.estimator.labels.names
        if name in wanted
    }
    return labels.with_priors(cut)


def _cut(label: Label, trained: Label) -> Prior:
    """Cut a prior to the range of training, and tell of it."""
    prior, (low, high) = label.prior, (trained.prior.low, trained.prior.high)
    if low <= prior.low and prior.high <= high:
        return prior
    if prior.low >= high or prior.high <= low:
        raise LabelError(
            f"prior of {label.name}: [{prior.low:g}, {prior.high:g}] lies outside "
            f"[{low:g}, {high:g}], for which the model was trained"
        )
    cut = prior.within(low, high)
    warn(
        f"prior of {label.name}: [{prior.low:g}, {prior.high:g}] is cut to [{cut.low:g}, {cut.high:g}], "
        f"the range for which the model was trained",
        MauryWarning,
        stacklevel=2,
    )
    return cut


def infer_batch(
    spectra: Sequence[Spectrum],
    model: Model | str | Path = DEFAULT,
    options: Options | None = None,
    *,
    seeds: Sequence[int] | int | None = None,
    **keywords: Unpack[Keywords],
) -> list[Posterior | Exception]:
    """Infer several spectra side by side: the same posteriors as one by one, up to rounding, in less time.

    Parameters
    ----------
    spectra
        A few tens on a processor, more on a GPU; each holds its line-spread operator in memory (6 MB for a visit).
    model
        Name, folder, or a loaded model.
    options
        What may be chosen; or as keywords, which are those of `maury.infer`. A second star is not looked for.
    seeds
        One for each spectrum, or one for all; by default that of the options.

    Returns
    -------
    list
        Of each spectrum the posterior, or what `infer` would have raised.
    """
    spectra = several_spectra(spectra)
    model = model if isinstance(model, Model) else load_model(model)
    chosen = Options.of(options, keywords)
    seeds = one_each(chosen.seed if seeds is None else seeds, len(spectra))
    return infer_together(spectra, model, [replace(chosen, seed=seed) for seed in seeds])


def infer_single(
    spectrum: Spectrum,
    model: Model,
    options: Options,
    progress: Callable[[str], None] = lambda _: None,
    inside: NDArray[np.bool_] | None = None,
    nested: bool = True,
) -> Posterior:
    """Infer one spectrum as of one star; arguments as of `infer_together`, and what goes wrong is raised."""
    (found,) = infer_together([spectrum], model, [options], progress, inside, nested)
    if isinstance(found, Exception):
        raise found
    return found


def infer_together(
    spectra: Sequence[Spectrum],
    model: Model,
    options: Sequence[Options],
    progress: Callable[[str], None] = lambda _: None,
    inside: NDArray[np.bool_] | None = None,
    nested: bool = True,
) -> list[Posterior | Exception]:
    """Infer several spectra side by side, each as of one star.

    Parameters
    ----------
    spectra, model
        What was observed, and with what it is explained.
    options
        One for each spectrum.
    progress
        Told what stage begins.
    inside
        Pixels to use, see `Likelihood.of`.
    nested
        Whether nested sampling takes over where the weights are not to be trusted.

    Returns
    -------
    list
        Of each spectrum the posterior, or what went wrong.
    """
    began = time.perf_counter()

    def prepare(i: int, observed: Spectrum) -> tuple[Case, Problem, Tied]:
        spectrum = options[i].masked(observed)
        problem = replace(model.problem, labels=labels_for(spectrum, model, options[i].priors))
        likelihood = problem.likelihood(spectrum, inside, options[i].nuisances)
        progress("flow")
        case = Case(spectrum, model, options[i], problem.inferred, to_model_grid(spectrum, model))
        return case, problem, likelihood

    cases = prepared(spectra, model, prepare)
    started = {i: case for i, case in enumerate(cases) if not isinstance(case, Exception)}
    found: list[Any] = list(cases)
    if started:
        context, novelty = encoded([case.network_input for case, *_ in started.values()], model)
        steps = []
        for row, (case, problem, likelihood) in enumerate(started.values()):
            flow = Flow(model.estimator, context, problem.stellar, row)
            case = replace(case, p_novelty=novelty[row])
            steps.append(_infer(case, problem, likelihood, flow, nested, progress))
        for i, result in zip(started, together(steps), strict=True):
            found[i] = result
    seconds = (time.perf_counter() - began) / len(spectra)
    return [replace(f, seconds=seconds) if isinstance(f, Posterior) else f for f in found]


def _infer(
    case: Case, problem: Problem, likelihood: Tied, flow: Flow, nested: bool, progress: Callable[[str], None]
) -> Steps[Posterior]:
    """Infer one spectrum as of one star."""
    generator = torch.Generator().manual_seed(case.options.seed)
    start = yield from start_from(likelihood, case.labels, flow, case.options.draws, generator)
    verified = yield from refine(start, case.options, generator, progress)
    if nested and verified.khat > verification.KHAT_LIMIT:
        verified = nested_again(verified, case.options, generator, progress)
    if names := tied_labels(case.options.labels, problem):
        verified = yield from with_abundances(verified, problem, names, case.options, generator, progress)
        case = replace(case, labels=verified.target.labels)
    return posterior_of(case, verified)


def posterior_of(case: Case, verified: Verified) -> Posterior:
    """Return what was verified as a posterior, with its fit and flags."""
    spectrum, model, labels = case.spectrum, case.model, case.labels
    theta = labels.from_normal(verified.draws.u)
    u = verified.draws.u[(verified.draws.log_likelihood + verified.draws.log_prior).argmax()]
    best = labels.from_normal(u)
    fit = verified.target.likelihood.fit(best)
    preparation = preparation_of(model.estimator.featurizer)
    bad = faults(verified.target, best, verified.log_evidence, fit, spectrum, preparation, case.network_input)
    bad += ["not_converged"] * (not verified.converged)
    draws, log_weights = verified.draws, verified.log_weights
    if "no_star" in bad:
        # What explains the spectrum no better than a bare continuum has told nothing of a star, however narrow its maximum.
        draws, log_weights = _prior_draws(verified.target)
        theta = labels.from_normal(draws.u)
    weights = torch.softmax(log_weights, 0).numpy()
    between = _between_libraries(model, labels, theta.numpy(), weights, _common(verified.target))
    errors = {
        name: entry["std"]
        for name, entry in summarise(labels, theta.numpy(), weights).items()
        if name in model.labels.names and labels[name].role is not Role.nuisance
    } | {name: entry.std for name, entry in between.items()}
    influence = cache(partial(Influence.at, verified.target, u))
    misfit, second = check_misfit(
        verified, u, influence, fit, spectrum, model, errors, case.p_novelty, case.options.false_alarm
    )
    flags = (*warnings(verified, fit, spectrum, model, labels), *misfit.flags())
    if second is not None and second.gain - second.elsewhere > FLAGS["second_light"]["nats"]:
        flags = (*flags, "second_light")
    elements = _abundances(verified.target, theta.numpy(), weights, model.zero_points)
    diagnostics = Diagnostics(
        misfit=misfit,
        second_light=second,
        residuals=None if verified.residuals is None else _process(verified.residuals),
        systematic={} if "no_star" in bad else between,
        nuisances=_nuisances(verified.target, best),
        abundances=elements,
        lines=element_lines(influence(), tuple(e.label for e in elements if e.measured)) if elements else (),
        outliers=verified.outliers,
    )
    return Posterior(
        labels=labels,
        draws=theta.numpy(),
        log_weights=log_weights.numpy(),
        log_likelihood=draws.log_likelihood.numpy(),
        log_prior=draws.log_prior.numpy(),
        log_proposal=draws.log_proposal.numpy(),
        flow_draws=labels.select(model.estimator.labels.names).from_normal(verified.flow).numpy(),
        khat=verified.khat,
        ess=effective_sample_size(log_weights) if "no_star" in bad else verified.ess,
        log_evidence=verified.log_evidence,
        method=verified.method,
        fit=fit,
        spectrum=spectrum,
        model=model.name,
        flag_warn=flags,
        flag_bad=tuple(bad),
        evaluations=verified.evaluations,
        held=dict(model.problem.held),
        target=verified.target,
        diagnostics=diagnostics,
        provenance=provenance(model, case.options.seed) | {"options": case.options.to_json()},
    )


def _prior_draws(target: Target[Tied], n: int = 512) -> tuple[Weighted, torch.Tensor]:
    """Draws of the prior, spread evenly, with equal log weights ``(n,)``."""
    cube = torch.quasirandom.SobolEngine(target.dim, scramble=True, seed=0).draw(n, dtype=torch.float64)
    u = torch.special.ndtri(cube.clamp(1e-9, 1 - 1e-9))
    log_prior = target.log_prior(u)
    log_weights = torch.full((n,), -math.log(n), dtype=torch.float64)
    return Weighted(u, target.log_likelihood(u), log_prior, log_prior), log_weights


def _process(found: Residuals) -> ResidualProcess:
    correlation = found.correlation
    return ResidualProcess(
        correlation.amplitude, correlation.in_lines, correlation.scale, found.gain, found.used
    )


def _nuisances(target: Target[Tied], best: torch.Tensor) -> tuple[NuisanceFound, ...]:
    likelihood = target.likelihood
    return tuple(
        NuisanceFound(a.nuisance.name, a.of, a.nuisance.width, a.nuisance.unit, a.mean, a.std)
        for a in likelihood.pixels.amplitudes(likelihood.complete(best))
    )


def _abundances(
    target: Target[Tied],
    draws: NDArray[np.float64],
    weights: NDArray[np.float64],
    zero_points: ZeroPoints | None,
) -> tuple[Abundance, ...]:
    """Sum up the elements among the labels; their priors are about what they follow, or as wide as their range."""
    ties = target.likelihood.pixels.model.emulator.ties
    inferred = [name for name in ties.relations if name.endswith("_m")]
    if not inferred:
        return ()
    priors = {
        label.name: ties.relations[label.name].scatter
        if label.name in ties.relations
        else (label.prior.high - label.prior.low) / math.sqrt(12)
        for label in target.labels
        if label.name.endswith("_m") and label.name != "alpha_m"
    }
    return abundances(target.labels, draws, weights, priors, zero_points)


def _common(target: Target[Tied]) -> dict[str, float]:
    """Return what a library's errors have in common on all chips, by label: see `LibraryByChip`."""
    pixels = target.likelihood.pixels
    found = [n.common(pixels.chip) for n in pixels.nuisances if isinstance(n, LibraryByChip)]
    return {name: s for one in found for name, s in one.items() if name in target.labels.names}


def _between_libraries(
    model: Model,
    labels: LabelSet,
    draws: NDArray[np.float64],
    weights: NDArray[np.float64],
    common: Mapping[str, float],
) -> dict[str, BetweenLibraries]:
    """Labels with the library's error added, and that error; nothing where it is not known."""
    measured = model.systematic
    if measured is not None:
        known = "teff" in labels.names and measured.applies(
            weighted_quantile(draws[:, labels.index("teff")], weights, 0.5)
        )
        measured = measured if known else None
    systematic = Systematic.joined(measured, common)
    if systematic is None:
        return {}
    wide = systematic.scattered(labels.names, draws, labels.low.numpy(), labels.high.numpy())
    summary = summarise(labels, wide, weights)
    return {
        name: BetweenLibraries(**{key: summary[name][key] for key in (*QUANTILES, "std")}, sigma=sigma)
        for name, sigma in zip(systematic.names, systematic.sigma, strict=True)
        if name in labels.names
    }
