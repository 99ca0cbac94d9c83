"""Figures of one device, and the default estimator trained further on it: see device.sh.

PYTHONPATH=src python benchmarks/device.py speed --device cuda --output device.json
PYTHONPATH=src python benchmarks/device.py train --device cuda --minutes 6 --output training
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections.abc import Callable
from pathlib import Path

import torch

from maury.checks.calibration import simulated_spectra
from maury.inference.batch import infer_batch
from maury.inference.flow import amortised
from maury.models import folder, load_model
from maury.toml import read_config
from maury.training.config import TrainConfig
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


def main() -> None:
    """Do one of the two."""
    parser = argparse.ArgumentParser()
    parser.add_argument("what", choices=("speed", "train"))
    parser.add_argument("--model", default="marcs-apogee")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--size", choices=tuple(SIZES), default="full")
    parser.add_argument("--minutes", type=float, default=6.0)
    parser.add_argument("--output", type=Path, required=True)
    options = parser.parse_args()
    (speed if options.what == "speed" else further)(options)


if __name__ == "__main__":
    main()
