"""Cosmic rays: found where they are narrower than the line-spread function, and nothing else is."""

from dataclasses import replace

import numpy as np
import pytest

from maury.checks.gap import impostor
from maury.spectra.hits import hits, without_hits
from maury.spectra.instrument import apstar_grid


@pytest.fixture
def flat():
    return impostor("flat", snr=100.0, seed=1)


@pytest.mark.parametrize("height", [3.0, 50.0, -5.0])
@pytest.mark.parametrize("width", [1, 2])
def test_a_hit_is_found_with_the_pixels_beside_it(flat, width, height):
    flux = flat.flux.copy()
    flux[3000 : 3000 + width] = height
    cleaned = without_hits(replace(flat, flux=flux))
    assert np.flatnonzero(~cleaned.good).tolist() == list(range(2999, 3001 + width))
    assert cleaned.meta["hits"] == width + 2
    assert cleaned.flux is not flux


def test_a_spectrum_without_hits_is_itself(visit, flat):
    assert without_hits(visit) is visit
    assert without_hits(flat) is flat


def test_lines_of_sky_and_star_are_none(flat):
    """Emission as narrow as the line-spread function allows, wherever its peak lies between pixels, and a saturated line."""
    power = flat.lsf.resolving_power(flat.grid)
    x = np.log(flat.grid.wavelength)
    for shift in np.linspace(0, 1, 6):
        at = x[3000] + shift * (x[3001] - x[3000])
        profile = np.exp(-0.5 * ((x - at) * power[3000] * 2.3548) ** 2)
        for height in (2.0, 50.0, 1000.0, -1.0):
            assert not hits(replace(flat, flux=flat.flux + height * profile)).any()


def test_noise_has_none():
    for snr in (0.5, 5.0, 500.0):
        assert not hits(impostor("noise", snr=snr, seed=2)).any()


def test_masked_neighbours_and_short_chips(flat):
    flux, ivar = flat.flux.copy(), flat.ivar.copy()
    flux[3000], ivar[2990:3000] = 50.0, 0.0
    assert hits(replace(flat, flux=flux, ivar=ivar))[3000]
    few = np.where(np.arange(flat.grid.n_pixels) < 60, flat.ivar, 0.0)
    assert not hits(replace(flat, flux=flux, ivar=few)).any()


def test_without_a_line_spread_function_apogees_is_taken():
    grid = apstar_grid()
    spectrum = replace(
        impostor("flat", seed=3),
        grid=grid,
        flux=np.ones(grid.n_pixels),
        ivar=np.full(grid.n_pixels, 1e4),
        lsf=None,
    )
    flux = spectrum.flux.copy()
    flux[4000:4003] = 20.0
    assert hits(replace(spectrum, flux=flux))[4000:4003].all()
