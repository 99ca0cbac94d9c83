"""Figures of one device, and the default estimator trained further on it: see device.sh.

PYTHONPATH=src python benchmarks/device.py speed --device cuda --output device.json
PYTHONPATH=src python benchmarks/device.py train --device cuda --minutes 6 --output training
PYTHONPATH=src python benchmarks/device.py paper --device cuda --minutes 95 --output paper

The last is the network of Gupta et al. 2024 with their priors and noise: spectra are made on the card as they are needed, in bf16. Run it
again to go on.
"""

from __future__ import annotations

import argparse
import copy
import json
import platform
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from maury.checks.calibration import information_limit, simulated_spectra
from maury.inference.batch import infer_batch
from maury.inference.flow import amortised
from maury.models import folder, load_model
from maury.networks.config import Setting
from maury.networks.estimator import Estimator
from maury.report.training import draw_loss
from maury.reproduce.config import StarsConfig, read_experiment
from maury.spectra.spectrum import Spectrum
from maury.toml import read_config
from maury.training.config import TrainConfig
from maury.training.data import OnTheFly
from maury.training.fit import fit
from maury.training.noise import PaperNoise
from maury.training.simulations import build_simulator
from maury.training.train import train

# Stars of the forward model, spectra of the flow, and verified ones; spectra that are measured, and those of a batch.
SIZES = {"full": (1024, 256, 32, 400_000, 1024), "tiny": (8, 2, 1, 32, 16)}


def card(device: str) -> str:
    """Return the name of the card, or of the processor."""
    return torch.cuda.get_device_name() if device.startswith("cuda") else platform.processor() or "cpu"


def rate(work: Callable[[], object], number: int, device: str, seconds: float = 5.0) -> float:
    """Items a second, after a first time."""
    work()
    began, done = time.perf_counter(), 0
    while done == 0 or time.perf_counter() - began < seconds:
        work()
        done += number
    if device.startswith("cuda"):
        torch.cuda.synchronize()
    return done / (time.perf_counter() - began)


def speed(options: argparse.Namespace) -> None:
    """Measure; the file is written after each figure."""
    stars, spectra, verified, _, _ = SIZES[options.size]
    model = load_model(options.model, options.device)
    found: dict[str, object] = {"card": card(options.device), "torch": torch.__version__, "model": model.name}

    def tell(name: str, value: object) -> None:
        found[name] = value
        options.output.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")

    seconds = 0.1 if options.size == "tiny" else 5.0
    theta = model.problem.sample(stars, torch.Generator().manual_seed(0))[:, : model.forward.n_labels]
    theta = theta.to(model.forward.basis.device)
    with torch.no_grad():
        tell("forward_per_second", rate(lambda: model.forward(theta), stars, options.device, seconds))
    observed = [one for one, *_ in simulated_spectra(model, spectra, "native", 5)]
    tell("flow_per_second", rate(lambda: amortised(observed, model), spectra, options.device, seconds))
    few = observed[:verified]
    tell("verified_per_second", rate(lambda: infer_batch(few, model), verified, options.device, seconds))


def further(options: argparse.Namespace) -> None:
    """Measure new spectra with the guess of the shipped estimator, and train its flow on them."""
    _, _, _, number, batch = SIZES[options.size]
    own = folder(options.model)
    config = read_config(own / "train.toml", TrainConfig)
    changed = {
        "start": own / "estimator.safetensors",
        "keep": number,
        "batch": batch,
        "keep_minutes": 0.7 * options.minutes,
        "minutes": 0.3 * options.minutes,
        "seed": config.seed + 1000,
        "accelerator": "gpu" if options.device.startswith("cuda") else "cpu",
    }
    if options.size == "tiny":
        changed |= {"validation": 8, "novelty": 0, "minutes": 0.02}
    train(config.model_copy(update=changed), options.output, progress=False)


def of_paper(options: argparse.Namespace) -> None:
    """Train the network of Gupta et al. 2024 on spectra made on the device, and judge it on others."""
    tiny, device = options.size == "tiny", options.device
    experiment = read_experiment("five", "paper", None, options.model)
    assert isinstance(experiment, StarsConfig)
    noise = experiment.problem.observing.noise
    assert isinstance(noise, PaperNoise)
    simulator = build_simulator(experiment.problem)
    problem, labels = simulator.problem, simulator.problem.stellar
    forward = copy.deepcopy(problem.forward).to(device)
    profile = None if forward.emulator.contained else problem.spectrograph.grid_lsf
    sampler = forward.sampler(simulator.grid, profile)
    of_model = problem.columns(problem.labels.select(forward.label_names))
    stellar, usable = problem.columns(labels), simulator.usable.to(device)

    @torch.no_grad()
    def draw(n: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """Labels, flux and inverse variances, the last two on the device."""
        theta = problem.sample(n, generator)
        clean = sampler(forward(theta[:, of_model].to(device)))
        there = torch.Generator(device).manual_seed(int(torch.randint(2**62, (1,), generator=generator)))
        share = noise.largest * (1 - torch.rand(n, 1, generator=there, device=device))
        flux = clean * (1 + share * torch.randn(clean.shape, generator=there, device=device))
        return theta[:, stellar], usable * flux, usable / (share * clean).square()

    # As many steps between validations as in an epoch of nine tenths of the spectra, and one sequence of spectra without end.
    batch, steps = (8, 3) if tiny else (256, 9 * experiment.number // 2560)
    changed = {
        "batch": batch,
        "epoch": steps,
        "epochs": 2 if tiny else 100_000,
        "minutes": options.minutes,
        "patience": None,
        "precision": "32" if tiny else "bf16",
        "accelerator": "gpu" if device.startswith("cuda") else "cpu",
    }
    config = experiment.training.model_copy(update=changed)
    setting = Setting(problem, simulator.grid.n_pixels)
    estimator = Estimator(labels, config.network, setting, {"emulator": experiment.problem.model})
    held_out = OnTheFly(draw, labels, batch, 2 if tiny else 8, 2)
    options.output.mkdir(parents=True, exist_ok=True)
    validation = [held_out.batch(i) for i in range(held_out.length)]
    fit(estimator, config, OnTheFly(draw, labels, batch, steps, 1), validation, options.output)
    estimator.to("cpu")
    theta, flux, ivar = (x.cpu() for x in draw(8 if tiny else 500, torch.Generator().manual_seed(3)))
    u = labels.to_normal(theta)
    with torch.no_grad():
        density = estimator.log_prob(u, estimator.context(flux, ivar))
    in_units = density + labels.std.log().sum() - labels.log_abs_det(u)
    spectra = (
        Spectrum(simulator.grid, f.double().numpy(), w.double().numpy(), id="held-out")
        for f, w in zip(flux, ivar, strict=True)
    )
    limits = [
        information_limit(problem.likelihood(spectrum), truth, labels)[0]
        for spectrum, truth in zip(spectra, theta, strict=True)
    ]
    found = {
        "card": card(device),
        "model": options.model,
        "log_density_mean": float(in_units.mean()),
        "information_limit_mean": float(np.mean(limits)),
        "gupta_2024": 9.8,
        **{key: estimator.card[key] for key in ("spectra_seen", "training_minutes", "validation_nats")},
    }
    (options.output / "paper.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    draw_loss(options.output)


def main() -> None:
    """Do one of the three."""
    parser = argparse.ArgumentParser()
    parser.add_argument("what", choices=("speed", "train", "paper"))
    parser.add_argument("--model", default="marcs-apogee")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--size", choices=tuple(SIZES), default="full")
    parser.add_argument("--minutes", type=float, default=6.0)
    parser.add_argument("--output", type=Path, required=True)
    options = parser.parse_args()
    {"speed": speed, "train": further, "paper": of_paper}[options.what](options)


if __name__ == "__main__":
    main()
