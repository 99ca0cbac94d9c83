"""A simulated reality gap: spectra that the model of inference cannot make, by how much of what.

Each fault is applied to noise-free spectra of known labels, on the detector's pixels; what inference then says of those labels, with and
without its robust options, tells what the fault does to a result, and whether it is seen.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from scipy.ndimage import gaussian_filter1d
from torch import Tensor

from maury.checks.calibration import REAL_MASKS, SEEDS
from maury.checks.runs import Key, run
from maury.constants import C_KMS
from maury.errors import ConfigError
from maury.forward.model import ForwardModel
from maury.inference.companion import with_companion
from maury.inference.infer import infer
from maury.inference.options import Options
from maury.libraries.emulator import Emulator
from maury.likelihood.residuals import Noise
from maury.models import Model, folder
from maury.posterior.result import Posterior
from maury.quantities import Role
from maury.spectra.instrument import Instrument, apogee
from maury.spectra.linespread import FWHM, GaussHermite, LineSpread
from maury.spectra.spectrum import Spectrum
from maury.training.simulations import Observing, Simulator, drawn_lsf, fibre_generator

_TELLURICS, _SKY_LINES, _HITS = 80, 40, 60
# km/s: width of a telluric line, and of a sky line on the detector.
_LINE_WIDTH = 6.0
_FRINGE_PERIOD = (15.0, 60.0)
# Angstrom: how far a blue chip's wings reach (its widest Gaussian has 74 pixels), and the second overtone's bands of CO, vacuum at rest.
_WING, _CO_BAND = 15.0, 40.0
_CO_HEADS = (15582.0, 15780.0, 15982.0, 16189.0, 16397.0, 16613.0, 16837.0)
# km/s within which a companion moves, and the range of its rotation.
_COMPANION_VELOCITY, _COMPANION_ROTATION = 100.0, 10.0
# Where the libraries' ranges end 100 K apart they are compared here, and the difference is that of all stars below the second.
_OVERLAP, COOL = 3500.0, 4200.0
_OTHER = {
    "kurucz-apogee": "btsettl-apogee",
    "btsettl-apogee": "kurucz-apogee",
    "marcs-apogee": "kurucz-apogee",
}


class Bed:
    """Makes spectra with faults.

    Parameters
    ----------
    model
        Of inference; stars are drawn from its prior, without jitter.
    snr
        Range of the S/N a pixel.
    lsf
        The detector's line-spread function; `spectrum` draws one of a fibre for each star.
    """

    def __init__(
        self, model: Model, snr: tuple[float, float] = (30.0, 200.0), lsf: LineSpread | None = None
    ) -> None:
        self.model, self.problem, self.snr = model, model.problem, snr
        self.instrument = self.problem.spectrograph
        self.grid, self.lsf = self.instrument.pixels, lsf or self.instrument.lsf
        observing = Observing(masked=REAL_MASKS, snr=snr, emulator_error=False, chip_loss_probability=0.0)
        self.simulator = Simulator(self.problem, self.grid, observing, self.lsf)
        self.chips = self.grid.chips
        prior = self.problem.labels["v_rad"].prior
        self.v_rad = prior.low, prior.high
        self.nuisances = self.problem.columns(self.problem.labels.of(Role.nuisance))
        self.of_model = self.problem.columns(self.problem.labels.without(Role.nuisance))

    @cached_property
    def other(self) -> ForwardModel:
        """Forward model of the other shipped library.

        Raises
        ------
        ConfigError
            If the model of inference is not a shipped one.
        """
        if self.model.name not in _OTHER:
            raise ConfigError(f"fault 'library': {self.model.name} has no counterpart; leave it out")
        emulator = Emulator.load(folder(_OTHER[self.model.name]) / "emulator.safetensors")
        return ForwardModel(emulator.requires_grad_(False), 0.6).eval()

    @cached_property
    def shared(self) -> bool:
        """Whether the two libraries have stars of the same temperature."""
        mine, theirs = self.problem.labels["teff"].prior, self.other.emulator.labels["teff"].prior
        return max(mine.low, theirs.low) < min(mine.high, theirs.high)

    def labels(self, n: int, fault: Fault, generator: torch.Generator) -> Tensor:
        """All labels ``(n, n_all)`` from the prior, jitter 0; where libraries are compared, cool stars inside both of them."""
        labels = self.problem.sample(n, generator)
        labels[:, self.nuisances] = 0.0
        if fault.name == "library":
            known = self.problem.labels
            theirs = self.other.emulator.labels
            ends = {}
            for name in set(known.names) & set(theirs.names):
                mine, other = known[name].prior, theirs[name].prior
                ends[name] = max(mine.low, other.low), min(mine.high, other.high)
            if not self.shared:
                ends["teff"] = known["teff"].prior.low, min(COOL, known["teff"].prior.high)
            for name, (low, high) in sorted(ends.items()):
                share = torch.rand(n, generator=generator, dtype=torch.float64)
                labels[:, known.index(name)] = low + share * (high - low)
            for name in ("c_m", "n_m"):
                # What the other library does not vary is the Sun's.
                if name in known.names and name not in theirs.names:
                    labels[:, known.index(name)] = 0.0
        return labels

    def spectrum(self, fault: Fault, strength: float, number: int, seed: int) -> tuple[Spectrum, Tensor]:
        """Return a spectrum and its labels ``(n_all,)``: of a number and a seed always the same star, whatever the strength."""
        generator = torch.Generator().manual_seed(seed * SEEDS + number)
        lsf = drawn_lsf(self.instrument, "native", fibre_generator(seed * SEEDS + number))
        bed = Bed(self.model, self.snr, lsf) if self.instrument.varies else self
        labels = bed.labels(1, fault, generator)
        with torch.no_grad():
            clean = fault.apply(bed, labels, strength, generator)
        seen = bed.simulator.add_noise(labels, clean, generator)
        flux, ivar = seen.flux[0].double().numpy(), seen.ivar[0].double().numpy()
        name = f"{fault.name}-{strength:g}-{number}"
        return Spectrum(self.grid, flux, ivar, id=name, lsf=lsf), labels[0]

    def lines(self, number: int, n: int, generator: torch.Generator) -> Tensor:
        """Profiles of lines at random wavelengths and strengths up to 1, the same places for all ``n``; ``(n, n_pixels)``."""
        x = torch.from_numpy(np.log(self.grid.wavelength)) * C_KMS
        out = torch.zeros(n, len(x), dtype=torch.float64)
        places = torch.Generator().manual_seed(1)
        centres = x[torch.randint(len(x), (number,), generator=places)]
        for centre in centres:
            height = torch.rand(n, 1, generator=generator, dtype=torch.float64)
            out += height * torch.exp(-0.5 * ((x - centre) / _LINE_WIDTH).square())
        return out


Apply = Callable[[Bed, Tensor, float, torch.Generator], Tensor]


@dataclass(frozen=True)
class Fault:
    """One way in which a spectrum is not what the model says.

    Attributes
    ----------
    name, meaning
        What it is, and what its strength measures.
    default
        Strength that is common in real spectra.
    strengths
        Those of a detection curve.
    apply
        From labels ``(n, n_all)`` and strength to noise-free spectra ``(n, n_pixels)``, float32.
    """

    name: str
    meaning: str
    default: float
    strengths: tuple[float, ...]
    apply: Apply


def _clean(bed: Bed, labels: Tensor, strength: float, generator: torch.Generator) -> Tensor:
    return bed.simulator.clean(labels, generator)


def _library(bed: Bed, labels: Tensor, strength: float, generator: torch.Generator) -> Tensor:
    here, there = bed.model.forward, bed.other
    mine = here.sampler(bed.grid, bed.lsf)
    theirs = there.sampler(bed.grid, bed.lsf)

    def at_overlap(forward: ForwardModel) -> Tensor:
        # What one of them does not know (alpha_m) is 0 in both; microturbulence is the star's.
        columns = dict.fromkeys(forward.label_names, torch.zeros(len(labels), dtype=torch.float64))
        for name in {*there.label_names, "v_micro"} & set(here.label_names):
            columns[name] = labels[:, bed.problem.labels.index(name)]
        if not bed.shared:
            columns["teff"] = torch.full_like(columns["teff"], _OVERLAP)
        return torch.stack([columns[name] for name in forward.label_names], dim=1)

    a = mine(here(at_overlap(here)))
    b = theirs(there(at_overlap(there)))
    difference = (b.clamp_min(0.05) / a.clamp_min(0.05)).log()
    return bed.simulator.clean(labels, generator) * torch.exp(strength * difference)


def _lsf(bed: Bed, labels: Tensor, strength: float, generator: torch.Generator) -> Tensor:
    profile = bed.lsf
    if isinstance(profile, GaussHermite):
        forward = bed.model.forward
        return forward.sampler(bed.grid, profile.widened(1 + strength))(forward(labels[:, bed.of_model]))
    if strength < 0:
        raise ConfigError(
            f"fault 'narrow_lsf': lines of {bed.instrument.name} cannot be narrowed; leave it out"
        )
    sigma = C_KMS / bed.instrument.power / FWHM * math.sqrt((1 + strength) ** 2 - 1)
    broader = ForwardModel(bed.model.forward.emulator, bed.model.forward.limb_darkening, v_macro=sigma)
    return broader.sampler(bed.grid, profile)(broader(labels[:, bed.of_model]))


def _narrow_lsf(bed: Bed, labels: Tensor, strength: float, generator: torch.Generator) -> Tensor:
    return _lsf(bed, labels, -strength, generator)


def _limb_darkening(bed: Bed, labels: Tensor, strength: float, generator: torch.Generator) -> Tensor:
    usual = bed.model.forward
    other = ForwardModel(usual.emulator, max(usual.limb_darkening - strength, 0.0))
    return other.sampler(bed.grid, bed.lsf)(other(labels[:, bed.of_model]))


def _chips(bed: Bed, labels: Tensor, strength: float, generator: torch.Generator) -> Tensor:
    out, place = bed.simulator.clean(labels, generator), bed.problem.labels.names.index("v_rad")
    # The first chip to the red, the last to the blue.
    for (start, stop), sign in ((bed.chips[0], 1.0), (bed.chips[-1], -1.0)):
        moved = labels.clone()
        moved[:, place] = (moved[:, place] + sign * strength).clamp(*bed.v_rad)
        out[:, start:stop] = bed.simulator.clean(moved, generator)[:, start:stop]
    return out


def _persistence(bed: Bed, labels: Tensor, strength: float, generator: torch.Generator) -> Tensor:
    out, (start, stop) = bed.simulator.clean(labels, generator), bed.chips[0]
    out[:, start:stop] = (out[:, start:stop] + strength) / (1 + strength)
    return out


def _wing(bed: Bed, labels: Tensor, strength: float, generator: torch.Generator) -> Tensor:
    out, (start, stop) = bed.simulator.clean(labels, generator), bed.chips[0]
    pixel = float(np.median(np.diff(bed.grid.wavelength[start:stop])))
    far = gaussian_filter1d(out[:, start:stop].numpy(), _WING / pixel, axis=1, mode="nearest")
    out[:, start:stop] += strength * (torch.from_numpy(far) - out[:, start:stop])
    return out


def _carbon_monoxide(bed: Bed, labels: Tensor, strength: float, generator: torch.Generator) -> Tensor:
    v_rad = labels[:, bed.problem.labels.names.index("v_rad")].numpy()
    at_rest = bed.grid.wavelength / (1 + v_rad[:, None] / C_KMS)
    inside = np.zeros(at_rest.shape, dtype=bool)
    for head in _CO_HEADS:
        inside |= (at_rest > head) & (at_rest < head + _CO_BAND)
    out = bed.simulator.clean(labels, generator)
    return torch.where(torch.from_numpy(inside), out.clamp_min(0) ** (1 + strength), out)


def _hits(bed: Bed, labels: Tensor, strength: float, generator: torch.Generator) -> Tensor:
    out = bed.simulator.clean(labels, generator)
    places = torch.randint(out.shape[1], (len(out), _HITS), generator=generator)
    return out.scatter_add(1, places, strength * (0.5 + torch.rand(places.shape, generator=generator)))


def _emission(bed: Bed, labels: Tensor, strength: float, generator: torch.Generator) -> Tensor:
    x = torch.from_numpy(np.log(bed.grid.wavelength)) * C_KMS
    centre = x[torch.randint(len(x), (len(labels), 1), generator=generator)]
    line = torch.exp(-0.5 * ((x - centre) / _LINE_WIDTH).square())
    return bed.simulator.clean(labels, generator) + (strength * line).float()


def _tellurics(bed: Bed, labels: Tensor, strength: float, generator: torch.Generator) -> Tensor:
    lines = bed.lines(_TELLURICS, len(labels), generator)
    return bed.simulator.clean(labels, generator) * (1 - strength * lines).clamp_min(0).float()


def _fringes(bed: Bed, labels: Tensor, strength: float, generator: torch.Generator) -> Tensor:
    low, high = _FRINGE_PERIOD
    period = low + (high - low) * torch.rand(len(labels), 1, generator=generator)
    phase = 2 * math.pi * torch.rand(len(labels), 1, generator=generator)
    wavelength = torch.from_numpy(bed.grid.wavelength - bed.grid.wavelength[0]).float()
    waves = torch.sin(2 * math.pi * wavelength / period + phase)
    return bed.simulator.clean(labels, generator) * (1 + strength * waves)


def _sky(bed: Bed, labels: Tensor, strength: float, generator: torch.Generator) -> Tensor:
    # Subtracted too little or too much, line by line.
    lines = bed.lines(_SKY_LINES, len(labels), generator) - bed.lines(_SKY_LINES, len(labels), generator)
    return bed.simulator.clean(labels, generator) + (strength * lines).float()


def _companion(bed: Bed, labels: Tensor, strength: float, generator: torch.Generator) -> Tensor:
    second, names = bed.problem.sample(len(labels), generator), bed.problem.labels.names
    # Both formed together.
    for name in ("m_h", "alpha_m"):
        if name in names:
            second[:, names.index(name)] = labels[:, names.index(name)]
    i, j = names.index("v_rad"), names.index("v_sini")
    shift = _COMPANION_VELOCITY * (2 * torch.rand(len(labels), generator=generator, dtype=torch.float64) - 1)
    second[:, i] = (labels[:, i] + shift).clamp(*bed.v_rad)
    second[:, j] = _COMPANION_ROTATION * torch.rand(len(labels), generator=generator, dtype=torch.float64)
    second[:, bed.nuisances] = 0.0
    first, other = (bed.simulator.clean(x, generator) for x in (labels, second))
    return (first + strength * other) / (1 + strength)


NONE = Fault("none", "the model itself", 0.0, (0.0,), _clean)
FAULTS: dict[str, Fault] = {
    fault.name: fault
    for fault in (
        Fault(
            "library",
            "share of the difference in ln(flux) between BT-Settl and Kurucz at 3500 K",
            1.0,
            (0.1, 0.25, 0.5, 1.0),
            _library,
        ),
        Fault("lsf", "excess width of the line-spread function", 0.1, (0.03, 0.1, 0.2, 0.4), _lsf),
        Fault(
            "tellurics",
            "depth of the deepest of 80 unmodelled lines",
            0.05,
            (0.01, 0.03, 0.05, 0.1),
            _tellurics,
        ),
        Fault("fringes", "amplitude, periods of 15 to 60 Angstrom", 0.01, (0.003, 0.01, 0.02, 0.05), _fringes),
        Fault("sky", "height of the highest of 80 residual sky lines over the continuum", 0.1, (0.03, 0.1, 0.2, 0.5), _sky),
        Fault("narrow_lsf", "lack of width of the line-spread function", 0.1, (0.03, 0.1), _narrow_lsf),
        Fault("limb_darkening", "what the coefficient of limb darkening is smaller by", 0.3, (0.1, 0.3), _limb_darkening),
        Fault("chips", "km/s by which the first chip is off, and the last the other way", 0.3, (0.1, 0.3, 1.0), _chips),
        Fault("persistence", "light without lines on the first chip, of the star's", 0.05, (0.02, 0.05, 0.1), _persistence),
        Fault("wing", "share of the light of the first chip that is spread over tens of pixels", 0.054, (0.02, 0.054, 0.1), _wing),
        Fault("carbon_monoxide", "what the lines in the bands of CO are stronger by", 0.2, (0.05, 0.2, 0.5), _carbon_monoxide),
        Fault("hits", "mean height of 60 hits on single pixels over the continuum", 0.5, (0.1, 0.5, 2.0), _hits),
        Fault("emission", "height of one emission line over the continuum", 0.5, (0.1, 0.5, 2.0), _emission),
        Fault("companion", "flux ratio of a second star", 0.3, (0.03, 0.1, 0.3, 0.6), _companion),
    )
}  # fmt: skip


# Independent pixels; correlated residuals where there are any; and beside these a companion where there is one, and the error between
# libraries where it is known.
Robustness = Literal["independent", "auto", "robust"]
OPTIONS: tuple[Robustness, ...] = ("independent", "auto", "robust")


@dataclass(frozen=True)
class Result:
    """What inference said of one faulty spectrum.

    ``offset`` is the median less the truth, ``error`` the standard deviation and ``inside`` whether the central 68 % hold the truth, by
    label; ``grade`` as of `Misfit`, and ``correlated`` whether the noise has a correlated part.
    """

    fault: str
    strength: float
    options: str
    offset: dict[str, float]
    error: dict[str, float]
    inside: dict[str, bool]
    p_predictive: float
    p_novelty: float
    grade: str
    correlated: bool
    flags: tuple[str, ...]
    khat: float

    @classmethod
    def of(
        cls,
        posterior: Posterior,
        truth: Tensor,
        names: Sequence[str],
        *,
        fault: Fault,
        strength: float,
        options: Robustness,
    ) -> Result:
        """Compare a posterior with all true labels ``(n_all,)``, named ``names``."""
        summary, misfit = posterior.summary(), posterior.diagnostics.misfit
        residuals = posterior.diagnostics.residuals
        if options == "robust":
            summary |= {name: asdict(entry) for name, entry in posterior.systematic.items()}
        assert misfit is not None
        true = {name: float(truth[names.index(name)]) for name in posterior.stellar.names if name in names}
        return cls(
            fault.name,
            strength,
            options,
            {k: summary[k]["p50"] - v for k, v in true.items()},
            {k: summary[k]["std"] for k in true},
            {k: summary[k]["p16"] <= v <= summary[k]["p84"] for k, v in true.items()},
            misfit.p_predictive,
            1.0 if misfit.p_novelty is None else misfit.p_novelty,
            str(misfit.grade),
            residuals is not None and residuals.used,
            (*posterior.flag_warn, *posterior.flag_bad),
            posterior.khat,
        )


def spoil(
    model: Model,
    faults: Sequence[tuple[Fault, float]],
    number: int,
    *,
    options: Sequence[Robustness] = OPTIONS,
    draws: int = 1000,
    seed: int = 0,
    snr: tuple[float, float] = (30.0, 200.0),
    jobs: int = 1,
    store: Path | None = None,
) -> Iterator[Result]:
    """Infer ``number`` spectra of each fault and strength, with some sets of options.

    Parameters
    ----------
    model
        Of inference.
    faults
        Faults, each with a strength.
    number
        Spectra of each.
    options
        Which sets: see `OPTIONS`.
    draws, seed
        Importance draws a round, and the seed of everything.
    snr
        Range of the S/N a pixel.
    jobs
        Processes.
    store
        A file that results are added to, and from which an interrupted run goes on.

    Raises
    ------
    ConfigError
        If ``store`` is of other settings, or a fault cannot be made for this model.
    """
    settings = {"model": model.name, "options": list(options), "draws": draws, "seed": seed, "snr": list(snr)}
    keys = [[fault.name, strength, i] for fault, strength in faults for i in range(number)]
    task = partial(_spoil, options=options, draws=draws, seed=seed, snr=snr)
    for found in run(model, task, keys, jobs=jobs, store=store, settings=settings):
        for plain in found:
            yield Result(**(plain | {"flags": tuple(plain["flags"])}))


def _spoil(
    model: Model, key: Key, *, options: Sequence[Robustness], draws: int, seed: int, snr: tuple[float, float]
) -> list[dict[str, Any]]:
    """Infer the spectrum of a fault, a strength and a number."""
    name, strength, number = key
    fault = NONE if name == NONE.name else FAULTS[name]
    spectrum, truth = Bed(model, snr).spectrum(fault, strength, number, seed)
    names, found = model.problem.labels.names, []
    single: dict[Noise, Posterior] = {}
    for chosen in options:
        kind: Noise = "independent" if chosen == "independent" else "auto"
        if kind not in single:
            single[kind] = infer(spectrum, model, draws=draws, seed=seed + number, noise=kind)
        posterior = single[kind]
        if chosen == "robust":
            posterior = with_companion(
                posterior, model, Options(draws, seed + number, noise=kind, companion="auto")
            )
        found.append(
            asdict(Result.of(posterior, truth, names, fault=fault, strength=strength, options=chosen))
        )
    return found


Impostor = Literal["galaxy", "flat", "emission", "noise"]
IMPOSTORS: tuple[Impostor, ...] = ("galaxy", "flat", "emission", "noise")


def impostor(
    kind: Impostor, snr: float = 50.0, seed: int = 0, instrument: Instrument | None = None
) -> Spectrum:
    """Return a spectrum of what is no star, on the pixels of an instrument, APOGEE if none is given.

    ``galaxy``: many cool stars at redshift 0.01, broadened by 200 km/s; ``flat``: a continuum; ``emission``: lines above a weak continuum;
    ``noise``: no signal at all.
    """
    rng = np.random.default_rng(seed)
    seen_by = instrument or apogee()
    grid, lsf = seen_by.pixels, seen_by.lsf
    x = np.log(grid.wavelength) * C_KMS
    flux = np.ones(grid.n_pixels)
    if kind == "galaxy":
        depth, places = rng.uniform(0.02, 0.2, 150), rng.choice(x, 150)
        flux = 1 - sum(d * np.exp(-0.5 * ((x - p) / 200) ** 2) for d, p in zip(depth, places, strict=True))
        flux = np.clip(flux / flux.mean(), 0.1, None)
    elif kind == "emission":
        height, places = rng.uniform(0.5, 10, 25), rng.choice(x, 25)
        flux = 0.3 + sum(h * np.exp(-0.5 * ((x - p) / 15) ** 2) for h, p in zip(height, places, strict=True))
    elif kind == "noise":
        flux = np.zeros(grid.n_pixels)
    noisy = flux + rng.normal(size=grid.n_pixels) / snr
    return Spectrum(grid, noisy, np.full(grid.n_pixels, snr**2), id=kind, lsf=lsf)
