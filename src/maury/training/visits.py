"""Simulated visits on the networks' grid: each spectrum is seen through a fibre of its own, and nuisances cost next to nothing.

In Fourier space (`maury.forward.onchips`) a profile is a factor, and so are the nuisances that broaden or move; those that add lines are
more vectors. What a visit's resampling to the grid does to lines and noise (`maury.spectra.regrid.response`) is a factor too.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from maury.constants import C_KMS
from maury.errors import ConfigError
from maury.forward.onchips import Kernels, OnChips
from maury.likelihood.batched import centres, of_kind, rest_vectors
from maury.likelihood.nuisances import (
    CarbonIsotopes,
    ChipVelocity,
    Dilution,
    Elements,
    EmulatorModes,
    LibraryByChip,
    LimbDarkening,
    LineWidth,
    Macroturbulence,
    Microturbulence,
    contrasts,
)
from maury.likelihood.problem import Problem
from maury.networks.prepare import network_ranges
from maury.spectra.instrument import Instrument
from maury.spectra.linespread import Gaussian
from maury.spectra.regrid import response
from maury.spectra.seen import knots, profile
from maury.training.simulations import (
    Observing,
    ProblemConfig,
    Simulation,
    Simulator,
    build_problem,
    build_simulator,
    drawn_lsf,
)

# Fibres that are drawn from, two of them mixed for each visit, and Gaussians.
_FIBRES, _GAUSSIANS = 96, 24
# Range of resolving powers of what is no visit, where none is given: about the instrument's, as shares of it.
_ABOUT = (0.87, 1.16)
_KNOT = 23


class VisitSimulator(Simulator):
    """Draws labels from the prior and observes the forward model's spectra on the networks' grid, each through a profile of its own.

    Parameters
    ----------
    problem
        Forward model and labels; its instrument's fibres are drawn from.
    observing
        Noise, masks, continua and nuisances; ``visits`` is the share of visits.
    """

    def __init__(self, problem: Problem, observing: Observing) -> None:
        instrument = problem.spectrograph
        super().__init__(
            problem, instrument.grid, observing.model_copy(update={"resolution": ()}), instrument.grid_lsf
        )
        self.instrument = instrument
        model = problem.forward
        covered = network_ranges(model.emulator, instrument)
        self.onchips = OnChips(model, instrument, covered, rest_vectors(model, self._nuisances))
        generator = torch.Generator().manual_seed(0)
        fibres = [
            drawn_lsf(instrument, "native", generator) for _ in range(_FIBRES if instrument.varies else 1)
        ]
        self.fibres = torch.from_numpy(np.stack([profile(f, instrument.pixels, instrument) for f in fibres]))
        low, high = (instrument.power * share for share in _ABOUT)
        if observing.resolution:
            low, high = min(observing.resolution), max(observing.resolution)
        powers = np.geomspace(low, high, _GAUSSIANS)
        self.gaussians = torch.from_numpy(
            np.stack([profile(Gaussian(r, integrate=False), instrument.grid, instrument) for r in powers])
        )
        self._spacing = _spacings(instrument)

    @torch.no_grad()
    def observe(self, labels: Tensor, generator: torch.Generator) -> Simulation:
        """Simulate spectra of given labels ``(n, n_labels)``, ``jitter`` included."""
        n = len(labels)
        seen, visit = self.draw_profiles(n, generator)
        clean = self.through(labels, seen, generator)
        white = torch.randn(n, self.grid.n_pixels, generator=generator)
        white = torch.where(visit[:, None], self._resampled(white), white)
        found = self.add_noise(labels, clean, generator, white)
        return Simulation(found.labels, found.flux, found.ivar, found.continuum, found.snr, seen)

    def draw_profiles(self, n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Draw profiles ``(n, n_chips, 2, n_knots, 2)``, and which of them are of visits ``(n,)``."""
        visit = torch.rand(n, generator=generator) < self.observing.visits

        def mixed(known: Tensor) -> Tensor:
            one, two = (known[torch.randint(len(known), (n,), generator=generator)] for _ in range(2))
            return torch.lerp(one, two, torch.rand(n, 1, 1, 1, 1, generator=generator))

        fibres, gaussians = mixed(self.fibres), mixed(self.gaussians)
        return torch.where(visit[:, None, None, None, None], fibres, gaussians), visit

    def _resampled(self, white: Tensor) -> Tensor:
        """Noise as neighbouring pixels of a visit that was resampled share it, the power that is told of it left at low frequencies."""
        out = white.clone()
        for chip in self.onchips.chips:
            part = white[:, chip.pixels]
            n = part.shape[1]
            keep = response(self._spacing, np.arange(n // 2 + 1) / n)
            out[:, chip.pixels] = torch.fft.irfft(torch.fft.rfft(part) * torch.from_numpy(keep).float(), n=n)
        return out

    @torch.no_grad()
    def clean(self, labels: Tensor, generator: torch.Generator) -> Tensor:
        """Model spectra as of `Simulator.clean`, seen through drawn profiles."""
        return self.through(labels, self.draw_profiles(len(labels), generator)[0], generator)

    @torch.no_grad()
    def through(self, labels: Tensor, seen: Tensor, generator: torch.Generator) -> Tensor:
        """Model spectra ``(n, n_pixels)`` seen through profiles, with nuisances drawn; on pixels of no chip they are 1."""
        n, emulator = len(labels), self.model.emulator
        stellar = labels[:, self._of_model][:, :-2]
        v_rad, v_sini = labels[:, self._of_model][:, -2], labels[:, self._of_model][:, -1]
        ties = emulator.ties
        scatter = ties.ties and self.observing.departures
        coefficients = emulator.coefficients(stellar, ties.departures(n, generator) if scatter else None)
        by_chip = self._moved(stellar, coefficients, generator)
        extra = self._extra(stellar, generator)
        chips = self.onchips.chips
        shift, width, light = (
            torch.randn(n, len(chips), generator=generator) * (one.width if one else 0.0)
            for one in (
                of_kind(self._nuisances, ChipVelocity),
                of_kind(self._nuisances, LineWidth),
                of_kind(self._nuisances, Dilution),
            )
        )
        broadening, darkening = self._star(labels[:, self._of_model], generator)
        out = torch.ones(n, self.grid.n_pixels)
        for c, chip in enumerate(chips):
            profiles = seen[:, self.onchips.number[c]]
            kernel = self.onchips.kernels(chip, v_rad, v_sini)
            variance = broadening / C_KMS**2 + 2 * width[:, c] * _variance(profiles, self.onchips.dlnw)
            factor = self._factor(kernel, shift[:, c], variance, darkening)
            spectrum = chip.transform(self.onchips.amplitudes(by_chip[c], extra)) * factor
            m = 1 + chip.seen(spectrum, chip.profiles(profiles))
            out[:, chip.pixels] = m + light[:, c : c + 1] * (1 - m)
        return out

    def _factor(self, kernel: Kernels, shift: Tensor, variance: Tensor, darkening: Tensor) -> Tensor:
        """Rotation and motion, and what nuisances do to them, each as far as it is linear."""
        factor = kernel.whole
        if self._nuisances:
            factor = factor * (
                1 + kernel.by_v_rad() * shift[:, None] + kernel.by_broadening() * variance[:, None]
            )
            factor = factor + kernel.by_limb_darkening() * darkening[:, None]
        return factor

    def _moved(self, stellar: Tensor, coefficients: Tensor, generator: torch.Generator) -> list[Tensor]:
        """Coefficients chip by chip, with what nuisances that act as labels do."""
        chips, names = self.onchips.chips, self.model.emulator.labels.names
        as_labels = (LibraryByChip, Elements, Microturbulence, CarbonIsotopes)
        found = [one for one in self._nuisances if isinstance(one, as_labels)]
        by_chip = [coefficients for _ in chips]
        if not found:
            return by_chip
        slopes = self.model.emulator.jacobian(stellar, torch.float32)
        n = len(stellar)
        for one in found:
            if isinstance(one, LibraryByChip):
                entries = [(name, width * row) for name, width in one.widths for row in contrasts(len(chips))]
            else:
                of = one.labels if isinstance(one, Elements) else ("v_micro",)
                of = ("c12_c13",) if isinstance(one, CarbonIsotopes) else of
                entries = [(name, np.full(len(chips), one.width)) for name in of]
            for name, size in entries:
                if name not in names:
                    continue
                place = names.index(name)
                drawn = torch.randn(n, 1, generator=generator)
                if isinstance(one, CarbonIsotopes):
                    drawn = drawn * stellar[:, place : place + 1].float() * math.log(10)
                by_chip = [
                    x + float(s) * drawn * slopes[:, place] for x, s in zip(by_chip, size, strict=True)
                ]
        return by_chip

    def _extra(self, stellar: Tensor, generator: torch.Generator) -> Tensor | None:
        """Amplitudes of modes of emulator and library, ``(n, k)``."""
        if not self.onchips.n_extra:
            return None
        drawn = torch.randn(len(stellar), self.onchips.n_extra, generator=generator)
        if of_kind(self._nuisances, EmulatorModes):
            n = len(self.model.emulator.modes)
            drawn[:, :n] *= self.model.emulator.error(stellar).float()[:, None]
        return drawn

    def _star(self, labels: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Broadening (km2/s2) and limb darkening beyond the model's, ``(n,)`` each, of the model's labels ``(n, n_labels)``."""
        out = centres(self.model, self._nuisances, labels)
        drawn = torch.randn(len(labels), 2, generator=generator)
        for column, kind in enumerate((Macroturbulence, LimbDarkening)):
            if (one := of_kind(self._nuisances, kind)) is not None:
                out[:, column] += one.width * drawn[:, column]
        return out[:, 0].float(), out[:, 1].float()


def simulator_of(config: ProblemConfig) -> Simulator:
    """Build the simulator that a configuration describes, of visits where it asks for them.

    Raises
    ------
    ModelError, LabelError, ConfigError
        As `build_simulator`; and if visits are asked for on other pixels than the networks'.
    """
    if not config.observing.visits:
        return build_simulator(config)
    if config.pixels != "network":
        raise ConfigError("observing.visits: spectra are on the networks' grid; leave pixels out")
    return VisitSimulator(build_problem(config), config.observing)


def _variance(profiles: Tensor, dlnw: float) -> Tensor:
    """Variance in ln(wavelength) of the Gaussian that is most like profiles ``(n, 2, n_knots, 2)``, shape ``(n,)``."""
    omega = 2 * math.pi * float(knots()[_KNOT]) / dlnw
    size = torch.view_as_complex(profiles[:, :, _KNOT].contiguous()).abs().mean(1).clamp(1e-3, 0.999)
    return -2 * size.log() / omega**2


def _spacings(instrument: Instrument) -> float:
    """Median distance of detector pixels, in pixels of the networks' grid."""
    w, chips = instrument.pixels.wavelength, instrument.pixels.chips
    steps = np.concatenate([np.diff(np.log10(w[a:b])) for a, b in chips])
    return float(np.median(steps)) / instrument.layout.log10_step
