"""Simulated observations: made on the fly, to train an estimator and to check calibration, and training sets of any size on disk."""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, field_validator
from torch import Tensor

import maury
from maury.constants import C_KMS
from maury.errors import ConfigError, LabelError
from maury.files import alone, disk_errors
from maury.forward.model import ForwardModel
from maury.labels import LabelSet, label
from maury.libraries.emulator import MODES, Emulator
from maury.likelihood.continuum import chebyshev_basis
from maury.likelihood.nuisances import Departures, EmulatorModes, LibraryModes, Point, chosen
from maury.likelihood.problem import Problem
from maury.models import DEFAULT, folder
from maury.names import meant
from maury.priors import LogUniform, Prior, Uniform
from maury.quantities import Role
from maury.spectra.instrument import Instrument, apogee, of_card
from maury.spectra.linespread import FWHM, Gaussian, LineSpread
from maury.spectra.spectrum import PixelGrid
from maury.training import store
from maury.training.noise import SimulatedNoise
from maury.weights import read_card

Array = NDArray[np.float64]
# Runs of masked pixels are 1 to this many pixels long, of a spectrum of 7500; longer ones of finer pixels.
_RUN_LENGTHS = 8
_FEW_CHIPS = 3
# Widths of drawn line-spread functions stay within so many standard deviations, and the seed of those that a training set draws from.
_FARTHEST, _FIBRE_SEED = 2.5, 0


class Observing(BaseModel):
    """How simulated spectra are observed."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    snr: tuple[float, float] = Field(
        (10.0, 300.0), description="range of the signal-to-noise ratio a pixel, log-uniform"
    )
    noise: SimulatedNoise | None = Field(None, description="another source of the errors than ``snr``")
    masked: tuple[float, float] = Field(
        (0.0, 0.2), description="range of the share of pixels lost in short runs"
    )
    gap_probability: float = Field(0.1, description="chance of a lost stretch of 100 to 600 pixels")
    chip_loss_probability: float = Field(0.01, description="chance, chip by chip, that it is lost whole")
    sky_share: float = Field(0.04, description="share of pixels whose error is inflated up to 5 times")
    chip_spread: float = Field(0.25, description="standard deviation of ln(error) between chips")
    resolution: tuple[float, ...] = Field(
        (), description="resolving powers, one drawn a batch, for models that contain no line-spread function"
    )
    fibres: int = Field(
        8,
        ge=0,
        le=64,
        description="line-spread functions of the instrument's fibres, one drawn a batch; 0 for its nominal one",
    )
    visits: float = Field(
        0.0,
        ge=0,
        le=1,
        description="share of spectra on the networks' grid that are visits, each seen through a fibre of its own and resampled; "
        "above 0 the others have Gaussian profiles of powers between the ends of ``resolution``, and networks are told of each",
    )
    emulator_error: bool = Field(True, description="whether the emulator's own error is added to the noise")
    departures: bool = Field(
        True, description="whether abundances that are not inferred scatter about what they follow"
    )
    nuisances: str = Field(
        "none",
        description="what else is drawn from its prior, by name (`default`: all): as inference integrates it out",
    )
    continuum_degree: int = Field(4, ge=0)
    continuum_spread: float = Field(
        0.15, description="standard deviation of the first-order continuum coefficient; falls as 1/order"
    )

    def of(self, instrument: Instrument | None) -> Observing:
        """Return what is observed with an instrument: its own S/N and continua, where this does not say otherwise."""
        if instrument is None:
            return self
        training = instrument.training
        usual = {"snr": training.snr, "continuum_degree": training.continuum_degree}
        return self.model_copy(
            update={key: value for key, value in usual.items() if key not in self.model_fields_set}
        )


@dataclass(frozen=True)
class Simulation:
    """A batch of simulated observations.

    ``labels`` is ``(n, n_labels)`` float64 in the order of the problem's, ``jitter`` included; ``flux`` and ``ivar`` are
    ``(n, n_pixels)`` float32; ``continuum`` is what multiplied the model and ``snr`` ``(n,)`` the ratio drawn. ``seen`` are the profiles
    (`maury.spectra.seen`) where each spectrum has its own, float32.
    """

    labels: Tensor
    flux: Tensor
    ivar: Tensor
    continuum: Tensor
    snr: Tensor
    seen: Tensor | None = None


class Simulator:
    """Draws labels from the prior and observes the forward model's spectra.

    Parameters
    ----------
    problem
        Forward model and labels; held ones are held.
    grid
        Detector pixels; chips outside the emulator's range are masked.
    observing
        Noise, masks and continua.
    lsf
        The detector's line-spread function, or several, of which each batch draws one; None for those of ``observing.resolution``, or what
        the model contains.
    """

    def __init__(
        self,
        problem: Problem,
        grid: PixelGrid,
        observing: Observing,
        lsf: LineSpread | Sequence[LineSpread] | None = None,
    ) -> None:
        observing = observing.of(problem.instrument)
        self.problem, self.grid, self.observing = problem, grid, observing
        model, labels = problem.forward, problem.labels
        self.model, self.labels = model, labels
        self._of_model = problem.columns(labels.without(Role.nuisance))
        self._of_emulator = problem.columns(model.emulator.labels)
        self._jitter = problem.columns(labels.of(Role.nuisance))
        profiles: list[LineSpread | None] = list(lsf) if isinstance(lsf, Sequence) else [lsf]
        if lsf is None and observing.resolution:
            profiles = [Gaussian(r, integrate=False) for r in observing.resolution]
        self.samplers = [model.sampler(grid, profile) for profile in profiles]
        found = chosen(observing.nuisances, model, problem.inferred.names, problem.modes)
        # What follows others scatters in the model itself, not linearly.
        self._nuisances = tuple(one for one in found if not isinstance(one, Departures))
        self._widths = [
            _line_width(profile or model.emulator.contained, grid) for profile in profiles if self._nuisances
        ]
        grid_pixels = np.round(
            (np.log10(grid.wavelength) - model.emulator.grid.start) / model.emulator.grid.step
        )
        nearest = torch.from_numpy(np.clip(grid_pixels, 0, model.emulator.grid.n_pixels - 1)).long()
        drawn = any(isinstance(one, EmulatorModes) for one in found)
        self.error_shape = (model.emulator.error_left if drawn else model.emulator.error_shape)[nearest]
        self._draw_errors = observing.noise.source(grid, problem.instrument) if observing.noise else None
        self.usable = torch.from_numpy(model.usable(grid.wavelength, labels))
        self._chebyshev = [chebyshev_basis(b - a, observing.continuum_degree).float() for a, b in grid.chips]
        # Finer pixels mean longer runs and gaps; a gap is never the whole of a short spectrum.
        self._gap_scale = sum(b - a for a, b in grid.chips) / 7500
        self._pixel_scale = max(1.0, self._gap_scale)

    @torch.no_grad()
    def __call__(self, n: int, generator: torch.Generator) -> Simulation:
        """Simulate ``n`` spectra with labels from the prior."""
        return self.observe(self.problem.sample(n, generator), generator)

    @torch.no_grad()
    def observe(self, labels: Tensor, generator: torch.Generator) -> Simulation:
        """Simulate spectra of given labels ``(n, n_labels)``, ``jitter`` included."""
        return self.add_noise(labels, self.clean(labels, generator), generator)

    @torch.no_grad()
    def clean(self, labels: Tensor, generator: torch.Generator) -> Tensor:
        """Model spectra ``(n, n_pixels)`` float32 of labels ``(n, n_labels)``, without noise (jitter is one), mask and continuum.

        Nuisances that are drawn are in them.
        """
        many = len(self.samplers) > 1
        choice = int(torch.randint(len(self.samplers), (1,), generator=generator)) if many else 0
        ties = self.model.emulator.ties
        departures = (
            ties.departures(len(labels), generator) if ties.ties and self.observing.departures else None
        )
        flux = self.samplers[choice](self.model(labels[:, self._of_model], departures))
        if self._nuisances:
            flux = flux + torch.stack(
                [self._disturbance(row, choice, generator) for row in labels[:, self._of_model]]
            )
        return flux

    def _disturbance(self, labels: Tensor, choice: int, generator: torch.Generator) -> Tensor:
        """Draw nuisances; return what they add to the spectrum of the model's labels ``(n_labels,)``, shape ``(n_pixels,)``, float32."""
        starts = np.array([start for start, _ in self.grid.chips])
        chip = np.searchsorted(starts, np.arange(self.grid.n_pixels), side="right")
        at = Point(
            self.model, labels[None], lambda x: self.samplers[choice](x).double(), chip, self._widths[choice]
        )  # fmt: skip
        out = torch.zeros(self.grid.n_pixels, dtype=torch.float64)
        for nuisance in self._nuisances:
            slopes = nuisance.derivative(at)
            drawn = torch.randn(len(slopes), generator=generator, dtype=torch.float64)
            out += (torch.as_tensor(nuisance.centre(at)) + nuisance.width * drawn) @ slopes
        return out.float()

    @torch.no_grad()
    def add_noise(
        self, labels: Tensor, clean: Tensor, generator: torch.Generator, white: Tensor | None = None
    ) -> Simulation:
        """Observe spectra that `clean` returned; noise is independent of pixel to pixel unless ``white (n, n_pixels)`` is given."""
        n = len(labels)
        continuum = self._continuum(n, generator)
        signal = clean * continuum
        snr, sigma = self._errors(n, generator)
        of_flux = self.observing.noise is not None and self.observing.noise.of == "flux"
        sigma = sigma * (signal if of_flux else continuum)
        variance = (
            torch.where(sigma.isfinite(), sigma, 0.0).square()
            + (labels[:, self._jitter].float() * signal).square()
        )
        if self.observing.emulator_error:
            error = (
                self.model.emulator.error(labels[:, self._of_emulator])[:, None]
                * self.error_shape
                * continuum
            )
            variance = variance + error.square()
        if self.problem.learned is not None:
            pixels = self._rest_pixels(labels[:, self.labels.index("v_rad")])
            variance = variance + (self.problem.learned.float()[pixels] * continuum).square()
        white = torch.randn(signal.shape, generator=generator) if white is None else white
        flux = signal + white * variance.sqrt()
        keep = self.usable & sigma.isfinite() & ~self._masks(n, generator)
        return Simulation(
            labels, torch.where(keep, flux, 0.0), torch.where(keep, sigma**-2, 0.0), continuum, snr
        )

    def _rest_pixels(self, v_rad: Tensor) -> Tensor:
        """Pixels of the emulator's grid, ``(n, n_pixels)``, at which the detector's light was emitted."""
        grid = self.model.emulator.grid
        observed = torch.from_numpy((np.log(self.grid.wavelength) - grid.start * math.log(10)) / grid.dlnw)
        shift = torch.atanh(v_rad / C_KMS) / grid.dlnw
        return (observed - shift[:, None]).round().clamp(0, grid.n_pixels - 1).long()

    def _continuum(self, n: int, generator: torch.Generator) -> Tensor:
        out = torch.ones(n, self.grid.n_pixels)
        order = torch.arange(self.observing.continuum_degree + 1).clamp_min(1)
        for (start, stop), basis in zip(self.grid.chips, self._chebyshev, strict=True):
            c = torch.randn(n, len(order), generator=generator) * self.observing.continuum_spread / order
            out[:, start:stop] = (1 + c @ basis.T).clamp_min(0.2)
        return out

    def _errors(self, n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        if self._draw_errors is not None:
            sigma = self._draw_errors(n, generator)
            # Of an even number of pixels the lower median: it is finite wherever half of them are.
            return 1 / sigma.median(dim=1).values, sigma
        low, high = (math.log(v) for v in self.observing.snr)
        snr = torch.exp(low + (high - low) * torch.rand(n, generator=generator))
        sigma = (1 / snr)[:, None].repeat(1, self.grid.n_pixels)
        for start, stop in self.grid.chips:
            sigma[:, start:stop] *= torch.exp(
                self.observing.chip_spread * torch.randn(n, 1, generator=generator)
            )
        sky = torch.rand(sigma.shape, generator=generator)
        return snr, sigma * torch.where(
            sky < self.observing.sky_share, 1 + 4 * sky / self.observing.sky_share, 1.0
        )

    def _masks(self, n: int, generator: torch.Generator) -> Tensor:
        low, high = self.observing.masked
        if high == 0 and self.observing.gap_probability == 0 and self.observing.chip_loss_probability == 0:
            return torch.zeros(n, self.grid.n_pixels, dtype=torch.bool)
        share = low + (high - low) * torch.rand(n, 1, generator=generator)
        lost = torch.zeros(n, self.grid.n_pixels, dtype=torch.bool)
        # Labels are independent draws, so that blocks of the batch may as well differ in the length of their runs.
        for rows, length in zip(
            torch.arange(n).chunk(_RUN_LENGTHS), range(1, _RUN_LENGTHS + 1), strict=False
        ):
            pixels = round(self._pixel_scale * length)
            starts = torch.rand(len(rows), self.grid.n_pixels, generator=generator) < share[rows] / pixels
            block = lost[rows[0] : rows[-1] + 1]
            for k in range(pixels):
                block[:, k:] |= starts[:, : self.grid.n_pixels - k]
        width = (self._gap_scale * torch.randint(100, 600, (n, 1), generator=generator)).long()
        first = torch.randint(self.grid.n_pixels, (n, 1), generator=generator)
        gap = torch.rand(n, 1, generator=generator) < self.observing.gap_probability
        for row in gap[:, 0].nonzero()[:, 0].tolist():
            lost[row, int(first[row]) : int(first[row] + width[row])] = True
        chips = self.grid.chips
        gone = torch.cat([torch.rand(n, 1, generator=generator) for _ in chips], dim=1)
        gone = gone < self.observing.chip_loss_probability
        if len(chips) < _FEW_CHIPS:
            # Of few chips all would be lost too often: nothing is learned from that.
            gone &= ~gone.all(1, keepdim=True)
        for i, (start, stop) in enumerate(chips):
            lost[:, start:stop] |= gone[:, i : i + 1]
        return lost


def _line_width(profile: LineSpread | None, grid: PixelGrid) -> Array:
    """Return the standard deviation of a profile in ln(wavelength), shape ``(n_pixels,)``."""
    if profile is None:
        return np.zeros(grid.n_pixels)
    return 1 / (FWHM * profile.resolving_power(grid))


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
    seed: int = Field(0, ge=0, lt=2**62)
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
    raise ConfigError(f"pixels: no {name!r}; {meant(name, known)}")


def detector(instrument: Instrument, pixels: Pixels) -> tuple[PixelGrid, LineSpread]:
    """Return an instrument's pixels and its line-spread function there."""
    if pixels == "native":
        return instrument.pixels, instrument.lsf
    return instrument.grid, instrument.grid_lsf


def drawn_lsf(instrument: Instrument, pixels: Pixels, generator: torch.Generator) -> LineSpread:
    """Draw the line-spread function of a fibre: one of those known, somewhat wider or narrower; the nominal one if all are alike."""
    if not instrument.varies:
        return detector(instrument, pixels)[1]
    number = int(torch.randint(instrument.n_fibres, (1,), generator=generator))
    scatter = float(torch.randn(1, generator=generator).clamp(-_FARTHEST, _FARTHEST))
    return instrument.fibre_lsf(number, math.exp(instrument.spread * scatter), native=pixels == "native")


def fibre_generator(seed: int) -> torch.Generator:
    """Return the stream that the fibres of a seed are drawn from, apart from that of its stars."""
    return torch.Generator().manual_seed(-1 - seed)


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
    known = folder(config.model) / MODES
    modes = LibraryModes.read(known, emulator) if known.exists() else None
    return Problem(
        forward, labels, config.fixed, degree, observing.emulator_error, instrument=instrument, modes=modes
    )


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
    instrument, observing = problem.spectrograph, config.observing
    grid, lsf = detector(instrument, config.pixels)
    if observing.visits:
        raise ConfigError(
            "observing.visits: profiles of single spectra are not kept in files; maury train simulates such spectra on the fly"
        )
    if config.pixels == "network" and observing.resolution:
        return Simulator(problem, grid, observing, None)
    if not observing.fibres or not instrument.varies:
        return Simulator(problem, grid, observing, lsf)
    generator = torch.Generator().manual_seed(_FIBRE_SEED)
    drawn = [drawn_lsf(instrument, config.pixels, generator) for _ in range(observing.fibres)]
    return Simulator(problem, grid, observing, drawn)


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
