"""Verified posteriors beside exact references on the same likelihood: nested sampling, and chains."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from maury.checks.calibration import REAL_MASKS, simulated_spectrum
from maury.checks.comparison import c2st, jensen_shannon
from maury.checks.runs import Key, run
from maury.errors import InferenceError
from maury.inference.infer import infer
from maury.labels import LabelSet
from maury.likelihood.target import Target
from maury.models import Model
from maury.posterior.result import Posterior
from maury.sampling.chains import ChainConfig, emcee_chains, nuts_chains
from maury.sampling.nested import nested_sampling
from maury.training.simulations import Observing

Reference = Literal["nested", "emcee", "nuts"]
REFERENCES: tuple[Reference, ...] = ("nested", "emcee", "nuts")
# Draws that the classifier and the densities are given of each side.
_COMPARED = 5000
_NUTS_DRAWS, _NUTS_WARMUP, _NUTS_CHAINS = 1500, 300, 2


@dataclass(frozen=True)
class Comparison:
    """One spectrum, verified and by a reference.

    Attributes
    ----------
    spectrum
        Its number among those of the seed.
    reference
        ``"nested"``, ``"emcee"`` or ``"nuts"``.
    snr, khat, method
        Of the spectrum and its verified posterior.
    c2st
        Classifier two-sample score.
    jensen_shannon
        Millinats, by label.
    shift, width
        Difference of the medians in sigma of the reference, and ratio of the standard deviations, by label.
    evidence_difference
        Log evidence, verified minus reference; NaN for chains, which have none.
    evidence_error
        Of the verified one, from the scatter of its weights.
    evaluations, seconds, reference_evaluations, reference_seconds
        Cost of the usual verification (1,000 draws a round) and of the reference.
    converged
        Whether the reference's own stop rule was met.
    """

    spectrum: int
    reference: str
    snr: float
    khat: float
    method: str
    c2st: float
    jensen_shannon: dict[str, float]
    shift: dict[str, float]
    width: dict[str, float]
    evidence_difference: float
    evidence_error: float
    evaluations: int
    seconds: float
    reference_evaluations: int
    reference_seconds: float
    converged: bool


@dataclass(frozen=True)
class _Sample:
    """Equally weighted draws ``(n, n_labels)`` of a reference, and what it cost."""

    draws: NDArray[np.float64]
    log_evidence: float
    evaluations: int
    converged: bool


def _reference(
    kind: Reference, target: Target, start: torch.Tensor, seed: int, live: int, ess: float
) -> _Sample:
    labels = target.labels
    if kind == "nested":
        generator = torch.Generator().manual_seed(seed)
        nested = nested_sampling(target, generator, live=live, ess=ess)
        rows = torch.multinomial(
            nested.log_weights.exp(), 2 * _COMPARED, replacement=True, generator=generator
        )
        draws = labels.from_normal(nested.draws.u[rows]).numpy()
        return _Sample(draws, nested.log_evidence, nested.evaluations, True)
    if kind == "emcee":
        chains = emcee_chains(target, start, ChainConfig(steps=8000, look=500), seed=seed)
    else:
        chains = nuts_chains(
            target, start, draws=_NUTS_DRAWS, warmup=_NUTS_WARMUP, chains=_NUTS_CHAINS, seed=seed
        )
    order = np.random.default_rng(seed).permutation(len(chains.draws))
    return _Sample(chains.draws[order], np.nan, chains.evaluations, chains.converged)


def _distinct(posterior: Posterior, seed: int) -> NDArray[np.float64]:
    """Equally weighted draws, none of them twice: a classifier would learn the copies by heart."""
    rng = np.random.default_rng(seed)
    n = min(_COMPARED, int(1 / posterior.weights.max()))
    # Systematic resampling: with n weights below 1 / n no draw is taken twice.
    at = np.searchsorted(np.cumsum(posterior.weights), (rng.random() + np.arange(n)) / n)
    return rng.permutation(posterior.draws[np.minimum(at, len(posterior.draws) - 1)])


def _evidence_error(posterior: Posterior) -> float:
    """Relative standard error of the mean weight, which is that of the log evidence."""
    return float(np.sqrt(max(1 / posterior.ess - 1 / len(posterior.draws), 0.0)))


def _by_label(posterior: Posterior, sample: _Sample, labels: LabelSet) -> tuple[dict[str, float], ...]:
    divergence, shift, width = {}, {}, {}
    for i, name in enumerate(labels.names):
        x = sample.draws[: 2 * _COMPARED, i]
        sigma = float(x.std())
        divergence[name] = 1e3 * jensen_shannon(posterior.draws[:, i], x, posterior.weights)
        shift[name] = (posterior.quantile(name, 0.5) - float(np.median(x))) / sigma
        mean = float(posterior.weights @ posterior.draws[:, i])
        spread = np.sqrt(posterior.weights @ np.square(posterior.draws[:, i] - mean))
        width[name] = float(spread) / sigma
    return divergence, shift, width


def compare(
    model: Model,
    number: int,
    *,
    references: Sequence[Reference] = ("nested",),
    snr: tuple[float, float] = (10.0, 300.0),
    draws: int = 10_000,
    live: int = 2000,
    ess: float = 10_000,
    seed: int = 0,
    jobs: int = 1,
    store: Path | None = None,
) -> Iterator[Comparison]:
    """Infer spectra simulated from the prior on the instrument's native pixels, and compare each with references.

    Parameters
    ----------
    model
        The model.
    number
        Spectra.
    references
        Samplers to compare with.
    snr
        Range of the S/N, log-uniform.
    draws
        Importance draws of the verified posterior that is compared; its cost is told of the usual 1,000.
    live, ess
        Live points of nested sampling, and the effective sample size asked of it.
    seed
        Of everything.
    jobs
        Processes.
    store
        A file that comparisons are added to, and from which an interrupted run goes on.

    Raises
    ------
    ConfigError
        If ``store`` is of other settings.
    """
    settings = {"draws": draws, "live": live, "ess": ess, "seed": seed, "snr": list(snr)}
    task = partial(_compare, draws=draws, live=live, ess=ess, seed=seed, snr=snr)
    keys = [[i, kind] for i in range(number) for kind in references]
    for plain in run(model, task, keys, jobs=jobs, store=store, settings={"model": model.name} | settings):
        yield Comparison(**plain)


def _compare(
    model: Model, key: Key, *, draws: int, live: int, ess: float, seed: int, snr: tuple[float, float]
) -> dict[str, Any]:
    """Compare the spectrum and the reference of ``key``."""
    i, kind = key
    spectrum, _, ratio = simulated_spectrum(
        model, i, "native", seed, Observing(snr=snr, masked=REAL_MASKS, nuisances="default")
    )
    usual = infer(spectrum, model, seed=seed + i)
    posterior = infer(spectrum, model, draws=draws, seed=seed + i)
    if posterior.target is None:
        raise InferenceError("the posterior lost its likelihood")
    start = posterior.labels.to_normal(torch.from_numpy(posterior.sample(500)))
    began = time.perf_counter()
    sample = _reference(kind, posterior.target, start, seed + i, live, ess)
    seconds = time.perf_counter() - began
    divergence, shift, width = _by_label(posterior, sample, posterior.labels)
    comparison = Comparison(
        spectrum=i,
        reference=kind,
        snr=ratio,
        khat=posterior.khat,
        method=posterior.method,
        c2st=c2st(_distinct(posterior, i), sample.draws[:_COMPARED]),
        jensen_shannon=divergence,
        shift=shift,
        width=width,
        evidence_difference=posterior.log_evidence - sample.log_evidence,
        evidence_error=_evidence_error(posterior),
        evaluations=usual.evaluations,
        seconds=usual.seconds,
        reference_evaluations=sample.evaluations,
        reference_seconds=seconds,
        converged=sample.converged,
    )
    return asdict(comparison)


def summary(comparisons: Sequence[Comparison]) -> dict[str, Any]:
    """Return figures over all spectra, by reference."""
    out: dict[str, Any] = {}
    for kind in dict.fromkeys(c.reference for c in comparisons):
        found = [c for c in comparisons if c.reference == kind]
        names = list(found[0].jensen_shannon)
        evidence = np.array([c.evidence_difference for c in found])
        out[kind] = {
            "spectra": len(found),
            "c2st_median": float(np.median([c.c2st for c in found])),
            "c2st_max": max(c.c2st for c in found),
            "jensen_shannon_median": {
                n: float(np.median([c.jensen_shannon[n] for c in found])) for n in names
            },
            "jensen_shannon_max": {n: max(c.jensen_shannon[n] for c in found) for n in names},
            "shift_max": max(abs(c.shift[n]) for c in found for n in names),
            "width_range": [f(c.width[n] for c in found for n in names) for f in (min, max)],
            "evidence_within_0.1": int(np.sum(np.abs(evidence) < 0.1)),
            "evidence_difference_median": float(np.median(evidence)),
            "cost_ratio_median": float(np.median([c.reference_evaluations / c.evaluations for c in found])),
            "seconds_ratio_median": float(np.median([c.reference_seconds / c.seconds for c in found])),
            "converged": sum(c.converged for c in found),
        }
    return out
