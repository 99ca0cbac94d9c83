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
# Model pixels that a line-spread kernel may reach over; far wings that go beyond are applied on a coarser grid (`Winged`).
_WINDOWS = (32, 64, 128, 256)
# Reach of far wings, and the coarser grid's step, in model pixels: between the two ends of the window's inner part, a fraction of it, they
# take over smoothly.
_FAR, _STEP, _INNER = 2048, 16, 0.5
# Pixels between those whose far wings are computed.
_KNOTS = 128
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
        # (n_blocks, width, n) gathered from the transpose, so that each copy is a contiguous run; the weights stand last, as they are read
        # fastest where spectra are few.
        gathered = flat.T.contiguous()[self.windows]
        out = torch.bmm(gathered.transpose(1, 2), self.weights)
        return out.transpose(0, 1).flatten(1)[:, self.taken].reshape(*x.shape[:-1], len(self.taken))


class Winged(nn.Module):
    """A banded matrix and far wings, which vary so slowly that a coarser grid carries them: straight lines between its points.

    Parameters
    ----------
    near
        Without the far wings.
    far
        The wings, from the coarser grid's points.
    transmission
        As in `line_spread`; ``near`` contains it already.
    """

    hat: Tensor
    transmission: Tensor | None

    def __init__(self, near: Banded, far: Banded, transmission: NDArray[np.float64] | None = None) -> None:
        super().__init__()
        self.near, self.far = near, far
        after = torch.arange(_STEP) / _STEP
        self.register_buffer("hat", torch.stack([1 - after, after], dim=1))
        known = None if transmission is None else torch.from_numpy(transmission).float()
        self.register_buffer("transmission", known)

    def forward(self, x: Tensor) -> Tensor:
        """Apply to ``(..., n_in)``, giving ``(..., n_out)``."""
        seen = x if self.transmission is None else x * self.transmission
        padded = nn.functional.pad(seen, (0, -x.shape[-1] % _STEP)).unflatten(-1, (-1, _STEP))
        # Each pixel's light goes to the points before and after it.
        before, after = (padded @ self.hat).unbind(-1)
        coarse = torch.cat([before[..., :1], before[..., 1:] + after[..., :-1]], dim=-1)
        return self.near(x) + self.far(coarse)


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
) -> Banded | Winged:
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
        if window is None:
            return _winged(grid, pixels, lsf, transmission, rows)
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


def _winged(
    grid: LogGrid, pixels: PixelGrid, lsf: LineSpread, transmission: NDArray[np.float64] | None, rows: NDArray[np.int64]
) -> Winged:  # fmt: skip
    """Return the operator of kernels that reach farther than any window."""
    window, points = _WINDOWS[-1], -(-grid.n_pixels // _STEP)
    # On a grid that is shorter than the wings they are wrapped into it.
    taps = min(_FAR, grid.n_pixels) // _STEP
    wings = _Wings.of(grid, pixels, lsf, taps * _STEP)
    at = _position(grid, pixels.wavelength[rows])
    first, near = _kernels(grid, pixels, lsf, window, rows)
    distance = first[:, None] + np.arange(window) - at[:, None]
    near -= wings.at(rows, first - at, window, 1, wings.wrapped(window))
    near *= _core(distance, window)
    if transmission is not None:
        near = near * transmission[first[:, None] + np.arange(window)]
    # Of the coarser points: straight lines between them are the wings.
    first_far = np.clip(np.floor(at / _STEP).astype(np.int64) - taps // 2 + 1, 0, points - taps)
    distance = _STEP * (first_far[:, None] + np.arange(taps)) - at[:, None]
    far = wings.at(rows, _STEP * first_far - at, taps, _STEP, wings.table) * (1 - _core(distance, window))
    return Winged(Banded(first, near, grid.n_pixels), Banded(first_far, far, points), transmission)


def _core(distance: NDArray[np.float64], window: int) -> NDArray[np.float64]:
    """Share of a kernel that is not left to the wings, by distance in model pixels: 1 inside, 0 at the window's ends."""
    share = (np.abs(distance) / (window / 2 - 2) - _INNER) / (1 - _INNER)
    out = (share <= 0).astype(np.float64)
    between = (share > 0) & (share < 1)
    out[between] = np.cos(np.pi / 2 * share[between]) ** 2
    return out


@dataclass(frozen=True)
class _Wings:
    """Kernels at some pixels, by whole distances from ``-reach / 2`` to ``reach / 2`` model pixels: enough for what varies slowly.

    ``knots`` are the pixels, rising, shape ``(n,)``; ``table`` is ``(n, reach + 1)``.
    """

    knots: NDArray[np.int64]
    table: NDArray[np.float64]

    @classmethod
    def of(cls, grid: LogGrid, pixels: PixelGrid, lsf: LineSpread, reach: int) -> _Wings:
        parts = [
            np.linspace(a, b - 1, 2 + (b - a) // _KNOTS).astype(np.int64) for a, b in pixels.chips if b > a
        ]
        knots = np.unique(np.concatenate(parts)) if parts else np.arange(pixels.n_pixels)
        first, kernels = _kernels(grid, pixels, lsf, reach, knots)
        offset = first - _position(grid, pixels.wavelength[knots])
        whole = np.arange(-(reach // 2), reach // 2 + 1)
        rows = [
            np.interp(whole, start + np.arange(reach), row, left=0.0, right=0.0)
            for start, row in zip(offset, kernels, strict=True)
        ]
        return cls(knots, np.array(rows))

    def wrapped(self, window: int) -> NDArray[np.float64]:
        """Return what a Fourier transform of a shorter window adds to its kernel: the wings beyond, by whole distances within it."""
        half, reach = window // 2 + 1, self.table.shape[1] // 2
        out = np.zeros((len(self.knots), 2 * half + 1))
        for turn in range(-(reach // window) - 1, reach // window + 2):
            at = np.arange(-half, half + 1) + turn * window + reach
            inside = (at >= 0) & (at <= 2 * reach) & (turn != 0)
            out[:, inside] += self.table[:, at[inside]]
        return out

    def at(
        self,
        rows: NDArray[np.int64],
        first: NDArray[np.float64],
        number: int,
        step: int,
        table: NDArray[np.float64],
    ) -> NDArray[np.float64]:
        """Interpolate a table between pixels, at ``number`` distances a ``step`` apart from ``first (n_rows,)`` on."""
        after = np.clip(np.searchsorted(self.knots, rows), 1, max(1, len(self.knots) - 1))
        before = np.minimum(after - 1, len(self.knots) - 1)
        after = np.minimum(after, len(self.knots) - 1)
        gap = np.maximum(self.knots[after] - self.knots[before], 1)
        share = np.clip((rows - self.knots[before]) / gap, 0, 1)[:, None]
        place = first + table.shape[1] // 2
        low = np.floor(place).astype(np.int64)
        past = (place - low)[:, None]
        # Beyond its ends the table goes on level. A row's distances are as far past whole ones all along: it takes runs of the table.
        length = step * (number - 1) + 2
        margin = max(0, -int(low.min())), max(0, int(low.max()) + length - table.shape[1])
        runs = np.lib.stride_tricks.sliding_window_view(
            np.pad(table, ((0, 0), margin), mode="edge"), length, axis=1
        )
        low = low + margin[0]

        def along(row: NDArray[np.int64]) -> NDArray[np.float64]:
            out = (1 - past) * runs[..., :-1:step][row, low]
            out += past * runs[..., 1::step][row, low]
            return np.asarray(out)

        return np.asarray((1 - share) * along(before) + share * along(after))


def _window(grid: LogGrid, pixels: PixelGrid, lsf: LineSpread) -> int | None:
    """Return the shortest window that holds the kernels of a few pixels spread over the detector; None if none does."""
    few = np.arange(0, pixels.n_pixels, 97)
    position = _position(grid, pixels.wavelength[few])
    widest = min(2 * _WINDOWS[-1], grid.n_pixels // 2 * 2)
    first, weights = _kernels(grid, pixels, lsf, widest, few)
    distance = np.abs(first[:, None] + np.arange(widest) - position[:, None])
    inside = (position > widest / 2) & (position < grid.n_pixels - widest / 2)
    weights, distance = np.abs(weights[inside]), distance[inside]
    for window in _WINDOWS:
        if np.all((weights * (distance > window / 2 - 1)).sum(1) < _LEFT_OUT):
            return window
    return None


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
