"""Gauss-Newton steps of the forward model on the networks' grid, for many spectra together, each seen through its own line-spread function.

What the exact likelihood integrates out is integrated out here too: the continuum, and the nuisances of `maury.likelihood.nuisances`. To
be cheap it is not exact: pixels are those of the networks' grid, derivatives take a chip's profile for one, nuisances are linear, and what
is made of lines (scatter of abundances, modes of emulator and library) is that of the nearest of a few dozen stars, of which the directions
that change a spectrum most are taken. A flow corrects what is left.

Coordinates are shares of the labels' priors, t in [0, 1], since bounds are where they are in them; of v_sini the square of that is taken:
a spectrum is linear in it down to 0.
"""

from __future__ import annotations

import copy
import math
import threading
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from maury.constants import C_KMS
from maury.errors import ConfigError
from maury.forward.model import ForwardModel
from maury.forward.onchips import OnChips
from maury.likelihood.batched import centres, of_kind, rest_vectors
from maury.likelihood.continuum import chebyshev_basis, fit_continuum
from maury.likelihood.nuisances import (
    CarbonIsotopes,
    ChipVelocity,
    Departures,
    Dilution,
    Elements,
    EmulatorModes,
    LibraryByChip,
    LibraryModes,
    LimbDarkening,
    LineWidth,
    Macroturbulence,
    Microturbulence,
    Nuisance,
    chosen,
    contrasts,
)
from maury.likelihood.pixels import SPREAD
from maury.likelihood.problem import Problem
from maury.priors import Uniform
from maury.quantities import Role
from maury.spectra.linespread import FWHM
from maury.spectra.seen import profile

SQUARED = "v_sini"
# Stars that stand for others in what nuisances do to lines, and directions of it.
_CELLS, _DIRECTIONS = 192, 28
# Stars are near in units of these.
_NEAR = {"teff": 300.0, "logg": 0.5, "m_h": 0.4, "alpha_m": 0.3, "c_m": 0.4, "n_m": 0.6}
# Sigma: after a longer step another pays, first without and then with nuisances; a step of this root mean square halves the trust in where
# it leads.
_FAR, _AGAIN, _LINEAR = 4.0, 1.5, 15.0
# Jitter of the first step, which is from afar; standard deviation about the middle that the prior is taken for.
_FIRST_JITTER, _SPREAD = 0.005, 0.5
# Longest step in t, and the shares of a prior at its ends that are not stepped into.
_LONGEST, _END = 0.35, 1e-4
# v_sini below which its square may go to 0 in one step, km/s.
_SLOW = 12.0
# One pixel in so many tells the scatter of residuals, and the first normal matrix, whose solution they are residuals of.
_SPARSE = 3
_MAD = 1.4826
# Orders that a continuum of so many on a detector's pixels may have on the networks' grid besides.
_LONGER = 2
# Residuals over the continuum are cut off here: no star makes them.
_MOST = 3.0


@dataclass(frozen=True)
class Found:
    """A Gaussian approximation of posteriors of n spectra.

    Attributes
    ----------
    mean, precision
        Shapes ``(n, d)`` and ``(n, d, d)``, float64.
    moved
        Root mean square of the last step, sigma, shape ``(n,)``.
    jitter, chi2
        Found beside it: scatter beyond the noise, and chi-squared a pixel with it, shape ``(n,)``.
    """

    mean: Tensor
    precision: Tensor
    moved: Tensor
    jitter: Tensor
    chi2: Tensor

    def take(self, rows: Tensor) -> Found:
        """Return some rows."""
        return Found(*(value[rows] for value in vars(self).values()))

    def put(self, rows: Tensor, other: Found) -> Found:
        """Return it with some rows replaced."""
        return Found(
            *(
                mine.index_put((rows,), theirs)
                for mine, theirs in zip(vars(self).values(), vars(other).values(), strict=True)
            )
        )


@dataclass(frozen=True)
class _Linear:
    """The model of some spectra, linear about labels.

    Of each chip: columns ``(n, k, n_pixels)``, residual ``(n, n_pixels)``, model, and noise and emulator's variance over the continuum's
    square, infinite where masked.
    """

    columns: list[Tensor]
    residual: list[Tensor]
    model: list[Tensor]
    variance: list[Tensor]


@dataclass(frozen=True)
class _Solved:
    gradient: Tensor
    precision: Tensor
    parameters: Tensor


class Newton:
    """Gauss-Newton steps for the spectra of a problem.

    Parameters
    ----------
    problem
        Forward model and labels.
    covered
        Pixel ranges that networks see, as of `maury.networks.prepare.network_ranges`.
    nuisances
        By name, as of `maury.likelihood.nuisances.chosen`.
    """

    def __init__(self, problem: Problem, covered: tuple[tuple[int, int], ...], nuisances: str) -> None:
        # Of its own: where the likelihood's model is moved, networks stay.
        problem = replace(problem, forward=_own(problem.forward))
        self.problem, self.labels = problem, problem.stellar
        model, instrument = problem.forward, problem.spectrograph
        self._instrument = instrument
        self._known: dict[int, list[Tensor]] = {}
        self._lock = threading.Lock()
        self.nuisances = chosen(nuisances, model, problem.inferred.names, problem.modes)
        known = (
            ChipVelocity, LineWidth, LimbDarkening, Macroturbulence, Dilution, LibraryByChip, Elements, Microturbulence,
            CarbonIsotopes, Departures, EmulatorModes, LibraryModes,
        )  # fmt: skip
        for one in self.nuisances:
            if not isinstance(one, known):
                raise ConfigError(f"nuisances: {one.name} is none that networks know of")
        self.model = OnChips(model, instrument, covered, rest_vectors(model, self.nuisances))
        # A series in a visit's own pixels is a longer one on this grid.
        self.degree = None if problem.degree is None else problem.degree + _LONGER
        self._bases = [chebyshev_basis(b - a, 2 * (self.degree or 0)).float() for a, b in covered]
        grid = model.emulator.grid
        wavelength = np.log10(instrument.grid.wavelength)
        nearest = np.clip(np.round((wavelength - grid.start) / grid.step), 0, grid.n_pixels - 1)
        shape = (
            model.emulator.error_left
            if of_kind(self.nuisances, EmulatorModes)
            else model.emulator.error_shape
        )
        if not problem.emulator_error:
            shape = torch.zeros_like(shape)
        self._error_shape = shape.cpu()[torch.from_numpy(nearest).long()].float()
        self._wide, self._coarse = self._assembly(True), self._assembly(False)

    def to(self, device: torch.device) -> Newton:
        """Move it, and return it."""
        if self.model.device != device:
            self.model.to(device)
            self._bases = [basis.to(device) for basis in self._bases]
            self._error_shape = self._error_shape.to(device)
            self._wide, self._coarse = ((e.to(device), p.to(device)) for e, p in (self._wide, self._coarse))
            self.__dict__.pop("_cells", None)
            self.__dict__.pop("_metric", None)
            self._known.clear()
        return self

    # ---- columns ----

    def _names(self, wide: bool) -> list[str]:
        """Names of a chip's columns: slopes by the emulator's labels and velocities, what nuisances need, and the continuum's."""
        names = list(self.problem.forward.label_names)
        if wide:
            names += ["broadening", "limb_darkening", "light"]
            names += [f"direction {i}" for i in range(self._n_directions)]
        return names + [f"continuum {k}" for k in range(self._n_continuum)]

    @property
    def _n_directions(self) -> int:
        tied = len(self.problem.forward.emulator.ties.places) if of_kind(self.nuisances, Departures) else 0
        return min(_DIRECTIONS, tied + self.model.n_extra)

    @property
    def _n_continuum(self) -> int:
        return 0 if self.degree is None else self.degree + 1

    def _assembly(self, wide: bool) -> tuple[Tensor, Tensor]:
        """Of each chip, the matrix from parameters to columns, ``(n_chips, k, n_parameters)``; and the parameters' prior precision.

        Parameters are labels, nuisances in units of their widths, and departures of each chip's continuum.
        """
        names, n_chips = self._names(wide), len(self.model.chips)
        at = {name: i for i, name in enumerate(names)}
        parameters: list[list[tuple[int, str, float]]] = []
        every = range(n_chips)

        def common(name: str, width: float = 1.0) -> None:
            parameters.append([(c, name, width) for c in every])

        for name in self.labels.names:
            common(name)
        n_labels = len(parameters)
        if wide:
            for one in self.nuisances:
                self._parameters_of(one, parameters, common)
            for i in range(self._n_directions):
                common(f"direction {i}")
        n_nuisances = len(parameters) - n_labels
        for c in every:
            parameters += [[(c, f"continuum {k}", 1.0)] for k in range(self._n_continuum)]
        matrix = torch.zeros(n_chips, len(names), len(parameters), dtype=torch.float64)
        for j, entries in enumerate(parameters):
            for c, name, value in entries:
                matrix[c, at[name], j] += value
        prior = torch.zeros(len(parameters), dtype=torch.float64)
        prior[n_labels : n_labels + n_nuisances] = 1.0
        prior[n_labels + n_nuisances :] = 1 / SPREAD**2
        return matrix, prior

    def _parameters_of(self, one: Nuisance, parameters: list[list[tuple[int, str, float]]], common) -> None:  # type: ignore[no-untyped-def]
        chips = range(len(self.model.chips))
        names = self.problem.forward.label_names
        if isinstance(one, ChipVelocity):
            parameters += [[(c, "v_rad", one.width)] for c in chips]
        elif isinstance(one, LineWidth):
            power = self.problem.spectrograph.resolving_powers
            for c in chips:
                variance = (C_KMS / (FWHM * power[self.model.number[c]])) ** 2
                parameters.append([(c, "broadening", one.width * 2 * variance)])
        elif isinstance(one, Dilution):
            parameters += [[(c, "light", one.width)] for c in chips]
        elif isinstance(one, LibraryByChip):
            for name, width in one.widths:
                if name in names:
                    parameters += [
                        [(c, name, width * float(row[c])) for c in chips] for row in contrasts(len(chips))
                    ]
        elif isinstance(one, LimbDarkening | Macroturbulence):
            common("limb_darkening" if isinstance(one, LimbDarkening) else "broadening", one.width)
        elif isinstance(one, Elements):
            for name in one.labels:
                common(name, one.width)
        elif isinstance(one, Microturbulence):
            common("v_micro", one.width)
        elif isinstance(one, CarbonIsotopes):
            # About the middle of what stars have.
            common("c12_c13", one.width * 20.0 * math.log(10))

    @cached_property
    def _cells(self) -> tuple[Tensor, Tensor]:
        """Stars that stand for others: labels of the emulator ``(n_cells, n_labels)``, and places in which they are near or far."""
        emulator = self.problem.forward.emulator
        theta = self.problem.sample(_CELLS, torch.Generator().manual_seed(0))
        stellar = theta[:, self.problem.columns(emulator.labels)].to(self.model.device)
        return stellar, self._near(stellar)

    @cached_property
    def _metric(self) -> Tensor:
        """Products of the model's vectors as the instrument sees them, ``(n_vectors, n_vectors)``."""
        grid, lsf = self._instrument.grid, self._instrument.grid_lsf
        usual = torch.from_numpy(profile(lsf, grid, self._instrument)).to(self.model.device)
        out = torch.zeros(self.model.chips[0].basis.shape[0]).diag().to(usual)
        for c, chip in enumerate(self.model.chips):
            seen = chip.basis * chip.profiles(usual[None, self.model.number[c]])[
                0, 0
            ].abs().repeat_interleave(2)
            out += seen @ seen.T
        return out

    def _directions(self, stellar: Tensor) -> list[Tensor]:
        """Of each chip, transforms ``(n, k, n_freq)`` of what lines may do besides, of stars near ``(n, n_labels)``.

        What a star stands for is worked out when it is first asked for.
        """
        stars, near = self._cells
        cell = torch.cdist(self._near(stellar), near).argmin(1).tolist()
        with self._lock:
            for number in set(cell) - set(self._known):
                kept = self._directions_of(stars[number : number + 1])
                self._known[number] = [chip.transform(kept) for chip in self.model.chips]
            return [
                torch.stack([self._known[number][c] for number in cell]) for c in range(len(self.model.chips))
            ]

    def _directions_of(self, star: Tensor) -> Tensor:
        """Amplitudes of vectors ``(k, n_vectors)`` of a star ``(1, n_labels)``, each with the prior N(0, 1)."""
        emulator, model = self.problem.forward.emulator, self.model
        parts = []
        if of_kind(self.nuisances, Departures):
            ties = emulator.ties
            spread = ties.spread()[ties.places][:, ties.places].T.to(star).float()
            parts.append(model.slopes(spread @ emulator.by_departures(star, torch.float32)[0]))
        if model.n_extra:
            own = torch.ones(model.n_extra, 1).to(model.device)
            if of_kind(self.nuisances, EmulatorModes):
                own[: len(emulator.modes)] = emulator.error(star).float()
            rest = own.new_zeros(model.n_extra, model.chips[0].basis.shape[0] - model.n_extra)
            parts.append(torch.cat([rest, own * torch.eye(model.n_extra).to(own)], 1))
        vectors = torch.cat(parts)
        # Those that change a spectrum most; turned, the amplitudes are N(0, 1) still.
        _, turn = torch.linalg.eigh(vectors @ self._metric @ vectors.T)
        return turn[:, -self._n_directions :].T @ vectors

    def _near(self, stellar: Tensor) -> Tensor:
        names = self.problem.forward.emulator.labels.names
        columns = [names.index(name) for name in _NEAR if name in names]
        scale = torch.tensor([_NEAR[names[i]] for i in columns]).to(stellar)
        return (stellar[:, columns] / scale).float()

    def _linear(self, theta: Tensor, flux: Tensor, ivar: Tensor, seen: Tensor, wide: bool) -> _Linear:
        """Return the model of spectra, linear about all labels ``(n, n_all)``."""
        model, forward = self.model, self.problem.forward
        labels = theta[:, : forward.n_labels]
        stellar, v_rad, v_sini = labels[:, :-2], labels[:, -2], labels[:, -1]
        coefficients = forward.emulator.coefficients(stellar)
        rows = torch.cat(
            [
                model.amplitudes(coefficients)[:, None],
                model.slopes(forward.emulator.jacobian(stellar, torch.float32)),
            ],
            dim=1,
        )
        error = forward.emulator.error(stellar).float()
        broader, darker = centres(forward, self.nuisances, labels).to(model.device).unbind(1)
        directions = self._directions(stellar) if wide and self._n_directions else []
        out = _Linear([], [], [], [])
        for c, (chip, basis) in enumerate(zip(model.chips, self._bases, strict=True)):
            kernel = model.kernels(chip, v_rad, v_sini)
            profiles = chip.profiles(seen[:, model.number[c]])
            average = profiles.mean(1)
            # What nuisances are about: their means change by as much as a spectrum does, and slopes are of what is expected.
            about = 1 + (broader / C_KMS**2)[:, None] * kernel.by_broadening()
            star = kernel.whole * about + darker[:, None] * kernel.by_limb_darkening()
            whole = star * average
            found = chip.transform(rows)
            rest = found[:, 0]
            moved = rest * whole
            stack = [
                found[:, 1:] * whole[:, None],
                (moved * kernel.by_v_rad())[:, None],
                (rest * average * about * kernel.by_square())[:, None],
            ]
            if wide:
                stack += [
                    (rest * average * kernel.whole * (kernel.by_broadening() / C_KMS**2))[:, None],
                    (rest * average * kernel.by_limb_darkening())[:, None],
                ]
                if directions:
                    stack.append(directions[c] * whole[:, None])
            slopes = chip.to_pixels(torch.cat(stack, dim=1))
            m = 1 + chip.seen(rest * star, profiles)
            n_first = len(forward.label_names) + 2
            if wide:
                slopes = torch.cat([slopes[:, :n_first], (1 - m)[:, None], slopes[:, n_first:]], dim=1)
            f, w = flux[:, chip.pixels], ivar[:, chip.pixels]
            level = torch.ones_like(m)
            if self.degree is not None:
                level = fit_continuum(f / m.clamp_min(0.05), m.square() * w, basis).clamp_min(1e-3)
                continuum = m[:, None] * basis[:, : self._n_continuum].T
                slopes = torch.cat([slopes, continuum], dim=1)
            out.columns.append(slopes)
            out.residual.append(torch.where(w > 0, (f / level - m).clamp(-_MOST, _MOST), 0.0))
            out.model.append(m)
            known = (error[:, None] * self._error_shape[chip.pixels]).square()
            out.variance.append(
                torch.where(w > 0, 1 / (w * level.square()).clamp_min(1e-12), math.inf) + known
            )
        return out

    # ---- least squares ----

    def _solve(self, linear: _Linear, jitter: Tensor, wide: bool, every: int = 1) -> _Solved:
        """Integrate nuisances and continua out; gradient and precision by labels, those of priors left out.

        Of one pixel in ``every``, as if the others told the same.
        """
        matrix, prior = self._wide if wide else self._coarse
        n, size = len(jitter), matrix.shape[2]
        normal = torch.zeros(n, size, size).to(matrix)
        right = torch.zeros(n, size).to(matrix)
        for c, assemble in enumerate(matrix):
            weight = 1 / (linear.variance[c] + (jitter.float()[:, None] * linear.model[c]).square())
            columns, weight = linear.columns[c][..., ::every], every * weight[:, ::every]
            weighted = columns * weight[:, None]
            gram = (weighted @ columns.mT).double()
            normal += assemble.T @ gram @ assemble
            right += (weighted @ linear.residual[c][:, ::every, None])[..., 0].double() @ assemble
        d = len(self.labels)
        beside = normal[:, d:, d:] + torch.diag(prior[d:])
        # Of a spectrum that is no number all becomes none, and others are not lost.
        factor = torch.linalg.cholesky_ex(beside).L
        cross = torch.linalg.solve_triangular(factor, normal[:, d:, :d], upper=False)
        known = torch.linalg.solve_triangular(factor, right[:, d:, None], upper=False)
        precision = normal[:, :d, :d] - cross.mT @ cross
        gradient = right[:, :d] - (cross.mT @ known)[..., 0]
        # The parameters where labels stay: what labels move is added by the caller.
        parameters = torch.cat([cross, known], dim=2)
        beside_found = torch.linalg.solve_triangular(factor.mT, parameters, upper=True)
        return _Solved(gradient, precision, beside_found)

    def _excess(self, linear: _Linear, solved: _Solved, change: Tensor, wide: bool) -> tuple[Tensor, Tensor]:
        """Scatter beyond the noise once labels have changed ``(n, d)`` and the rest has followed, and chi-squared a pixel without it."""
        matrix, _ = self._wide if wide else self._coarse
        rest = solved.parameters[:, :, -1] - (solved.parameters[:, :, :-1] @ change[..., None])[..., 0]
        x = torch.cat([change, rest], dim=1)
        parts, noise = [], []
        for c, assemble in enumerate(matrix):
            moved = (x @ assemble.T).float()
            left = linear.residual[c] - (moved[:, None] @ linear.columns[c])[:, 0]
            left, level, variance = (x[:, ::_SPARSE] for x in (left, linear.model[c], linear.variance[c]))
            used = variance.isfinite()
            parts.append(torch.where(used, left / level, math.nan))
            noise.append(torch.where(used, variance.sqrt() / level, math.nan))
        left, error = torch.cat(parts, 1).abs(), torch.cat(noise, 1)
        scatter, typical = left.nanmedian(1).values * _MAD, error.nanmedian(1).values
        chi2 = ((left / error).clamp_max(10).square()).nanmean(1)
        excess = (scatter.square() - typical.square()).clamp_min(0).sqrt().nan_to_num()
        return excess.double(), chi2.double().nan_to_num()

    # ---- steps ----

    @cached_property
    def square(self) -> int | None:
        """Place among the labels of v_sini, whose square is taken where its prior is uniform from 0; None otherwise."""
        names = self.labels.names
        if SQUARED not in names:
            return None
        prior = self.labels[SQUARED].prior
        return names.index(SQUARED) if isinstance(prior, Uniform) and prior.low == 0 else None

    def coordinates(self, u: Tensor) -> Tensor:
        """Take u ``(n, d)`` to the coordinates of the steps."""
        return squared(torch.special.ndtr(u), self.square)

    def _labels_at(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """Labels ``(n, d)`` at the coordinates, and from slopes by labels (of v_sini, by its square) to those by the coordinates."""
        t = y.clamp(0, 1)
        if self.square is not None:
            t[:, self.square] = t[:, self.square].sqrt()
        u = torch.special.ndtri(t.clamp(_END, 1 - _END))
        theta = self.labels.from_normal(u)
        scale = self.labels.scale(u) * math.sqrt(2 * math.pi) * torch.exp(0.5 * u.square())
        if self.square is not None:
            high = self.labels[SQUARED].prior.high
            theta[:, self.square] = high * t[:, self.square]
            scale[:, self.square] = high**2
        elif SQUARED in self.labels.names:
            place = self.labels.names.index(SQUARED)
            scale[:, place] *= 2 * theta[:, place]
        return theta, scale

    def _with_prior(self, y: Tensor, scale: Tensor, theta: Tensor, solved: _Solved) -> tuple[Tensor, Tensor]:
        """Gradient and precision of the posterior in the coordinates."""
        gradient, precision = solved.gradient, solved.precision
        for distance, slopes in self._relations(theta):
            gradient = gradient - distance[:, None] * slopes
            precision = precision + slopes[:, :, None] * slopes[:, None]
        gradient, precision = gradient * scale, precision * scale[:, :, None] * scale[:, None]
        own = _SPREAD**-2
        return gradient - own * (y - 0.5), precision + own * torch.eye(y.shape[1]).to(y)

    def _relations(self, theta: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Distances ``(n,)`` from what labels follow among stars, and their slopes by the inferred labels."""
        related = self.problem.related
        if not related:
            return []
        forward = self.problem.forward
        columns = self.problem.columns(self.labels)
        out = []
        x = self._whole(theta)[:, : forward.n_labels].detach().requires_grad_()
        with torch.enable_grad():
            for distance in forward.standardised(x, related).unbind(1):
                (slopes,) = torch.autograd.grad(distance.sum(), x, retain_graph=True)
                out.append((distance.detach(), slopes[:, columns]))
        return out

    def _whole(self, theta: Tensor) -> Tensor:
        """All labels of the problem, with the inferred ones ``(n, d)``."""
        whole = theta.new_zeros(len(theta), len(self.problem.labels))
        whole[:, self.problem.columns(self.labels)] = theta
        return self.problem.complete(whole)

    @torch.no_grad()
    def __call__(self, u: Tensor, flux: Tensor, ivar: Tensor, seen: Tensor, steps: int) -> Found:
        """Step from labels ``u (n, d)``.

        Parameters
        ----------
        u
            Where to start, float64.
        flux, ivar
            Spectra on the networks' grid, ``(n, n_pixels)``.
        seen
            Their profiles, ``(n, n_chips, 2, n_knots, 2)``.
        steps
            Most steps with nuisances, the second and later ones only for spectra whose step was long; one or two without come before.
        """
        y = self.coordinates(u)
        jitter = torch.full((len(y),), _FIRST_JITTER).to(y)
        every = torch.arange(len(y), device=y.device)
        found = self._step(y, jitter, flux, ivar, seen, False)
        rows = every[found.moved > _FAR]
        if len(rows):
            found = self._again(found, rows, flux, ivar, seen, False)
        found = self._again(found, every, flux, ivar, seen, True)
        for _ in range(steps - 1):
            rows = every[found.moved > _AGAIN]
            if not len(rows):
                break
            found = self._again(found, rows, flux, ivar, seen, True)
        return found

    def _again(
        self, found: Found, rows: Tensor, flux: Tensor, ivar: Tensor, seen: Tensor, wide: bool
    ) -> Found:
        """Take another step with some spectra, from where the last led to."""
        before = found.take(rows)
        after = self._step(self._from(before), before.jitter, flux[rows], ivar[rows], seen[rows], wide)
        return found.put(rows, after)

    def _from(self, found: Found) -> Tensor:
        """Where a step leads to: the most likely labels inside their priors."""
        kept = found.mean.clamp(0, 1)
        outside = (kept != found.mean).to(kept)
        # What is outside is held at the bound, and the others follow.
        held = 1e8 * outside * found.precision.diagonal(dim1=1, dim2=2)
        right = (found.precision @ found.mean[..., None])[..., 0] + held * kept
        inside = torch.linalg.solve_ex(found.precision + torch.diag_embed(held), right).result.clamp(0, 1)
        return inside.nan_to_num(0.5)

    def _step(self, y: Tensor, jitter: Tensor, flux: Tensor, ivar: Tensor, seen: Tensor, wide: bool) -> Found:
        theta, scale = self._labels_at(y)
        linear = self._linear(self._whole(theta), flux, ivar, seen, wide)
        place = self.problem.labels.place(Role.nuisance)
        inferred = self.problem.inferred.place(Role.nuisance) is not None and place is not None
        for again in (wide, False):
            solved = self._solve(linear, jitter, wide, _SPARSE if again else 1)
            gradient, precision = self._with_prior(y, scale, theta, solved)
            change = torch.linalg.solve_ex(precision, gradient[..., None]).result[..., 0]
            step = self._shortened(y, change)
            found, chi2 = self._excess(linear, solved, step * scale, wide)
            if inferred and place is not None:
                prior = self.problem.labels.labels[place].prior
                jitter = found.clamp(prior.low, prior.high)
            else:
                jitter = torch.zeros_like(found)
            if not again:
                break
        # Beyond a bound there is nothing to be reached: what counts is how far the step leads inside.
        inside = self._from(Found(y + step, precision, jitter, jitter, chi2)) - y
        moved = ((inside[:, None] @ torch.linalg.cholesky_ex(precision).L)[:, 0]).square().mean(1)
        trust = 1 / (1 + moved / _LINEAR**2)
        return Found(y + step, precision * trust.square()[:, None, None], moved.sqrt(), jitter, chi2)

    def _shortened(self, y: Tensor, change: Tensor) -> Tensor:
        """No farther than the model may be linear; freely where that is beyond the bounds."""
        inside = ((y + change) >= 0) & ((y + change) <= 1)
        out = torch.where(inside, change.clamp(-_LONGEST, _LONGEST), change.clamp(-1.0 - y, 2.0 - y))
        if self.square is not None:
            s, high = y[:, self.square], self.labels[SQUARED].prior.high
            v = high * s.sqrt()
            most = ((2 * v + _SLOW) / high).square() - s
            least = ((0.4 * v - 4).clamp_min(0) / high).square() - s
            # From where rotation is slower than the pixels it is linear down to 0, and beyond.
            least = torch.where(v < _SLOW, -1.0 - s, least)
            out[:, self.square] = torch.maximum(torch.minimum(change[:, self.square], most), least)
        return out


def _own(model: ForwardModel) -> ForwardModel:
    """Return a forward model that can be moved by itself; its large arrays are shared until it is."""
    return copy.deepcopy(model, {id(buffer): buffer for buffer in model.buffers()})


def squared(t: Tensor, place: int | None) -> Tensor:
    """Shares of priors ``(n, d)``, one of them squared."""
    if place is None:
        return t
    return torch.cat([t[:, :place], t[:, place : place + 1].square(), t[:, place + 1 :]], 1)
