"""Banded operators and band-limited interpolation to detector pixels."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from maury.forward.detector import HALF_TAPS, Banded, Winged, _kernels, interpolation, line_spread
from maury.libraries.emulator import LogGrid
from maury.spectra.instrument import apstar_grid
from maury.spectra.linespread import GaussHermite, Gaussian
from maury.spectra.spectrum import PixelGrid

GRID = LogGrid(4.179, 6e-6, 1000)


def wavelength(position: NDArray[np.float64]) -> NDArray[np.float64]:
    return 10 ** (GRID.start + GRID.step * position)


def lines(position: NDArray[np.float64]) -> NDArray[np.float64]:
    """Lines as narrow as APOGEE's: R = 22,500 is sigma 1.4 pixels of the grid.

    They are not quite band-limited: 9e-5 of their depth is lost.
    """
    rng = np.random.default_rng(2)
    centres, depths = rng.uniform(0, GRID.n_pixels, 80), rng.uniform(0.02, 0.1, 80)
    return 1 - (depths * np.exp(-0.5 * ((position[:, None] - centres) / 1.4) ** 2)).sum(1)


@pytest.fixture(scope="module")
def flux() -> torch.Tensor:
    return torch.from_numpy(lines(np.arange(GRID.n_pixels, dtype=float)))[None].float()


@settings(deadline=None, max_examples=40)
@given(
    n_out=st.integers(1, 300),
    n_in=st.integers(8, 200),
    taps=st.integers(1, 8),
    block=st.sampled_from([1, 7, 64]),
    seed=st.integers(0, 99),
)
def test_banded_is_its_dense_matrix(n_out: int, n_in: int, taps: int, block: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    columns = np.sort(rng.integers(0, n_in - taps + 1, n_out))
    values = rng.normal(size=(n_out, taps))
    dense = np.zeros((n_out, n_in))
    for row, (column, entries) in enumerate(zip(columns, values, strict=True)):
        dense[row, column : column + taps] = entries
    operator = Banded(columns, values, n_in, block)
    x = rng.normal(size=(2, 3, n_in))
    found = operator(torch.from_numpy(x).float())
    assert found.shape == (2, 3, n_out)
    np.testing.assert_allclose(found, x @ dense.T, atol=2e-5)
    np.testing.assert_allclose(operator(torch.from_numpy(x[0, 0]).float()), dense @ x[0, 0], atol=2e-5)


def test_irregular_wavelengths(flux: torch.Tensor) -> None:
    rng = np.random.default_rng(3)
    position = np.sort(rng.uniform(HALF_TAPS, GRID.n_pixels - HALF_TAPS - 1, 1500))
    found = interpolation(GRID, wavelength(position))(flux)[0]
    np.testing.assert_allclose(found, lines(position), atol=2e-5)


def test_grid_nodes_are_kept(flux: torch.Tensor) -> None:
    found = interpolation(GRID, GRID.wavelength.numpy())(flux)
    torch.testing.assert_close(found, flux, atol=2e-6, rtol=0)


def test_common_grid_needs_no_resampling() -> None:
    grid = LogGrid(4.179, 6e-6, 8640)
    flux = torch.rand(1, grid.n_pixels, generator=torch.Generator().manual_seed(0))
    found = interpolation(grid, apstar_grid().wavelength)(flux)
    torch.testing.assert_close(found, flux[:, :8575], atol=1e-5, rtol=0)


@pytest.mark.parametrize("pixels", [1, -7, 40])
def test_shift_by_whole_pixels(flux: torch.Tensor, pixels: int) -> None:
    nodes = np.arange(100, 900)
    found = interpolation(GRID, wavelength(nodes + pixels))(flux)
    torch.testing.assert_close(found, flux[:, nodes + pixels], atol=2e-6, rtol=0)


def test_constant_stays_constant() -> None:
    position = np.sort(np.random.default_rng(4).uniform(0, GRID.n_pixels - 1, 700))
    found = interpolation(GRID, wavelength(position))(torch.ones(1, GRID.n_pixels))
    torch.testing.assert_close(found, torch.ones(1, 700), atol=1e-5, rtol=0)


def test_jump_over_a_gap(flux: torch.Tensor) -> None:
    position = np.concatenate([np.linspace(20, 60, 90), np.linspace(900, 970, 90)])
    found = interpolation(GRID, wavelength(position))(flux)[0]
    np.testing.assert_allclose(found, lines(position), atol=2e-5)


def test_gradient_flows_back(flux: torch.Tensor) -> None:
    operator = interpolation(GRID, wavelength(np.linspace(100, 200, 50)))
    x = flux.clone().requires_grad_()
    operator(x).sum().backward()
    assert x.grad is not None
    assert float(x.grad.sum()) == pytest.approx(50, rel=1e-5)


def test_banded_rows_across_gaps():
    """Rows far apart do not share a block, whose window would hold all between them."""
    rng = np.random.default_rng(3)
    columns = np.concatenate([np.arange(0, 100), np.arange(900, 1070), [5000], np.arange(7000, 7064)])
    values = rng.normal(size=(len(columns), 6))
    matrix = np.zeros((len(columns), 8000))
    for i, first in enumerate(columns):
        matrix[i, first : first + 6] = values[i]
    banded = Banded(columns, values, 8000)
    assert banded.weights.shape[1] < 200
    x = rng.normal(size=(2, 3, 8000))
    np.testing.assert_allclose(banded(torch.from_numpy(x).float()), x @ matrix.T, atol=1e-4)


def test_chosen_pixels_are_rows_of_the_whole_operator():
    grid = LogGrid(4.18, 6e-6, 4000)
    wavelength = 10 ** (4.18 + 6e-6 * np.arange(500, 3000, 1.3))
    pixels = PixelGrid(wavelength, ((0, len(wavelength)),))
    chosen = np.random.default_rng(4).random(len(wavelength)) < 0.8
    x = torch.rand(2, 4000)
    for contained in (None, Gaussian(20_000, integrate=False)):
        whole = line_spread(grid, pixels, Gaussian(22_500), contained)(x)
        part = line_spread(grid, pixels, Gaussian(22_500), contained, chosen=chosen)(x)
        torch.testing.assert_close(part, whole[:, torch.from_numpy(chosen)])


def test_far_wings_are_kept_where_they_are() -> None:
    """The blue chip of a real fibre has 5 % of its light in wings of 74 pixels: farther than any window."""
    row = [2, 2048, 1, 0, 0, 2.24, -0.04, 1, 2, 0, 0, 0.054, 73.6]
    pixels = PixelGrid(15_400 * np.exp(7.5e-6 * np.arange(900)), ((0, 900),))
    lsf = GaussHermite(np.array([row], dtype=float))
    grid = LogGrid(math.log10(15_300), 4e-6, 7000)
    x = torch.from_numpy(np.random.default_rng(1).normal(size=(2, grid.n_pixels))).float()
    x = torch.nn.functional.avg_pool1d(x, 5, 1, 2)
    operator = line_spread(grid, pixels, lsf)
    assert isinstance(operator, Winged)
    rows = np.arange(0, 900, 37)
    first, kernels = _kernels(grid, pixels, lsf, 6000, rows)
    exact = np.stack([k @ x[:, f : f + 6000].double().numpy().T for f, k in zip(first, kernels, strict=True)])
    np.testing.assert_allclose(operator(x)[:, rows].numpy(), exact.T, atol=1e-4)
    flat = operator(torch.ones(1, grid.n_pixels))
    torch.testing.assert_close(flat, torch.ones_like(flat), atol=5e-5, rtol=0)
    transmission = np.linspace(0.5, 1.0, grid.n_pixels)
    dimmed = line_spread(grid, pixels, lsf, transmission=transmission)(x)
    torch.testing.assert_close(
        dimmed, operator(x * torch.from_numpy(transmission).float()), atol=5e-5, rtol=0
    )
    narrow = GaussHermite(np.array([[*row[:-1], 13.5]], dtype=float))
    assert isinstance(line_spread(grid, pixels, narrow), Banded)
