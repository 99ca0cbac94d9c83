"""The likelihood of one observed spectrum, with the continuum of each chip integrated out."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from maury.errors import InferenceError
from maury.forward.continuum import chip_basis, fit_continuum, normal_matrix
from maury.forward.model import ForwardModel
from maury.forward.sampling import Banded
from maury.labels import LabelSet
from maury.spectra.linespread import LineSpread
from maury.spectra.spectrum import PixelGrid, Spectrum

DEGREE = 4
# Prior standard deviation of every continuum coefficient, relative to the reference continuum: far wider than any posterior, yet proper.
SPREAD = 0.3
# Spectra evaluated together: their arrays stay in the processor's cache.
_CHUNK = 32
_MIN_PIXELS = 200


@dataclass(frozen=True)
class Curvature:
    """Local behaviour of the log likelihood at labels ``(n, n_labels)``: its gradient ``(n, n_labels)`` and Fisher matrix."""

    gradient: Tensor
    fisher: Tensor


@dataclass(frozen=True)
class Likelihood:
    """Independent Gaussian pixels; masked ones drop out.

    ``flux_i ~ N(m_i C_i, 1 / ivar_i + (jitter m_i R_i)^2 + (e_i R_i)^2)`` with m the forward model, e the emulator's own error at the
    labels (from leaving its library's spectra out), R the reference continuum (a fixed, smooth guess) and ``C = R sum_k c_k T_k`` on
    each chip, ``c ~ N((1, 0, ...), SPREAD^2)``. The coefficients are integrated out: the model is never rescaled to the data.

    Labels are the model's and then ``jitter``, shape ``(n, n_labels)``. It computes on the model's device; labels come from and
    results go to the CPU. Build with `of`.
    """

    model: ForwardModel
    sampler: Banded
    good: Tensor
    flux: Tensor
    variance: Tensor
    reference: Tensor
    error_shape: Tensor
    bases: tuple[tuple[slice, Tensor], ...]

    @classmethod
    def of(
        cls,
        spectrum: Spectrum,
        model: ForwardModel,
        labels: LabelSet,
        degree: int | None = DEGREE,
        inside: NDArray[np.bool_] | None = None,
        *,
        emulator_error: bool = True,
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
        if good.sum() < _MIN_PIXELS:
            raise InferenceError(
                f"only {good.sum()} usable pixels of {inside.sum()} inside the model's wavelengths; {_MIN_PIXELS} are needed",
                "few_pixels",
            )
        empty = cls.on(model, spectrum.grid, good, spectrum.lsf, degree, emulator_error=emulator_error)
        flux = torch.from_numpy(spectrum.flux[good]).to(empty.flux)
        return empty.seeing(flux[None], torch.from_numpy(spectrum.ivar[good]).to(empty.flux)[None])[0]

    @classmethod
    def on(
        cls,
        model: ForwardModel,
        grid: PixelGrid,
        good: NDArray[np.bool_],
        lsf: LineSpread | None,
        degree: int | None = DEGREE,
        *,
        emulator_error: bool = True,
    ) -> Likelihood:
        """Prepare the likelihood of spectra on some pixels ``good (n_pixels,)`` of a detector, without data; see `seeing`."""
        bases = [] if degree is None else chip_basis(grid.n_pixels, grid.chips, degree, good)
        device = model.basis.device
        ones = torch.ones(int(good.sum()), dtype=torch.float64, device=device)
        shape = _at(model.emulator.error_shape, model, grid.wavelength[good]).double().to(device)
        return cls(
            model,
            model.sampler(grid, lsf).to(device),
            torch.from_numpy(np.flatnonzero(good)).to(device),
            ones,
            ones,
            ones,
            shape if emulator_error else torch.zeros_like(shape),
            tuple((chip, basis.to(device)) for chip, basis in bases),
        )

    def seeing(self, flux: Tensor, ivar: Tensor) -> Likelihood:
        """Return the likelihood of data ``(n, n_pixels)`` on the pixels that it was prepared for.

        Spectrum i of the data meets row i of the labels; where ``ivar`` is 0 a pixel drops out, in `curvature` alone.
        """
        parts = [fit_continuum(flux[:, c], ivar[:, c], basis) for c, basis in self.bases]
        reference = torch.cat(parts, dim=1).abs() if parts else torch.ones_like(flux)
        return replace(self, flux=flux, variance=1 / ivar, reference=reference)

    def __getitem__(self, i: int | Tensor) -> Likelihood:
        """Return the likelihood of one of several spectra, for any number of labels; or of some of them, by number."""
        return replace(self, flux=self.flux[i], variance=self.variance[i], reference=self.reference[i])

    def to(self, device: torch.device) -> Likelihood:
        """Return the likelihood on another device; its model moves there."""
        moved = {
            name: getattr(self, name).to(device)
            for name in ("good", "flux", "variance", "reference", "error_shape")
        }
        return Likelihood(
            model=self.model.to(device),
            sampler=self.sampler.to(device),
            bases=tuple((chip, basis.to(device)) for chip, basis in self.bases),
            **moved,
        )

    @property
    def n_pixels(self) -> int:
        """Number of pixels used."""
        return self.flux.shape[-1]

    def _normalised(self) -> tuple[Tensor, Tensor]:
        """Flux over the reference continuum, and its variance."""
        return self.flux / self.reference, self.variance / self.reference.square()

    def _solve(
        self, m: Tensor, w: Tensor, r: Tensor, chip: slice, basis: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Cholesky factor of a chip's continuum precision, its right side, and its departure from the reference."""
        wm = w[:, chip] * m[:, chip]
        n = basis.shape[1] // 2 + 1
        matrix = normal_matrix(wm * m[:, chip], basis) + torch.eye(n).to(m) / SPREAD**2
        right = (wm * r[:, chip]) @ basis[:, :n]
        factor = torch.linalg.cholesky(matrix)
        return factor, right, torch.cholesky_solve(right[..., None], factor)[..., 0]

    @torch.no_grad()
    def log_prob(self, labels: Tensor) -> Tensor:
        """Log likelihood, shape ``(n,)``, float64."""
        return torch.cat([self._log_prob(chunk) for chunk in self._moved(labels).split(self._chunk)]).cpu()

    def log_prob_with_gradient(self, labels: Tensor) -> Tensor:
        """Return `log_prob`, differentiable in the labels by automatic differentiation."""
        return self._log_prob(self._moved(labels)).cpu()

    def _moved(self, labels: Tensor) -> Tensor:
        return labels.to(self.flux.device)

    @property
    def _chunk(self) -> int:
        return _CHUNK if self.flux.device.type == "cpu" else 1024

    def _model(self, labels: Tensor) -> Tensor:
        return self.sampler(self.model(labels[:, :-1]))[:, self.good].double()

    def _total(self, labels: Tensor, m: Tensor, variance: Tensor) -> Tensor:
        """Variance of noise, jitter and emulator, over the squared reference continuum."""
        error = self.model.emulator.error(labels[:, :-3]).double()[:, None] * self.error_shape
        return variance + (labels[:, -1:] * m).square() + error.square()

    def _log_prob(self, labels: Tensor) -> Tensor:
        y, variance = self._normalised()
        m = self._model(labels)
        total = self._total(labels, m, variance)
        w = 1 / total
        r = y - m
        out = -0.5 * ((w * r.square()).sum(1) + total.log().sum(1))
        for chip, basis in self.bases:
            factor, right, departure = self._solve(m, w, r, chip, basis)
            out = out + 0.5 * (right * departure).sum(1) - factor.diagonal(dim1=-2, dim2=-1).log().sum(1)
            out = out - right.shape[1] * math.log(SPREAD)
        return out - self.reference.log().sum() - 0.5 * self.n_pixels * math.log(2 * math.pi)

    def _continuum(self, m: Tensor, w: Tensor, r: Tensor) -> Tensor:
        """Most likely continuum over the reference, shape ``(n, n_pixels)``."""
        parts = []
        for chip, basis in self.bases:
            departure = self._solve(m, w, r, chip, basis)[2]
            parts.append(1 + departure @ basis[:, : departure.shape[1]].T)
        return torch.cat(parts, dim=1) if parts else torch.ones_like(m)

    @torch.no_grad()
    def curvature(self, labels: Tensor) -> Curvature:
        """Gradient and expected information at labels ``(n, n_labels)``, the continuum projected out.

        What the variance's dependence on the spectrum adds to the information is left out: its share is 2 jitter^2.
        """
        labels = self._moved(labels)
        y, variance = self._normalised()
        grid_flux, grid_slopes = self.model.jacobian(labels[:, :-1])
        m = self.sampler(grid_flux)[:, self.good].double()
        slopes = self.sampler(grid_slopes)[..., self.good].double()
        jitter = labels[:, -1:]
        w = 1 / self._total(labels, m, variance)
        continuum = self._continuum(m, w, y - m)
        r = y - m * continuum
        # The variance grows with the model: half of d(-ln V - r^2 / V) by the labels.
        by_variance = jitter.square() * m * w * (w * r.square() - 1)
        by_labels = (slopes @ by_variance[..., None])[..., 0]
        slopes = slopes * continuum[:, None]
        weighted = slopes * w[:, None]
        fisher = weighted @ slopes.mT
        for chip, basis in self.bases:
            factor = self._solve(m, w, y - m, chip, basis)[0]
            cross = (weighted[:, :, chip] * m[:, None, chip]) @ basis[:, : basis.shape[1] // 2 + 1]
            fisher = fisher - cross @ torch.cholesky_solve(cross.mT, factor)
        # d variance / d jitter, over the variance.
        share = 2 * jitter * m.square() * w
        full = torch.zeros(len(labels), labels.shape[1], labels.shape[1]).to(m)
        full[:, :-1, :-1] = fisher
        full[:, -1, -1] = 0.5 * share.square().sum(1)
        by_jitter = 0.5 * (share * (w * r.square() - 1)).sum(1, keepdim=True)
        by_labels = by_labels + (weighted @ r[..., None])[..., 0]
        gradient = torch.cat([by_labels, by_jitter], dim=1)
        return Curvature(gradient.cpu(), full.cpu())

    @torch.no_grad()
    def refer(self, labels: Tensor) -> Likelihood:
        """Return the likelihood whose reference continuum is the one that fits best with the labels.

        Call it once, with a good guess, before comparing labels: the reference sets the scale of jitter and continuum prior.
        Labels are ``(n_labels,)``, or ``(n, n_labels)`` for as many spectra.
        """
        if not self.bases:
            return self
        labels = self._moved(labels)
        m = self._model(labels.reshape(-1, labels.shape[-1]))
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
        m = self._model(labels)
        w = 1 / self._total(labels, m, variance)
        flux = m * self._continuum(m, w, y - m)
        used = w > 0
        scatter = torch.where(used, (y - flux) / flux, math.nan).abs().nanmedian(1).values * 1.4826
        noise = torch.where(used, variance.sqrt() / flux, math.nan).abs().nanmedian(1).values
        return (scatter.square() - noise.square()).clamp_min(0).sqrt().nan_to_num().cpu()

    @torch.no_grad()
    def fit(self, labels: Tensor) -> Fit:
        """Model and residual at the labels ``(n_labels,)``."""
        labels = self._moved(labels)
        y, variance = self._normalised()
        m = self._model(labels[None])
        w = 1 / self._total(labels[None], m, variance)
        continuum = self._continuum(m, w, y - m)[0] * self.reference
        flux = m[0] * continuum
        residual = self.flux - flux
        excess = float((residual.square() / self.variance).sum()) / self.n_pixels
        scaled = float((residual.square() * w[0] / self.reference.square()).sum()) / self.n_pixels
        sigma = self.reference / w[0].sqrt()
        return Fit(
            self.good.cpu().numpy(),
            flux.cpu().numpy(),
            continuum.cpu().numpy(),
            residual.cpu().numpy(),
            sigma.cpu().numpy(),
            excess,
            scaled,
        )


def usable_pixels(spectrum: Spectrum, model: ForwardModel, labels: LabelSet) -> NDArray[np.bool_]:
    """Pixels on a chip and inside the model's range for every label in the prior's support, shape ``(n_pixels,)``."""
    inside = model.usable(spectrum.grid.wavelength, labels)
    on_chip = np.zeros_like(inside)
    for start, stop in spectrum.grid.chips:
        on_chip[start:stop] = True
    return inside & on_chip


def _at(values: Tensor, model: ForwardModel, wavelength: NDArray[np.float64]) -> Tensor:
    """Values on the model's grid, at the nearest pixels."""
    grid = model.emulator.grid
    nearest = np.round((np.log10(wavelength) - grid.start) / grid.step).astype(np.int64)
    return values[torch.from_numpy(np.clip(nearest, 0, grid.n_pixels - 1)).to(values.device)]


@dataclass(frozen=True)
class Fit:
    """A model spectrum beside the data, on the used pixels.

    Attributes
    ----------
    pixels
        Their place on the spectrum's grid, shape ``(n,)``.
    flux, continuum, residual, sigma
        In the units of the spectrum, shape ``(n,)``; sigma is the total error: noise, jitter and emulator.
    rchi2
        Mean squared residual over the file's own variance.
    rchi2_jitter
        The same over the variance with jitter: near 1 where the noise model holds.
    """

    pixels: NDArray[np.int64]
    flux: NDArray[np.float64]
    continuum: NDArray[np.float64]
    residual: NDArray[np.float64]
    sigma: NDArray[np.float64]
    rchi2: float
    rchi2_jitter: float
