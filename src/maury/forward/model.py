"""The forward model: labels to the spectrum that a detector would see, batched and differentiable."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from maury.constants import C_KMS
from maury.errors import InferenceError, LabelError
from maury.forward.detector import Banded, Winged, interpolation, line_spread
from maury.forward.doppler import log_shift, log_shift_derivative
from maury.forward.rotation import (
    rotation_transform,
    rotation_transform_by_limb_darkening,
    rotation_transform_derivative,
)
from maury.labels import LabelSet
from maury.libraries.emulator import Emulator
from maury.libraries.ties import Ties
from maury.spectra.linespread import LineSpread
from maury.spectra.spectrum import PixelGrid

# Light of a line farther than this from its pixel, km/s, is in the far wings: there a smooth spectrum serves as well.
_REACH = 42.0


class ForwardModel(nn.Module):
    """Emulator, then rotation, then Doppler shift, in Fourier space on a uniform ln(wavelength) grid; one inverse transform a spectrum.

    Labels are the emulator's, then ``v_rad`` and ``v_sini`` (km/s), in an array of shape ``(n, n_labels)``.

    Parameters
    ----------
    emulator
        Rest-frame spectra.
    limb_darkening
        Linear coefficient of the rotation profile, in [0, 1].
    v_macro
        Standard deviation of a Gaussian macroturbulence along the line of sight, km/s; 0 for none.

    Raises
    ------
    LabelError
        If the limb darkening lies outside [0, 1] or the macroturbulence is negative.
    """

    basis: Tensor
    frequency: Tensor

    def __init__(self, emulator: Emulator, limb_darkening: float = 0.6, v_macro: float = 0.0) -> None:
        super().__init__()
        if not 0 <= limb_darkening <= 1:
            raise LabelError(f"limb_darkening must lie in [0, 1], not {limb_darkening}")
        if not 0 <= v_macro < math.inf:
            raise LabelError(f"v_macro must not be negative, but is {v_macro} km/s")
        self.emulator, self.limb_darkening, self.v_macro = emulator, limb_darkening, v_macro
        self.label_names = (*emulator.labels.names, "v_rad", "v_sini")
        grid = emulator.grid
        basis = torch.cat([emulator.mean[None], emulator.components]).double()
        frequency = 2 * math.pi * torch.fft.rfftfreq(grid.n_pixels, d=grid.dlnw, dtype=torch.float64)
        # Macroturbulence is the same for all spectra: it goes into the components.
        turbulence = torch.exp(-0.5 * (frequency * v_macro / C_KMS).square())
        transform = (torch.fft.rfft(basis) * turbulence).to(torch.complex64)
        # Real and imaginary parts side by side: a real matrix product is faster than a complex one.
        self.register_buffer("basis", torch.view_as_real(transform).flatten(1), persistent=False)
        self.register_buffer("frequency", frequency.float(), persistent=False)

    def tied(self, ties: Ties) -> ForwardModel:
        """Return the forward model of other labels of the library; all arrays are shared."""
        out = copy.copy(self)
        out._modules = {**self._modules, "emulator": self.emulator.tied(ties)}
        out.label_names = (*ties.labels.names, "v_rad", "v_sini")
        return out

    @property
    def n_labels(self) -> int:
        """Number of labels."""
        return len(self.label_names)

    def _combine(self, coefficients: Tensor) -> Tensor:
        """Fourier transform ``(..., n_freq)`` of the components weighted by ``coefficients (..., 1 + n_components)``."""
        return torch.view_as_complex((coefficients @ self.basis).unflatten(-1, (-1, 2)))

    def _slopes(self, coefficients: Tensor) -> Tensor:
        """As `_combine`, of slopes ``(..., n_components)``, in which the mean spectrum has no share."""
        return self._combine(torch.nn.functional.pad(coefficients.to(self.basis), (1, 0)))

    def _coefficients(self, stellar: Tensor, departures: Tensor | None = None) -> Tensor:
        coefficients = self.emulator.coefficients(stellar, departures)
        return torch.cat([torch.ones_like(coefficients[:, :1]), coefficients], dim=1)

    def _phase(self, v_rad: Tensor) -> Tensor:
        angle = -self.frequency * log_shift(v_rad).float()[:, None]
        return torch.complex(torch.cos(angle), torch.sin(angle))

    def _kernel(self, v_rad: Tensor, v_sini: Tensor) -> Tensor:
        """Transform ``(n, n_freq)`` of what rotation and motion do to a spectrum."""
        s = self.frequency * (v_sini.float() / C_KMS)[:, None]
        return self._phase(v_rad) * rotation_transform(s, self.limb_darkening)

    def forward(self, labels: Tensor, departures: Tensor | None = None) -> Tensor:
        """Flux over its pseudo-continuum on the emulator's grid, shape ``(n, n_pixels)``.

        ``departures`` are those of `Emulator.complete`.

        Raises
        ------
        LabelError
            If the number of labels is wrong or a v_sini is negative.
        """
        v_rad, v_sini = self._velocities(labels)
        spectrum = self._combine(self._coefficients(labels[:, :-2], departures))
        spectrum = spectrum * self._kernel(v_rad, v_sini)
        return torch.fft.irfft(spectrum, n=self.emulator.grid.n_pixels)

    def jacobian(self, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Flux, shape ``(n, n_pixels)``, and its derivatives by each label, shape ``(n, n_labels, n_pixels)``."""
        v_rad, v_sini = self._velocities(labels)
        f = self.frequency
        s = f * (v_sini.float() / C_KMS)[:, None]
        phase = self._phase(v_rad)
        kernel = phase * rotation_transform(s, self.limb_darkening)
        stellar = labels[:, :-2].to(self.basis)
        rest = self._combine(self._coefficients(stellar))
        flux = rest * kernel
        by_v_rad = flux * (-1j * f * log_shift_derivative(v_rad).float()[:, None])
        by_v_sini = rest * phase * (rotation_transform_derivative(s, self.limb_darkening) * f / C_KMS)
        by_stellar = self._slopes(self.emulator.jacobian(stellar)) * kernel[:, None]
        stack = torch.cat([flux[:, None], by_stellar, by_v_rad[:, None], by_v_sini[:, None]], dim=1)
        out = torch.fft.irfft(stack, n=self.emulator.grid.n_pixels)
        return out[:, 0], out[:, 1:]

    def carried(self, rest: Tensor, labels: Tensor) -> Tensor:
        """Broaden and shift given rest-frame spectra ``(k, n_grid)`` as those of labels ``(n, n_labels)``: ``(n, k, n_grid)``."""
        v_rad, v_sini = self._velocities(labels)
        turbulence = torch.exp(-0.5 * (self.frequency * self.v_macro / C_KMS).square())
        kernel = self._kernel(v_rad, v_sini) * turbulence
        transform = torch.fft.rfft(rest.to(self.basis))
        return torch.fft.irfft(transform * kernel[:, None], n=self.emulator.grid.n_pixels)

    def by_broadening(self, labels: Tensor) -> Tensor:
        """Return the flux's derivative ``(n, n_grid)`` by the variance of a Gaussian broadening in ln(wavelength)."""
        v_rad, v_sini = self._velocities(labels)
        spectrum = self._combine(self._coefficients(labels[:, :-2])) * self._kernel(v_rad, v_sini)
        return torch.fft.irfft(-0.5 * self.frequency.square() * spectrum, n=self.emulator.grid.n_pixels)

    def by_limb_darkening(self, labels: Tensor) -> Tensor:
        """Return the flux's derivative ``(n, n_grid)`` by the linear coefficient of limb darkening."""
        v_rad, v_sini = self._velocities(labels)
        s = self.frequency * (v_sini.float() / C_KMS)[:, None]
        kernel = self._phase(v_rad) * rotation_transform_by_limb_darkening(s, self.limb_darkening)
        spectrum = self._combine(self._coefficients(labels[:, :-2])) * kernel
        return torch.fft.irfft(spectrum, n=self.emulator.grid.n_pixels)

    def by_departures(self, labels: Tensor) -> Tensor:
        """Return the flux's derivatives ``(n, n_tied, n_grid)`` by what each label that is tied has beside what it follows."""
        v_rad, v_sini = self._velocities(labels)
        by_tied = (
            self._slopes(self.emulator.by_departures(labels[:, :-2])) * self._kernel(v_rad, v_sini)[:, None]
        )
        return torch.fft.irfft(by_tied, n=self.emulator.grid.n_pixels)

    def error(self, labels: Tensor) -> Tensor:
        """Rms error of the emulator, shape ``(n,)``, at labels ``(n, n_labels)``."""
        return self.emulator.error(labels[:, :-2])

    def inside(self, labels: Tensor) -> Tensor:
        """Tell whether labels ``(n, n_labels)`` are of stars that there are, bool, ``(n,)``."""
        return self.emulator.inside(labels[:, :-2])

    def standardised(self, labels: Tensor, related: Sequence[str]) -> Tensor:
        """Distances ``(n, n_related)`` of labels ``(n, n_labels)`` from the relations that they follow; see `Ties.relations`."""
        return self.emulator.ties.standardised(labels[:, :-2], related)

    def _velocities(self, labels: Tensor) -> tuple[Tensor, Tensor]:
        if labels.ndim != 2 or labels.shape[1] != self.n_labels:
            raise LabelError(
                f"labels must have the shape (n, {self.n_labels}): {', '.join(self.label_names)}"
            )
        v_rad, v_sini = labels[:, -2], labels[:, -1]
        if bool((v_sini < 0).any()):
            raise LabelError("v_sini must not be negative")
        return v_rad, v_sini

    def sampler(
        self,
        grid: PixelGrid,
        lsf: LineSpread | None = None,
        transmission: NDArray[np.float64] | None = None,
        chosen: NDArray[np.bool_] | None = None,
    ) -> Banded | Winged:
        """Operator from the emulator's grid to a detector's pixels, shape ``(..., n_pixels)`` to ``(..., n_chosen)``.

        Parameters
        ----------
        grid
            The detector's pixels.
        lsf
            Its line-spread function, pixel integration included. If the emulator contains one already, only the difference is applied; None
            then takes the emulator's for the detector's.
        transmission
            Of the earth's atmosphere on the emulator's grid, shape ``(n_pixels,)``; multiplied before the line-spread function.
        chosen
            Pixels that are wanted, shape ``(grid.n_pixels,)``; all if None.

        Raises
        ------
        InferenceError
            If the emulator contains no line-spread function and none is given.
        """
        contained = self.emulator.contained
        if lsf is None and contained is None:
            raise InferenceError(
                "the spectrum does not tell its line-spread function, and the model contains none: give one, e.g. its resolving power",
                "missing_lsf",
            )
        if lsf is None or lsf == contained:
            wavelength = grid.wavelength if chosen is None else grid.wavelength[chosen]
            return interpolation(self.emulator.grid, wavelength, transmission)
        return line_spread(self.emulator.grid, grid, lsf, contained, transmission, chosen)

    def usable(self, wavelength: NDArray[np.float64], labels: LabelSet) -> NDArray[np.bool_]:
        """Pixels whose light comes from inside the emulator's range for every label in the prior's support.

        The set does not depend on the labels, so that likelihoods of different labels compare the same data.

        Parameters
        ----------
        wavelength
            Pixel centres, Angstrom, shape ``(n,)``.
        labels
            Priors that bound ``v_rad`` and ``v_sini``.

        Returns
        -------
        ndarray of bool, shape ``(n,)``
        """
        grid = self.emulator.grid
        v_rad, v_sini = labels["v_rad"].prior, labels["v_sini"].prior
        width = (v_sini.high + _REACH) / C_KMS / grid.dlnw
        low, high = (
            float(log_shift(torch.tensor(v, dtype=torch.float64))) / grid.dlnw
            for v in (v_rad.low, v_rad.high)
        )
        position = (np.log10(wavelength) - grid.start) / grid.step
        usable = np.zeros(wavelength.shape, dtype=bool)
        for start, stop in self.emulator.covered:
            usable |= (position - high - width >= start) & (position - low + width <= stop - 1)
        return usable
