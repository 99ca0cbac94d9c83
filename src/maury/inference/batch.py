"""What is done to a spectrum: its likelihood, the flow, verification, flags; for one or for several side by side."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import get_args

import numpy as np
import torch
from numpy.typing import NDArray

from maury.batching import Steps, together
from maury.errors import InferenceError, LabelError
from maury.inference.flagging import check_misfit, faults, warnings
from maury.inference.flow import Flow
from maury.labels import LabelSet
from maury.likelihood.problem import Problem
from maury.likelihood.residuals import Noise, Residuals
from maury.likelihood.target import Single
from maury.models import ALL_MASKED, Model, to_model_grid
from maury.names import meant
from maury.networks.context import Context
from maury.posterior.diagnostics import BetweenLibraries, Diagnostics, ResidualProcess
from maury.posterior.result import Posterior
from maury.posterior.store import provenance
from maury.posterior.summary import QUANTILES, summarise, weighted_quantile
from maury.priors import Prior, Uniform
from maury.sampling.verify import Verified, verify
from maury.spectra.spectrum import Spectrum

# km/s around 0 in which a spectrum that its survey moved to rest is searched.
_REST_V_RAD = 30.0
# Fewer weights do not tell what their tail is like.
FEWEST_DRAWS = 100


@dataclass(frozen=True)
class Settings:
    """Of an inference; see `maury.infer`.

    Raises
    ------
    InferenceError
        If one is impossible.
    """

    draws: int
    seed: int
    priors: Mapping[str, Prior]
    noise: Noise
    false_alarm: float

    def __post_init__(self) -> None:
        if self.draws < FEWEST_DRAWS:
            raise InferenceError(
                f"draws must be at least {FEWEST_DRAWS} for the weights to be judged, not {self.draws}"
            )
        if self.noise not in get_args(Noise):
            raise InferenceError(f"noise: no {self.noise!r}; {meant(self.noise, get_args(Noise))}")
        if not 0 < self.false_alarm < 1:
            raise InferenceError(f"false_alarm must lie between 0 and 1, not {self.false_alarm:g}")


def labels_for(spectrum: Spectrum, model: Model, priors: Mapping[str, Prior]) -> LabelSet:
    """Return the model's labels with the priors that this spectrum is inferred under.

    Raises
    ------
    LabelError
        If a prior is of no label of the model, or of one that it holds.
    """
    for name in priors:
        if name in model.problem.held:
            raise LabelError(f"prior of {name}: {model.name} holds it at {model.problem.held[name]:g}")
    if spectrum.frame == "rest" and "v_rad" not in priors:
        priors = {**priors, "v_rad": Uniform(low=-_REST_V_RAD, high=_REST_V_RAD)}
    return model.labels.with_priors(priors)


def infer_together(
    spectra: Sequence[Spectrum],
    model: Model,
    settings: Sequence[Settings],
    progress: Callable[[str], None] = lambda _: None,
    inside: NDArray[np.bool_] | None = None,
    nested: bool = True,
) -> list[Posterior | Exception]:
    """Infer several spectra side by side.

    Parameters
    ----------
    spectra, model
        What was observed, and with what it is explained.
    settings
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
    found: list[Posterior | Exception | None] = [None] * len(spectra)
    observed, problems, inputs = list(spectra), {}, {}
    for i, spectrum in enumerate(spectra):
        try:
            if not spectrum.good.any():
                raise InferenceError(ALL_MASKED, "all_masked")
            observed[i] = model.observed(spectrum)
            problem = replace(model.problem, labels=labels_for(observed[i], model, settings[i].priors))
            problems[i] = problem, problem.likelihood(observed[i], inside)
            progress("flow")
            inputs[i] = to_model_grid(observed[i], model)
        except Exception as error:
            found[i] = error
    started = [i for i in range(len(spectra)) if found[i] is None]
    if started:
        flux, ivar = (torch.cat([inputs[i][k] for i in started]) for k in (0, 1))
        with torch.no_grad():
            context = model.estimator.context(flux, ivar)
            novelty = (
                None if model.novelty is None else model.novelty.p_value(model.estimator, flux, ivar, context)
            )
        steps = [
            _steps(
                observed[i],
                model,
                *problems[i],
                settings[i],
                context,
                row,
                novelty,
                inputs[i],
                nested,
                progress,
            )
            for row, i in enumerate(started)
        ]
        for i, result in zip(started, together(steps), strict=True):
            found[i] = result
    seconds = (time.perf_counter() - began) / len(spectra)
    return [replace(f, seconds=seconds) if isinstance(f, Posterior) else f for f in found if f is not None]


def _steps(
    spectrum: Spectrum,
    model: Model,
    problem: Problem,
    likelihood: Single,
    settings: Settings,
    context: Context,
    row: int,
    novelty: torch.Tensor | None,
    network_input: tuple[torch.Tensor, torch.Tensor],
    nested: bool,
    progress: Callable[[str], None],
) -> Steps[Posterior]:
    """Infer one spectrum, the one at ``row`` of the context."""
    verified = yield from verify(
        likelihood,
        problem.inferred,
        Flow(model.estimator, context, problem.stellar, row),
        draws=settings.draws,
        generator=torch.Generator().manual_seed(settings.seed),
        nested=nested,
        noise=settings.noise,
        progress=progress,
    )
    p_novelty = None if novelty is None else float(novelty[row])
    posterior = posterior_of(
        verified, spectrum, model, problem.inferred, network_input, p_novelty, settings.false_alarm
    )
    return replace(posterior, provenance=provenance(model, settings.seed))


def posterior_of(
    verified: Verified,
    spectrum: Spectrum,
    model: Model,
    labels: LabelSet,
    network_input: tuple[torch.Tensor, torch.Tensor],
    p_novelty: float | None,
    false_alarm: float,
) -> Posterior:
    """Return what was verified as a posterior, with its fit and flags; ``network_input`` as of `to_model_grid`."""
    theta = labels.from_normal(verified.draws.u)
    best = theta[(verified.draws.log_likelihood + verified.draws.log_prior).argmax()]
    fit = verified.target.likelihood.fit(best)
    v_rad = float(best[labels.index("v_rad")]) if "v_rad" in labels.names else model.problem.held["v_rad"]
    degree = model.problem.degree
    misfit = check_misfit(fit, spectrum, v_rad, len(labels), p_novelty, false_alarm, degree)
    preparation = getattr(model.estimator.featurizer, "preparation", None)
    bad = faults(verified.target, best, verified.log_evidence, fit, spectrum, preparation, network_input)
    weights = torch.softmax(verified.log_weights, 0).numpy()
    diagnostics = Diagnostics(
        misfit=misfit,
        residuals=None if verified.residuals is None else _process(verified.residuals),
        systematic=_between_libraries(model, labels, theta.numpy(), weights),
    )
    return Posterior(
        labels=labels,
        draws=theta.numpy(),
        log_weights=verified.log_weights.numpy(),
        log_likelihood=verified.draws.log_likelihood.numpy(),
        log_prior=verified.draws.log_prior.numpy(),
        log_proposal=verified.draws.log_proposal.numpy(),
        flow_draws=labels.select(model.estimator.labels.names).from_normal(verified.flow).numpy(),
        khat=verified.khat,
        ess=verified.ess,
        log_evidence=verified.log_evidence,
        method=verified.method,
        fit=fit,
        spectrum=spectrum,
        model=model.name,
        flag_warn=(*warnings(verified, fit, spectrum, model, labels), *misfit.flags()),
        flag_bad=tuple(bad),
        evaluations=verified.evaluations,
        held=dict(model.problem.held),
        target=verified.target,
        diagnostics=diagnostics,
    )


def _process(found: Residuals) -> ResidualProcess:
    correlation = found.correlation
    return ResidualProcess(
        correlation.amplitude, correlation.in_lines, correlation.scale, found.gain, found.used
    )


def _between_libraries(
    model: Model, labels: LabelSet, draws: NDArray[np.float64], weights: NDArray[np.float64]
) -> dict[str, BetweenLibraries]:
    """Labels with the error between libraries added, and that error; nothing where it is not known."""
    systematic = model.systematic
    if systematic is None or "teff" not in labels.names:
        return {}
    teff = weighted_quantile(draws[:, labels.index("teff")], weights, 0.5)
    if not systematic.applies(teff):
        return {}
    wide = systematic.scattered(labels.names, draws, labels.low.numpy(), labels.high.numpy())
    summary = summarise(labels, wide, weights)
    return {
        name: BetweenLibraries(**{key: summary[name][key] for key in (*QUANTILES, "std")}, sigma=sigma)
        for name, sigma in zip(systematic.names, systematic.sigma, strict=True)
        if name in labels.names
    }
