"""Experiments on spectra: three labels or five, the noise of Gupta et al. 2024."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from maury.checks.calibration import Outcome, calibrate, simulated_spectra
from maury.checks.calibration_report import report
from maury.files import write_json, writing
from maury.inference.infer import infer
from maury.likelihood.target import Target
from maury.models import Model, load_model, to_model_grid
from maury.posterior.result import Posterior
from maury.report.plots import draw_picture, samples_figure, walkers_figure
from maury.report.training import draw_loss
from maury.reproduce import priors
from maury.reproduce.config import Experiment, StarsConfig
from maury.reproduce.report import PAPER, agreement, chain_figures, write_report
from maury.sampling.chains import Chains, emcee_chains
from maury.sampling.importance import effective_sample_size
from maury.spectra.spectrum import Spectrum
from maury.text import for_picture
from maury.training.config import TrainConfig
from maury.training.simulations import SimulateConfig, simulate
from maury.training.train import train

# Draws straight from the flow, and spectra that are weighed so at most: each draw takes a likelihood.
_FLOW_DRAWS, _STRAIGHT = 2000, 40
_PICTURES = {
    "corner.png": "Fig. 2: the flow's posterior (orange) and the verified one (blue), refined and weighted; red: the truth",
    "fit.png": "Fig. 3: the spectrum (black), reconstructed (orange), and the residual",
    "training/loss.png": "Fig. 4: validation log density during training",
    "mcmc_corner.png": "Fig. 5: MCMC by emcee on the same likelihood (orange) under the verified posterior (blue)",
    "mcmc_walkers.png": "Fig. 5: its walkers",
}


def flow_efficiency(model: Model, spectrum: Spectrum, seed: int) -> float:
    """Effective sample size over draws of importance sampling straight from the flow, as the paper did."""
    problem = model.problem
    with torch.no_grad():
        context = model.estimator.context(*to_model_grid(spectrum, model))
    u = model.estimator.sample(_FLOW_DRAWS, context, torch.Generator().manual_seed(seed))
    log_q = model.estimator.log_prob(u, context.repeat(len(u)))
    target = Target(problem.likelihood(spectrum), problem.stellar)
    log_weights = target.log_prob(u) - log_q.detach()
    return effective_sample_size(log_weights) / len(u) if bool(log_weights.isfinite().any()) else 0.0


@dataclass(frozen=True)
class _Example:
    """One spectrum, its truth, its posterior, and its chains."""

    spectrum: Spectrum
    truth: dict[str, float]
    posterior: Posterior
    chains: Chains
    chain_seconds: float


def _example(model: Model, config: StarsConfig, output: Path) -> _Example:
    """Infer one spectrum and run chains on the likelihood that it was made with."""
    seed = config.seed + 100
    observing = config.problem.observing
    # The first of moderate noise: the paper's example is no extreme.
    spectra = simulated_spectra(model, 50, "network", seed, observing)
    spectrum, theta, _ = next(item for item in spectra if 35 < item[0].snr < 70)
    # Nothing is integrated out that the spectra were made without, or the chains would sample another likelihood.
    posterior = infer(
        spectrum, model, draws=max(10_000, config.draws), seed=config.seed, nuisances=observing.nuisances
    )
    problem = model.problem
    best = torch.from_numpy(posterior.draws[posterior.log_weights.argmax()])
    target = Target(problem.likelihood(spectrum).with_reference_continuum(best), problem.inferred)
    start = problem.inferred.to_normal(torch.from_numpy(posterior.sample(500)))
    began = time.perf_counter()
    chains = emcee_chains(target, start, config.chain, seed=config.seed, backend=output / "chains.h5")
    truth = dict(zip(model.labels.names, theta.tolist(), strict=True))
    return _Example(spectrum, truth, posterior, chains, time.perf_counter() - began)


def _draw(example: _Example, output: Path) -> None:
    posterior, labels, truth = example.posterior, example.posterior.stellar, example.truth
    draw_picture(output / "corner.png", lambda: posterior.plot_corner(truth))
    draw_picture(output / "fit.png", posterior.plot_fit)
    verified = posterior.sample(20_000)
    samples = {"emcee": example.chains.draws, "verified": verified}
    title = for_picture(posterior.spectrum.id)
    draw_picture(output / "mcmc_corner.png", lambda: samples_figure(samples, labels, truth, title))
    draw_picture(output / "mcmc_walkers.png", lambda: walkers_figure(example.chains.theta, labels, truth))


def _figures(
    model: Model, outcomes: list[Outcome], example: _Example, straight: list[float], timing: dict[str, float]
) -> dict[str, Any]:
    card = model.estimator.card
    return {
        "labels": {label.name: [label.prior.low, label.prior.high] for label in model.problem.stellar.labels},
        "fixed": dict(model.problem.held),
        "library": card["emulator"],
        "training": {key: card[key] for key in ("spectra_seen", "training_minutes", "validation_nats")},
        "held_out": report(outcomes, model),
        "efficiency_straight_from_flow_median": float(np.median(straight)),
        "example_truth": {name: example.truth[name] for name in model.problem.stellar.names},
        "mcmc": chain_figures(example.chains, example.chain_seconds),
        "verified_evaluations": example.posterior.evaluations,
        "verified_seconds": round(example.posterior.seconds, 2),
        "verified_against_mcmc": agreement(
            example.posterior.sample(50_000), example.chains, example.posterior.labels
        ),
        "seconds": timing,
    }


def run_stars(
    experiment: Experiment,
    config: StarsConfig,
    output: Path,
    *,
    progress: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """Simulate, train, judge, infer and run MCMC; write reports and pictures to ``output``, and return the figures.

    Each part that is done already, by an earlier run of the same configuration, is not done again.
    """
    output.mkdir(parents=True, exist_ok=True)
    write_json(output / "config.json", config.model_dump(mode="json"))
    clock = output / "seconds.json"
    timing: dict[str, float] = json.loads(clock.read_text(encoding="utf-8")) if clock.exists() else {}

    def stage(name: str, began: float) -> float:
        now = time.perf_counter()
        # Of what an earlier run did, the time that it took.
        timing[name] = max(round(now - began, 1), timing.get(name, 0.0))
        with writing(clock) as temporary:
            temporary.write_text(json.dumps(timing) + "\n", encoding="utf-8")
        return now

    began = time.perf_counter()
    progress(f"simulating {config.number} spectra")
    file = output / "simulations.h5"
    problem = config.problem.model_dump()
    simulate(SimulateConfig(**problem, number=config.number, seed=config.seed, store="clean"), file)
    began = stage("simulate", began)
    progress("training")
    training = TrainConfig(**config.training.model_dump(), simulations=file)
    if not (output / "training" / "report.done").exists():
        train(training, output / "training")
        draw_loss(output / "training")
        (output / "training" / "report.done").touch()
    began = stage("train", began)
    model = load_model(output / "training")
    progress(f"judging on {config.held_out} new spectra")
    outcomes = list(
        calibrate(
            model,
            config.held_out,
            draws=config.draws,
            pixels="network",
            seed=config.seed + 10,
            observing=config.problem.observing,
        )
    )
    number = min(_STRAIGHT, config.held_out)
    spectra = simulated_spectra(model, number, "network", config.seed + 20, config.problem.observing)
    straight = [flow_efficiency(model, spectrum, i) for i, (spectrum, _, _) in enumerate(spectra)]
    began = stage("judge", began)
    progress("MCMC on an example")
    example = _example(model, config, output)
    began = stage("mcmc", began)
    _draw(example, output)
    stage("draw", began)
    figures = _figures(model, outcomes, example, straight, timing)
    _write(experiment, config, output, figures)
    return figures


def _write(experiment: Experiment, config: StarsConfig, output: Path, figures: dict[str, Any]) -> None:
    held, mcmc = figures["held_out"], figures["mcmc"]
    five = experiment == "five"
    labels = ", ".join(f"{name} {low:g}..{high:g}" for name, (low, high) in figures["labels"].items())
    network = config.training.network
    words = [
        f"{config.number:,} spectra of `{figures['library']}`; labels {labels}"
        + "".join(f"; {name} = {value:g}" for name, value in figures["fixed"].items())
        + ". "
        + (
            priors.words(config.problem)
            if config.table_1
            else "These are the library's ranges, not those of the paper's Table 1."
        ),
        "Noise: sigma / flux drawn once a spectrum from U(0, 0.05), new in each epoch; the continuum is known.",
        f"Network: featurizer `{network.featurizer.kind}`, flow `{network.flow.kind}`, trained for "
        f"{figures['training']['training_minutes']:.0f} minutes on the processor this ran on.",
        "Log densities are in nats, labels in units of their priors' standard deviations.",
    ]
    rows = [
        [
            "held-out log density of the flow",
            held["flow_log_density_mean"],
            PAPER["log_density"] if five else "-",
        ],
        ["information limit on the same spectra", held["information_limit_mean"], "-"],
        ["training, minutes", figures["training"]["training_minutes"], PAPER["training"] if five else "-"],
        ["spectra seen in training", figures["training"]["spectra_seen"], f"{config.number:,} simulated"],
        [
            "efficiency of importance sampling straight from the flow, median",
            figures["efficiency_straight_from_flow_median"],
            PAPER["efficiency_flow"] if five else "-",
        ],
        ["efficiency after refinement, median", held["efficiency_median"], "-"],
        ["k-hat below 0.7", held["khat_below_limit"], "-"],
        ["smallest Kolmogorov-Smirnov p of the ranks", min(held["rank_ks_p"].values()), "-"],
        [
            "simulating, spectra/s",
            config.number / max(figures["seconds"]["simulate"], 1e-3),
            PAPER["simulator"],
        ],
        ["likelihoods, verified posterior of the example", figures["verified_evaluations"], "-"],
        ["likelihoods, MCMC of the example", mcmc["evaluations"], "-"],
        ["seconds, verified posterior (10,000 draws)", figures["verified_seconds"], "-"],
        ["seconds, MCMC", mcmc["seconds"], "-"],
        ["MCMC: longest autocorrelation time, steps", mcmc["tau_max"], "-"],
        ["MCMC: largest split R-hat", mcmc["rhat_max"], "-"],
    ]
    title = f"{'Five' if five else 'Three'} labels"
    write_report(output, title, words, figures, rows, _PICTURES)
