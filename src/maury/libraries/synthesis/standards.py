"""Calibrate a line list on standard stars: ``maury models calibrate CONFIG.toml``."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field
from scipy.signal import find_peaks

import maury
from maury.errors import ConfigError
from maury.files import writing
from maury.libraries.synthesis.atmospheres import MarcsCollection
from maury.libraries.synthesis.calibration import (
    Problem,
    Standard,
    State,
    Synthesiser,
    Window,
    continuum_basis,
    derivatives,
    features,
    step,
    synthesiser,
)
from maury.libraries.synthesis.engine import ATOMIC_NUMBER, SYMBOLS, Engine, Star
from maury.libraries.synthesis.lines import LineList, read_lines
from maury.libraries.synthesis.turbospectrum import Turbospectrum

Array = NDArray[np.float64]
log = logging.getLogger(__name__)

# First ionisation energies, eV (NIST), of the atoms that have lines here.
_IONISATION = {
    "Li": 5.39, "B": 8.30, "C": 11.26, "N": 14.53, "O": 13.62, "Na": 5.14, "Mg": 7.65, "Al": 5.99, "Si": 8.15, "P": 10.49, "S": 10.36,
    "K": 4.34, "Ca": 6.11, "Sc": 6.56, "Ti": 6.83, "V": 6.75, "Cr": 6.77, "Mn": 7.43, "Fe": 7.90, "Co": 7.88, "Ni": 7.64, "Cu": 7.73,
    "Zn": 9.39, "Ge": 7.90, "Rb": 4.18, "Sr": 5.69, "Y": 6.22, "Zr": 6.63, "Cs": 3.89, "Ba": 5.21, "La": 5.58, "Ce": 5.54, "Nd": 5.53,
    "Au": 9.23,
}  # fmt: skip
# Strength (of `strength`) from which lines are free, from which their damping is, and how far (A) lines of a strength are felt.
_FREE, _DAMPED = -2.8, -0.1
_REACH = ((0.8, 6.0), (0.2, 3.5), (-0.5, 2.0), (-np.inf, 1.3))
# Lines that both standards show and the list lacks are taken for iron of this energy, eV.
_UNIDENTIFIED = 5.9
# What is too deep by this much in all standards is a line that is missing; strengths by its depth.
_MISSING = 0.008
_DEPTHS, _STRENGTHS = (0.01, 0.03, 0.06, 0.1), (-1.5, -1.0, -0.5, -0.1)
# The chips of APOGEE in air, where standards are judged (A).
CHIPS = ((15152.0, 15800.0), (15867.0, 16424.0), (16484.0, 16944.0))


class StandardConfig(BaseModel):
    """A standard star, its observed spectrum and what is known of it."""

    model_config = ConfigDict(extra="forbid")

    name: str
    spectrum: Path = Field(description="text: air wavelength (A) and normalised flux")
    teff: float
    logg: float
    m_h: float = 0.0
    v_micro: float = 1.0
    c12_c13: float = 89.0
    abundances: dict[str, float] = Field(default_factory=dict, description="[X/M]")
    errors: dict[str, float] = Field(default_factory=dict, description="of abundances that are fitted, dex")
    velocity: float = Field(0.0, description="km/s by which its lines lie to the red")
    macro: float = Field(ge=0, description="broadening beyond the synthesis: standard deviation, km/s")
    sigma: float = Field(gt=0, description="error of observation and model, of the continuum")
    intensity: bool = Field(False, description="observed at the centre of the disc")
    temperature: float = Field(gt=0, description="where its lines form, K: to rank lines")
    electron_pressure: float = Field(gt=0, description="there, dyn/cm2")


class AddedLine(BaseModel):
    """A line that the list lacks."""

    model_config = ConfigDict(extra="forbid")

    element: str
    ion: Literal[1, 2] = 1
    wavelength: float
    excitation: float
    log_gf: float
    sigma: float = Field(0.2, gt=0, description="dex")


class CalibrationConfig(BaseModel):
    """What ``maury models calibrate`` needs to know."""

    model_config = ConfigDict(extra="forbid")

    name: str
    source: Path = Field(description="folder of Turbospectrum's programs")
    atoms: Path = Field(description="the list whose strengths are fitted")
    start: Path | None = Field(None, description="the same list with strengths to begin with")
    molecules: list[Path] = Field(default_factory=list)
    atmospheres: Path | None = None
    reference: str
    molecule_sigma: float = Field(
        0.12, ge=0, description="accuracy of each molecule's strengths as a whole, dex; 0 holds them"
    )
    gf_sigma: float = Field(0.35, gt=0, description="accuracy of the list's strengths, dex")
    unidentified_sigma: float = Field(1.0, gt=0)
    damping: float = Field(1.8, gt=0, description="factor on Unsoeld's broadening, to begin with")
    damping_sigma: float = Field(0.5, gt=0, description="of its natural logarithm")
    iterations: tuple[int, int] = Field((2, 4), description="before and after missing lines are looked for")
    standards: list[StandardConfig] = Field(min_length=1)
    lines: list[AddedLine] = Field(default_factory=list)


def read_standard(config: StandardConfig, atmospheres: MarcsCollection) -> Standard:
    """Read a standard's spectrum and find its atmosphere.

    Raises
    ------
    ConfigError
        If the spectrum cannot be read.
    """
    try:
        wavelength, flux = np.loadtxt(config.spectrum, usecols=(0, 1), encoding="utf-8").T
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"{config.spectrum}: not a table of wavelengths and normalised flux ({error})"
        ) from None
    star = Star(config.teff, config.logg, config.m_h, config.v_micro, dict(config.abundances), config.c12_c13)
    return Standard(
        config.name,
        star,
        atmospheres.at(star.teff, star.logg, star.donor_metallicity),
        wavelength,
        flux,
        config.velocity,
        config.macro,
        config.sigma,
        dict(config.errors),
        intensity=config.intensity,
    )


def strength(lines: LineList, star: Star, temperature: float, electron_pressure: float) -> Array:
    """Rank atomic lines by ``log gf n / n_H exp(-E / kT)`` of one layer, ``(n_lines,)``: Boltzmann and Saha without partition functions."""
    theta = 5040.0 / temperature
    out = np.empty(len(lines))
    for i, (z, ion) in enumerate(zip(lines.element(), lines.ion, strict=True)):
        symbol = SYMBOLS[z - 1]
        ionised = 2 * 10 ** (
            -theta * _IONISATION.get(symbol, 8.0)
            + 2.5 * np.log10(temperature)
            - 0.1762
            - np.log10(electron_pressure)
        )
        share = (1.0 if ion == 1 else ionised) / (1 + ionised)
        out[i] = lines.log_gf[i] + star.log_eps(symbol) - theta * lines.excitation[i] + np.log10(share)
    return out


def added(lines: list[AddedLine]) -> LineList:
    """Make a list of lines that were added by hand."""
    n = len(lines)
    return LineList(
        np.array([f"{ATOMIC_NUMBER[x.element]:.3f}" for x in lines]),
        np.array([x.ion for x in lines]),
        np.array([round(x.wavelength, 3) for x in lines]),
        np.array([x.excitation for x in lines]),
        np.array([x.log_gf for x in lines]),
        np.full(n, 2.5),
        np.full(n, 10.0),
        np.zeros(n),
    )


@dataclass(frozen=True)
class Agreement:
    """How well a synthetic spectrum agrees with an observed standard.

    Parameters
    ----------
    wavelength, residual
        Air wavelengths (A) inside the chips, and observed minus synthetic flux there, ``(n_pixels,)``.
    velocity
        km/s by which the observation was moved besides.
    chips
        Root mean square of each chip.
    """

    wavelength: Array
    residual: Array
    velocity: float
    chips: tuple[float, ...]

    @property
    def rms(self) -> float:
        """Root mean square of the residual."""
        return float(self.residual.std())

    @property
    def robust(self) -> float:
        """Scatter of the residual by its median absolute deviation."""
        return float(1.4826 * np.median(np.abs(self.residual)))


def agreement(
    standard: Standard, wavelength: Array, flux: Array, resolution: float = 22_500.0, degree: int = 3
) -> Agreement:
    """Compare a synthesis with a standard after a polynomial a chip and one velocity.

    Parameters
    ----------
    standard
        The observation.
    wavelength, flux
        Synthetic spectrum, air, normalised.
    resolution
        To which both are brought.
    degree
        Of the continuum of each chip.
    """
    window = Window(resolution=resolution)
    pixels, model = window.wavelength, window.smooth(wavelength, flux, extra=standard.macro)
    best: Agreement | None = None
    for velocity in np.arange(-0.6, 0.61, 0.1):
        observed = window.smooth(standard.wavelength, standard.flux, standard.velocity + velocity)
        residuals, where = [], []
        for low, high in CHIPS:
            inside = (pixels > low) & (pixels < high)
            x = 2 * (pixels[inside] - low) / (high - low) - 1
            basis = np.polynomial.chebyshev.chebvander(x, degree) * model[inside, None]
            fit = basis @ np.linalg.lstsq(basis, observed[inside], rcond=None)[0]
            residuals.append(observed[inside] - fit)
            where.append(pixels[inside])
        found = Agreement(
            np.concatenate(where),
            np.concatenate(residuals),
            float(velocity),
            tuple(float(r.std()) for r in residuals),
        )
        if best is None or found.rms < best.rms:
            best = found
    assert best is not None
    return best


def missing_lines(
    problem: Problem, state: State, strengths: Array, sigma: float
) -> tuple[list[AddedLine], dict[int, float]]:
    """Find lines that all standards show and the list lacks or has far too weak.

    Parameters
    ----------
    problem, state
        What was fitted, and where it stands.
    strengths
        Of each feature, ``(n_features,)``.
    sigma
        Accuracy with which new lines' strengths are known, dex.

    Returns
    -------
    lines, boosted
        Lines to be added; and features of the list at the right place, with the change of log gf to begin with.
    """
    window = problem.window
    basis = continuum_basis(window.wavelength)
    excess = []
    for standard, star in zip(problem.standards, state.stars, strict=True):
        model = problem.synthesise(standard, problem.adjusted(state.log_gf, state.damping), star)
        difference, columns = standard.observed(window) - model, basis * model[:, None]
        good = np.abs(difference) < 4 * standard.sigma
        excess.append(columns @ np.linalg.lstsq(columns[good], difference[good], rcond=None)[0] - difference)
    # Giants show a line of the same strength deeper.
    common = np.min([e * (1.0 if i == 0 else 0.8) for i, e in enumerate(excess)], axis=0)
    peaks, _ = find_peaks(common, height=_MISSING, distance=8)
    lines, boosted = [], {}
    for peak in peaks:
        wavelength = float(window.wavelength[peak])
        near = np.flatnonzero((np.abs(problem.centre - wavelength) < 0.13) & (strengths > -3.5))
        target = float(np.interp(excess[0][peak], _DEPTHS, _STRENGTHS))
        if len(near):
            feature = int(near[np.argmax(strengths[near])])
            boosted[feature] = float(np.clip(target - strengths[feature], 0, 3))
            continue
        line = AddedLine(
            element="Fe", wavelength=wavelength, excitation=_UNIDENTIFIED, log_gf=0.0, sigma=sigma
        )
        lines.append(line.model_copy(update={"log_gf": target}))
    return lines, boosted


class Calibration:
    """A calibration that goes on where it was stopped.

    Parameters
    ----------
    config
        What is fitted to what.
    folder
        Where each iteration's state is kept and the result written.
    jobs
        Syntheses at a time.
    engine
        Makes an engine of a file of lines, for intensity or flux; Turbospectrum with the configuration's molecules by default.
    window
        The pixels that are fitted.
    """

    def __init__(
        self,
        config: CalibrationConfig,
        folder: Path,
        jobs: int = 1,
        engine: Any = None,
        window: Window | None = None,
    ) -> None:
        self.config, self.folder, self.jobs = config, folder, jobs
        self.window = window or Window()
        self.engine = engine or self._turbospectrum
        folder.mkdir(parents=True, exist_ok=True)
        atmospheres = MarcsCollection(config.atmospheres)
        self.standards = [read_standard(standard, atmospheres) for standard in config.standards]
        published = read_lines(config.atoms)
        self.listed = published.select(published.atomic)
        molecules = [read_lines(path) for path in config.molecules]
        self.molecules = sum(molecules[1:], start=molecules[0]) if molecules else None
        self.synthesise: Synthesiser = synthesiser(self.window, self.engine, folder)

    def _turbospectrum(self, path: Path, intensity: bool) -> Engine:
        return Turbospectrum(self.config.source, [path], intensity=intensity)

    def strengths(self, lines: LineList) -> Array:
        """Largest strength of each line in any standard, ``(n_lines,)``."""
        each = [
            strength(lines, standard.star, c.temperature, c.electron_pressure)
            for standard, c in zip(self.standards, self.config.standards, strict=True)
        ]
        return np.max(each, axis=0)

    def problem(self, extra: list[AddedLine], boosted: dict[int, float]) -> tuple[Problem, Array]:
        """Put together what is fitted, and the strength of each feature."""
        config = self.config
        by_hand = [*config.lines, *extra]
        feature = features(self.listed)
        n_listed = int(feature.max()) + 1
        lines = self.listed + added(by_hand) if by_hand else self.listed
        feature = np.concatenate([feature, n_listed + np.arange(len(by_hand))])
        strengths = np.full(n_listed + len(by_hand), -99.0)
        first = self.listed if config.start is None else _same(self.listed, read_lines(config.start))
        np.maximum.at(strengths, feature[: len(first)], self.strengths(first))
        if by_hand:
            strengths[n_listed:] = self.strengths(added(by_hand))
        for f in boosted:
            strengths[f] = max(strengths[f], -1.0)
        gf_sigma = np.where(strengths > _FREE, config.gf_sigma, 0.0)
        gf_sigma[n_listed:] = [line.sigma for line in by_hand]
        for f in boosted:
            gf_sigma[f] = 1.5 * config.unidentified_sigma
        reach = np.select([strengths > limit for limit, _ in _REACH], [far for _, far in _REACH])
        damping = np.full(len(strengths), np.log(config.damping))
        damping_sigma = np.where(strengths > _DAMPED, config.damping_sigma, 0.0)
        if self.molecules is not None:
            # A molecule's lines are changed together: bands have many, and their relative strengths are known well.
            codes = self.molecules.molecules()
            of = np.array([codes.index(str(species)[:4]) for species in self.molecules.species])
            lines, feature = lines + self.molecules, np.concatenate([feature, len(strengths) + of])
            more = np.zeros(len(codes))
            strengths = np.concatenate([strengths, more - 99.0])
            gf_sigma = np.concatenate([gf_sigma, more + config.molecule_sigma])
            reach = np.concatenate([reach, more + self.window.high - self.window.low])
            damping, damping_sigma = np.concatenate([damping, more]), np.concatenate([damping_sigma, more])
        made = Problem(
            lines,
            feature,
            self.standards,
            self.window,
            self.synthesise,
            gf_sigma,
            damping,
            damping_sigma,
            reach,
            self.jobs,
        )
        return made, strengths

    def run(self) -> LineList:
        """Fit, look for missing lines, fit again; write the list and its card; return the list."""
        plain, strengths = self.problem([], {})
        state = self._fit("listed", plain, self._start(plain), self.config.iterations[0])
        lines, boosted = missing_lines(plain, state, strengths, self.config.unidentified_sigma)
        lines = [line.model_copy(update={"log_gf": self._log_gf(line)}) for line in lines]
        log.info("%d lines added, %d of the list raised", len(lines), len(boosted))
        whole, _ = self.problem(lines, boosted)
        begin = self._start(whole)
        # Lines that were added stand between the list's and the molecules.
        n_molecules = 0 if self.molecules is None else len(self.molecules.molecules())
        n = len(state.log_gf) - n_molecules
        places = np.concatenate([np.arange(n), len(begin.log_gf) - n_molecules + np.arange(n_molecules)])
        begin.log_gf[places], begin.damping[places] = np.clip(state.log_gf, -1.2, 1.2), state.damping
        for f, change in boosted.items():
            begin.log_gf[f] = change
        begin.stars[:] = state.stars
        state = self._fit("whole", whole, begin, self.config.iterations[1])
        made = whole.adjusted(state.log_gf, state.damping)
        self._write(made, whole, state)
        return made.select(made.atomic)

    def _shifts(self, state: State) -> dict[str, float]:
        """Change of each molecule's strengths, dex, by code: what a synthesis takes beside the list."""
        codes = [] if self.molecules is None else self.molecules.molecules()
        return dict(zip(codes, map(float, state.log_gf[len(state.log_gf) - len(codes) :]), strict=True))

    def _log_gf(self, line: AddedLine) -> float:
        """Strength as log gf: the first standard's layer decides."""
        c = self.config.standards[0]
        one = strength(
            added([line.model_copy(update={"log_gf": 0.0})]),
            self.standards[0].star,
            c.temperature,
            c.electron_pressure,
        )
        return float(line.log_gf - one[0])

    def _start(self, problem: Problem) -> State:
        change = np.zeros(len(problem.gf_sigma))
        if self.config.start is not None:
            start = _same(self.listed, read_lines(self.config.start))
            number = problem.feature[: len(start)]
            change += np.bincount(number, start.log_gf - self.listed.log_gf, len(change)) / np.maximum(
                np.bincount(number, minlength=len(change)), 1
            )
            change[problem.gf_sigma == 0] = 0.0
        return State(change, problem.damping_mean.copy(), [standard.star for standard in self.standards])

    def _fit(self, name: str, problem: Problem, state: State, iterations: int) -> State:
        start = State(state.log_gf, state.damping, [standard.star for standard in self.standards])
        changes = None
        for i in range(iterations):
            path = self.folder / f"{name}-{i}.json"
            if path.exists():
                state = _read_state(path, state)
                continue
            lines = problem.adjusted(state.log_gf, state.damping)
            base = [
                self.synthesise(s, lines, star) for s, star in zip(self.standards, state.stars, strict=True)
            ]
            # The derivatives change little from one step to the next.
            if changes is None or i % 2 == 0:
                changes = derivatives(problem, state, base)
            state = step(problem, state, start, base, changes, largest=0.5 if i < 2 else 0.3)
            _write_state(path, state)
            log.info("%s: step %d of %d", name, i + 1, iterations)
        return state

    def _write(self, lines: LineList, problem: Problem, state: State) -> None:
        whole, path = self.folder / "fitted.lines", self.folder / f"{self.config.name}.lines"
        lines.write(whole)
        lines.select(lines.atomic).write(path)
        found = {}
        for standard, star in zip(self.standards, state.stars, strict=True):
            made = self.engine(whole, standard.intensity).synthesise(star, standard.atmosphere)
            found[standard.name] = agreement(standard, made.wavelength, made.normalised)
        free = problem.gf_sigma > 0
        card = {
            "name": self.config.name,
            "maury": maury.__version__,
            "reference": self.config.reference,
            "recipe": self.config.model_dump(
                mode="json", exclude={"source", "atoms", "start", "molecules", "atmospheres", "reference"}
            ),
            "lines": int(lines.atomic.sum()),
            "shifts": self._shifts(state),
            "fitted": int(free.sum()),
            "moved": int((np.abs(state.log_gf[free]) > 0.05).sum()),
            "change_percentiles": {
                str(p): float(np.percentile(state.log_gf[free], p)) for p in (5, 25, 50, 75, 95)
            },
            "standards": {
                name: {"rms": a.rms, "robust": a.robust, "chips": list(a.chips)} for name, a in found.items()
            },
            "abundances": {
                s.name: {k: round(v, 3) for k, v in star.abundances.items()} | {"v_micro": star.v_micro}
                for s, star in zip(self.standards, state.stars, strict=True)
            },
        }
        _write_json(self.folder / f"{self.config.name}.json", card)
        np.savez_compressed(
            self.folder / f"{self.config.name}-residuals.npz",
            **{f"{n}_{key}": getattr(a, key) for n, a in found.items() for key in ("wavelength", "residual")},
        )


def _same(lines: LineList, other: LineList) -> LineList:
    other = other.select(other.atomic)
    if len(other) != len(lines) or not np.array_equal(other.wavelength, lines.wavelength):
        raise ConfigError("start: not the same lines as atoms, in the same order")
    return other


def _write_json(path: Path, entries: dict[str, Any]) -> None:
    with writing(path) as temporary:
        temporary.write_text(json.dumps(entries, indent=1), encoding="utf-8")


def _write_state(path: Path, state: State) -> None:
    stars = [{"v_micro": s.v_micro, "abundances": dict(s.abundances)} for s in state.stars]
    _write_json(path, {"log_gf": state.log_gf.tolist(), "damping": state.damping.tolist(), "stars": stars})


def _read_state(path: Path, like: State) -> State:
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
        stars = [replace(s, **entry) for s, entry in zip(like.stars, entries["stars"], strict=True)]
        state = State(np.array(entries["log_gf"]), np.array(entries["damping"]), stars)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{path}: a damaged state of a calibration ({error}); delete it") from None
    if state.log_gf.shape != like.log_gf.shape:
        raise ConfigError(f"{path}: of another calibration; choose another folder")
    return state
