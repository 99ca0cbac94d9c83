"""Line strengths and damping fitted to standard stars: regularised least squares on several spectra together."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter1d

from maury.constants import C_KMS
from maury.libraries.synthesis.atmospheres import Atmosphere
from maury.libraries.synthesis.engine import Engine, Star
from maury.libraries.synthesis.lines import LineList

Array = NDArray[np.float64]
log = logging.getLogger(__name__)

# Steps of the derivatives: dex in log gf, natural logarithm of damping, dex in an abundance, km/s of microturbulence.
_STEP_GF, _STEP_DAMPING, _STEP_ABUNDANCE, _STEP_MICRO = 0.1, 0.3, 0.1, 0.1
# How far the wings of a line with other damping are felt, A.
_WING = 6.0
# A change below this, of the continuum, is taken for none.
_FLOOR = 2e-5


@dataclass(frozen=True)
class Window:
    """The pixels on which standards are compared: uniform in ln(lambda), some of them used.

    Parameters
    ----------
    low, high
        Wavelengths in air, Angstrom.
    step
        Size of a pixel, km/s.
    resolution
        Resolving power to which observation and synthesis are brought.
    """

    low: float = 15145.0
    high: float = 16950.0
    step: float = 1.5
    resolution: float = 28_000.0

    @property
    def wavelength(self) -> Array:
        """Air wavelengths of the pixels, ``(n_pixels,)``."""
        n = int(np.log(self.high / self.low) * C_KMS / self.step)
        return self.low * np.exp(np.arange(n) * self.step / C_KMS)

    def smooth(self, wavelength: Array, flux: Array, velocity: float = 0.0, extra: float = 0.0) -> Array:
        """Flux of a finer grid on the pixels, seen with the resolving power, ``(n_pixels,)``.

        Parameters
        ----------
        wavelength, flux
            What is smoothed; its own width is neglected beside the window's.
        velocity
            km/s by which its lines lie to the red; taken out.
        extra
            Further broadening, standard deviation in km/s.
        """
        fine = 0.5
        grid = (
            self.low
            * 0.999
            * np.exp(np.arange(int(np.log(self.high / self.low * 1.002) * C_KMS / fine)) * fine / C_KMS)
        )
        sigma = np.hypot(C_KMS / self.resolution / 2.3548, extra) / fine
        values = gaussian_filter1d(np.interp(grid * (1 + velocity / C_KMS), wavelength, flux), sigma)
        return np.interp(self.wavelength, grid, values)


@dataclass(frozen=True)
class Standard:
    """A star of known labels with an observed spectrum.

    Parameters
    ----------
    name
        Its name.
    star
        Labels and abundances as far as they are known.
    atmosphere
        Its model atmosphere.
    wavelength, flux
        Observation: air wavelengths (A) and normalised flux.
    velocity
        km/s by which its lines lie to the red.
    macro
        Broadening beyond the synthesis, standard deviation in km/s.
    sigma
        Error of observation and model together, of the continuum.
    free
        Elements whose abundance is fitted, with the standard deviation of what is known (dex).
    micro_sigma
        Standard deviation of what is known of the microturbulence, km/s.
    intensity
        Whether it was observed at the centre of the disc.
    """

    name: str
    star: Star
    atmosphere: Atmosphere
    wavelength: Array
    flux: Array
    velocity: float
    macro: float
    sigma: float
    free: dict[str, float] = field(default_factory=dict)
    micro_sigma: float = 0.1
    intensity: bool = False

    def observed(self, window: Window) -> Array:
        """Return the observation on a window's pixels."""
        return window.smooth(self.wavelength, self.flux, self.velocity)


def features(lines: LineList, apart: float = 0.25, energy: float = 0.02) -> NDArray[np.int64]:
    """Give lines numbers so that components of one transition (hyperfine, isotopic) share a number, ``(n_lines,)``.

    Parameters
    ----------
    lines
        The list.
    apart, energy
        Neighbours of a species closer than this in wavelength (A) and lower level (eV) belong together.
    """
    order = np.lexsort((lines.wavelength, np.round(lines.excitation / energy), lines.ion, lines.species))
    new = np.ones(len(lines), bool)
    a, b = order[1:], order[:-1]
    new[1:] = (
        (lines.species[a] != lines.species[b])
        | (lines.ion[a] != lines.ion[b])
        | (np.abs(lines.excitation[a] - lines.excitation[b]) > energy)
        | (lines.wavelength[a] - lines.wavelength[b] > apart)
    )
    number = np.empty(len(lines), np.int64)
    number[order] = np.cumsum(new) - 1
    return number


def groups(centre: Array, reach: Array, limit: int = 400) -> list[NDArray[np.int64]]:
    """Sort features into groups whose members do not reach each other: each group's derivatives come from one synthesis.

    Parameters
    ----------
    centre, reach
        Wavelength of each feature and how far its changes are felt (A), ``(n,)``.
    limit
        Most groups.
    """
    left: list[float] = []
    members: list[list[int]] = []
    for i in np.argsort(centre - reach):
        start = centre[i] - reach[i]
        place = next((g for g, end in enumerate(left) if end <= start), None)
        if place is None:
            if len(left) >= limit:
                raise ValueError("too many groups")
            left.append(0.0)
            members.append([])
            place = len(left) - 1
        left[place] = centre[i] + reach[i]
        members[place].append(int(i))
    return [np.array(m) for m in members]


Synthesiser = Callable[[Standard, LineList, Star], Array]


def synthesiser(window: Window, engine: Callable[[Path, bool], Engine], folder: Path) -> Synthesiser:
    """Make a function that gives a standard's synthetic spectrum on a window's pixels.

    Parameters
    ----------
    window
        The pixels.
    engine
        Makes an engine for a file of lines, for intensity or flux.
    folder
        Where line lists are written.
    """

    def synthesise(standard: Standard, lines: LineList, star: Star) -> Array:
        with tempfile.NamedTemporaryFile(dir=folder, suffix=".lines") as file:
            lines.write(Path(file.name))
            made = engine(Path(file.name), standard.intensity).synthesise(star, standard.atmosphere)
        return window.smooth(made.wavelength, made.normalised, extra=standard.macro)

    return synthesise


@dataclass
class State:
    """What the fit knows: changes of lines, and of the standards.

    Parameters
    ----------
    log_gf
        Change of each feature's strength, dex, ``(n_features,)``.
    damping
        Natural logarithm of each feature's damping factor, ``(n_features,)``.
    stars
        Each standard's star as it stands.
    """

    log_gf: Array
    damping: Array
    stars: list[Star]


@dataclass(frozen=True)
class Problem:
    """Lines, their features and the standards that are fitted together.

    Parameters
    ----------
    lines
        The list as published; molecules may be in it.
    feature
        Number of each line's feature, ``(n_lines,)``.
    standards
        The stars.
    window
        The pixels.
    synthesise
        See `synthesiser`.
    gf_sigma
        Accuracy of each feature's strength in its source, dex; 0 holds it, ``(n_features,)``.
    damping_mean, damping_sigma
        What is known of the natural logarithm of each feature's damping factor; 0 holds it, ``(n_features,)``.
    reach
        How far (A) a change of a feature is felt, ``(n_features,)``.
    """

    lines: LineList
    feature: NDArray[np.int64]
    standards: list[Standard]
    window: Window
    synthesise: Synthesiser
    gf_sigma: Array
    damping_mean: Array
    damping_sigma: Array
    reach: Array
    jobs: int = 2

    @property
    def centre(self) -> Array:
        """Wavelength of each feature, ``(n_features,)``."""
        n = len(self.gf_sigma)
        return np.bincount(self.feature, self.lines.wavelength, n) / np.maximum(
            np.bincount(self.feature, minlength=n), 1
        )

    def adjusted(self, log_gf: Array, damping: Array) -> LineList:
        """Return the list with changed strengths, and damping where it is a factor."""
        factor = np.where(
            (self.lines.damping < 20) & (self.lines.damping > 0) & self.lines.atomic,
            np.exp(damping[self.feature]),
            self.lines.damping,
        )
        return self.lines.adjusted(self.lines.log_gf + log_gf[self.feature], factor)


@dataclass(frozen=True)
class Derivatives:
    """How a standard's spectrum changes.

    Parameters
    ----------
    log_gf, damping
        With each feature's strength (per dex) and damping (per natural logarithm), ``(n_pixels, n_features)``.
    own
        With the standard's free abundances (per dex), then its microturbulence (per km/s), ``(n_pixels, n_own)``.
    """

    log_gf: sp.csr_matrix
    damping: sp.csr_matrix
    own: Array


def derivatives(problem: Problem, state: State, base: list[Array]) -> list[Derivatives]:
    """Compute the derivatives of every standard's spectrum by finite differences, many lines in one synthesis.

    Parameters
    ----------
    problem, state
        What is fitted, and where it stands.
    base
        Synthetic spectrum of each standard there, ``(n_pixels,)`` each.
    """
    gf_groups = _grouped(problem.centre, problem.reach, problem.gf_sigma > 0)
    wing = np.maximum(problem.reach, _WING)
    damping_groups = _grouped(problem.centre, wing, problem.damping_sigma > 0)

    def changed(standard: int, log_gf: Array, damping: Array, star: Star) -> Array:
        made = problem.synthesise(problem.standards[standard], problem.adjusted(log_gf, damping), star)
        return made - base[standard]

    def moved(values: Array, features: NDArray[np.int64], by: float) -> Array:
        values = values.copy()
        values[features] += by
        return values

    made = []
    with ThreadPoolExecutor(problem.jobs) as pool:
        for k, (standard, star) in enumerate(zip(problem.standards, state.stars, strict=True)):
            gf = [
                pool.submit(changed, k, moved(state.log_gf, group, _STEP_GF), state.damping, star)
                for group in gf_groups
            ]
            damping = [
                pool.submit(changed, k, state.log_gf, moved(state.damping, group, _STEP_DAMPING), star)
                for group in damping_groups
            ]
            own = [
                pool.submit(changed, k, state.log_gf, state.damping, star.enriched(symbol, _STEP_ABUNDANCE))
                for symbol in standard.free
            ]
            faster = replace(star, v_micro=star.v_micro + _STEP_MICRO)
            micro = pool.submit(changed, k, state.log_gf, state.damping, faster)
            log.info("%s: %d syntheses", standard.name, len(gf) + len(damping) + len(own) + 1)
            made.append(
                Derivatives(
                    _local(problem, gf_groups, problem.reach, [f.result() / _STEP_GF for f in gf]),
                    _local(problem, damping_groups, wing, [f.result() / _STEP_DAMPING for f in damping]),
                    np.stack(
                        [*(f.result() / _STEP_ABUNDANCE for f in own), micro.result() / _STEP_MICRO], axis=1
                    ),
                )
            )
    return made


def _grouped(centre: Array, reach: Array, free: NDArray[np.bool_]) -> list[NDArray[np.int64]]:
    which = np.flatnonzero(free)
    return [which[group] for group in groups(centre[which], reach[which])]


def _local(
    problem: Problem, grouped: list[NDArray[np.int64]], reach: Array, changes: list[Array]
) -> sp.csr_matrix:
    """Give each feature of a group the part of the group's change that lies within its reach."""
    pixels, centre = problem.window.wavelength, problem.centre
    made = sp.lil_matrix((len(centre), len(pixels)))
    for group, change in zip(grouped, changes, strict=True):
        for f in group:
            a, b = np.searchsorted(pixels, (centre[f] - reach[f], centre[f] + reach[f]))
            made[f, a:b] = np.where(np.abs(change[a:b]) > _FLOOR, change[a:b], 0.0)
    return made.T.tocsr()


def continuum_basis(pixels: Array, segment: float = 60.0) -> Array:
    """Piecewise linear functions, a node a segment (A): the observed continuum's errors, ``(n_pixels, n_nodes)``."""
    nodes = np.linspace(pixels[0], pixels[-1], int((pixels[-1] - pixels[0]) / segment) + 1)
    return np.array([np.interp(pixels, nodes, row) for row in np.eye(len(nodes))]).T


def step(
    problem: Problem,
    state: State,
    start: State,
    base: list[Array],
    changes: list[Derivatives],
    largest: float = 0.4,
    continuum_sigma: float = 0.01,
) -> State:
    """One step of the regularised, robust least squares: a linear fit of all residuals at once.

    Parameters
    ----------
    problem
        What is fitted.
    state, start
        Where it stands, and where the standards' labels began.
    base
        Synthetic spectrum of each standard there.
    changes
        Of `derivatives`.
    largest
        Largest change of a strength (dex) in the step.
    continuum_sigma
        Prior width of the continuum's errors.
    """
    n_features = len(problem.gf_sigma)
    basis = continuum_basis(problem.window.wavelength)
    n_basis, n_own = basis.shape[1], [change.own.shape[1] for change in changes]
    total = 2 * n_features + sum(n_own) + n_basis * len(problem.standards)
    normal, right = np.zeros((total, total)), np.zeros(total)
    for k, standard in enumerate(problem.standards):
        residual = standard.observed(problem.window) - base[k]
        blocks = [changes[k].log_gf, changes[k].damping]
        for j in range(len(problem.standards)):
            blocks.append(
                sp.csr_matrix(changes[j].own) if j == k else sp.csr_matrix((len(residual), n_own[j]))
            )
        for j in range(len(problem.standards)):
            blocks.append(
                sp.csr_matrix(basis * base[k][:, None]) if j == k else sp.csr_matrix((len(residual), n_basis))
            )
        design = sp.hstack(blocks).tocsr()
        # Of a Cauchy distribution, about the residual that a fit of the continuum alone leaves.
        smooth = basis @ np.linalg.lstsq(basis, residual, rcond=None)[0]
        weight = 1 / (1 + ((residual - smooth) / (4 * standard.sigma)) ** 2) / standard.sigma**2
        # Pixels are much finer than the resolving power: as many independent ones as there are resolution elements.
        weight *= problem.window.step / (C_KMS / problem.window.resolution) * 2
        weighted = design.multiply(weight[:, None]).tocsr()
        normal += (design.T @ weighted).toarray()
        right += design.T @ (weight * residual)
    prior_sigma = [problem.gf_sigma, problem.damping_sigma]
    pull = [-state.log_gf, problem.damping_mean - state.damping]
    for standard, star, first in zip(problem.standards, state.stars, start.stars, strict=True):
        prior_sigma.append(np.array([*standard.free.values(), standard.micro_sigma]))
        pull.append(
            np.array(
                [first.abundances.get(s, 0.0) - star.abundances.get(s, 0.0) for s in standard.free]
                + [first.v_micro - star.v_micro]
            )
        )
    for _ in problem.standards:
        prior_sigma.append(np.full(n_basis, continuum_sigma))
        pull.append(np.zeros(n_basis))
    sigma, offset = np.concatenate(prior_sigma), np.concatenate(pull)
    free = sigma > 0
    precision = 1 / sigma[free] ** 2
    solution = np.zeros(total)
    matrix = normal[np.ix_(free, free)]
    matrix[np.diag_indices_from(matrix)] += precision
    solution[free] = np.linalg.solve(matrix, right[free] + precision * offset[free])
    stars, at = [], 2 * n_features
    for standard, star in zip(problem.standards, state.stars, strict=True):
        own = solution[at : at + len(standard.free) + 1]
        at += len(own)
        for symbol, change in zip(standard.free, own, strict=False):
            star = star.enriched(symbol, float(change))
        stars.append(replace(star, v_micro=star.v_micro + float(np.clip(own[-1], -0.3, 0.3))))
    return State(
        state.log_gf + np.clip(solution[:n_features], -largest, largest),
        state.damping + np.clip(solution[n_features : 2 * n_features], -0.5, 0.5),
        stars,
    )
