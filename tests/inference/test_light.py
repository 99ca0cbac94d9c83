"""What was observed once is counted once."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from maury.errors import InferenceError, MauryWarning
from maury.inference.light import own_light
from maury.inference.visits import infer_visits
from maury.models import load_model
from maury.spectra import apstar_grid, read_spectra, write_apstar, write_aspcapstar, write_mwm
from maury.spectra.spectrum import Spectrum


def spectrum(seed, **fields):
    grid = apstar_grid()
    flux = np.random.default_rng(seed).normal(1, 0.01, grid.n_pixels)
    usual = {"frame": "rest", "path": f"{seed}.fits", "v_correction": 3.0}
    return Spectrum(grid, flux, np.full(grid.n_pixels, 1e4), id="star", **usual | fields)


def reasons(spectra):
    kept, left_out = own_light(spectra)
    return kept, {one.number: one.reason for one in left_out}


def test_identical_pixels_once():
    one = spectrum(1)
    kept, out = reasons([one, spectrum(2), replace(one, path="copy.fits", id="other")])
    assert kept == [0, 1]
    assert out == {2: "has the same pixels as 1.fits"}


def test_rows_of_an_apstar(tmp_path):
    write_apstar(tmp_path / "apStar.fits", [spectrum(i) for i in range(3)])
    found = list(read_spectra(tmp_path / "apStar.fits"))
    kept, out = reasons(found)
    assert [found[i].meta["visit"] for i in kept] == [1, 2, 3]
    assert "combination of visits" in out[0]


def test_a_single_visits_apstar_is_that_visit(tmp_path):
    write_apstar(tmp_path / "apStar.fits", [spectrum(1)])
    (found,) = read_spectra(tmp_path / "apStar.fits")
    assert not found.meta.get("combined")


def test_combinations_beside_visits(tmp_path):
    write_mwm(tmp_path / "mwmStar.fits", apo=[spectrum(1)], lco=[spectrum(2)], kind="star")
    write_mwm(tmp_path / "mwmVisit.fits", apo=[spectrum(3), spectrum(4)])
    write_aspcapstar(tmp_path / "aspcapStar.fits", spectrum(5))
    star, visit, aspcap = (
        list(read_spectra(tmp_path / f"{name}.fits")) for name in ("mwmStar", "mwmVisit", "aspcapStar")
    )
    kept, out = reasons([*star, *visit, *aspcap])
    assert kept == [2, 3]
    assert set(out) == {0, 1, 4}
    # Without visits, the two telescopes of one file are two observations, and another file's combination is none.
    kept, out = reasons([*star, *aspcap])
    assert kept == [0, 1]
    assert "mwmStar.fits is" in out[2]


@pytest.mark.parametrize(
    ("visit", "row", "same"),
    [
        ({"fiber": 7, "jd_mid": 2456587.73}, {"fiber": 7, "jd_mid": 2456587.731}, True),
        ({"fiber": 7, "jd_mid": 2456587.73}, {"fiber": 7, "jd_mid": 2456587.90}, False),
        ({"fiber": 7, "jd_mid": 2456587.73}, {"fiber": 8, "jd_mid": 2456587.73}, False),
        ({"fiber": 7, "mjd": 56587}, {"fiber": 7, "jd_mid": 2456587.73637}, True),
        ({"fiber": 7, "mjd": 56586}, {"fiber": 7, "jd_mid": 2456587.73637}, False),
        (
            {"fiber": 7, "mjd": 56587, "telescope": "apo25m"},
            {"fiber": 7, "mjd": 56587, "telescope": "lco25m"},
            False,
        ),
        ({"mjd": 56587}, {"mjd": 56587}, False),
        ({}, {}, False),
    ],
)
def test_an_exposure_that_is_given_twice(visit, row, same):
    resampled, native = spectrum(1, meta=row), spectrum(2, meta=visit, frame="observatory")
    kept, out = reasons([resampled, native])
    assert kept == ([1] if same else [0, 1])
    assert bool(out) == same


def test_what_is_left_out_is_told():
    model = load_model()
    one = spectrum(1)
    with (
        pytest.warns(MauryWarning, match="1.fits: left out, it has the same pixels"),
        pytest.raises(InferenceError, match="at least two spectra, not 1 beside 1 that hold no light"),
    ):
        infer_visits([one, one], model)


def test_real_apstar_and_its_visits(shared):
    folder = shared / "data/real/apogee_dr13"
    if not folder.is_dir():
        pytest.skip(f"{folder} is absent")
    files = sorted(folder.glob("ap*2M00452143+1634446*.fits"))
    found = [s for file in files for s in read_spectra(file)]
    kept, _ = own_light(found)
    assert len(found) == 4 + 3
    assert all("apVisit" in found[i].path for i in kept)
    assert len(kept) == 3
