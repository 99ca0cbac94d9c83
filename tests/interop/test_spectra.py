"""Spectra to specutils and back, with the package itself."""

import sys
from dataclasses import replace

import numpy as np
import pytest
from astropy import units
from astropy.nddata import InverseVariance, StdDevUncertainty, VarianceUncertainty

from maury.errors import MauryError, SpectrumError
from maury.interop.spectra import spectrum_to_specutils
from maury.spectra import PixelGrid, Spectrum, from_specutils
from maury.spectra.linespread import Gaussian

specutils = pytest.importorskip("specutils")
W = np.concatenate([np.linspace(15_200, 15_700, 400), np.linspace(15_900, 16_400, 400)])


@pytest.fixture
def source():
    ivar = np.linspace(1, 2, 800)
    ivar[3:7] = 0
    flux = np.linspace(1, 3, 800)
    return Spectrum(
        PixelGrid(W, ((0, 400), (400, 800))), flux, ivar, "HD 1", "rest", -12.25, lsf=Gaussian(50_000),
        meta={"flux_unit": "mJy"},
    )  # fmt: skip


def test_there_and_back(source):
    there = spectrum_to_specutils(source)
    assert isinstance(there, specutils.Spectrum)
    assert there.flux.unit == units.mJy
    np.testing.assert_array_equal(np.flatnonzero(there.mask), [3, 4, 5, 6])
    back = from_specutils(there)
    for name in ("flux", "ivar"):
        np.testing.assert_allclose(getattr(back, name), getattr(source, name), rtol=1e-12)
    assert back.grid.chips == source.grid.chips
    assert (back.id, back.frame, back.v_correction, back.lsf) == ("HD 1", "rest", -12.25, Gaussian(50_000))
    assert back.meta == {"flux_unit": "mJy"}


@pytest.mark.parametrize(
    ("uncertainty", "ivar"),
    [
        (StdDevUncertainty(np.full(800, 0.5)), 4.0),
        (VarianceUncertainty(np.full(800, 0.5)), 2.0),
        (InverseVariance(np.full(800, 0.5)), 0.5),
        # With a unit of its own.
        (StdDevUncertainty(np.full(800, 500), unit="uJy"), 4.0),
        (InverseVariance(np.full(800, 4e-6), unit="uJy-2"), 4.0),
    ],
)
@pytest.mark.parametrize("axis", ["AA", "um", "GHz"])
def test_any_uncertainty_and_axis(uncertainty, ivar, axis):
    quantity = (W * units.AA).to(axis, units.spectral())
    given = specutils.Spectrum(flux=np.ones(800) * units.mJy, spectral_axis=quantity, uncertainty=uncertainty)
    found = from_specutils(given, medium="vacuum")
    np.testing.assert_allclose(found.ivar, ivar)
    np.testing.assert_allclose(found.grid.wavelength, W, rtol=1e-12)


def test_masked_and_missing_pixels():
    flux, mask = np.ones(800), np.zeros(800, bool)
    flux[5], mask[7] = np.nan, True
    given = specutils.Spectrum(
        flux=flux * units.Jy, spectral_axis=W * units.AA, uncertainty=StdDevUncertainty(np.ones(800)), mask=mask,
        meta={"medium": "air"},
    )  # fmt: skip
    found = from_specutils(given)
    np.testing.assert_array_equal(np.flatnonzero(~found.good), [5, 7])
    assert found.grid.wavelength[0] > W[0] + 4


def test_what_it_cannot_be():
    cube = specutils.Spectrum(
        flux=np.ones((2, 800)) * units.Jy, spectral_axis=W * units.AA,
        uncertainty=StdDevUncertainty(np.ones((2, 800))), meta={"medium": "vacuum"},
    )  # fmt: skip
    with pytest.raises(SpectrumError, match="one spectrum at a time"):
        from_specutils(cube)
    with pytest.raises(SpectrumError, match="no uncertainty"):
        from_specutils(
            specutils.Spectrum(flux=np.ones(800) * units.Jy, spectral_axis=W * units.AA), medium="vacuum"
        )


def test_data_and_model_of_a_posterior(posterior):
    observed, model = posterior.to_specutils()
    used = ~observed.mask
    assert used.sum() == posterior.fit.pixels.size
    assert observed.flux.unit == model.flux.unit == units.Unit("1e-17 erg / (Angstrom s cm2)")
    np.testing.assert_array_equal(observed.mask, model.mask)
    assert np.isnan(model.flux.value[model.mask]).all()
    residual = (observed.flux - model.flux).value[used]
    variance = 1 / observed.uncertainty.array[used] + model.uncertainty.array[used] ** 2
    assert np.mean(residual**2 / variance) == pytest.approx(posterior.fit.rchi2_jitter, rel=0.02)
    assert model.meta["labels"]["teff"] == posterior.summary()["teff"]["p50"]
    assert from_specutils(observed).snr == pytest.approx(posterior.spectrum.snr, rel=0.02)


def test_units(source):
    assert spectrum_to_specutils(replace(source, meta={})).flux.unit == units.dimensionless_unscaled
    assert spectrum_to_specutils(source, "Jy").flux.unit == units.Jy
    with pytest.raises(MauryError, match="unit 'nonsense'"):
        spectrum_to_specutils(source, "nonsense")


def test_without_specutils(source, monkeypatch):
    monkeypatch.setitem(sys.modules, "specutils", None)
    with pytest.raises(MauryError, match="pip install"):
        spectrum_to_specutils(source)
