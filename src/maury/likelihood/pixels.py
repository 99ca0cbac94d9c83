"""The likelihood of one observed spectrum, with the continuum of each chip integrated out."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from maury.constants import C_KMS
from maury.errors import InferenceError
from maury.forward.binary import Pair
from maury.forward.detector import Banded, Winged
from maury.forward.model import ForwardModel
from maury.labels import LabelSet
from maury.likelihood.continuum import DEGREE, chip_basis, fit_continuum
from maury.likelihood.fit import Fit
from maury.likelihood.noise import Columns, Correlated, Correlation, Covariance, Independent, innovations
from maury.likelihood.nuisances import Linear, Nuisance, Point, linear
from maury.likelihood.solution import SPREAD, Amplitude, Curvature, Leftover, Reduced, Solution
from maury.spectra.linespread import FWHM, LineSpread
from maury.spectra.spectrum import PixelGrid, Spectrum

Array = NDArray[np.float64]
# Spectra evaluated together: their arrays stay in the processor's cache.
_CHUNK = 32
MIN_PIXELS = 200
# The nuisances' information is interpolated between jitters whose logarithms are this far apart: it is then right to 1e-4. Below the
# smallest of them jitter is none.
_NODE, _NO_JITTER = 0.05, 1e-6


@dataclass(frozen=True)
class Likelihood:
    """Gaussian pixels; masked ones drop out.

    ``flux_i ~ N(m_i C_i, 1 / ivar_i + (jitter m_i R_i)^2 + (e_i R_i)^2 + (t_i R_i)^2)`` with m the forward model, e the emulator's own
    error at the labels (from leaving its library's spectra out), t the library's error where it was learned from observed spectra, R the
    reference continuum (a fixed, smooth guess) and ``C = R sum_k c_k T_k`` on each chip, ``c ~ N((1, 0, ...), SPREAD^2)``. The
    coefficients are integrated out: the model is never rescaled to the data. Pixels are independent unless a `Correlation` of the
    residuals is added (`maury.likelihood.residuals`).

    It is zero for labels of stars that there are not (`Emulator.inside`), and has the factor ``prod_j N(z_j; 0, 1)`` of the ``related``
    labels' distances from what they follow among real stars (`maury.libraries.ties.Ties.relations`).

    What else the model is uncertain of, its ``nuisances``, is integrated out with the continuum once they are ``linear`` about some
    labels (`linearised`): then ``flux_i ~ N((m_i + o_i + sum_k a_k g_ki) C_i, ...)``, ``a ~ N(0, 1)``, with fixed o and g, and m in the
    variance is the spectrum at those labels, e and t the errors there.

    With ``error_known`` the derivatives take e for known: what labels change of it is left out, as of weights in iterated least squares.

    Labels are the model's and then ``jitter``, shape ``(n, n_labels)``. It computes on the model's device; labels come from and
    results go to the CPU. Build with `of`.
    """

    model: ForwardModel | Pair
    sampler: Banded | Winged
    good: Tensor
    flux: Tensor
    variance: Tensor
    reference: Tensor
    error_shape: Tensor
    bases: tuple[tuple[slice, Tensor], ...]
    wavelength: NDArray[np.float64]
    chip: NDArray[np.int64]
    learned: Tensor | None = None
    correlation: Correlation | None = None
    error_known: bool = False
    line_width: Array | None = field(default=None, repr=False, compare=False)
    nuisances: tuple[Nuisance, ...] = ()
    linear: Linear | None = field(default=None, repr=False, compare=False)
    related: tuple[str, ...] = ()

    @classmethod
    def of(
        cls,
        spectrum: Spectrum,
        model: ForwardModel | Pair,
        labels: LabelSet,
        degree: int | None = DEGREE,
        inside: NDArray[np.bool_] | None = None,
        *,
        emulator_error: bool = True,
        learned: Tensor | None = None,
    ) -> Likelihood:
        """Prepare the likelihood of a spectrum.

        Parameters
        ----------
        spectrum
            What was observed.
        model
            Forward model.
        labels
            The model's labels and ``jitter``; the priors of the velocities decide which pixels can be used.
        degree
            Of the continuum on each chip; None where the continuum is known to be 1.
        inside
            Pixels to use, shape ``(n_pixels,)``, where several models must be compared on the same data; by default `usable_pixels`.
        emulator_error
            Whether the emulator's own error is a part of the noise.
        learned
            The library's error, relative to the continuum, on the emulator's grid at rest, shape ``(n_grid,)``.

        Raises
        ------
        InferenceError
            If hardly any usable pixel lies inside the model's range.
        """
        if inside is None:
            inside = usable_pixels(spectrum, model, labels)
        good = spectrum.good & inside
        if not inside.any():
            w = spectrum.grid.wavelength
            raise InferenceError(
                f"the spectrum covers {w[0]:.0f}-{w[-1]:.0f} Angstrom, none of it inside the model's wavelengths",
                "outside_wavelengths",
            )
        if good.sum() < MIN_PIXELS:
            raise InferenceError(
                f"only {good.sum()} usable pixels of {inside.sum()} inside the model's wavelengths; {MIN_PIXELS} are needed",
                "few_pixels",
            )
        if not np.any(spectrum.flux[good]):
            raise InferenceError("the flux is 0 in every usable pixel: there is nothing to infer from")
        empty = cls.on(
            model, spectrum.grid, good, spectrum.lsf, degree, emulator_error=emulator_error, learned=learned
        )
        flux = torch.from_numpy(spectrum.flux[good]).to(empty.flux)
        return empty.with_data(flux[None], torch.from_numpy(spectrum.ivar[good]).to(empty.flux)[None])[0]

    @classmethod
    def on(
        cls,
        model: ForwardModel | Pair,
        grid: PixelGrid,
        good: NDArray[np.bool_],
        lsf: LineSpread | None,
        degree: int | None = DEGREE,
        *,
        emulator_error: bool = True,
        learned: Tensor | None = None,
    ) -> Likelihood:
        """Prepare the likelihood of spectra on some pixels ``good (n_pixels,)`` of a detector, without data; see `with_data`."""
        bases = [] if degree is None else chip_basis(grid.n_pixels, grid.chips, degree, good)
        device = model.basis.device
        ones = torch.ones(int(good.sum()), dtype=torch.float64, device=device)
        shape = _at(model.emulator.error_shape, model, grid.wavelength[good]).double().to(device)
        starts = np.array([start for start, _ in grid.chips])
        profile = lsf or model.emulator.contained
        return cls(
            model,
            model.sampler(grid, lsf, chosen=good).to(device),
            torch.from_numpy(np.flatnonzero(good)).to(device),
            ones,
            ones,
            ones,
            shape if emulator_error else torch.zeros_like(shape),
            tuple((chip, basis.to(device)) for chip, basis in bases),
            grid.wavelength[good],
            np.searchsorted(starts, np.flatnonzero(good), side="right"),
            learned,
            line_width=None if profile is None else 1 / (FWHM * profile.resolving_power(grid)[good]),
        )

    def with_data(self, flux: Tensor, ivar: Tensor) -> Likelihood:
        """Return the likelihood of data ``(n, n_pixels)`` on the pixels that it was prepared for.

        Spectrum i of the data meets row i of the labels; where ``ivar`` is 0 a pixel drops out, in `curvature` alone.
        """
        parts = [fit_continuum(flux[:, c], ivar[:, c], basis) for c, basis in self.bases]
        reference = torch.cat(parts, dim=1).abs() if parts else torch.ones_like(flux)
        return replace(self, flux=flux, variance=1 / ivar, reference=reference)

    def with_error_left(self) -> Likelihood:
        """Return the likelihood whose emulator's error is what its modes leave: they are among the nuisances."""
        left = _at(self.model.emulator.error_left, self.model, self.wavelength)
        return replace(self, error_shape=left.to(self.error_shape))

    def __getitem__(self, i: int | Tensor) -> Likelihood:
        """Return the likelihood of one of several spectra, for any number of labels; or of some of them, by number."""
        return replace(self, flux=self.flux[i], variance=self.variance[i], reference=self.reference[i])

    def to(self, device: torch.device) -> Likelihood:
        """Return the likelihood on another device; its model moves there."""
        moved = {
            name: getattr(self, name).to(device)
            for name in ("good", "flux", "variance", "reference", "error_shape")
        }
        return replace(
            self,
            model=self.model.to(device),
            sampler=self.sampler.to(device),
            bases=tuple((chip, basis.to(device)) for chip, basis in self.bases),
            **moved,
        )

    @property
    def n_pixels(self) -> int:
        """Number of pixels used."""
        return self.flux.shape[-1]

    @property
    def jitter(self) -> int:
        """Place of the jitter among the labels: after the model's."""
        return self.model.n_labels

    def _normalised(self) -> tuple[Tensor, Tensor]:
        """Flux over the reference continuum, and its variance."""
        return self.flux / self.reference, self.variance / self.reference.square()

    def _solve(self, m: Tensor, covariance: Covariance, r: Tensor, jitter: Tensor | None) -> Solution:
        """Find continuum and nuisances, given residuals ``r (n, n_pixels)`` and the jitter ``(n,)``.

        Without a jitter the columns' information is that of the covariance itself, not interpolated: of one spectrum.
        """
        solved = covariance.solve(r[:, None])[:, 0]
        chips: list[tuple[Tensor, Tensor, Tensor, Tensor | None]] = []
        columns = self._columns
        for (chip, basis), (matrix, cross) in zip(
            self.bases, covariance.continuum_normals(m, self.bases, columns), strict=True
        ):
            n = matrix.shape[-1]
            right = (m[:, chip] * solved[:, chip]) @ basis[:, :n]
            factor = torch.linalg.cholesky(matrix + torch.eye(n).to(m) / SPREAD**2)
            departure = torch.cholesky_solve(right[..., None], factor)[..., 0]
            chips.append((factor, right, departure, cross))
        if columns is None:
            return Solution(solved, chips)
        values = columns.values
        precision = covariance.solve(values[None]) @ values.T if jitter is None else self._information(jitter)
        right = solved @ values.T
        for factor, _, departure, cross in chips:
            assert cross is not None
            precision = precision - cross @ torch.cholesky_solve(cross.mT, factor)
            right = right - (cross @ departure[..., None])[..., 0]
        factor = torch.linalg.cholesky(precision + torch.eye(precision.shape[-1]).to(m))
        amplitudes = torch.cholesky_solve(right[..., None], factor)[..., 0]
        return Solution(solved, chips, factor, right, amplitudes)

    @cached_property
    def _columns(self) -> Columns | None:
        if self.linear is None or not len(self.linear.columns):
            return None
        return Columns(self.linear.columns, self.bases)

    @cached_property
    def _nodes(self) -> dict[int, Tensor]:
        return {}

    @torch.no_grad()
    def _information(self, jitter: Tensor) -> Tensor:
        """``G^T C^-1 G`` of the nuisances' columns, ``(n, k, k)``, interpolated in the jitter ``(n,)``, which alone decides."""
        assert self.linear is not None
        place = jitter.detach().clamp_min(_NO_JITTER).log() / _NODE
        below = place.floor()
        share = (place - below)[:, None, None]
        numbers, inverse = torch.cat([below, below + 1]).long().unique(return_inverse=True)
        for number in numbers.tolist():
            if number not in self._nodes:
                labels = self.linear.labels.clone()
                labels[self.jitter] = math.exp(number * _NODE)
                covariance = self._covariance(labels[None], self.linear.spectrum[None], self._normalised()[1])
                solved = covariance.solve(self.linear.columns[None])[0]
                self._nodes[number] = solved @ self.linear.columns.T
        low, high = torch.stack([self._nodes[number] for number in numbers.tolist()])[inverse].chunk(2)
        return (1 - share) * low + share * high

    def _expected(self, m: Tensor) -> Tensor:
        """Model with the nuisances at their centres, over the reference continuum."""
        return m if self.linear is None else m + self.linear.offset

    @torch.no_grad()
    def linearised(self, labels: Tensor) -> Likelihood:
        """Return the likelihood whose nuisances are linear about labels ``(n_labels,)``: the most likely ones are best.

        Without nuisances it is the likelihood itself.

        Raises
        ------
        InferenceError
            If a nuisance's derivative cannot be used.
        """
        if not self.nuisances:
            return self
        labels = self._moved(labels)
        assert self.line_width is not None, "whoever has no line-spread function has no pixels"
        at = Point(self.model, labels[None, : self.jitter], self.to_pixels, self.chip, self.line_width)
        plain = replace(self, linear=None)
        m = at.spectrum[None]
        covariance = plain._covariance(labels[None], m, plain._normalised()[1])
        normals = covariance.continuum_normals(m, self.bases)

        def project(columns: Tensor) -> Tensor:
            solved, out = covariance.solve(columns[None])[0], columns.clone()
            for (chip, basis), (matrix, _) in zip(self.bases, normals, strict=True):
                shape = m[:, chip].T * basis[:, : matrix.shape[-1]]
                out[:, chip] -= (solved[:, chip] @ shape) @ torch.linalg.solve(matrix[0], shape.T)
            return out

        def information(columns: Tensor) -> Tensor:
            return covariance.solve(columns[None])[0] @ columns.T

        return replace(self, linear=linear(self.nuisances, at, labels, project, information))

    def without(self, pixels: NDArray[np.bool_], labels: Tensor) -> Likelihood:
        """Return the likelihood in which some used pixels, ``(n_pixels,)``, count for nothing.

        Their error becomes ten times their residual at the labels ``(n_labels,)`` and the continuum beside it, so that likelihoods that
        leave out other pixels are still of the same data.
        """
        residual = torch.from_numpy(self.fit(labels).residual).to(self.variance)
        wide = (10 * residual).square() + self.reference.square()
        out = torch.from_numpy(pixels).to(self.flux.device)
        return replace(self, variance=torch.where(out, self.variance + wide, self.variance))

    def without_nuisances(self) -> Likelihood:
        """Return the likelihood of the model as it stands."""
        return replace(self, nuisances=(), linear=None)

    @torch.no_grad()
    def amplitudes(self, labels: Tensor) -> list[Amplitude]:
        """Return what the spectrum tells of each nuisance, with the labels ``(n_labels,)`` known."""
        if self.linear is None:
            return []
        means, covariance = self.amplitudes_given(labels[None])
        mean, std = means[0], covariance.diagonal().clamp_min(0).sqrt()
        return [
            Amplitude(nuisance, of, centre + nuisance.width * x, nuisance.width * s)
            for (nuisance, of), centre, x, s in zip(
                self.linear.of, self.linear.centre.tolist(), mean.tolist(), std.tolist(), strict=True
            )
        ]

    @torch.no_grad()
    def amplitudes_given(self, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Means ``(n, n_amplitudes)`` of all amplitudes given labels ``(n, n_all)``, about their centres in units of their widths.

        And their covariance ``(n_amplitudes, n_amplitudes)``, of the first labels, which do little to it.
        """
        assert self.linear is not None, "nuisances are linear about some labels"
        turn, labels = self.linear.turn, self._moved(labels)
        y, variance = self._normalised()
        means, known = [], torch.zeros(len(turn), len(turn)).to(turn)
        for i, chunk in enumerate(labels.split(self.chunk)):
            m = self.spectra(chunk)
            found = self._solve(
                m, self._covariance(chunk, m, variance), y - self._expected(m), chunk[:, self.jitter]
            )
            if found.factor is None or found.amplitudes is None:
                means.append(torch.zeros(len(chunk), len(turn)).to(m))
                continue
            means.append(found.amplitudes @ turn.T)
            if i == 0:
                known = turn @ torch.cholesky_solve(turn.T, found.factor[0])
        # What the columns leave out is as the prior has it.
        covariance = torch.eye(len(turn)).to(turn) - turn @ turn.T + known
        return torch.cat(means).cpu(), covariance.cpu()

    @torch.no_grad()
    def log_prob(self, labels: Tensor, spectra: Tensor | None = None) -> Tensor:
        """Log likelihood, shape ``(n,)``, float64; of given model spectra ``(n, n_pixels)`` if there are any."""
        labels = self._moved(labels)
        if spectra is not None:
            return self._log_prob(labels, spectra).cpu()
        return torch.cat([self._log_prob(chunk) for chunk in labels.split(self.chunk)]).cpu()

    def log_prob_with_gradient(self, labels: Tensor) -> Tensor:
        """Return `log_prob`, differentiable in the labels by automatic differentiation."""
        return self._log_prob(self._moved(labels)).cpu()

    def _moved(self, labels: Tensor) -> Tensor:
        return labels.to(self.flux.device)

    @property
    def chunk(self) -> int:
        """Number of spectra that are best evaluated together."""
        return _CHUNK if self.flux.device.type == "cpu" else 1024

    def spectra(self, labels: Tensor) -> Tensor:
        """Model spectra without continuum on the used pixels, shape ``(n, n_pixels)``."""
        return self.to_pixels(self.model(self._moved(labels)[:, : self.jitter]))

    def to_pixels(self, grid_flux: Tensor) -> Tensor:
        """Take fluxes ``(..., n_grid)`` on the model's grid to the used pixels, float64, ``(..., n_pixels)``."""
        return self.sampler(grid_flux).double()

    def _covariance(self, labels: Tensor, m: Tensor, variance: Tensor) -> Covariance:
        """Of noise, jitter and errors of emulator and library, over the squared reference continuum."""
        return self._with_correlation(self._total(labels, m, variance))

    def _with_correlation(self, variance: Tensor) -> Covariance:
        """Of pixels with variances ``(n, n_pixels)`` of their own."""
        if self.correlation is None:
            return Independent(variance)
        decay = self.correlation.decay(self.wavelength, self.chip)
        return Correlated(variance, self.correlation.deviation, decay)

    def _error(self, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Rms error of the emulator ``(n,)``, and its slopes by the model's labels, ``(n, n_labels - 1)``."""
        known = self.error_known or self.linear is not None
        x = labels[:, : self.jitter].detach().requires_grad_(not known)
        slopes = torch.zeros_like(x)
        with torch.enable_grad():
            error = self.model.error(x).double()
            if error.requires_grad:
                (slopes,) = torch.autograd.grad(error.sum(), x)
        return error.detach(), slopes

    def _total(self, labels: Tensor, m: Tensor, variance: Tensor) -> Tensor:
        """Variance of single pixels, the correlated part left out."""
        if self.linear is not None:
            known, squared = self._known_variance
            return variance + known + labels[:, self.jitter, None].square() * squared
        return self._own_total(labels, m, variance)

    @cached_property
    def _known_variance(self) -> tuple[Tensor, Tensor]:
        """Of emulator and library at the labels about which nuisances are linear, and what the squared jitter is multiplied by."""
        assert self.linear is not None
        labels = self.linear.labels.clone()[None]
        labels[:, self.jitter] = 0.0
        m = self.linear.spectrum[None]
        return self._own_total(labels, m, torch.zeros_like(m)), m.square()

    def _own_total(self, labels: Tensor, m: Tensor, variance: Tensor) -> Tensor:
        """Variance of single pixels as of the labels' own spectrum."""
        error = self.model.error(labels[:, : self.jitter]).double()[:, None] * self.error_shape
        total = variance + (labels[:, self.jitter, None] * m).square() + error.square()
        if self.learned is None:
            return total
        v_rad = labels[:, self.model.label_names.index("v_rad"), None].detach().cpu().numpy()
        at = self.wavelength * np.exp(-np.arctanh(v_rad / C_KMS))
        return total + _at(self.learned, self.model, at).to(total).square()

    def _log_prob(self, labels: Tensor, m: Tensor | None = None) -> Tensor:
        y, variance = self._normalised()
        m = self.spectra(labels) if m is None else m
        covariance = self._covariance(labels, m, variance)
        r = y - self._expected(m)
        found = self._solve(m, covariance, r, labels[:, self.jitter])
        return self._value(labels, r, covariance, found)

    def _value(self, labels: Tensor, r: Tensor, covariance: Covariance, found: Solution) -> Tensor:
        """Log likelihood of residuals ``r (n, n_pixels)``, continuum and nuisances integrated out."""
        out = -0.5 * ((r * found.solved).sum(1) + covariance.log_det) + found.log_integral()
        out = out - self.reference.log().sum() - 0.5 * self.n_pixels * math.log(2 * math.pi)
        return out + self.prior_beside(labels)

    def prior_beside(self, labels: Tensor) -> Tensor:
        """Return what the log likelihood has of priors: relations between labels, and where there are stars; shape ``(n,)``."""
        out = torch.zeros(len(labels), dtype=torch.float64, device=labels.device)
        if self.related:
            z = self.model.standardised(labels[:, : self.jitter], self.related)
            out = out - 0.5 * (z.square() + math.log(2 * math.pi)).sum(1)
        return out.masked_fill(~self.model.inside(labels[:, : self.jitter]), -math.inf)

    def _continuum(self, m: Tensor, found: Solution) -> Tensor:
        """Most likely continuum over the reference, shape ``(n, n_pixels)``."""
        parts = [
            1 + departure @ basis[:, : departure.shape[1]].T
            for (_, basis), departure in zip(self.bases, found.departures, strict=True)
        ]
        return torch.cat(parts, dim=1) if parts else torch.ones_like(m)

    def _nuisance(self, m: Tensor, found: Solution) -> Tensor:
        """Most likely contribution of the nuisances, over the reference continuum, shape ``(n, n_pixels)``."""
        if self.linear is None:
            return torch.zeros_like(m)
        if found.amplitudes is None:
            return self.linear.offset.expand_as(m)
        return self.linear.offset + found.amplitudes @ self.linear.columns

    @torch.no_grad()
    def left_over(self, labels: Tensor, spectra: Tensor) -> Leftover:
        """Return what the labels ``(1, n_labels)`` leave of one spectrum, and its log likelihood, without interpolation in the jitter.

        ``spectra (1, n_pixels)`` are the model's there.
        """
        y, variance = self._normalised()
        covariance = self._covariance(labels, spectra, variance)
        r = y - self._expected(spectra)
        found = self._solve(spectra, covariance, r, None)
        flux = spectra * self._continuum(spectra, found) + self._nuisance(spectra, found)
        base, unit = labels.clone(), labels.clone()
        base[:, self.jitter], unit[:, self.jitter] = 0.0, 1.0
        known = self._total(base, spectra, variance)
        return Leftover(
            (y - flux)[0], known[0], (self._total(unit, spectra, variance) - known)[0],
            float(self._value(labels, r, covariance, found)[0]),
        )  # fmt: skip

    def of_residual(self, left: Leftover, jitter: float) -> float:
        """Log likelihood of what is left over, with another jitter; continuum and nuisances are known, and a constant is left out."""
        variance = (left.variance + jitter**2 * left.squared)[None]
        covariance = self._with_correlation(variance)
        residual = left.residual[None, None]
        return -0.5 * float((residual * covariance.solve(residual)).sum() + covariance.log_det)

    @torch.no_grad()
    def reduced(self, labels: Tensor, spectrum: Tensor, parts: Tensor) -> Reduced:
        """Integrate continuum and nuisances out of the data less a model, and out of what is added to it.

        The noise is that of labels ``(1, n_labels)``, the continuum that of the model ``spectrum (1, n_pixels)`` there; ``parts`` are
        ``(k, n_pixels)``.
        """
        y, variance = self._normalised()
        covariance = self._covariance(labels, spectrum, variance)
        inner = torch.cat([y - self._expected(spectrum), parts])
        columns = self._columns
        if columns is not None:
            inner = torch.cat([columns.values, inner])
        solved = covariance.solve(inner[None])[0]
        gram = solved @ inner.T
        constant = -0.5 * float(covariance.log_det)
        if self.bases:
            n = self.bases[0][1].shape[1] // 2 + 1
            continuum = torch.cat([basis[:, :n] for _, basis in self.bases]).T * spectrum
            for chip, _ in self.bases:
                right = solved[:, chip] @ continuum[:, chip].T
                own = torch.zeros_like(continuum)
                own[:, chip] = continuum[:, chip]
                matrix = covariance.solve(own[None])[0][:, chip] @ continuum[:, chip].T
                factor = torch.linalg.cholesky(matrix + torch.eye(n).to(matrix) / SPREAD**2)
                gram = gram - right @ torch.cholesky_solve(right.T, factor)
                constant -= float(factor.diagonal().log().sum()) + n * math.log(SPREAD)
        if columns is not None:
            k = len(columns.values)
            factor = torch.linalg.cholesky(gram[:k, :k] + torch.eye(k).to(gram))
            gram = gram[k:, k:] - gram[k:, :k] @ torch.cholesky_solve(gram[:k, k:], factor)
            constant -= float(factor.diagonal().log().sum())
        constant -= float(self.reference.log().sum()) + 0.5 * self.n_pixels * math.log(2 * math.pi)
        return Reduced(gram, constant)

    @torch.no_grad()
    def curvature(self, labels: Tensor, on_grid: tuple[Tensor, Tensor] | None = None) -> Curvature:
        """Gradient and expected information at labels ``(n, n_labels)``, the continuum projected out.

        The model's flux and slopes there (`ForwardModel.jacobian`) are computed unless they are given.

        What the variance's dependence on the spectrum adds to the information is left out: its share is 2 jitter^2. So is, of correlated
        pixels, what pairs of them tell of the jitter.
        """
        labels = self._moved(labels)
        y, variance = self._normalised()
        flux, by_label = on_grid or self.model.jacobian(labels[:, : self.jitter])
        together = self.to_pixels(torch.cat([flux[:, None], by_label], dim=1))
        m, slopes = together[:, 0], together[:, 1:]
        jitter = labels[:, self.jitter, None]
        covariance = self._covariance(labels, m, variance)
        found = self._solve(m, covariance, y - self._expected(m), labels[:, self.jitter])
        continuum = self._continuum(m, found)
        solved = covariance.solve((y - m * continuum - self._nuisance(m, found))[:, None])[:, 0]
        diagonal = covariance.inverse_diagonal()
        by_labels = torch.zeros_like(slopes[..., 0])
        if self.linear is None:
            # The variance grows with the model: half of d(-ln |C| - r C^-1 r) by the labels.
            by_variance = jitter.square() * m * (solved.square() - diagonal)
            by_labels = (slopes @ by_variance[..., None])[..., 0]
        slopes = slopes * continuum[:, None]
        weighted = covariance.solve(slopes)
        fisher = weighted @ slopes.mT
        beside = None if self._columns is None else weighted @ self._columns.values.T
        for (chip, basis), (factor, right, _, of_columns) in zip(self.bases, found.chips, strict=True):
            cross = (weighted[:, :, chip] * m[:, None, chip]) @ basis[:, : right.shape[1]]
            shares = torch.cholesky_solve(cross.mT, factor)
            fisher = fisher - cross @ shares
            if beside is not None and of_columns is not None:
                beside = beside - (of_columns @ shares).mT
        if beside is not None and found.factor is not None:
            fisher = fisher - beside @ torch.cholesky_solve(beside.mT, found.factor)
        gradient = torch.cat(
            [by_labels + (slopes @ solved[..., None])[..., 0], torch.zeros_like(jitter)], dim=1
        )
        full = torch.zeros(len(labels), labels.shape[1], labels.shape[1]).to(m)
        full[:, : self.jitter, : self.jitter] = fisher
        # Jitter, and the emulator's error through its labels, change the variance by the pixel: each label by ``column * row``.
        error, steps = self._error(labels)
        level = m if self.linear is None else self.linear.spectrum.expand_as(m)
        columns = torch.zeros(len(labels), 2, labels.shape[1]).to(m)
        columns[:, 0, self.jitter] = 1.0
        columns[:, 1, : self.jitter] = steps
        by_pixel = torch.stack(
            [2 * jitter * level.square(), 2 * error[:, None] * self.error_shape.square()], dim=1
        )
        weighted = by_pixel * diagonal[:, None]
        full += 0.5 * columns.mT @ (weighted @ weighted.mT) @ columns
        gain = 0.5 * (by_pixel @ (solved.square() - diagonal)[..., None])
        gradient += (columns.mT @ gain)[..., 0]
        for distance, slopes_of in self.relations(labels):
            gradient[:, : self.jitter] -= distance[:, None] * slopes_of
            full[:, : self.jitter, : self.jitter] += slopes_of[:, :, None] * slopes_of[:, None]
        return Curvature(gradient.cpu(), full.cpu())

    def relations(self, labels: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Distance from each relation ``(n,)``, and its slopes by the model's labels, ``(n, n_labels - 1)``."""
        if not self.related:
            return
        x = labels[:, : self.jitter].detach().requires_grad_()
        with torch.enable_grad():
            for distance in self.model.standardised(x, self.related).unbind(1):
                (slopes,) = torch.autograd.grad(distance.sum(), x, retain_graph=True)
                yield distance.detach(), slopes

    @torch.no_grad()
    def with_reference_continuum(self, labels: Tensor) -> Likelihood:
        """Return the likelihood whose reference continuum is the one that fits best with the labels.

        Call it once, with a good guess, before comparing labels: the reference sets the scale of jitter and continuum prior.
        Labels are ``(n_labels,)``, or ``(n, n_labels)`` for as many spectra.
        """
        if not self.bases:
            return self
        labels = self._moved(labels)
        m = self.spectra(labels.reshape(-1, labels.shape[-1]))
        flux, ivar = self.flux / m, m.square() / self.variance
        parts = [fit_continuum(flux[:, chip], ivar[:, chip], basis) for chip, basis in self.bases]
        reference = torch.cat(parts, dim=1)
        return replace(self, reference=reference if labels.ndim == 2 else reference[0])

    @torch.no_grad()
    def excess_scatter(self, labels: Tensor) -> Tensor:
        """Scatter of the residuals beyond the noise, relative to the model, shape ``(n,)``, at labels ``(n, n_labels)``.

        A moment estimate of the jitter, by medians: a few wild pixels are not jitter.
        """
        labels = self._moved(labels)
        y, variance = self._normalised()
        m = self.spectra(labels)
        covariance = self._covariance(labels, m, variance)
        found = self._solve(m, covariance, y - self._expected(m), labels[:, self.jitter])
        flux = m * self._continuum(m, found) + self._nuisance(m, found)
        used = variance.isfinite()
        scatter = torch.where(used, (y - flux) / flux, math.nan).abs().nanmedian(1).values * 1.4826
        noise = torch.where(used, variance.sqrt() / flux, math.nan).abs().nanmedian(1).values
        return (scatter.square() - noise.square()).clamp_min(0).sqrt().nan_to_num().cpu()

    @torch.no_grad()
    def fit(self, labels: Tensor) -> Fit:
        """Model and residual at the labels ``(n_labels,)``."""
        labels = self._moved(labels)
        y, variance = self._normalised()
        m = self.spectra(labels[None])
        covariance = self._covariance(labels[None], m, variance)
        found = self._solve(m, covariance, y - self._expected(m), labels[None, self.jitter])
        continuum = self._continuum(m, found)[0] * self.reference
        flux = m[0] * continuum + self._nuisance(m, found)[0] * self.reference
        residual = self.flux - flux
        total = self._total(labels[None], m, variance)[0]
        r = (residual / self.reference).cpu().numpy()
        whitened, predicted = r / total.sqrt().cpu().numpy(), np.zeros_like(r)
        if self.correlation is not None:
            decay = self.correlation.decay(self.wavelength, self.chip)
            whitened, predicted = innovations(r, total.cpu().numpy(), self.correlation.deviation, decay)
        reference = self.reference.cpu().numpy()
        return Fit(
            self.good.cpu().numpy(),
            flux.cpu().numpy(),
            continuum.cpu().numpy(),
            residual.cpu().numpy(),
            (self.reference * total.sqrt()).cpu().numpy(),
            whitened,
            predicted * reference,
            float((residual.square() / self.variance).sum()) / self.n_pixels,
        )


def usable_pixels(spectrum: Spectrum, model: ForwardModel | Pair, labels: LabelSet) -> NDArray[np.bool_]:
    """Pixels on a chip and inside the model's range for every label in the prior's support, shape ``(n_pixels,)``."""
    inside = model.usable(spectrum.grid.wavelength, labels)
    on_chip = np.zeros_like(inside)
    for start, stop in spectrum.grid.chips:
        on_chip[start:stop] = True
    return inside & on_chip


def _at(values: Tensor, model: ForwardModel | Pair, wavelength: Array) -> Tensor:
    """Values on the model's grid, at the nearest pixels."""
    grid = model.emulator.grid
    nearest = np.round((np.log10(wavelength) - grid.start) / grid.step).astype(np.int64)
    return values[torch.from_numpy(np.clip(nearest, 0, grid.n_pixels - 1)).to(values.device)]
