"""Training sets of any size: ``maury simulate --number N --output FILE.h5``."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field

import maury
from maury.errors import ConfigError, LabelError
from maury.files import alone, disk_errors
from maury.forward.model import ForwardModel
from maury.forward.problem import Problem
from maury.labels import LabelSet, LogUniform, Prior, Uniform, label
from maury.libraries.emulator import Emulator
from maury.models import DEFAULT, folder
from maury.spectra.linespread import APOGEE_RESOLUTION, Gaussian, nominal_visit_lsf
from maury.spectra.spectrum import apstar_grid
from maury.spectra.synthetic import nominal_visit_grid
from maury.training import store
from maury.training.simulations import Observing, Simulator

_V_RAD = Uniform(low=-200, high=200)
_V_SINI = Uniform(low=0, high=100)
_JITTER = LogUniform(low=5e-4, high=0.1)


class PriorConfig(BaseModel):
    """Priors that replace the model's, and labels held at a value."""

    model_config = ConfigDict(extra="forbid")

    priors: dict[str, Prior] = Field({}, description="by label; those left out are the model's own")
    fixed: dict[str, float] = Field({}, description="labels that do not vary")


class ProblemConfig(PriorConfig):
    """What is simulated: the model, its labels, and how its spectra are observed."""

    model: str = Field(DEFAULT, description="name of a shipped model, or a folder with an emulator")
    pixels: Literal["apstar", "apvisit"] = "apstar"
    observing: Observing = Observing()
    limb_darkening: float = Field(0.6, ge=0, le=1)


class SimulateConfig(ProblemConfig):
    """What `simulate` needs to know."""

    number: int = Field(gt=0)
    seed: int = Field(0, ge=0)
    store: Literal["noisy", "clean"] = Field(
        "noisy", description="clean: model spectra alone, which training observes anew each epoch"
    )
    flux_type: Literal["float32", "float16"] = "float32"
    batch: int = Field(512, gt=0, description="spectra simulated at once")


def build_problem(config: ProblemConfig) -> Problem:
    """Build the problem that a configuration describes.

    Raises
    ------
    ModelError
        If the model cannot be loaded.
    LabelError
        If a prior or a fixed value is of no label of the model, or reaches beyond the emulator's range.
    """
    emulator = Emulator.load(folder(config.model) / "emulator.safetensors").requires_grad_(False)
    forward = ForwardModel(emulator, config.limb_darkening).requires_grad_(False).eval()
    extra: dict[str, Prior] = {"v_rad": _V_RAD, "v_sini": _V_SINI, "jitter": _JITTER}
    labels = emulator.labels + LabelSet(tuple(label(name, prior) for name, prior in extra.items()))
    labels = labels.with_priors(config.priors)
    for one, wide in zip(labels, emulator.labels, strict=False):
        if one.prior.low < wide.prior.low or one.prior.high > wide.prior.high:
            raise LabelError(
                f"prior of {one.name}: [{one.prior.low:g}, {one.prior.high:g}] reaches beyond the emulator's "
                f"[{wide.prior.low:g}, {wide.prior.high:g}]"
            )
    observing = config.observing
    # Without a spread of the continua they are all 1, and known to be.
    degree = observing.continuum_degree if observing.continuum_spread else None
    return Problem(forward, labels, config.fixed, degree, observing.emulator_error)


def build_simulator(config: ProblemConfig) -> Simulator:
    """Build the simulator that a configuration describes.

    Raises
    ------
    ModelError, LabelError
        As `build_problem`.
    ConfigError
        If the noise cannot be had.
    """
    problem = build_problem(config)
    if config.pixels == "apvisit":
        return Simulator(problem, nominal_visit_grid(), config.observing, nominal_visit_lsf())
    lsf = None if config.observing.resolution else Gaussian(APOGEE_RESOLUTION, integrate=False)
    return Simulator(problem, apstar_grid(), config.observing, lsf)


def simulate(
    config: SimulateConfig,
    output: str | os.PathLike[str],
    *,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> None:
    """Simulate spectra into an HDF5 file, or go on with a file that was not finished.

    Batch ``i`` depends on the configuration and on ``i`` alone, so that a run that was stopped ends in the same file as one that
    was not. Until then the file is called ``OUTPUT.partial``.

    Parameters
    ----------
    config
        What to simulate.
    output
        The file; one that was made with the same configuration is left alone.
    progress
        Told how many spectra of how many are done.

    Raises
    ------
    ConfigError
        If the output, finished or not, was made with another configuration.
    MauryError
        If the disk is full (what is done stays for the next run), or another process writes the same file.
    """
    output = Path(output)
    partial = output.with_name(output.name + ".partial")
    lock = output.with_name(output.name + ".lock")
    advice = f"what is done stays in {partial}: make room and run the same command again"
    with disk_errors(output, advice), alone(output, lock):
        if output.exists():
            _check_same(output, config)
        else:
            _simulate(config, partial, progress)
            partial.replace(output)
    progress(config.number, config.number)


def _simulate(config: SimulateConfig, partial: Path, progress: Callable[[int, int], None]) -> None:
    simulator = build_simulator(config)
    noisy, n, n_pixels = config.store == "noisy", config.number, simulator.grid.n_pixels
    if not partial.exists():
        single, double = np.dtype(np.float32), np.dtype(np.float64)
        layout = {
            "wavelength": ((n_pixels,), double),
            "labels": ((n, len(simulator.labels)), double),
            "flux": ((n, n_pixels), np.dtype(config.flux_type)),
        }
        if noisy:
            layout |= {"ivar": ((n, n_pixels), single), "snr": ((n,), single)}
        store.create(partial, layout, _attributes(config, simulator))
    done = _check_same(partial, config)
    with store.open_writer(partial) as writer:
        writer.write("wavelength", 0, simulator.grid.wavelength)
        progress(done, n)
        for first in range(done, n, config.batch):
            size = min(config.batch, n - first)
            generator = torch.Generator().manual_seed((config.seed << 32) + first // config.batch)
            # The last batch is a part of a full one, whatever the number.
            theta = simulator.problem.sample(config.batch, generator)
            flux = simulator.clean(theta, generator)
            if noisy:
                simulation = simulator.add_noise(theta, flux, generator)
                flux = simulation.flux
                writer.write("ivar", first, simulation.ivar[:size].numpy())
                writer.write("snr", first, simulation.snr[:size].numpy())
            writer.write("labels", first, theta[:size].numpy())
            writer.write("flux", first, flux[:size].numpy())
            writer.commit(first + size)
            progress(first + size, n)


def _attributes(config: SimulateConfig, simulator: Simulator) -> dict[str, str]:
    return {
        "format": store.FORMAT,
        "maury": maury.__version__,
        "config": config.model_dump_json(),
        "emulator_sha256": _sha256(config),
        "label_set": json.dumps([one.to_dict() for one in simulator.labels]),
        "unit": "flux over the pseudo-continuum, times the simulated continuum; wavelengths Angstrom in vacuum",
    }


def _sha256(config: SimulateConfig) -> str:
    return hashlib.sha256((folder(config.model) / "emulator.safetensors").read_bytes()).hexdigest()


def _check_same(path: Path, config: SimulateConfig) -> int:
    """Return how many spectra of the file are done; it must be of the same configuration and emulator."""
    attributes, done = store.progress_of(path)
    stored, wanted = json.loads(attributes["config"]), json.loads(config.model_dump_json())
    stored["emulator_sha256"], wanted["emulator_sha256"] = attributes["emulator_sha256"], _sha256(config)
    if stored != wanted:
        raise ConfigError(
            f"{path}: was made with another configuration ({store.differing(stored, wanted)}); "
            "remove it or choose another --output"
        )
    return done
