"""What a pixel grid and a spectrum accept, and the common grid of APOGEE."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from maury.constants import C_KMS
from maury.errors import SpectrumError
from maury.spectra.instrument import apstar_grid
from maury.spectra.spectrum import PixelGrid, Spectrum

N = 8
WAVELENGTH = np.linspace(15000, 15007, N)


def grid() -> PixelGrid:
    return PixelGrid(WAVELENGTH, ((0, N),))


def test_apstar_grid_counts_from_zero() -> None:
    wavelength = apstar_grid().wavelength
    assert wavelength.shape == (8575,)
    assert wavelength[0] == pytest.approx(15100.802, abs=1e-3)
    assert wavelength[-1] == pytest.approx(16999.807, abs=1e-3)
    np.testing.assert_allclose(np.diff(np.log(wavelength)) * C_KMS, 4.141786, atol=1e-6)


def test_apstar_chips_are_the_survey_s() -> None:
    common = apstar_grid()
    edges = [(common.wavelength[start], common.wavelength[stop - 1]) for start, stop in common.chips]
    expected = [(15152.21, 15799.31), (15867.55, 16423.81), (16484.05, 16943.53)]
    np.testing.assert_allclose(edges, expected, atol=0.01)
    assert sum(stop - start for start, stop in common.chips) == 7514


@pytest.mark.parametrize(
    ("wavelength", "chips", "message"),
    [
        (WAVELENGTH[:, None], ((0, N),), "vector"),
        (WAVELENGTH[:1], ((0, 1),), "vector"),
        (np.array([]), (), "vector"),
        (np.where(np.arange(N) == 3, np.nan, WAVELENGTH), ((0, N),), "finite"),
        (np.where(np.arange(N) == N - 1, np.inf, WAVELENGTH), ((0, N),), "finite"),
        (WAVELENGTH - 15000, ((0, N),), "positive"),
        (WAVELENGTH[::-1], ((0, N),), "rise strictly"),
        (np.repeat(WAVELENGTH, 2), ((0, N),), "rise strictly"),
        (WAVELENGTH, ((0, N + 1),), f"chip 0:{N + 1} leaves"),
        (WAVELENGTH, ((-1, N),), "leaves"),
        (WAVELENGTH, ((0, 4), (5, 5)), "leaves"),
    ],
)
def test_impossible_grids(wavelength: Any, chips: Any, message: str) -> None:
    with pytest.raises(SpectrumError, match=message):
        PixelGrid(wavelength, chips)


@pytest.mark.parametrize(
    ("flux", "ivar", "message"),
    [
        (np.ones(N - 1), np.ones(N), r"flux has shape \(7,\) but there are 8"),
        (np.ones(N), np.ones((1, N)), "ivar has shape"),
        (np.ones(N), np.full(N, np.nan), "finite and >= 0"),
        (np.ones(N), np.full(N, np.inf), "finite and >= 0"),
        (np.ones(N), -np.ones(N), "finite and >= 0"),
        (np.full(N, np.nan), np.ones(N), "flux is not finite"),
        (np.full(N, np.inf), np.ones(N), "flux is not finite"),
    ],
)
def test_impossible_spectra(flux: Any, ivar: Any, message: str) -> None:
    with pytest.raises(SpectrumError, match=message):
        Spectrum(grid(), flux, ivar)


def test_values_out_of_use_need_not_be_finite() -> None:
    flux, ivar = np.full(N, 5.0), np.ones(N)
    flux[:3], ivar[:3] = (np.nan, np.inf, -np.inf), 0
    spectrum = Spectrum(grid(), flux, ivar)
    np.testing.assert_array_equal(spectrum.flux[:3], 0)
    np.testing.assert_array_equal(spectrum.good, np.arange(N) >= 3)
    assert np.isnan(flux[0])


def test_integers_become_doubles() -> None:
    spectrum = Spectrum(grid(), np.arange(N), np.ones(N, dtype=np.float32))  # type: ignore[arg-type]
    assert spectrum.flux.dtype == spectrum.ivar.dtype == np.float64


def test_snr_is_that_of_usable_pixels() -> None:
    ivar = np.full(N, 4.0)
    ivar[0] = 0
    flux = np.full(N, 50.0)
    flux[0] = 1e9
    spectrum = Spectrum(grid(), flux, ivar)
    assert spectrum.snr == 100
    assert spectrum.masked(np.ones(N, dtype=bool)).snr == 0


def test_masking_copies() -> None:
    spectrum = Spectrum(grid(), np.ones(N), np.ones(N), id="a")
    masked = spectrum.masked(np.arange(N) < 2)
    assert (masked.good.sum(), spectrum.good.sum(), masked.id) == (N - 2, N, "a")


def test_regions_are_taken_out_of_use():
    grid = apstar_grid()
    spectrum = Spectrum(grid, np.ones(grid.n_pixels), np.ones(grid.n_pixels))
    out = spectrum.without([(15300.0, 15310.0), (15305.0, 15320.0), (16000.0, 16001.0)])
    wavelength = grid.wavelength[~out.good]
    assert ((wavelength <= 15320) | (wavelength >= 16000)).all()
    assert wavelength.min() - 15300 < 0.1
    assert 15320 - wavelength[wavelength < 15900].max() < 0.1
    # The original stays, and what was out of use does not come back.
    assert spectrum.good.all()
    assert not out.without([(16500.0, 16510.0)]).good[~out.good].any()
    assert out.without([]).good.sum() == out.good.sum()


@pytest.mark.parametrize(
    ("region", "message"),
    [
        ((15310.0, 15300.0), "rising order"),
        ((15300.0, 15300.0), "rising order"),
        ((float("nan"), 15300.0), "finite"),
        ((15300.0, float("inf")), "finite"),
        ((5000.0, 5010.0), "covers 15"),
        ((15300.0001, 15300.0002), "no pixel"),
        ((15300.0,), "two wavelengths"),
        (("a", "b"), "two wavelengths"),
        (15300.0, "two wavelengths"),
    ],
)
def test_bad_regions_are_named(region, message):
    grid = apstar_grid()
    spectrum = Spectrum(grid, np.ones(grid.n_pixels), np.ones(grid.n_pixels))
    with pytest.raises(SpectrumError, match=message):
        spectrum.without([region])
