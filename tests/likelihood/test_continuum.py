"""Chebyshev continua: normal equations by moments, and the fit that sets the reference."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from maury.likelihood.continuum import chebyshev_basis, chip_basis, fit_continuum, normal_matrix

CHIPS = ((2, 40), (50, 90), (95, 130))
N = 140


@settings(deadline=None, max_examples=40)
@given(n=st.integers(1, 200), degree=st.integers(0, 6), seed=st.integers(0, 99))
def test_normal_matrix_is_the_weighted_product(n: int, degree: int, seed: int) -> None:
    weights = torch.rand(3, n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    basis = chebyshev_basis(n, degree)
    expected = torch.einsum("bi,ij,ik->bjk", weights, basis, basis)
    torch.testing.assert_close(normal_matrix(weights, chebyshev_basis(n, 2 * degree)), expected)


def test_basis_runs_from_edge_to_edge() -> None:
    basis = chebyshev_basis(5, 2)
    t = torch.linspace(-1, 1, 5, dtype=torch.float64)
    torch.testing.assert_close(basis, torch.stack([torch.ones(5).double(), t, 2 * t**2 - 1], dim=1))
    torch.testing.assert_close(chebyshev_basis(1, 1), torch.tensor([[1.0, 0.0]], dtype=torch.float64))


def test_chips_keep_their_places_among_the_kept_pixels() -> None:
    good = np.random.default_rng(0).random(N) < 0.7
    good[:2] = good[40:50] = good[90:95] = good[130:] = False
    good[50:90] = False
    bases = chip_basis(N, CHIPS, 3, good)
    assert len(bases) == 2
    kept = np.flatnonzero(good)
    for (place, basis), (start, stop) in zip(bases, (CHIPS[0], CHIPS[2]), strict=True):
        inside = kept[place]
        assert inside.min() >= start
        assert inside.max() < stop
        torch.testing.assert_close(basis, chebyshev_basis(stop - start, 6)[inside - start])
    assert bases[-1][0].stop == good.sum()


def test_all_pixels_are_kept_by_default() -> None:
    bases = chip_basis(20, ((0, 8), (8, 20)), 2)
    assert [place for place, _ in bases] == [slice(0, 8), slice(8, 20)]
    assert [basis.shape for _, basis in bases] == [(8, 5), (12, 5)]


@pytest.fixture
def known() -> torch.Tensor:
    """A continuum of degree 4, shape ``(n,)``."""
    coefficients = torch.tensor([1, 0.1, -0.2, 0.05, 0.02], dtype=torch.float64)
    return chebyshev_basis(400, 4) @ coefficients


@pytest.mark.parametrize("level", [1.0, 500.0, 1e-17, 1e12])
def test_known_continuum_is_recovered(known: torch.Tensor, level: float) -> None:
    flux = (level * known)[None]
    ivar = torch.full_like(flux, (100 / level) ** 2)
    found = fit_continuum(flux, ivar, chebyshev_basis(400, 8))
    torch.testing.assert_close(found / level, known[None], atol=2e-3, rtol=0)


def test_masked_pixels_do_not_count(known: torch.Tensor) -> None:
    masked = torch.arange(400) % 5 == 0
    flux = torch.where(masked, 1e9, 500 * known)[None]
    ivar = torch.where(masked, 0.0, 1.0).double()[None]
    found = fit_continuum(flux, ivar, chebyshev_basis(400, 8))
    torch.testing.assert_close(found / 500, known[None], atol=2e-3, rtol=0)


def test_chip_without_pixels_is_one(known: torch.Tensor) -> None:
    flux = torch.stack([500 * known, 500 * known])
    ivar = torch.stack([torch.ones(400), torch.zeros(400)]).double()
    found = fit_continuum(flux, ivar, chebyshev_basis(400, 8))
    torch.testing.assert_close(found[1], torch.ones(400).double())
    assert float(found[0].min()) > 100


@pytest.mark.parametrize("sign", [1, -1])
def test_continuum_is_finite_whatever_the_flux(sign: int) -> None:
    flux = sign * torch.randn(4, 400, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    flux[3] = 0
    found = fit_continuum(flux, torch.ones_like(flux), chebyshev_basis(400, 8))
    assert torch.isfinite(found).all()
    assert (found > 0).all()


def test_single_precision_is_close(known: torch.Tensor) -> None:
    flux = (500 * known)[None]
    ivar = torch.ones_like(flux)
    basis = chebyshev_basis(400, 8)
    single = fit_continuum(flux.float(), ivar.float(), basis)
    assert single.dtype == torch.float32
    torch.testing.assert_close(single.double(), fit_continuum(flux, ivar, basis), rtol=1e-4, atol=0)
