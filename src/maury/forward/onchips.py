"""The forward model on the uniform grid that networks take, chip by chip: there all between star and pixel is a product in Fourier space.

Rotation, motion and the line-spread function multiply the transform of a chip's stretch of the rest-frame spectrum. A profile that changes
along a chip is a straight line between two. The likelihood's model (`maury.forward.model`) takes light to pixels as they are and needs a
matrix of each spectrum's own for it; here thousands of spectra, each with its own profile, are computed together.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.interpolate import CubicSpline
from torch import Tensor

from maury.constants import C_KMS
from maury.forward.detector import interpolation
from maury.forward.doppler import log_shift, log_shift_derivative
from maury.forward.model import ForwardModel
from maury.forward.rotation import (
    rotation_transform,
    rotation_transform_by_limb_darkening,
    rotation_transform_derivative,
)
from maury.libraries.process import fast_length
from maury.spectra.instrument import Instrument
from maury.spectra.seen import knots, places

# Pixels on either side of a chip whose light may come onto it, and of these the outer ones, over which spectra fade to the continuum.
_MARGIN, _FADE = 128, 32
# Cycles a pixel: between them spectra fade out. What a profile leaves of higher ones is below a percent.
_FROM, _TO = 0.40, 0.48
# Below this the slope by the square of v_sini, km/s, is that at 0.
_SLOWEST = 0.5


@dataclass(frozen=True)
class Chip:
    """One chip.

    Attributes
    ----------
    pixels
        Its place on the networks' grid.
    inside
        Its place in its stretch of spectrum.
    n
        Length of that stretch.
    basis
        Transforms of the model's rest-frame vectors there, real and imaginary parts side by side, shape ``(n_vectors, 2 n_freq)``.
    frequency
        Radians per unit of ln(wavelength), shape ``(n_freq,)``.
    from_knots
        From a profile's values to its transform, complex, shape ``(n_knots, n_freq)``.
    share
        Of the second of a chip's two profiles at each pixel, shape ``(n_pixels,)``.
    """

    pixels: slice
    inside: slice
    n: int
    basis: Tensor
    frequency: Tensor
    from_knots: Tensor
    share: Tensor

    def to(self, device: torch.device) -> Chip:
        """Return it on another device."""
        moved = {
            name: getattr(self, name).to(device) for name in ("basis", "frequency", "from_knots", "share")
        }
        return Chip(self.pixels, self.inside, self.n, **moved)

    def transform(self, amplitudes: Tensor) -> Tensor:
        """Return transforms ``(..., n_freq)`` of sums of the vectors, ``amplitudes (..., n_vectors)``."""
        return torch.view_as_complex((amplitudes @ self.basis).unflatten(-1, (-1, 2)))

    def profiles(self, seen: Tensor) -> Tensor:
        """Return transforms ``(n, 2, n_freq)`` of the chip's profiles ``(n, 2, n_knots, 2)``."""
        return torch.view_as_complex(seen.contiguous()) @ self.from_knots

    def to_pixels(self, spectrum: Tensor) -> Tensor:
        """Take transforms ``(..., n_freq)`` to the chip's pixels ``(..., n_pixels)``, without the continuum's 1."""
        return torch.fft.irfft(spectrum, n=self.n)[..., self.inside]

    def seen(self, spectrum: Tensor, profiles: Tensor) -> Tensor:
        """Spectra ``(n, n_freq)`` seen through profiles that change along the chip, ``(n, n_pixels)``, less 1."""
        ends = self.to_pixels(spectrum[:, None] * profiles)
        return torch.lerp(ends[:, 0], ends[:, 1], self.share)


class OnChips:
    """What `ForwardModel` computes, on an instrument's grid of networks, in single precision.

    Vectors of the model are its components, its mean, and perhaps more that are added at rest (``extra``); their amplitudes are
    coefficients, 1, and what is chosen.

    Parameters
    ----------
    model
        Forward model.
    instrument
        Whose grid.
    covered
        Half-open pixel ranges that are computed, one a chip of the instrument, as of `maury.networks.prepare.network_ranges`.
    extra
        More vectors on the emulator's grid at rest, shape ``(k, n_grid)``.
    """

    def __init__(
        self,
        model: ForwardModel,
        instrument: Instrument,
        covered: tuple[tuple[int, int], ...],
        extra: Tensor | None = None,
    ) -> None:
        self.model, self.instrument = model, instrument
        emulator = model.emulator
        self.n_grid, self.dlnw = instrument.grid.n_pixels, instrument.layout.log10_step * math.log(10)
        vectors = torch.cat([emulator.components, emulator.mean[None] - 1])
        if extra is not None:
            vectors = torch.cat([vectors, extra.to(vectors)])
        smooth = _low_pass(vectors.cpu().double(), emulator.grid.dlnw, self.dlnw)
        layout = instrument.layout
        chips = instrument.grid.chips
        at = places(instrument)
        self.number = [next(i for i, (a, b) in enumerate(chips) if a <= first < b) for first, _ in covered]
        self.chips = []
        for i, (start, stop) in zip(self.number, covered, strict=True):
            n = fast_length(stop - start + 2 * _MARGIN)
            pixel = np.arange(start - _MARGIN, start - _MARGIN + n)
            wavelength = 10 ** (layout.log10_start + layout.log10_step * pixel)
            ends = emulator.grid.wavelength[[0, -1]].cpu().numpy()
            sampled = interpolation(emulator.grid, np.clip(wavelength, *ends))(smooth.float())
            sampled = sampled * torch.from_numpy(_window(pixel, start, stop)).float()
            frequency = torch.fft.rfftfreq(n)
            kept = int((frequency < _TO).sum())
            transform = torch.fft.rfft(sampled)[:, :kept]
            frequency = frequency[:kept]
            if emulator.contained is not None:
                transform = transform / _floored(emulator.contained.sigma, frequency / self.dlnw)
            place = np.interp(np.arange(start, stop), at[i], [0.0, 1.0])
            slope = 1 / (at[i][1] - at[i][0])
            place = (np.arange(start, stop) - at[i][0]) * slope
            self.chips.append(
                Chip(
                    slice(start, stop),
                    slice(_MARGIN, _MARGIN + stop - start),
                    n,
                    torch.view_as_real(transform.to(torch.complex64)).flatten(1).contiguous(),
                    (2 * math.pi * frequency / self.dlnw).float(),
                    torch.from_numpy(_spline(knots(), frequency.numpy())).to(torch.complex64),
                    torch.from_numpy(place).float(),
                )
            )
        self.n_extra = 0 if extra is None else len(extra)

    def to(self, device: torch.device) -> OnChips:
        """Move it, and return it."""
        self.chips = [chip.to(device) for chip in self.chips]
        self.model = self.model.to(device)
        return self

    @property
    def device(self) -> torch.device:
        """Where it is."""
        return self.chips[0].basis.device

    def amplitudes(self, coefficients: Tensor, extra: Tensor | None = None) -> Tensor:
        """Amplitudes ``(..., n_vectors)`` of a spectrum with ``coefficients (..., n_components)``, single precision."""
        x = coefficients.float()
        none = x.new_zeros(*x.shape[:-1], self.n_extra)
        return torch.cat([x, torch.ones_like(x[..., :1]), none if extra is None else extra.to(x)], -1)

    def slopes(self, by_coefficients: Tensor) -> Tensor:
        """Amplitudes of derivatives ``(..., n_components)`` of the coefficients."""
        none = by_coefficients.new_zeros(*by_coefficients.shape[:-1], 1 + self.n_extra)
        return torch.cat([by_coefficients, none], -1)

    def kernels(self, chip: Chip, v_rad: Tensor, v_sini: Tensor) -> Kernels:
        """Return what rotation and motion do on a chip to stars of velocities ``(n,)``, km/s."""
        return Kernels(chip.frequency, v_rad, v_sini, self.model.limb_darkening)


class Kernels:
    """Transforms ``(n, n_freq)`` of rotation and motion, and of their derivatives."""

    def __init__(self, frequency: Tensor, v_rad: Tensor, v_sini: Tensor, limb_darkening: float) -> None:
        self.frequency, self.v_rad, self.v_sini = frequency, v_rad, v_sini
        self.limb_darkening = limb_darkening
        angle = -frequency * log_shift(v_rad).float()[:, None]
        self.phase = torch.complex(torch.cos(angle), torch.sin(angle))
        self.s = frequency * (v_sini.float() / C_KMS)[:, None]
        self.whole = self.phase * rotation_transform(self.s, limb_darkening)

    def by_v_rad(self) -> Tensor:
        """Return the factor of `whole` by v_rad, a km/s."""
        return -1j * self.frequency * log_shift_derivative(self.v_rad).float()[:, None]

    def by_square(self) -> Tensor:
        """Return the derivative by the square of v_sini, a (km/s)^2: finite where that by v_sini is 0."""
        s = self.frequency * (self.v_sini.float().clamp_min(_SLOWEST) / C_KMS)[:, None]
        slope = rotation_transform_derivative(s, self.limb_darkening) / s.clamp_min(1e-12)
        # At frequency 0 nothing is lost by rotation.
        return self.phase * slope * (self.frequency / C_KMS).square() / 2

    def by_limb_darkening(self) -> Tensor:
        """Return the derivative by the linear coefficient of limb darkening."""
        return self.phase * rotation_transform_by_limb_darkening(self.s, self.limb_darkening)

    def by_broadening(self) -> Tensor:
        """Return the factor of `whole` by the variance of a broadening in ln(wavelength), shape ``(n_freq,)``."""
        return -0.5 * self.frequency.square()


def _low_pass(vectors: Tensor, dlnw: float, wanted: float) -> Tensor:
    """Take out of spectra ``(k, n)`` what a grid of larger pixels could not hold."""
    frequency = torch.fft.rfftfreq(vectors.shape[1]) * wanted / dlnw
    share = ((frequency - _FROM) / (_TO - _FROM)).clamp(0, 1)
    keep = torch.cos(math.pi / 2 * share).square()
    return torch.fft.irfft(torch.fft.rfft(vectors) * keep, n=vectors.shape[1])


def _window(pixel: NDArray[np.int64], start: int, stop: int) -> NDArray[np.float64]:
    """1 on a chip and next to it, 0 farther off."""
    beyond = np.maximum(start - pixel, pixel - stop + 1)
    share = np.clip((beyond - (_MARGIN - _FADE)) / _FADE, 0, 1)
    return np.asarray(np.cos(np.pi / 2 * share) ** 2)


def _floored(sigma: float, frequency: Tensor) -> Tensor:
    """Transform of a Gaussian that spectra contain, which they are freed of; not where nothing is left of them."""
    return torch.exp(-2 * (math.pi * sigma * frequency).square()).clamp_min(0.02)


def _spline(at: NDArray[np.float64], wanted: NDArray[np.float64]) -> NDArray[np.float64]:
    """Matrix ``(n, n_wanted)`` of cubic interpolation."""
    return np.asarray(CubicSpline(at, np.eye(len(at)))(wanted)).T
