"""Simulation-based calibration: posteriors of spectra drawn from the prior must be right on average.

Talts et al. 2018, arXiv:1804.06788; for weighted draws the rank is the posterior's cumulative weight below the truth.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from maury.checks.coverage import highest_density_credibility, tarp_credibility
from maury.checks.runs import Key, run
from maury.inference.batch import infer_batch
from maury.labels import LabelSet
from maury.likelihood.ties import Tied
from maury.models import Model, to_model_grid
from maury.posterior.result import Posterior
from maury.quantities import Role
from maury.spectra.spectrum import Spectrum
from maury.training.simulations import (
    Observing,
    Simulator,
    detector,
    drawn_lsf,
    fibre_generator,
    pixels_named,
)

# Share of pixels that real visits lose by the default rule.
REAL_MASKS = (0.04, 0.12)
_BATCH = 25
# Between the seeds of a run's batches, so that no two runs share one.
SEEDS = 1_000_003
# Beyond this, u is a bound of the prior.
_FAR = 8.0


@dataclass(frozen=True)
class Outcome:
    """What one simulated spectrum showed.

    Attributes
    ----------
    truth, ranks
        By inferred label, nuisance included: the true value, and the verified posterior's weight below it.
    flow_ranks
        The same of the flow's, without the nuisance.
    credibility, flow_credibility
        Mass of the smallest region that reaches out to the truth, over u.
    tarp, flow_tarp
        Mass of the ball that does, around a random point.
    teff, v_sini, snr
        By which outcomes are binned.
    log_density
        Of the flow at the truth, in units of the priors' standard deviations.
    limit, limit_prior
        The information limit of that, without and with the prior's information.
    khat, efficiency, ess, method, seconds, evaluations
        As of `Posterior`.
    """

    truth: NDArray[np.float64]
    ranks: NDArray[np.float64]
    flow_ranks: NDArray[np.float64]
    credibility: float
    flow_credibility: float
    tarp: float
    flow_tarp: float
    teff: float
    v_sini: float
    snr: float
    log_density: float
    limit: float
    limit_prior: float
    khat: float
    efficiency: float
    ess: float
    method: str
    seconds: float
    evaluations: int


def information_limit(likelihood: Tied, theta: Tensor, labels: LabelSet) -> tuple[float, float]:
    """Best expected log density at the truth, ``0.5 ln det F - (d/2) ln(2 pi e)``, without and with the prior's information.

    ``F`` is the Fisher information of the marginalised likelihood over the labels (nuisance left out), in units of the priors'
    standard deviations; the prior adds the unit matrix. The first is minus infinity where a label leaves no trace, as v_sini = 0.
    """
    likelihood = likelihood.with_reference_continuum(theta).linearised(theta)
    stellar = [labels.index(name) for name in labels.without(Role.nuisance).names]
    fisher = likelihood.curvature(theta[None]).fisher[0][stellar][:, stellar]
    scale = labels.std[stellar]
    fisher = fisher * scale[:, None] * scale
    d = len(fisher)
    constant = -0.5 * d * math.log(2 * math.pi * math.e)
    plain, regular = (float(torch.linalg.slogdet(f)[1]) for f in (fisher, fisher + torch.eye(d).to(fisher)))
    return 0.5 * plain + constant, 0.5 * regular + constant


@dataclass(frozen=True)
class _Flow:
    """What the flow alone says of a truth: see `Outcome`."""

    log_density: float
    ranks: NDArray[np.float64]
    credibility: float
    tarp: float


@torch.no_grad()
def _judge_flow(
    model: Model, spectrum: Spectrum, theta: Tensor, draws: NDArray[np.float64], reference: Tensor
) -> _Flow:
    """Judge the estimator by its draws ``(n, n_labels)``, all true labels ``(n_all,)`` and a point over u ``(n_labels,)``."""
    labels = model.estimator.labels
    truth = theta[model.problem.columns(labels)][None]
    u = labels.to_normal(torch.cat([truth, torch.from_numpy(draws)]))
    context = model.estimator.context(*to_model_grid(spectrum, model))
    log_q = model.estimator.log_prob(u, context.repeat(len(u)))
    equal = np.full(len(draws), 1 / len(draws))
    scaled = u.clamp(-_FAR, _FAR).numpy()
    return _Flow(
        float(log_q[0] - labels.log_abs_det(u[:1])[0] + labels.std.log().sum()),
        np.asarray(equal @ (draws < truth.numpy())),
        highest_density_credibility(log_q[1:].numpy(), equal, float(log_q[0])),
        tarp_credibility(scaled[1:], equal, scaled[0], reference.numpy()),
    )


def rank(posterior: Posterior, truth: NDArray[np.float64]) -> NDArray[np.float64]:
    """Cumulative posterior weight below the truth, by label, shape ``(n_labels,)``: uniform on [0, 1] if posteriors are right."""
    return np.asarray(posterior.weights @ (posterior.draws < truth))


def simulated_spectra(
    model: Model,
    number: int,
    pixels: str,
    seed: int,
    observing: Observing | None = None,
    start: int = 0,
) -> Iterator[tuple[Spectrum, Tensor, float]]:
    """Yield spectra simulated from the prior, all their labels ``(n_all,)`` with nuisance, and the S/N drawn.

    Those from ``start``, a multiple of 25, to ``number``.
    """
    instrument, named = model.problem.spectrograph, pixels_named(pixels)
    grid, lsf = detector(instrument, named)
    observing = observing or Observing(masked=REAL_MASKS)
    simulator = None
    for first in range(start, number, _BATCH):
        # Each batch has a seed and a fibre of its own and is always whole: any spectrum is the same, however many are asked for.
        generator = torch.Generator().manual_seed(seed * SEEDS + first // _BATCH)
        if observing.fibres and instrument.varies:
            # From a stream of its own, so that the stars are those of the nominal fibre.
            lsf = drawn_lsf(instrument, named, fibre_generator(seed * SEEDS + first // _BATCH))
            simulator = None
        simulator = simulator or Simulator(model.problem, grid, observing, lsf)
        batch = simulator(_BATCH, generator)
        for i in range(min(_BATCH, number - first)):
            flux, ivar = batch.flux[i].double().numpy(), batch.ivar[i].double().numpy()
            yield (
                Spectrum(grid, flux, ivar, id=f"simulated-{first + i}", lsf=lsf),
                batch.labels[i],
                float(batch.snr[i]),
            )


def simulated_spectrum(
    model: Model, number: int, pixels: str, seed: int, observing: Observing | None = None
) -> tuple[Spectrum, Tensor, float]:
    """Return the spectrum of this number, counted from 0, of `simulated_spectra`."""
    start = number // _BATCH * _BATCH
    found = simulated_spectra(model, number + 1, pixels, seed, observing, start)
    return next(islice(found, number - start, None))


def calibrate(
    model: Model,
    number: int,
    *,
    draws: int = 1000,
    pixels: str = "native",
    seed: int = 0,
    observing: Observing | None = None,
    jobs: int = 1,
    store: Path | None = None,
) -> Iterator[Outcome]:
    """Infer ``number`` spectra simulated from the prior on the instrument's native pixels or on the grid that its networks take.

    Parameters
    ----------
    model
        The model.
    number, draws, seed
        Spectra, importance draws a round, and the seed of everything.
    pixels
        ``"native"`` or ``"network"``; of APOGEE also called ``"apvisit"`` and ``"apstar"``.
    observing
        How spectra are observed; by default as real visits are, nuisances drawn from their priors.
    jobs
        Processes; the outcomes are the same and in the same order, whatever their number.
    store
        A file that outcomes are added to, 25 at a time, and from which an interrupted run goes on.

    Raises
    ------
    ConfigError
        If ``pixels`` is none of these, or ``store`` is of other settings.
    """
    pixels = pixels_named(pixels)
    observing = observing or Observing(masked=REAL_MASKS, nuisances="default")
    task = partial(_batch, draws=draws, pixels=pixels, seed=seed, observing=observing)
    keys = [[first, min(first + _BATCH, number)] for first in range(0, number, _BATCH)]
    settings = {"model": model.name, "draws": draws, "pixels": pixels, "seed": seed}
    for outcomes in run(model, task, keys, jobs=jobs, store=store, settings=settings):
        yield from map(_outcome, outcomes)


def _plain(outcome: Outcome) -> dict[str, Any]:
    return {k: v.tolist() if isinstance(v, np.ndarray) else v for k, v in asdict(outcome).items()}


def _outcome(plain: dict[str, Any]) -> Outcome:
    values: dict[str, Any] = {k: np.array(v) if isinstance(v, list) else v for k, v in plain.items()}
    return Outcome(**values)


def _batch(
    model: Model, key: Key, *, draws: int, pixels: str, seed: int, observing: Observing | None
) -> list[dict[str, Any]]:
    """Infer and judge the spectra from the first to the second number of ``key``."""
    labels = model.problem.inferred
    found = []
    start, stop = key
    spectra = list(simulated_spectra(model, stop, pixels, seed, observing, start))
    nuisances = observing.nuisances if observing else "none"
    seeds = [seed + i for i in range(start, stop)]
    posteriors = infer_batch(
        [spectrum for spectrum, *_ in spectra], model, draws=draws, seeds=seeds, nuisances=nuisances
    )
    for i, posterior, (_, theta, snr) in zip(range(start, stop), posteriors, spectra, strict=True):
        if isinstance(posterior, Exception):
            raise posterior
        generator = torch.Generator().manual_seed((seed + 1) * SEEDS + i)
        reference = torch.randn(len(labels), generator=generator, dtype=torch.float64)
        found.append(_plain(_judge(model, posterior, theta, snr, reference, nuisances)))
    return found


def _judge(
    model: Model, posterior: Posterior, theta: Tensor, snr: float, reference: Tensor, nuisances: str
) -> Outcome:
    """Compare a posterior with the true labels ``(n_all,)``."""
    labels, spectrum = model.problem.inferred, posterior.spectrum
    free = theta[model.problem.columns(labels)]
    limits = information_limit(model.problem.likelihood(spectrum, nuisances=nuisances), free, labels)
    n_stellar = len(model.problem.stellar)
    flow = _judge_flow(model, spectrum, theta, posterior.flow_draws, reference[:n_stellar])
    log_p = posterior.log_likelihood + posterior.log_prior
    u = labels.to_normal(torch.from_numpy(posterior.draws)).clamp(-_FAR, _FAR).numpy()
    u_truth = labels.to_normal(free).clamp(-_FAR, _FAR).numpy()
    at_truth = float(posterior.log_prob(free.numpy())[0])
    named = dict(zip(model.labels.names, theta.tolist(), strict=True))
    return Outcome(
        truth=free.numpy(),
        ranks=rank(posterior, free.numpy()),
        flow_ranks=flow.ranks,
        credibility=highest_density_credibility(log_p, posterior.weights, at_truth),
        flow_credibility=flow.credibility,
        tarp=tarp_credibility(u, posterior.weights, u_truth, reference.numpy()),
        flow_tarp=flow.tarp,
        teff=named["teff"],
        v_sini=named["v_sini"],
        snr=snr,
        log_density=flow.log_density,
        limit=limits[0],
        limit_prior=limits[1],
        khat=posterior.khat,
        efficiency=posterior.efficiency,
        ess=posterior.ess,
        method=posterior.method,
        seconds=posterior.seconds,
        evaluations=posterior.evaluations,
    )
