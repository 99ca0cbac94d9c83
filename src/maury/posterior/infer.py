"""``maury.infer``: from a spectrum to its verified posterior."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from maury.errors import Failure, InferenceError, LabelError, MauryError
from maury.forward.likelihood import usable_pixels
from maury.labels import LabelSet, Prior, Uniform
from maury.models import DEFAULT, Model, load_model, shipped
from maury.posterior.proposal import Flow
from maury.posterior.result import Posterior
from maury.posterior.verify import KHAT_LIMIT, Verified, verify
from maury.spectra.registry import read_spectra, read_spectrum
from maury.spectra.regrid import on_apstar_grid
from maury.spectra.spectrum import Spectrum, apstar_grid

# A posterior with this share of its mass in the outermost hundredth of a prior piles up at the bound.
_PILE_UP = 0.1
# Bounds at which a star may rightly sit: no rotation that can be seen, no model error that can be seen.
_NATURAL_BOUNDS = {("v_sini", "low"), ("jitter", "low")}
_HIGH_JITTER = 0.05
_POOR_FIT = 1.5
_LOW_SNR = 10.0
# km/s: rotation below this is no wider than what is not known of an average line-spread function.
_SLOW = 10.0
# km/s around 0 in which a spectrum that its survey moved to rest is searched.
_REST_V_RAD = 30.0
# Models whose evidences differ by more than this (nats) need no better ones to be told apart.
_CLOSE = 20.0
AUTO = "auto"


def to_model_grid(spectrum: Spectrum, model: Model) -> tuple[torch.Tensor, torch.Tensor]:
    """Flux and inverse variance on the grid that the networks take, ``(1, n_pixels)`` float32 each."""
    flux, ivar = on_apstar_grid(spectrum)
    # Single precision overflows on inverse variances of fluxes near 1e-17: bring the level to 1.
    level = float(np.median(np.abs(flux[ivar > 0]))) if (ivar > 0).any() else 1.0
    level = level or 1.0
    usable = model.forward.usable(apstar_grid().wavelength, model.labels)
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
    if not isinstance(spectrum, Spectrum):
        spectrum = read_spectrum(spectrum)
    if draws < 100:
        raise InferenceError(f"draws must be at least 100 for the weights to be judged, not {draws}")
    if not spectrum.good.any():
        raise InferenceError("every pixel is masked: nothing to infer from", "all_masked")
    if isinstance(model, str) and model == AUTO:
        return _choose(spectrum, draws, seed, priors or {}, progress)
    if not isinstance(model, Model):
        model = load_model(model)
    return _infer(spectrum, model, draws, seed, priors or {}, progress)


def _infer(
    spectrum: Spectrum,
    model: Model,
    draws: int,
    seed: int,
    priors: Mapping[str, Prior],
    progress: Callable[[str], None],
    inside: NDArray[np.bool_] | None = None,
    nested: bool = True,
) -> Posterior:
    began = time.perf_counter()
    problem = replace(model.problem, labels=labels_for(spectrum, model, priors))
    labels, likelihood = problem.inferred, problem.likelihood(spectrum, inside)
    progress("flow")
    with torch.no_grad():
        context = model.estimator.context(*to_model_grid(spectrum, model))
    flow = Flow(model.estimator, context, problem.stellar)
    generator = torch.Generator().manual_seed(seed)
    verified = verify(
        likelihood, labels, flow, draws=draws, generator=generator, nested=nested, progress=progress
    )
    return _posterior(verified, spectrum, model, labels, time.perf_counter() - began)


def infer_files(
    files: Iterable[str | Path],
    model: Model | str | Path = DEFAULT,
    *,
    draws: int = 1000,
    seed: int = 0,
    priors: Mapping[str, Prior] | None = None,
    progress: Callable[[str], None] = lambda _: None,
) -> Iterator[Posterior | Failure]:
    """Infer every spectrum of some files; one that fails does not stop the others.

    Parameters
    ----------
    files
        Files of any format, each with one spectrum or many.
    model, draws, seed, priors, progress
        As for `infer`.

    Yields
    ------
    Posterior or Failure
        In the order of the files and of the spectra in them.
    """
    for file in map(Path, files):
        spectra, index = read_spectra(file), 0
        while True:
            # Reading and inferring may each fail; after a failed read the rest of the file is lost.
            try:
                spectrum = next(spectra)
            except StopIteration:
                break
            except Exception as error:
                yield _failure(file, index, error)
                break
            stage = partial(_stage, progress, f"{file}" + (f" [{index}]" if index else ""))
            try:
                yield infer(spectrum, model, draws=draws, seed=seed, priors=priors, progress=stage)
            except Exception as error:
                yield _failure(file, index, error)
            index += 1


def _failure(path: Path, index: int, error: Exception) -> Failure:
    if isinstance(error, MauryError):
        return Failure(path, index, error.flag, str(error))
    if "--debug" in sys.argv:
        raise error
    reason = f"internal error, please report it ({type(error).__name__}: {error})"
    return Failure(path, index, "internal_error", reason)


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


def _choose(
    spectrum: Spectrum, draws: int, seed: int, priors: Mapping[str, Prior], progress: Callable[[str], None]
) -> Posterior:
    """Infer with every shipped model that covers the spectrum, on the same pixels; return the one of the highest evidence."""
    began = time.perf_counter()
    models = [load_model(name) for name in shipped(estimators=True)]
    inside = {m.name: usable_pixels(spectrum, m.forward, labels_for(spectrum, m, priors)) for m in models}
    models = [m for m in models if inside[m.name].any()]
    if not models:
        return _infer(spectrum, load_model(DEFAULT), draws, seed, priors, progress)
    common = np.logical_and.reduce([inside[m.name] for m in models])
    found, failures = [], {}
    for m in models:
        try:
            stage = partial(_stage, progress, m.name)
            found.append(_infer(spectrum, m, draws, seed, priors, stage, common, nested=False))
        except InferenceError as error:
            failures[m.name] = error
    if not found:
        raise next(iter(failures.values()))
    best = max(found, key=lambda posterior: posterior.log_evidence)
    # Where the winner's weights are poor, or a rival is near, the exact evidence decides.
    close = [p for p in found if p.khat > KHAT_LIMIT and p.log_evidence > best.log_evidence - _CLOSE]
    for rough in close:
        m = next(m for m in models if m.name == rough.model)
        found[found.index(rough)] = _infer(spectrum, m, draws, seed, priors, progress, common)
    best = max(found, key=lambda posterior: posterior.log_evidence)
    evidence = np.array([p.log_evidence for p in found])
    share = np.exp(evidence - evidence.max())
    tried = [
        {"model": p.model, "log_evidence": p.log_evidence, "probability": float(s)}
        for p, s in zip(found, share / share.sum(), strict=True)
    ]
    return replace(best, extra={**best.extra, "models": tried}, seconds=time.perf_counter() - began)


def _stage(progress: Callable[[str], None], model: str, stage: str) -> None:
    progress(f"{model}: {stage}")


def _posterior(
    verified: Verified, spectrum: Spectrum, model: Model, labels: LabelSet, seconds: float
) -> Posterior:
    theta = labels.from_normal(verified.draws.u)
    best = (verified.draws.log_likelihood + verified.draws.log_prior).argmax()
    fit = verified.target.likelihood.fit(theta[best])
    weights = (verified.log_weights - torch.logsumexp(verified.log_weights, 0)).exp().numpy()
    jitter = float(weights @ theta[:, -1].numpy()) if labels.names[-1] == "jitter" else 0.0
    warn = _at_bounds(labels, theta.numpy(), weights)
    warn += ["second_mode"] * (len(verified.modes.u) > 1)
    warn += ["high_jitter"] * (jitter > _HIGH_JITTER)
    warn += ["poor_fit"] * (fit.rchi2_jitter > _POOR_FIT)
    warn += ["low_snr"] * (spectrum.snr < _LOW_SNR)
    warn += ["average_lsf"] * (model.forward.emulator.contained is not None and _slow(labels, theta, weights))
    warn += ["assumed_lsf"] * (spectrum.meta.get("lsf_source") == "assumed")
    warn += ["khat"] * (verified.khat > KHAT_LIMIT)
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
        flag_warn=tuple(warn),
        seconds=seconds,
        evaluations=verified.evaluations,
        held=dict(model.problem.held),
        target=verified.target,
    )


def _slow(labels: LabelSet, theta: torch.Tensor, weights: NDArray[np.float64]) -> bool:
    """Tell whether the rotation found is slow enough to rest on the library's average line-spread function."""
    if "v_sini" not in labels.names:
        return False
    v_sini = theta[:, labels.index("v_sini")].numpy()
    return bool(weights @ (v_sini < _SLOW) > 0.5)


def _at_bounds(labels: LabelSet, theta: NDArray[np.float64], weights: NDArray[np.float64]) -> list[str]:
    """Return flags ``at_bound:<label>`` of labels whose posterior piles up at an end of the prior."""
    flags = []
    for i, label in enumerate(labels.labels):
        margin = 0.01 * (label.prior.high - label.prior.low)
        ends = {
            "low": theta[:, i] < label.prior.low + margin,
            "high": theta[:, i] > label.prior.high - margin,
        }
        if any(
            weights @ near > _PILE_UP and (label.name, end) not in _NATURAL_BOUNDS
            for end, near in ends.items()
        ):
            flags.append(f"at_bound:{label.name}")
    return flags
