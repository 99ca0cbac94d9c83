"""From the model's uniform logarithmic grid to detector pixels: a banded linear operator."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from maury.libraries.emulator import LogGrid

# Taps on each side of the windowed sinc, and the shape of its Kaiser window: error below 1e-5 of what an APOGEE line can hold.
HALF_TAPS = 10
_KAISER = 8.0


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

    def __init__(
        self, columns: NDArray[np.int64], values: NDArray[np.float64], n_in: int, block: int = 64
    ) -> None:
        super().__init__()
        n_out, taps = values.shape
        n_blocks = -(-n_out // block)
        rows = np.minimum(np.arange(n_blocks * block), n_out - 1).reshape(n_blocks, block)
        first = columns[rows]
        width = int((first.max(1) - first.min(1)).max()) + taps
        start = np.minimum(first.min(1), n_in - width)
        weights = np.zeros((n_blocks, width, block))
        index = first - start[:, None]
        for tap in range(taps):
            np.put_along_axis(weights, (index + tap)[:, None, :], values[rows, tap][:, None, :], axis=1)
        self.n_out = n_out
        self.register_buffer("windows", torch.from_numpy(start[:, None] + np.arange(width)))
        self.register_buffer("weights", torch.from_numpy(weights).float())

    def forward(self, x: Tensor) -> Tensor:
        """Apply to ``(..., n_in)``, giving ``(..., n_out)``."""
        flat = x.reshape(-1, x.shape[-1])
        # (n_blocks, width, n) gathered from the transpose, so that each copy is a contiguous run.
        gathered = flat.T.contiguous()[self.windows]
        out = torch.bmm(self.weights.transpose(1, 2), gathered)
        return out.reshape(-1, flat.shape[0])[: self.n_out].T.reshape(*x.shape[:-1], self.n_out)


def interpolation(grid: LogGrid, wavelength: NDArray[np.float64]) -> Banded:
    """Band-limited interpolation (sinc with a Kaiser window) from the grid to any wavelengths.

    Parameters
    ----------
    grid
        The model's grid. Wavelengths outside it get values of no meaning: `ForwardModel.usable` excludes them.
    wavelength
        Where the values are wanted, Angstrom, rising, shape ``(n_out,)``.
    """
    position = (np.log10(wavelength) - grid.start) / grid.step
    first = np.floor(position).astype(np.int64) - HALF_TAPS + 1
    first = np.clip(first, 0, grid.n_pixels - 2 * HALF_TAPS)
    distance = position[:, None] - (first[:, None] + np.arange(2 * HALF_TAPS))
    inside = np.clip(1 - (distance / HALF_TAPS) ** 2, 0, None)
    weights = np.sinc(distance) * np.i0(_KAISER * np.sqrt(inside)) / np.i0(_KAISER)
    return Banded(first, weights / weights.sum(1, keepdims=True), grid.n_pixels)
