"""From the model's uniform logarithmic grid to detector pixels: banded linear operators."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from maury.libraries.emulator import LogGrid
from maury.spectra.linespread import EVERY, FWHM, Gaussian, LineSpread, Rows
from maury.spectra.spectrum import PixelGrid

# Taps on each side of the windowed sinc, and the shape of its Kaiser window: a line at APOGEE's resolution is right to 1e-4 of its depth.
HALF_TAPS = 10
_KAISER = 8.0
# Model pixels that a line-spread kernel may reach over; far wings that go beyond are wrapped into them, so that their light is kept.
_WINDOWS = (32, 64, 128, 256)
# Above this share of the grid's Nyquist frequency little but numerical noise is left of spectra that contain a line-spread function.
_TAPER = 0.5
# Share of a kernel that may lie outside its window.
_LEFT_OUT = 2e-5


class Banded(nn.Module):
    """A matrix with few entries a row near its diagonal, applied in dense blocks.

    Parameters
    ----------
    columns
        First input of each row, shape ``(n_out,)``, not falling.
    values
        Entries of each row from there on, shape ``(n_out, n_taps)``.
    n_in
        Length of the input.
    block
        Rows handled together; they share one window of the input.
    """

    windows: Tensor
    weights: Tensor
    taken: Tensor

    def __init__(
        self, columns: NDArray[np.int64], values: NDArray[np.float64], n_in: int, block: int = 64
    ) -> None:
        super().__init__()
        taps = values.shape[1]
        rows, taken = _in_blocks(columns, block)
        first = columns[rows]
        width = int((first.max(1) - first.min(1)).max()) + taps
        start = np.minimum(first.min(1), n_in - width)
        weights = np.zeros((len(rows), width, block))
        index = first - start[:, None]
        for tap in range(taps):
            np.put_along_axis(weights, (index + tap)[:, None, :], values[rows, tap][:, None, :], axis=1)
        self.register_buffer("windows", torch.from_numpy(start[:, None] + np.arange(width)))
        self.register_buffer("weights", torch.from_numpy(weights).float())
        self.register_buffer("taken", torch.from_numpy(taken))

    def forward(self, x: Tensor) -> Tensor:
        """Apply to ``(..., n_in)``, giving ``(..., n_out)``."""
        flat = x.reshape(-1, x.shape[-1])
        # (n_blocks, width, n) gathered from the transpose, so that each copy is a contiguous run.
        gathered = flat.T.contiguous()[self.windows]
        out = torch.bmm(self.weights.transpose(1, 2), gathered)
        return out.flatten(0, 1)[self.taken].T.contiguous().reshape(*x.shape[:-1], len(self.taken))


def _in_blocks(columns: NDArray[np.int64], block: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Deal rows out to blocks ``(n_blocks, block)``, none across a gap in the columns; the last rows before one may stand there twice.

    Returns the rows, and where each of them stands.
    """
    gaps = np.flatnonzero(np.diff(columns) > block // 2) + 1
    starts, stops = np.append(0, gaps), np.append(gaps, len(columns))
    blocks, taken, before = [], [], 0
    for start, stop in zip(starts, stops, strict=True):
        n_blocks = -(-(stop - start) // block)
        blocks.append(np.minimum(start + np.arange(n_blocks * block), stop - 1).reshape(n_blocks, block))
        taken.append(before + np.arange(stop - start))
        before += n_blocks * block
    return np.concatenate(blocks), np.concatenate(taken)


def interpolation(
    grid: LogGrid, wavelength: NDArray[np.float64], transmission: NDArray[np.float64] | None = None
) -> Banded:
    """Band-limited interpolation (sinc with a Kaiser window) from the grid to any wavelengths.

    Parameters
    ----------
    grid
        The model's grid. Wavelengths outside it get values of no meaning: `ForwardModel.usable` excludes them.
    wavelength
        Where the values are wanted, Angstrom, rising, shape ``(n_out,)``.
    transmission
        As in `line_spread`.
    """
    position = _position(grid, wavelength)
    first = np.floor(position).astype(np.int64) - HALF_TAPS + 1
    first = np.clip(first, 0, grid.n_pixels - 2 * HALF_TAPS)
    distance = position[:, None] - (first[:, None] + np.arange(2 * HALF_TAPS))
    weights = np.sinc(distance) * _kaiser(distance, HALF_TAPS)
    weights = weights / weights.sum(1, keepdims=True)
    if transmission is not None:
        weights = weights * transmission[first[:, None] + np.arange(2 * HALF_TAPS)]
    return Banded(first, weights, grid.n_pixels)


def line_spread(
    grid: LogGrid,
    pixels: PixelGrid,
    lsf: LineSpread,
    contained: Gaussian | None = None,
    transmission: NDArray[np.float64] | None = None,
    chosen: NDArray[np.bool_] | None = None,
) -> Banded:
    """Line-spread function and integration over pixels, from a model on the grid to a detector.

    The entries of row i are the inverse Fourier transform of ``T_i(f)`` over the grid's band, so that a spectrum without content beyond the
    grid's Nyquist frequency is mapped exactly, wherever the pixel lies.

    Parameters
    ----------
    grid
        The model's grid.
    pixels
        The detector's. Pixels outside the model's grid get values of no meaning: `ForwardModel.usable` excludes them.
    lsf
        The detector's line-spread function.
    contained
        Line-spread function that the model's spectra contain already. Then only the difference in width is applied, as the Gaussian between
        the two resolving powers: the average contains the survey's typical skewness and wings. Where the detector is the sharper one,
        this sharpens.
    transmission
        Of the earth's atmosphere on the model's grid, shape ``(grid.n_pixels,)``: multiplied before the line-spread function.
    chosen
        Pixels that are wanted, shape ``(pixels.n_pixels,)``; all if None.
    """
    rows = np.arange(pixels.n_pixels) if chosen is None else np.flatnonzero(chosen)
    if contained is None:
        window = _window(grid, pixels, lsf)
        first, weights = _kernels(grid, pixels, lsf, window, rows)
    else:
        window = _WINDOWS[1]
        first, weights = _kernels(grid, pixels, Difference(lsf, contained), window, rows)
        position = _position(grid, pixels.wavelength[rows])
        weights = weights * _kaiser(position[:, None] - (first[:, None] + np.arange(window)), window / 2)
        weights = weights / weights.sum(1, keepdims=True)
    if transmission is not None:
        weights = weights * transmission[first[:, None] + np.arange(window)]
    return Banded(first, weights, grid.n_pixels)


def _kaiser(distance: NDArray[np.float64], half_width: float) -> NDArray[np.float64]:
    """Kaiser window, 1 at distance 0 and 0 beyond the half width; from a table, to 1e-8."""
    window, slope = _kaiser_table()
    place = (1 - np.square(distance / half_width)) * len(slope)
    below = np.clip(place.astype(np.int32), 0, len(slope) - 1)
    return np.where(place < 0, 0.0, window[below] + (place - below) * slope[below])


@cache
def _kaiser_table() -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Window at even steps of ``1 - (distance / half width)^2``, and its differences."""
    window = np.i0(_KAISER * np.sqrt(np.linspace(0, 1, 20_001))) / np.i0(_KAISER)
    return window, np.diff(window)


@dataclass(frozen=True)
class Difference:
    """The Gaussian that takes spectra of one resolving power to a detector's."""

    lsf: LineSpread
    contained: Gaussian

    def transform(
        self, grid: PixelGrid, frequency: NDArray[np.float64], rows: Rows = EVERY
    ) -> NDArray[np.complex128]:
        """Return ``exp(-2 pi^2 f^2 (sigma_i^2 - sigma_contained^2))``, which may rise with f, and a taper towards the highest."""
        variance = 1 / (FWHM * self.lsf.resolving_power(grid)[rows, None]) ** 2 - self.contained.sigma**2
        share = np.clip((frequency / frequency.max() - _TAPER) / (1 - _TAPER), 0, 1)
        return np.exp(-2 * (np.pi * frequency) ** 2 * variance) * np.cos(np.pi / 2 * share) ** 2 + 0j

    def resolving_power(self, grid: PixelGrid) -> NDArray[np.float64]:
        """Return the detector's."""
        return self.lsf.resolving_power(grid)


def _position(grid: LogGrid, wavelength: NDArray[np.float64]) -> NDArray[np.float64]:
    return (np.log10(wavelength) - grid.start) / grid.step


def _window(grid: LogGrid, pixels: PixelGrid, lsf: LineSpread) -> int:
    """Return the shortest window that holds the kernels of a few pixels spread over the detector."""
    few = np.arange(0, pixels.n_pixels, 97)
    position = _position(grid, pixels.wavelength[few])
    widest = _WINDOWS[-1]
    first, weights = _kernels(grid, pixels, lsf, widest, few)
    distance = np.abs(first[:, None] + np.arange(widest) - position[:, None])
    inside = (position > widest) & (position < grid.n_pixels - widest)
    weights, distance = np.abs(weights[inside]), distance[inside]
    for window in _WINDOWS[:-1]:
        if np.all((weights * (distance > window / 2 - 1)).sum(1) < _LEFT_OUT):
            return window
    return widest


def _kernels(
    grid: LogGrid, pixels: PixelGrid, lsf: LineSpread, window: int, rows: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """First model pixel ``(n,)`` and entries ``(n, window)`` of some rows."""
    k = np.arange(window // 2 + 1)
    frequency = k / (window * grid.dlnw)
    transform = lsf.transform(pixels, frequency, rows)
    at = _position(grid, pixels.wavelength[rows])
    first = np.clip(np.floor(at).astype(np.int64) - window // 2 + 1, 0, grid.n_pixels - window)
    phase = np.exp(2j * np.pi * k * ((at - first) / window)[:, None])
    return first, np.fft.irfft(np.conj(transform * phase), n=window, axis=1)
