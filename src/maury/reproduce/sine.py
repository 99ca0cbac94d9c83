"""The sine wave: frequency and phase from noisy samples, by a recurrent network and a flow.

Frequency and phase leave two-dimensional posteriors that can be computed exactly on a grid, so that the flow meets the truth.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from maury.figures import new_figure
from maury.files import write_json
from maury.labels import LabelSet, label
from maury.networks.config import Setting
from maury.networks.context import Context
from maury.networks.estimator import Estimator
from maury.priors import Uniform, log_standard_normal
from maury.report.plots import BLUE, GREY, ORANGE, draw_picture, samples_figure, walkers_figure
from maury.report.training import draw_loss
from maury.reproduce.config import SineConfig
from maury.reproduce.report import agreement, chain_figures, write_report
from maury.sampling.chains import emcee_chains
from maury.sampling.importance import Weighted
from maury.training.data import Batch, OnTheFly
from maury.training.fit import fit

_GRID = 400
_PICTURES = {
    "corner.png": "Fig. 2: the flow's posterior (orange) and the one after importance sampling (blue); red: the truth",
    "fit.png": "Fig. 3: the samples, the reconstructed wave with its 95 % band, and the residual",
    "training/loss.png": "Fig. 4: validation log density during training",
    "mcmc_corner.png": "Fig. 5: MCMC by emcee on the same likelihood (orange) under the verified posterior (blue)",
    "mcmc_walkers.png": "Fig. 5: its walkers",
}


@dataclass(frozen=True)
class SineTarget:
    """Exact posterior of one series ``(n_samples,)`` over u; what `maury.likelihood.target.Target` is for spectra."""

    flux: Tensor
    time: Tensor
    sigma: float
    labels: LabelSet

    @property
    def dim(self) -> int:
        """Number of labels."""
        return len(self.labels)

    def parameters(self, u: Tensor) -> Tensor:
        """Return the labels at ``u``."""
        return self.labels.from_normal(u)

    def log_likelihood(self, u: Tensor) -> Tensor:
        """Log likelihood, shape ``(n,)``."""
        residual = (self.flux - wave(self.labels.from_normal(u), self.time)) / self.sigma
        constant = len(self.time) * (math.log(self.sigma) + 0.5 * math.log(2 * math.pi))
        return -0.5 * residual.square().sum(1) - constant

    def log_prior(self, u: Tensor) -> Tensor:
        """Log prior of u, shape ``(n,)``."""
        return log_standard_normal(u).sum(-1)

    def log_prob(self, u: Tensor) -> Tensor:
        """Log posterior but for the evidence, shape ``(n,)``."""
        return self.log_likelihood(u) + self.log_prior(u)

    def log_evidence(self) -> float:
        """Log evidence by the midpoint rule over the prior's box; the frequency's grid is refined around its peak."""
        middle = (torch.arange(_GRID, dtype=torch.float64) + 0.5) / _GRID
        quantiles = torch.cartesian_prod(middle, middle)
        coarse = self.log_likelihood(torch.special.ndtri(quantiles)).reshape(_GRID, _GRID)
        peak = torch.logsumexp(coarse, 1)
        # Rows that matter, each cut into 20.
        rows = (peak > peak.max() - 40).nonzero()[:, 0]
        fine = ((torch.arange(20, dtype=torch.float64) + 0.5) / 20 - 0.5) / _GRID
        total = [
            torch.logsumexp(
                self.log_likelihood(torch.special.ndtri(torch.cartesian_prod(middle[r] + fine, middle))), 0
            )
            for r in rows
        ]
        return float(torch.logsumexp(torch.stack(total), 0)) - math.log(20 * _GRID**2)


def wave(theta: Tensor, t: Tensor) -> Tensor:
    """``sin(2 pi f t + phase)``, shape ``(n, n_samples)``, of labels ``(n, 2)``."""
    return torch.sin(2 * math.pi * theta[:, :1] * t + theta[:, 1:])


def _labels(config: SineConfig) -> LabelSet:
    low, high = config.frequency
    return LabelSet(
        (
            label("frequency", Uniform(low=low, high=high)),
            label("phase", Uniform(low=0, high=2 * math.pi)),
        )
    )


def _draw(
    config: SineConfig, labels: LabelSet, t: Tensor
) -> Callable[[int, torch.Generator], tuple[Tensor, Tensor, Tensor]]:
    """Return a function that draws labels, series and inverse variances."""

    def draw(n: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        theta = labels.sample(n, generator)
        noise = torch.randn(n, len(t), generator=generator, dtype=torch.float64)
        flux = (wave(theta, t) + config.sigma * noise).float()
        return theta, flux, torch.full_like(flux, config.sigma**-2)

    return draw


class _Set:
    """A fixed number of waves, with new noise each epoch as for spectra."""

    def __init__(self, config: SineConfig, labels: LabelSet, t: Tensor) -> None:
        self.config, self.labels, self.t = config, labels, t
        self.theta = labels.sample(config.number, torch.Generator().manual_seed(config.seed + 1))
        self.length = config.number // config.training.batch

    def batch(self, i: int) -> Batch:
        """Return batch ``i``."""
        epoch, place = divmod(i, self.length)
        order = torch.randperm(len(self.theta), generator=torch.Generator().manual_seed(epoch))
        size = self.config.training.batch
        theta = self.theta[order[place * size : (place + 1) * size]]
        noise = torch.randn(
            size, len(self.t), generator=torch.Generator().manual_seed((7 << 32) + i), dtype=torch.float64
        )
        flux = (wave(theta, self.t) + self.config.sigma * noise).float()
        return Batch(self.labels.to_normal(theta), flux, torch.full_like(flux, self.config.sigma**-2))


def _weigh(estimator: Estimator, context: Context, target: SineTarget, n: int, seed: int) -> Weighted:
    u = estimator.sample(n, context, torch.Generator().manual_seed(seed))
    with torch.no_grad():
        log_q = estimator.log_prob(u, context.repeat(n))
    return Weighted(u, target.log_likelihood(u), target.log_prior(u), log_q)


def _fit_figure(flux: Tensor, t: Tensor, theta: Tensor, sigma: float) -> Figure:
    """Draw the series, the wave's 95 % band over draws ``(n, 2)``, and the residual of its median."""
    fine = torch.linspace(float(t[0]), float(t[-1]), 600, dtype=torch.float64)
    low, middle, high = wave(theta, fine).quantile(torch.tensor([0.025, 0.5, 0.975]).double(), dim=0)
    residual = (flux - wave(theta, t).quantile(0.5, dim=0)) / sigma
    figure = new_figure(9, 5)
    upper, lower = figure.subplots(2, 1, sharex=True, gridspec_kw={"height_ratios": [3, 1]})
    upper.fill_between(fine, low, high, color=ORANGE, alpha=0.4, lw=0)
    upper.plot(fine, middle, color=ORANGE, label="reconstructed")
    upper.plot(t, flux, ".", color="black", label="observed")
    upper.legend(loc="upper right")
    lower.axhspan(-1, 1, color=GREY, alpha=0.25, lw=0)
    lower.plot(t, residual, ".", color=BLUE)
    lower.set_ylabel(r"residual [$\sigma$]")
    lower.set_xlabel("time")
    return figure


def run_sine(
    config: SineConfig, output: Path, *, progress: Callable[[str], None] = lambda _: None
) -> dict[str, Any]:
    """Train, judge against exact posteriors, and run MCMC; write reports and pictures to ``output``, and return the figures."""
    output.mkdir(parents=True, exist_ok=True)
    write_json(output / "config.json", config.model_dump(mode="json"))
    labels = _labels(config)
    t = torch.linspace(0, config.duration, config.samples, dtype=torch.float64)
    draw = _draw(config, labels, t)
    progress("training")
    lightning.seed_everything(config.seed, verbose=False)
    estimator = Estimator(labels, config.training.network, Setting(None, config.samples))
    validation = [OnTheFly(draw, labels, 512, 4, config.seed + 2).batch(i) for i in range(4)]
    training = output / "training"
    training.mkdir(exist_ok=True)
    fit(estimator, config.training, _Set(config, labels, t), validation, training)
    draw_loss(training)

    progress(f"judging on {config.held_out} new waves")
    theta, flux, ivar = draw(config.held_out, torch.Generator().manual_seed(config.seed + 3))
    truth = labels.to_normal(theta)
    with torch.no_grad():
        contexts = estimator.context(flux, ivar)
        to_std = labels.std.log().sum() - labels.log_abs_det(truth)
        density = estimator.log_prob(truth, contexts) + to_std
    exact, efficiency, khat = [], [], []
    for i in range(config.held_out):
        target = SineTarget(flux[i].double(), t, config.sigma, labels)
        exact.append(float(target.log_prob(truth[i : i + 1])[0]) - target.log_evidence() + float(to_std[i]))
        weighted = _weigh(estimator, contexts[i], target, config.draws, i)
        efficiency.append(weighted.ess / config.draws)
        khat.append(weighted.smoothed()[1])

    progress("MCMC on an example")
    target = SineTarget(flux[0].double(), t, config.sigma, labels)
    weighted = _weigh(estimator, contexts[0], target, 20_000, 99)
    log_weights, _ = weighted.smoothed()
    chosen = torch.multinomial(
        log_weights.exp(), 20_000, replacement=True, generator=torch.Generator().manual_seed(1)
    )
    verified = labels.from_normal(weighted.u[chosen])
    began = time.perf_counter()
    chains = emcee_chains(
        target, weighted.u[chosen[:500]], config.chain, seed=config.seed, backend=output / "chains.h5"
    )
    figures: dict[str, Any] = {
        "training": {k: estimator.card[k] for k in ("spectra_seen", "training_minutes", "validation_nats")},
        "held_out_log_density": float(density.mean()),
        "exact_log_density": float(np.mean(exact)),
        "efficiency_median": float(np.median(efficiency)),
        "khat_below_limit": float(np.mean(np.array(khat) < 0.7)),
        "mcmc": chain_figures(chains, time.perf_counter() - began),
        "verified_against_mcmc": agreement(verified.numpy(), chains, labels),
    }
    named = dict(zip(labels.names, theta[0].tolist(), strict=True))
    before = labels.from_normal(
        estimator.sample(20_000, contexts[0], torch.Generator().manual_seed(5))
    ).numpy()
    shown = verified.numpy()
    draw_picture(
        output / "corner.png", lambda: samples_figure({"flow": before, "verified": shown}, labels, named)
    )
    draw_picture(output / "fit.png", lambda: _fit_figure(target.flux, t, verified[:2000], config.sigma))
    draw_picture(
        output / "mcmc_corner.png",
        lambda: samples_figure({"emcee": chains.draws, "verified": shown}, labels, named),
    )
    draw_picture(output / "mcmc_walkers.png", lambda: walkers_figure(chains.theta, labels, named))
    _write(config, output, figures)
    return figures


def _write(config: SineConfig, output: Path, figures: dict[str, Any]) -> None:
    words = [
        f"{config.number:,} waves sin(2 pi f t + phase), {config.samples} samples over t = 0..{config.duration:g}, noise "
        f"sigma {config.sigma:g}; f from U({config.frequency[0]:g}, {config.frequency[1]:g}), phase from U(0, 2 pi).",
        "The exact posterior is known on a grid: its mean log density at the truth is the best that any estimator can reach.",
    ]
    training, mcmc = figures["training"], figures["mcmc"]
    rows = [
        ["held-out log density of the flow", figures["held_out_log_density"], "-"],
        ["that of the exact posterior", figures["exact_log_density"], "-"],
        ["training, minutes", training["training_minutes"], "-"],
        ["efficiency of importance sampling from the flow, median", figures["efficiency_median"], "-"],
        ["k-hat below 0.7", figures["khat_below_limit"], "-"],
        ["likelihoods, MCMC of the example", mcmc["evaluations"], "-"],
        ["MCMC: longest autocorrelation time, steps", mcmc["tau_max"], "-"],
        ["MCMC: largest split R-hat", mcmc["rhat_max"], "-"],
    ]
    write_report(output, "Sine wave", words, figures, rows, _PICTURES)
