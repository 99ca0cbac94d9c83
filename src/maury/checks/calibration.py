"""Simulation-based calibration: posteriors of spectra drawn from the prior must be right on average.

Talts et al. 2018, arXiv:1804.06788; for weighted draws the rank is the posterior's cumulative weight below the truth.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import stats
from torch import Tensor

from maury.errors import ConfigError
from maury.files import writing
from maury.forward.held import Held
from maury.forward.likelihood import Likelihood
from maury.labels import LabelSet
from maury.models import Model
from maury.posterior.infer import infer, to_model_grid
from maury.posterior.result import Posterior
from maury.posterior.verify import KHAT_LIMIT
from maury.report.plots import BLUE, GREY, new_figure, save_figure
from maury.spectra.linespread import APOGEE_RESOLUTION, Gaussian, LineSpread, nominal_visit_lsf
from maury.spectra.spectrum import PixelGrid, Spectrum, apstar_grid
from maury.spectra.synthetic import nominal_visit_grid
from maury.training.simulations import Observing, Simulator

# Share of pixels that real visits lose by the default rule.
REAL_MASKS = (0.04, 0.12)
_DETECTORS: dict[str, tuple[Callable[[], PixelGrid], Callable[[], LineSpread]]] = {
    "apvisit": (nominal_visit_grid, nominal_visit_lsf),
    "apstar": (apstar_grid, lambda: Gaussian(APOGEE_RESOLUTION, integrate=False)),
}
_BATCH = 25


@dataclass(frozen=True)
class Outcome:
    """What one simulated spectrum showed.

    ``truth`` and ``ranks`` are by label, nuisance included; ``log_density`` is the flow's at the truth, ``limit`` the information
    limit and ``limit_prior`` the same with the prior's information, all in units of the priors' standard deviations.
    """

    truth: NDArray[np.float64]
    ranks: NDArray[np.float64]
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


def information_limit(likelihood: Likelihood | Held, theta: Tensor, labels: LabelSet) -> tuple[float, float]:
    """Best expected log density at the truth, ``0.5 ln det F - (d/2) ln(2 pi e)``, without and with the prior's information.

    ``F`` is the Fisher information of the marginalised likelihood over the labels (nuisance left out), in units of the priors'
    standard deviations; the prior adds the unit matrix. The first is minus infinity where a label leaves no trace, as v_sini = 0.
    """
    likelihood = likelihood.refer(theta)
    stellar = [i for i, name in enumerate(labels.names) if name != "jitter"]
    fisher = likelihood.curvature(theta[None]).fisher[0][stellar][:, stellar]
    scale = labels.std[stellar]
    fisher = fisher * scale[:, None] * scale
    d = len(fisher)
    constant = -0.5 * d * math.log(2 * math.pi * math.e)
    plain, regular = (float(torch.linalg.slogdet(f)[1]) for f in (fisher, fisher + torch.eye(d).to(fisher)))
    return 0.5 * plain + constant, 0.5 * regular + constant


def flow_log_density(model: Model, spectrum: Spectrum, theta: Tensor) -> float:
    """Log density of the estimator alone at all labels ``(n_all,)``, nuisance left out, in units of the priors' standard deviations."""
    labels = model.estimator.labels
    u = labels.to_normal(theta[None, model.problem.columns(labels)])
    with torch.no_grad():
        context = model.estimator.context(*to_model_grid(spectrum, model))
        log_q = model.estimator.log_prob(u, context)
    return float(log_q - labels.log_abs_det(u) + labels.std.log().sum())


def rank(posterior: Posterior, truth: NDArray[np.float64]) -> NDArray[np.float64]:
    """Cumulative posterior weight below the truth, by label, shape ``(n_labels,)``: uniform on [0, 1] if posteriors are right."""
    return np.asarray(posterior.weights @ (posterior.draws < truth))


def simulated_spectra(
    model: Model, number: int, pixels: str, seed: int, observing: Observing | None = None
) -> Iterator[tuple[Spectrum, Tensor, float]]:
    """Yield spectra simulated from the prior, all their labels ``(n_all,)`` with nuisance, and the S/N drawn."""
    grid, lsf = _DETECTORS[pixels][0](), _DETECTORS[pixels][1]()
    simulator = Simulator(model.problem, grid, observing or Observing(masked=REAL_MASKS), lsf)
    generator = torch.Generator().manual_seed(seed)
    for first in range(0, number, _BATCH):
        batch = simulator(min(_BATCH, number - first), generator)
        for i in range(len(batch.labels)):
            flux, ivar = batch.flux[i].double().numpy(), batch.ivar[i].double().numpy()
            yield (
                Spectrum(grid, flux, ivar, id=f"simulated-{first + i}", lsf=lsf),
                batch.labels[i],
                float(batch.snr[i]),
            )


def calibrate(
    model: Model,
    number: int,
    *,
    draws: int = 1000,
    pixels: str = "apvisit",
    seed: int = 0,
    observing: Observing | None = None,
) -> Iterator[Outcome]:
    """Infer ``number`` spectra simulated from the prior on native visit pixels or on the apStar grid.

    Raises
    ------
    ConfigError
        If ``pixels`` is neither ``"apvisit"`` nor ``"apstar"``.
    """
    if pixels not in _DETECTORS:
        raise ConfigError(f"pixels: {pixels!r} is not one of {', '.join(_DETECTORS)}")
    for i, (spectrum, theta, snr) in enumerate(simulated_spectra(model, number, pixels, seed, observing)):
        posterior = infer(spectrum, model, draws=draws, seed=seed + i)
        labels = model.problem.inferred
        free = theta[model.problem.columns(labels)]
        limits = information_limit(model.problem.likelihood(spectrum), free, labels)
        yield Outcome(
            truth=free.numpy(),
            ranks=rank(posterior, free.numpy()),
            snr=snr,
            log_density=flow_log_density(model, spectrum, theta),
            limit=limits[0],
            limit_prior=limits[1],
            khat=posterior.khat,
            efficiency=posterior.efficiency,
            ess=posterior.ess,
            method=posterior.method,
            seconds=posterior.seconds,
            evaluations=posterior.evaluations,
        )


def report(outcomes: Sequence[Outcome], model: Model) -> dict[str, Any]:
    """Figures over all outcomes."""
    ranks = np.array([o.ranks for o in outcomes])
    khat = np.array([o.khat for o in outcomes])
    density, limit, limit_prior = (
        np.array([getattr(o, k) for o in outcomes]) for k in ("log_density", "limit", "limit_prior")
    )
    return {
        "spectra": len(outcomes),
        "efficiency_median": float(np.median([o.efficiency for o in outcomes])),
        "efficiency_p05": float(np.quantile([o.efficiency for o in outcomes], 0.05)),
        "ess_median": float(np.median([o.ess for o in outcomes])),
        "khat_below_limit": float(np.mean(khat < KHAT_LIMIT)),
        "nested": sum(o.method == "nested" for o in outcomes),
        "rank_ks_p": {
            name: float(stats.kstest(ranks[:, i], "uniform").pvalue)
            for i, name in enumerate(model.problem.inferred.names)
        },
        "flow_log_density_mean": float(density.mean()),
        "flow_log_density_median": float(np.median(density)),
        "information_limit_mean": float(limit.mean()),
        "information_limit_with_prior_mean": float(limit_prior.mean()),
        "seconds_median": float(np.median([o.seconds for o in outcomes])),
        "evaluations_median": float(np.median([o.evaluations for o in outcomes])),
    }


def write_outcomes(folder: Path, outcomes: Sequence[Outcome], figures: dict[str, Any], model: Model) -> None:
    """Write ``calibration.json``, the table of all spectra ``calibration.ecsv``, and the picture ``ranks.png``."""
    from astropy.table import Table

    names = model.problem.inferred.names
    table = Table({f"true_{name}": [o.truth[i] for o in outcomes] for i, name in enumerate(names)})
    for i, name in enumerate(names):
        table[f"rank_{name}"] = [o.ranks[i] for o in outcomes]
    for key in (
        "snr",
        "log_density",
        "limit",
        "limit_prior",
        "khat",
        "efficiency",
        "ess",
        "method",
        "seconds",
        "evaluations",
    ):
        table[key] = [getattr(o, key) for o in outcomes]
    with writing(folder / "calibration.ecsv") as temporary:
        table.write(temporary, format="ascii.ecsv")
    with writing(folder / "calibration.json") as temporary:
        temporary.write_text(json.dumps(figures, indent=1) + "\n")
    save_figure(
        rank_figure(np.array([o.ranks for o in outcomes]), model.problem.inferred), folder / "ranks.png"
    )


def rank_figure(ranks: NDArray[np.float64], labels: LabelSet) -> Any:
    """Empirical distribution of the ranks minus the uniform one, by label, with the 99 % band of a Kolmogorov-Smirnov test."""
    n, d = ranks.shape
    figure = new_figure(3.2 * ((d + 1) // 2), 5.2)
    axes = figure.subplots(2, (d + 1) // 2, sharex=True, sharey=True).ravel()
    band = float(stats.kstwo.ppf(0.99, n))
    for i, label in enumerate(labels.labels):
        x = np.sort(ranks[:, i])
        axes[i].axhspan(-band, band, color=GREY, alpha=0.25, lw=0)
        axes[i].axhline(0, color=GREY, lw=0.8)
        axes[i].step(x, (np.arange(n) + 1) / n - x, color=BLUE, where="post")
        axes[i].set_title(label.symbol)
    for unused in axes[d:]:
        unused.set_visible(False)
    axes[0].set_ylabel("ECDF - uniform")
    axes[(d + 1) // 2].set_ylabel("ECDF - uniform")
    figure.supxlabel(f"rank of the truth ({n} spectra; band: 99 %)")
    return figure
