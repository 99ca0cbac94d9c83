"""``maury.infer``: from a spectrum to its verified posterior."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
from numpy.typing import NDArray

from maury.errors import Failure, InferenceError, LabelError, failure_of
from maury.forward.likelihood import usable_pixels
from maury.labels import LabelSet, Prior, Uniform
from maury.models import DEFAULT, Model, load_model, shipped
from maury.networks.context import Context
from maury.posterior.flags import check_misfit, disagreement, faults, warnings
from maury.posterior.proposal import Flow
from maury.posterior.residuals import Noise
from maury.posterior.result import Posterior
from maury.posterior.verify import KHAT_LIMIT, Verified, verify
from maury.spectra.registry import read_all, read_spectrum
from maury.spectra.regrid import on_network_grid
from maury.spectra.spectrum import Spectrum

# km/s around 0 in which a spectrum that its survey moved to rest is searched.
_REST_V_RAD = 30.0
# Models whose evidences differ by more than this (nats) need no better ones to be told apart.
_CLOSE = 20.0
AUTO = "auto"


@dataclass(frozen=True)
class _Settings:
    draws: int
    seed: int
    priors: Mapping[str, Prior]
    noise: Noise
    false_alarm: float

    def __post_init__(self) -> None:
        if self.draws < 100:
            raise InferenceError(f"draws must be at least 100 for the weights to be judged, not {self.draws}")
        if self.noise not in get_args(Noise):
            raise InferenceError(f"noise: {self.noise!r} is not one of {', '.join(get_args(Noise))}")
        if not 0 < self.false_alarm < 1:
            raise InferenceError(f"false_alarm must lie between 0 and 1, not {self.false_alarm:g}")


def to_model_grid(spectrum: Spectrum, model: Model) -> tuple[torch.Tensor, torch.Tensor]:
    """Flux and inverse variance on the grid that the networks take, ``(1, n_pixels)`` float32 each."""
    spectrograph = model.problem.spectrograph
    flux, ivar = on_network_grid(spectrum, spectrograph)
    level = 1.0
    # Single precision overflows on inverse variances of fluxes near 1e-17: bring the level to 1, unless it is known and has a meaning.
    if model.problem.degree is not None and (ivar > 0).any():
        level = float(np.median(np.abs(flux[ivar > 0]))) or 1.0
    usable = model.forward.usable(spectrograph.grid.wavelength, model.labels)
    scaled = (flux / level, np.where(usable, ivar * level**2, 0.0))
    a, b = (torch.from_numpy(x).float()[None] for x in scaled)
    return a, b


def infer(
    spectrum: Spectrum | str | Path,
    model: Model | str | Path = DEFAULT,
    *,
    draws: int = 1000,
    seed: int = 0,
    priors: Mapping[str, Prior] | None = None,
    noise: Noise = "auto",
    false_alarm: float = 0.01,
    progress: Callable[[str], None] = lambda _: None,
) -> Posterior:
    """Infer a star's labels from its spectrum.

    Parameters
    ----------
    spectrum
        A spectrum or the path of a file, of which the first spectrum is taken.
    model
        Name, folder, or a loaded model. ``"auto"`` runs all shipped models that cover the spectrum and lets the evidence choose.
    draws
        Importance draws a round; more rounds are added while the weights are uneven.
    seed
        The same seed gives the same draws on the same device.
    priors
        Priors that replace the model's, by label; each must lie inside the model's. A spectrum at rest gets ``v_rad`` within 30 km/s of 0
        unless this says otherwise.
    noise
        ``"independent"`` pixels; ``"correlated"`` residuals, an Ornstein-Uhlenbeck process whose amplitude and length are fitted; or
        ``"auto"``: correlated where that gains more than 5 nats, as on real spectra it does.
    false_alarm
        Share of good spectra that may be flagged ``misfit``, and ``novel``.
    progress
        Told what stage begins.

    Returns
    -------
    Posterior

    Raises
    ------
    SpectrumError, ModelError
        If a file cannot be used.
    LabelError
        If a prior is of no label of the model or reaches beyond its range.
    InferenceError
        If the spectrum cannot be inferred: no usable pixels, none inside the model's wavelengths, or no line-spread function.

    Examples
    --------
    >>> posterior = maury.infer("apVisit-r13-9518-57729-104.fits")  # doctest: +SKIP
    >>> posterior.summary()["teff"]  # doctest: +SKIP
    """
    if model != AUTO and not isinstance(model, Model):
        model = load_model(model)
    if not isinstance(spectrum, Spectrum):
        spectrum = read_spectrum(spectrum, instrument=model.instrument if isinstance(model, Model) else None)
    settings = _Settings(draws, seed, priors or {}, noise, false_alarm)
    if not spectrum.good.any():
        raise InferenceError("every pixel is masked: nothing to infer from", "all_masked")
    if not isinstance(model, Model):
        return _choose(spectrum, settings, progress)
    return _infer(spectrum, model, settings, progress)


def _infer(
    spectrum: Spectrum,
    model: Model,
    settings: _Settings,
    progress: Callable[[str], None],
    inside: NDArray[np.bool_] | None = None,
    nested: bool = True,
) -> Posterior:
    began = time.perf_counter()
    spectrum = model.observed(spectrum)
    problem = replace(model.problem, labels=labels_for(spectrum, model, settings.priors))
    labels, likelihood = problem.inferred, problem.likelihood(spectrum, inside)
    progress("flow")
    network_input = to_model_grid(spectrum, model)
    with torch.no_grad():
        context = model.estimator.context(*network_input)
    flow = Flow(model.estimator, context, problem.stellar)
    verified = verify(
        likelihood,
        labels,
        flow,
        draws=settings.draws,
        generator=torch.Generator().manual_seed(settings.seed),
        nested=nested,
        noise=settings.noise,
        progress=progress,
    )
    posterior = _posterior(verified, spectrum, model, labels, network_input, context, settings.false_alarm)
    return replace(posterior, seconds=time.perf_counter() - began)


def infer_files(
    files: Iterable[str | Path],
    model: Model | str | Path = DEFAULT,
    *,
    draws: int = 1000,
    seed: int = 0,
    priors: Mapping[str, Prior] | None = None,
    noise: Noise = "auto",
    false_alarm: float = 0.01,
    progress: Callable[[str], None] = lambda _: None,
) -> Iterator[Posterior | Failure]:
    """Infer every spectrum of some files; one that fails does not stop the others.

    Parameters
    ----------
    files
        Files of any format, each with one spectrum or many.
    model, draws, seed, priors, noise, false_alarm, progress
        As for `infer`.

    Yields
    ------
    Posterior or Failure
        In the order of the files and of the spectra in them.
    """
    if model != AUTO and not isinstance(model, Model):
        model = load_model(model)
    for spectrum in read_all(files, model.instrument if isinstance(model, Model) else None):
        if isinstance(spectrum, Failure):
            yield spectrum
            continue
        file, index = Path(spectrum.path), spectrum.index
        stage = partial(_stage, progress, f"{file}" + (f" [{index}]" if index else ""))
        try:
            yield infer(
                spectrum, model, draws=draws, seed=seed, priors=priors, noise=noise,
                false_alarm=false_alarm, progress=stage,
            )  # fmt: skip
        except Exception as error:
            yield failure_of(file, index, error)


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


def _choose(spectrum: Spectrum, settings: _Settings, progress: Callable[[str], None]) -> Posterior:
    """Infer with every shipped model that covers the spectrum, on the same pixels; return the one of the highest evidence."""
    began = time.perf_counter()
    models = [load_model(name) for name in shipped(estimators=True)]
    inside = {
        m.name: usable_pixels(spectrum, m.forward, labels_for(spectrum, m, settings.priors)) for m in models
    }
    models = [m for m in models if inside[m.name].any()]
    if not models:
        return _infer(spectrum, load_model(DEFAULT), settings, progress)
    common = np.logical_and.reduce([inside[m.name] for m in models])
    found, failures = [], {}
    for m in models:
        try:
            stage = partial(_stage, progress, m.name)
            found.append(_infer(spectrum, m, settings, stage, common, nested=False))
        except InferenceError as error:
            failures[m.name] = error
    if not found:
        raise next(iter(failures.values()))
    best = max(found, key=lambda posterior: posterior.log_evidence)
    # Where the winner's weights are poor, or a rival is near, the exact evidence decides.
    close = [p for p in found if p.khat > KHAT_LIMIT and p.log_evidence > best.log_evidence - _CLOSE]
    for rough in close:
        m = next(m for m in models if m.name == rough.model)
        found[found.index(rough)] = _infer(spectrum, m, settings, progress, common)
    best = max(found, key=lambda posterior: posterior.log_evidence)
    evidence = np.array([p.log_evidence for p in found])
    share = np.exp(evidence - evidence.max())
    tried = [
        {"model": p.model, "log_evidence": p.log_evidence, "probability": float(s)}
        for p, s in zip(found, share / share.sum(), strict=True)
    ]
    return replace(
        best,
        extra={**best.extra, "models": tried},
        flag_warn=(*best.flag_warn, *disagreement(found)),
        seconds=time.perf_counter() - began,
    )


def _stage(progress: Callable[[str], None], model: str, stage: str) -> None:
    progress(f"{model}: {stage}")


def _posterior(
    verified: Verified,
    spectrum: Spectrum,
    model: Model,
    labels: LabelSet,
    network_input: tuple[torch.Tensor, torch.Tensor],
    context: Context,
    false_alarm: float,
) -> Posterior:
    theta = labels.from_normal(verified.draws.u)
    best = theta[(verified.draws.log_likelihood + verified.draws.log_prior).argmax()]
    fit = verified.target.likelihood.fit(best)
    v_rad = float(best[labels.index("v_rad")]) if "v_rad" in labels.names else model.problem.held["v_rad"]
    p_novelty = None
    if model.novelty is not None:
        p_novelty = float(model.novelty.p_value(model.estimator, *network_input, context))
    misfit = check_misfit(fit, spectrum, v_rad, len(labels), p_novelty, false_alarm)
    preparation = getattr(model.estimator.featurizer, "preparation", None)
    bad = faults(verified.target, best, verified.log_evidence, fit, spectrum, preparation, network_input)
    extra: dict[str, Any] = {"misfit": misfit.to_json()}
    if verified.residuals is not None:
        extra["residuals"] = verified.residuals.to_json()
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
        extra=extra,
    )
