"""Training sets of any size: ``maury simulate --number N --output FILE.h5``."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field, field_validator

import maury
from maury.errors import ConfigError, LabelError
from maury.files import alone, disk_errors
from maury.forward.model import ForwardModel
from maury.forward.problem import Problem
from maury.labels import LabelSet, LogUniform, Prior, Uniform, label
from maury.libraries.emulator import Emulator, read_card
from maury.models import DEFAULT, folder
from maury.spectra.instrument import Instrument, apogee, of_card
from maury.spectra.linespread import LineSpread
from maury.spectra.spectrum import PixelGrid
from maury.toml import suggestion
from maury.training import store
from maury.training.simulations import Observing, Simulator

# Where simulated pixels lie: on the grid that networks take, or on the detector; and what these are called of APOGEE.
Pixels = Literal["network", "native"]
_ALSO_CALLED: dict[str, Pixels] = {"apstar": "network", "apvisit": "native"}
_JITTER = LogUniform(low=5e-4, high=0.1)


class PriorConfig(BaseModel):
    """Priors that replace the model's, and labels held at a value."""

    model_config = ConfigDict(extra="forbid")

    priors: dict[str, Prior] = Field({}, description="by label; those left out are the model's own")
    fixed: dict[str, float] = Field({}, description="labels that do not vary")


class ProblemConfig(PriorConfig):
    """What is simulated: the model, its labels, and how its spectra are observed."""

    model: str = Field(DEFAULT, description="name of a shipped model, or a folder with an emulator")
    pixels: Pixels = "network"
    observing: Observing = Observing()
    limb_darkening: float = Field(0.6, ge=0, le=1)

    @field_validator("pixels", mode="before")
    @classmethod
    def _name(cls, value: Any) -> Any:
        return _ALSO_CALLED.get(value, value)


class SimulateConfig(ProblemConfig):
    """What `simulate` needs to know."""

    number: int = Field(gt=0)
    seed: int = Field(0, ge=0)
    store: Literal["noisy", "clean"] = Field(
        "noisy", description="clean: model spectra alone, which training observes anew each epoch"
    )
    flux_type: Literal["float32", "float16"] = "float32"
    batch: int = Field(512, gt=0, description="spectra simulated at once")


def pixels_named(name: str) -> Pixels:
    """Return which pixels are meant.

    Raises
    ------
    ConfigError
        If the name is not known.
    """
    pixels: dict[str, Pixels] = {"network": "network", "native": "native", **_ALSO_CALLED}
    if name in pixels:
        return pixels[name]
    known = list(pixels)
    raise ConfigError(f"pixels: {name!r} is not one of {', '.join(known)}{suggestion(name, known)}")


def detector(instrument: Instrument, pixels: Pixels) -> tuple[PixelGrid, LineSpread]:
    """Return an instrument's pixels and its line-spread function there."""
    if pixels == "native":
        return instrument.pixels, instrument.lsf
    return instrument.grid, instrument.grid_lsf


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
    instrument = emulator.instrument
    usual = (instrument or apogee()).training
    velocities = {"v_rad": usual.v_rad, "v_sini": usual.v_sini}
    extra: dict[str, Prior] = {name: Uniform(low=a, high=b) for name, (a, b) in velocities.items()}
    extra["jitter"] = _JITTER
    labels = emulator.labels + LabelSet(tuple(label(name, prior) for name, prior in extra.items()))
    labels = labels.with_priors(config.priors)
    for one, wide in zip(labels, emulator.labels, strict=False):
        if one.prior.low < wide.prior.low or one.prior.high > wide.prior.high:
            raise LabelError(
                f"prior of {one.name}: [{one.prior.low:g}, {one.prior.high:g}] reaches beyond the emulator's "
                f"[{wide.prior.low:g}, {wide.prior.high:g}]"
            )
    observing = config.observing.of(instrument)
    # Without a spread of the continua they are all 1, and known to be.
    degree = observing.continuum_degree if observing.continuum_spread else None
    return Problem(forward, labels, config.fixed, degree, observing.emulator_error, instrument=instrument)


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
    grid, lsf = detector(problem.spectrograph, config.pixels)
    varied = config.pixels == "network" and config.observing.resolution
    return Simulator(problem, grid, config.observing, None if varied else lsf)


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
    output, config = Path(output), _spelt_out(config)
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


def _spelt_out(config: SimulateConfig) -> SimulateConfig:
    """Return the configuration with what its model's instrument says, as the file has to tell it."""
    card = read_card(folder(config.model) / "emulator.safetensors")
    return config.model_copy(
        update={"observing": config.observing.of(of_card(card.get("instrument"), config.model))}
    )


def _check_same(path: Path, config: SimulateConfig) -> int:
    """Return how many spectra of the file are done; it must be of the same configuration and emulator."""
    attributes, done = store.progress_of(path)
    stored, wanted = json.loads(attributes["config"]), json.loads(config.model_dump_json())
    stored["pixels"] = _ALSO_CALLED.get(stored["pixels"], stored["pixels"])
    stored["emulator_sha256"], wanted["emulator_sha256"] = attributes["emulator_sha256"], _sha256(config)
    if stored != wanted:
        raise ConfigError(
            f"{path}: was made with another configuration ({store.differing(stored, wanted)}); "
            "remove it or choose another --output"
        )
    return done
