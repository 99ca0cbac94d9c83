"""``maury.infer``: from a spectrum to its verified posterior."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from maury.errors import Failure, InferenceError, failure_of
from maury.inference.batch import Settings, infer_together, labels_for
from maury.inference.companion import Companion, with_companion
from maury.inference.flagging import disagreement
from maury.likelihood.pixels import usable_pixels
from maury.likelihood.residuals import Noise
from maury.models import DEFAULT, Model, load_model, shipped
from maury.posterior.diagnostics import Tried
from maury.posterior.result import Posterior
from maury.priors import Prior
from maury.sampling.importance import KHAT_LIMIT
from maury.spectra.formats.registry import read_all, read_spectrum
from maury.spectra.spectrum import Spectrum

# Models whose evidences differ by more than this (nats) need no better ones to be told apart.
_CLOSE = 20.0
AUTO = "auto"


def infer(
    spectrum: Spectrum | str | Path,
    model: Model | str | Path = DEFAULT,
    *,
    draws: int = 1000,
    seed: int = 0,
    priors: Mapping[str, Prior] | None = None,
    noise: Noise = "auto",
    companion: Companion = "no",
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
    companion
        ``"auto"`` looks for a second star in the spectrum where a flag says that one does not explain it, and adds its labels where that
        gains more than 20 nats of evidence; ``"yes"`` adds them in any case. See `maury.inference.companion`.
    false_alarm
        Share of good spectra that may be flagged ``misfit``, and ``novel``.
    progress
        Told what stage begins, and now and then that it goes on; what it raises ends the inference.

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
        If the spectrum cannot be inferred: no usable pixels, none inside the model's wavelengths, or no line-spread function; or if a
        companion is asked of a model that holds labels.

    Examples
    --------
    >>> posterior = maury.infer("apVisit-r13-9518-57729-104.fits")  # doctest: +SKIP
    >>> posterior.summary()["teff"]  # doctest: +SKIP
    """
    if model != AUTO and not isinstance(model, Model):
        model = load_model(model)
    if not isinstance(spectrum, Spectrum):
        spectrum = read_spectrum(spectrum, instrument=model.instrument if isinstance(model, Model) else None)
    settings = Settings(draws, seed, priors or {}, noise, false_alarm)
    if isinstance(model, Model):
        single = _infer(spectrum, model, settings, progress)
    else:
        single = _choose(spectrum, settings, progress)
        model = load_model(single.model)
    return with_companion(single, model, settings, companion, progress)


def infer_batch(
    spectra: Sequence[Spectrum],
    model: Model,
    *,
    draws: int = 1000,
    seeds: Sequence[int] | int = 0,
    priors: Mapping[str, Prior] | None = None,
    noise: Noise = "auto",
    false_alarm: float = 0.01,
) -> list[Posterior | Exception]:
    """Infer several spectra side by side: the same posteriors as one by one, up to rounding, in less time.

    Parameters
    ----------
    spectra
        A few tens on a processor, more on a GPU; each holds its line-spread operator in memory (6 MB for a visit).
    model
        A loaded model.
    seeds
        One for each spectrum, or one for all.
    draws, priors, noise, false_alarm
        As for `infer`.

    Returns
    -------
    list
        Of each spectrum the posterior, or what `infer` would have raised.
    """
    if isinstance(seeds, int):
        seeds = [seeds] * len(spectra)
    return infer_together(
        spectra, model, [Settings(draws, seed, priors or {}, noise, false_alarm) for seed in seeds]
    )


def _infer(
    spectrum: Spectrum,
    model: Model,
    settings: Settings,
    progress: Callable[[str], None],
    inside: NDArray[np.bool_] | None = None,
    nested: bool = True,
) -> Posterior:
    (found,) = infer_together([spectrum], model, [settings], progress, inside, nested)
    if isinstance(found, Exception):
        raise found
    return found


def infer_files(
    files: Iterable[str | Path],
    model: Model | str | Path = DEFAULT,
    *,
    draws: int = 1000,
    seed: int = 0,
    priors: Mapping[str, Prior] | None = None,
    noise: Noise = "auto",
    companion: Companion = "no",
    false_alarm: float = 0.01,
    progress: Callable[[str], None] = lambda _: None,
) -> Iterator[Posterior | Failure]:
    """Infer every spectrum of some files; one that fails does not stop the others.

    Parameters
    ----------
    files
        Files of any format, each with one spectrum or many.
    model, draws, seed, priors, noise, companion, false_alarm, progress
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
                companion=companion, false_alarm=false_alarm, progress=stage,
            )  # fmt: skip
        except Exception as error:
            yield failure_of(file, index, error)


def _choose(spectrum: Spectrum, settings: Settings, progress: Callable[[str], None]) -> Posterior:
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
    tried = tuple(
        Tried(p.model, p.log_evidence, float(s)) for p, s in zip(found, share / share.sum(), strict=True)
    )
    return replace(
        best,
        diagnostics=replace(best.diagnostics, models=tried),
        flag_warn=(*best.flag_warn, *disagreement(found)),
        seconds=time.perf_counter() - began,
    )


def _stage(progress: Callable[[str], None], model: str, stage: str) -> None:
    progress(f"{model}: {stage}")
