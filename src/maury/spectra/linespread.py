"""Line-spread functions: what a detector makes of an infinitely narrow line, as Fourier transforms pixel by pixel.

A spectrum ``exp(2 pi i f u)``, u = ln(wavelength), is measured at pixel i as ``T_i(f) exp(2 pi i f u_i)``. The transform T holds all that
the spectrograph does: optics, integration over the pixel, and any shift of the centroid.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from maury.errors import SpectrumError
from maury.spectra.spectrum import PixelGrid

# Full width at half maximum of a Gaussian, in units of its standard deviation.
FWHM = 2 * math.sqrt(2 * math.log(2))
_RESOLUTIONS = (10.0, 1e9)
# Share of a profile's area below zero: of no fibre of APOGEE that is known any is, but a series may ring a little.
_NEGATIVE = 0.05


Rows = NDArray[np.int64] | slice
EVERY = slice(None)


class LineSpread(Protocol):
    """A line-spread function."""

    def transform(
        self, grid: PixelGrid, frequency: NDArray[np.float64], rows: Rows = EVERY
    ) -> NDArray[np.complex128]:
        """Return ``T_i(f)``, shape ``(n_rows, n_frequencies)``, at frequencies in cycles per unit of ln(wavelength).

        ``rows`` are the pixels that are wanted.
        """

    def resolving_power(self, grid: PixelGrid) -> NDArray[np.float64]:
        """Return ``lambda / FWHM`` at each pixel, shape ``(n_pixels,)``."""


def log_pixel_size(grid: PixelGrid) -> NDArray[np.float64]:
    """Size of each pixel in ln(wavelength), shape ``(n_pixels,)``; chips are apart from each other."""
    size = np.empty(grid.n_pixels)
    covered = np.zeros(grid.n_pixels, dtype=bool)
    for start, stop in (*grid.chips, (0, grid.n_pixels)):
        new = ~covered[start:stop]
        if stop - start > 1 and new.any():
            size[start:stop][new] = np.gradient(np.log(grid.wavelength[start:stop]))[new]
        covered[start:stop] = True
    return size


@dataclass(frozen=True)
class Gaussian:
    """A Gaussian of constant resolving power ``lambda / FWHM``, integrated over the pixel unless ``integrate`` is False.

    Raises
    ------
    SpectrumError
        If the resolving power lies outside 10 to 1e9.
    """

    resolution: float
    integrate: bool = True

    def __post_init__(self) -> None:
        # A line as wide as the spectrum, or one whose width is lost beside a wavelength's last digits, is no measurement.
        if not _RESOLUTIONS[0] <= self.resolution <= _RESOLUTIONS[1]:
            raise SpectrumError(
                f"a resolving power must lie between {_RESOLUTIONS[0]:g} and {_RESOLUTIONS[1]:g}, not be {self.resolution:g}"
            )

    @property
    def sigma(self) -> float:
        """Standard deviation in ln(wavelength)."""
        return 1 / (FWHM * self.resolution)

    def transform(
        self, grid: PixelGrid, frequency: NDArray[np.float64], rows: Rows = EVERY
    ) -> NDArray[np.complex128]:
        """Return ``exp(-2 pi^2 f^2 sigma^2)`` times the pixel's ``sinc``."""
        size = log_pixel_size(grid)[rows, None]
        out = np.exp(-2 * (np.pi * self.sigma * frequency) ** 2)[None] * np.ones_like(size)
        if self.integrate:
            out *= np.sinc(frequency * size)
        return out.astype(np.complex128)

    def resolving_power(self, grid: PixelGrid) -> NDArray[np.float64]:
        """Return ``lambda / FWHM``, the pixel's variance of a twelfth of its square included, shape ``(n_pixels,)``."""
        variance = np.full(grid.n_pixels, self.sigma**2)
        if self.integrate:
            variance += log_pixel_size(grid) ** 2 / 12
        return 1 / (FWHM * np.sqrt(variance))


@dataclass(frozen=True)
class ChipGaussians:
    """A Gaussian of a resolving power of its own on each chip, integrated over the pixel unless ``integrate`` is False.

    Raises
    ------
    SpectrumError
        If a resolving power is not positive and finite.
    """

    resolutions: tuple[float, ...]
    integrate: bool = True

    @classmethod
    def simplest(cls, resolutions: Sequence[float], integrate: bool = True) -> Gaussian | ChipGaussians:
        """Return the one `Gaussian` where all chips have the same resolving power, but for a thousandth."""
        if max(resolutions) - min(resolutions) < 1e-3 * max(resolutions):
            return Gaussian(float(resolutions[0]), integrate)
        return cls(tuple(map(float, resolutions)), integrate)

    def __post_init__(self) -> None:
        for resolution in self.resolutions:
            Gaussian(resolution)

    def _by_pixel(self, grid: PixelGrid) -> NDArray[np.int64]:
        """Chip of each pixel, shape ``(n_pixels,)``; of those between chips the one before."""
        if len(grid.chips) != len(self.resolutions):
            raise SpectrumError(f"resolving powers of {len(self.resolutions)} chips for {len(grid.chips)}")
        starts = np.array([start for start, _ in grid.chips])
        return np.maximum(np.searchsorted(starts, np.arange(grid.n_pixels), side="right") - 1, 0)

    def transform(
        self, grid: PixelGrid, frequency: NDArray[np.float64], rows: Rows = EVERY
    ) -> NDArray[np.complex128]:
        """Return each chip's `Gaussian.transform`.

        Raises
        ------
        SpectrumError
            If the grid has another number of chips.
        """
        chip = self._by_pixel(grid)
        sigma = np.array([Gaussian(r).sigma for r in self.resolutions])
        out = np.exp(-2 * (np.pi * sigma[:, None] * frequency) ** 2)[chip[rows]]
        if self.integrate:
            out *= np.sinc(frequency * log_pixel_size(grid)[rows, None])
        return out.astype(np.complex128)

    def resolving_power(self, grid: PixelGrid) -> NDArray[np.float64]:
        """Return each chip's ``lambda / FWHM``, the pixel included, shape ``(n_pixels,)``."""
        chip = self._by_pixel(grid)
        out = np.empty(grid.n_pixels)
        for i, resolution in enumerate(self.resolutions):
            out[chip == i] = Gaussian(resolution, self.integrate).resolving_power(grid)[chip == i]
        return out


@dataclass(frozen=True)
class GaussHermite:
    """APOGEE's line-spread function: a bin-integrated Gauss-Hermite series with Gaussian wings, varying along each chip.

    Parameters
    ----------
    coefficients
        HDU 10 of an apVisit, one row a chip in the order of the grid's chips: bin size, offset of x, number of Hermite orders, orders of
        the polynomials in x for the width and each Hermite coefficient, these polynomials, wing type, number of wing parameters,
        orders and polynomials of the wing's share and width. Shape ``(n_chips, n_coefficients)``.

    Notes
    -----
    With ``w = (x - x0) / sigma`` the core is ``sum_n h_n He_n(w) exp(-w^2/2) / sqrt(2 pi n!)``, h_0 = 1, x in pixels of the file
    (wavelength falls along them), integrated over the bin size (Nidever et al. 2015, AJ 150, 173, and the survey's ``lsf_gh``).

    Raises
    ------
    SpectrumError
        If the coefficients do not hold what they announce, or the wings are of another type.
    """

    coefficients: NDArray[np.float64]

    def __post_init__(self) -> None:
        array = np.asarray(self.coefficients, dtype=np.float64)
        object.__setattr__(self, "coefficients", array)
        if array.ndim != 2 or array.shape[1] < 6 or not np.all(np.isfinite(array)):
            raise SpectrumError(
                f"line-spread coefficients must be finite and (n_chips, n), not {array.shape}"
            )
        _ = self._chips

    @cached_property
    def _chips(self) -> list[_Chip]:
        return [_Chip.parse(row) for row in self.coefficients]

    def transform(
        self, grid: PixelGrid, frequency: NDArray[np.float64], rows: Rows = EVERY
    ) -> NDArray[np.complex128]:
        """Return the transform in closed form: ``He_n`` becomes ``(-i omega)^n``, the bin a sinc.

        Raises
        ------
        SpectrumError
            If the grid has another number of chips.
        """
        if len(grid.chips) != len(self._chips):
            raise SpectrumError(f"line-spread coefficients of {len(self._chips)} chips for {len(grid.chips)}")
        pixels = np.arange(grid.n_pixels)[rows]
        out = np.ones((len(pixels), len(frequency)), dtype=np.complex128)
        size = log_pixel_size(grid)
        for (start, stop), chip in zip(grid.chips, self._chips, strict=True):
            on_chip = (pixels >= start) & (pixels < stop)
            # Radians per pixel of the file; the sign mirrors the profile, as wavelength falls along x.
            omega = -2 * np.pi * frequency * size[pixels[on_chip], None]
            # In the file, x runs from the red end.
            out[on_chip] = chip.transform(stop - 1 - pixels[on_chip], omega)
        return out

    def widened(self, factor: float) -> GaussHermite:
        """Return the profile with core and wings wider by a factor, the bin as it is.

        Raises
        ------
        SpectrumError
            If the factor is not positive.
        """
        if not 0 < factor < math.inf:
            raise SpectrumError(f"a line-spread function cannot be wider by a factor of {factor}")
        out = self.coefficients.copy()
        for row in out:
            core = int(row[2])
            orders = row[3 : core + 4].astype(int) + 1
            start = core + 4
            row[start : start + orders[0]] *= factor
            wing = start + int(orders.sum())
            if wing + 2 < len(row) and row[wing + 1] > 0:
                share, width = row[wing + 2 : wing + 4].astype(int) + 1
                row[wing + 4 + share : wing + 4 + share + width] *= factor
        return GaussHermite(out)

    def resolving_power(self, grid: PixelGrid) -> NDArray[np.float64]:
        """Measure ``lambda / FWHM`` of the profile at each pixel, shape ``(n_pixels,)``.

        Raises
        ------
        SpectrumError
            If the profile has negative lobes, as that of no spectrograph has.
        """
        fine = np.linspace(-12, 12, 481)
        omega = np.linspace(0, np.pi * 4, 256)
        waves = np.exp(1j * np.outer(omega, fine))
        waves[0] *= 0.5
        out, size = np.empty(grid.n_pixels), log_pixel_size(grid)
        for (start, stop), chip in zip(grid.chips, self._chips, strict=True):
            # Coefficients are polynomials of low order: a knot every 128 pixels serves.
            knots = np.unique(np.append(np.arange(0, stop - start, 128), stop - start - 1))
            profile = (chip.transform(knots, np.broadcast_to(omega, (len(knots), len(omega)))) @ waves).real
            _refuse_lobes(profile)
            width = [_full_width(fine, row) for row in profile]
            x = np.arange(stop - start)[::-1]
            out[start:stop] = 1 / (np.interp(x, knots, width) * size[start:stop])
        return out


def _refuse_lobes(profiles: NDArray[np.float64]) -> None:
    """Refuse profiles ``(n, k)`` of which more than a few per cent of the area lies below zero."""
    below = -np.minimum(profiles, 0).sum(1) / np.abs(profiles).sum(1)
    if below.max() > _NEGATIVE:
        raise SpectrumError(
            f"the line-spread function has negative lobes of {below.max():.0%} of its area: its coefficients are damaged; give the "
            "spectrum a resolving power instead"
        )


def _full_width(x: NDArray[np.float64], profile: NDArray[np.float64]) -> float:
    """Full width at half maximum of one peak, crossings interpolated."""
    above = np.flatnonzero(profile > profile.max() / 2)
    half, first, last = profile.max() / 2, above[0], above[-1]
    ends = [
        np.interp(half, profile[[first - 1, first]], x[[first - 1, first]]),
        np.interp(half, profile[[last + 1, last]], x[[last + 1, last]]),
    ]
    return float(ends[1] - ends[0])


@dataclass(frozen=True)
class _Chip:
    """One row of coefficients, unpacked: polynomials in ``x + offset`` of sigma, h_1.. and of the wing's share and width."""

    bin_size: float
    offset: float
    core: tuple[NDArray[np.float64], ...]
    wing: tuple[NDArray[np.float64], ...]

    @classmethod
    def parse(cls, row: NDArray[np.float64]) -> _Chip:
        def take(start: int, orders: NDArray[np.float64]) -> tuple[tuple[NDArray[np.float64], ...], int]:
            out = []
            for order in orders:
                stop = start + int(order) + 1
                if not (0 <= order <= 9 and stop <= len(row)):
                    raise SpectrumError("line-spread coefficients end before the polynomials they announce")
                out.append(row[start:stop])
                start = stop
            return tuple(out), start

        hermite = int(row[2])
        if not 0 <= hermite <= 9 or row[0] < 0:
            raise SpectrumError(
                f"line-spread coefficients announce {hermite} Hermite orders; 0 to 9 are possible"
            )
        core, at = take(hermite + 4, row[3 : hermite + 4])
        wing: tuple[NDArray[np.float64], ...] = ()
        if at + 2 < len(row) and row[at + 1] > 0:
            kind, number = row[at], int(row[at + 1])
            if kind != 1 or number != 2:
                raise SpectrumError(
                    f"line-spread wings of type {kind:g} with {number} parameters; only Gaussian ones are known"
                )
            wing, _ = take(at + 4, row[at + 2 : at + 4])
        return cls(float(row[0]), float(row[1]), core, wing)

    def transform(self, x: NDArray[Any], omega: NDArray[np.float64]) -> NDArray[np.complex128]:
        """Transform at pixels ``x (n,)`` of the file and ``omega (n, k)`` radians a pixel."""
        sigma, *h = (np.polynomial.polynomial.polyval(x + self.offset, c)[:, None] for c in self.core)
        if np.any(sigma <= 0):
            raise SpectrumError("line-spread coefficients give a width that is not positive")
        s = -1j * sigma * omega
        series, power = np.ones_like(s), np.ones_like(s)
        for n, coefficient in enumerate(h, start=1):
            power = power * s
            series = series + coefficient * power / math.sqrt(math.factorial(n))
        out = series * np.exp(-0.5 * (sigma * omega) ** 2)
        if self.wing:
            share, width = (np.polynomial.polynomial.polyval(x + self.offset, c)[:, None] for c in self.wing)
            out = (1 - share) * out + share * np.exp(-0.5 * (width * omega) ** 2)
        return np.asarray(out * np.sinc(self.bin_size * omega / (2 * np.pi)), dtype=np.complex128)


@dataclass(frozen=True)
class Tabulated:
    """A kernel for each pixel, sampled at the pixels around it.

    Parameters
    ----------
    kernels
        ``kernels[i, n + k]`` is what the light at pixel ``i + k`` adds to pixel i; shape ``(n_pixels, 2 n + 1)``. Rows are normalised.

    Raises
    ------
    SpectrumError
        If the kernels are not finite, their number of columns is even, a row sums to nothing, or has negative lobes.
    """

    kernels: NDArray[np.float64]

    def __post_init__(self) -> None:
        kernels = np.asarray(self.kernels, dtype=np.float64)
        if kernels.ndim != 2 or kernels.shape[1] % 2 == 0:
            raise SpectrumError(f"tabulated kernels must be (n_pixels, 2 n + 1), not {kernels.shape}")
        total = kernels.sum(1, keepdims=True)
        if not np.all(np.isfinite(kernels)) or np.any(total <= 0):
            raise SpectrumError("tabulated kernels must be finite, each with a positive sum")
        _refuse_lobes(kernels)
        object.__setattr__(self, "kernels", kernels / total)

    def resolving_power(self, grid: PixelGrid) -> NDArray[np.float64]:
        """Return ``lambda / FWHM`` of the Gaussian with each kernel's variance, shape ``(n_pixels,)``."""
        offset = np.arange(self.kernels.shape[1]) - self.kernels.shape[1] // 2
        mean = self.kernels @ offset
        variance = np.maximum(self.kernels @ offset**2 - mean**2, 1e-6)
        return 1 / (FWHM * np.sqrt(variance) * log_pixel_size(grid))

    def transform(
        self, grid: PixelGrid, frequency: NDArray[np.float64], rows: Rows = EVERY
    ) -> NDArray[np.complex128]:
        """Return the transform of the samples, 0 beyond their Nyquist frequency.

        Raises
        ------
        SpectrumError
            If there are not as many kernels as pixels.
        """
        n_pixels, width = self.kernels.shape
        if n_pixels != grid.n_pixels:
            raise SpectrumError(f"{n_pixels} tabulated kernels for {grid.n_pixels} pixels")
        half, size, kernels = width // 2, log_pixel_size(grid)[rows, None], self.kernels[rows]
        phase = np.exp(2j * np.pi * frequency * size)
        out = np.zeros(phase.shape, dtype=np.complex128)
        power = phase.conj() ** half
        for k in range(width):
            out += kernels[:, k, None] * power
            power = power * phase
        return np.where(np.abs(frequency) * size <= 0.5, out, 0)


@dataclass(frozen=True, eq=False)
class Resampled:
    """That of spectra that were resampled from a detector's pixels: at each wavelength what the detector's pixel there has.

    Parameters
    ----------
    lsf
        On the detector.
    detector
        Its pixels.
    """

    lsf: LineSpread
    detector: PixelGrid

    def transform(
        self, grid: PixelGrid, frequency: NDArray[np.float64], rows: Rows = EVERY
    ) -> NDArray[np.complex128]:
        """Return the transform at the detector's pixels that are nearest."""
        return self.lsf.transform(self.detector, frequency, self._nearest(grid.wavelength[rows]))

    def resolving_power(self, grid: PixelGrid) -> NDArray[np.float64]:
        """Return ``lambda / FWHM`` at the detector's pixels that are nearest, shape ``(n_pixels,)``."""
        return self.lsf.resolving_power(self.detector)[self._nearest(grid.wavelength)]

    def _nearest(self, wavelength: NDArray[np.float64]) -> NDArray[np.int64]:
        known = self.detector.wavelength
        right = np.searchsorted(known, wavelength).clip(1, len(known) - 1)
        return right - (wavelength - known[right - 1] < known[right] - wavelength)
