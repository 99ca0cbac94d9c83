"""The same star in thirteen formats: one velocity, and what each format is known for."""

import numpy as np
import pytest
from astropy.io import fits
from fixtures13 import V_BARY, V_SURVEY, at_rest, barycentric_velocity, visit, write_all

from maury.errors import SpectrumError
from maury.spectra import apstar_grid, read_spectra, read_spectrum
from maury.spectra.formats.star_writers import write_apstar, write_aspcapstar, write_mwm
from maury.spectra.instrument import apogee
from maury.spectra.linespread import Tabulated

SPECTRA = {
    "apVisit-dr16": 1,
    "apVisit-dr17": 1,
    "apVisit-dr19": 1,
    "apVisit-2048": 1,
    "apStar-1": 1,
    "apStar-3": 4,
    "apStar-or": 4,
    "apStar-and": 4,
    "aspcapStar": 1,
    "mwmVisit-apo": 3,
    "mwmVisit-lco": 2,
    "mwmStar-both": 2,
    "mwmVisit-datasum": 1,
}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return write_all(tmp_path_factory.mktemp("thirteen"))


@pytest.mark.parametrize("name", SPECTRA)
def test_one_barycentric_velocity(files, name):
    spectra = list(read_spectra(files[name]))
    assert [s.index for s in spectra] == list(range(SPECTRA[name]))
    for spectrum in spectra:
        # The combination of visits at rest by slightly different velocities is right on average only.
        tolerance = 0.1 if "apStar" in name and len(spectra) > 1 and spectrum.index == 0 else 0.02
        assert barycentric_velocity(spectrum) == pytest.approx(V_BARY, abs=tolerance)
        assert spectrum.id == "star"
        assert spectrum.lsf is not None


@pytest.mark.parametrize("name", [name for name in SPECTRA if "apVisit" not in name])
def test_rest_frame_files_mask_what_is_bad(files, name):
    for spectrum in read_spectra(files[name]):
        assert spectrum.frame == "rest"
        assert not spectrum.good[1000:1040].any()
        assert spectrum.good[1100:3000].all()
        assert not spectrum.good[3274:3585].any()
        np.testing.assert_allclose(spectrum.grid.wavelength, apstar_grid().wavelength, rtol=1e-12)


def test_first_pixel_is_counted_from_zero(files):
    assert read_spectrum(files["apStar-1"]).grid.wavelength[0] == pytest.approx(10**4.179, rel=1e-12)


def test_velocities_that_were_taken_out(files):
    for name in ("apStar-3", "apStar-or", "apStar-and"):
        found = [s.v_correction for s in read_spectra(files[name])]
        assert found == pytest.approx([np.mean(V_SURVEY), *V_SURVEY])


def test_masks_are_combined_as_the_release_does(files):
    assert read_spectrum(files["apStar-or"]).meta["mask_rule"] == "or"
    assert read_spectrum(files["apStar-and"]).meta["mask_rule"] == "and"
    assert read_spectrum(files["apStar-3"]).meta["mask_rule"] == "and"


def test_line_spread_function_of_the_file_or_the_average(files):
    assert isinstance(read_spectrum(files["apStar-or"]).lsf, Tabulated)
    for name in ("apStar-and", "aspcapStar", "mwmStar-both"):
        spectrum = read_spectrum(files[name])
        assert spectrum.lsf is apogee().assumed_lsf
        assert spectrum.meta["lsf_source"] == "assumed"


def test_one_of_many(files):
    assert read_spectrum(files["mwmVisit-apo"], 2).v_correction == pytest.approx(V_SURVEY[2], abs=1e-5)
    with pytest.raises(SpectrumError, match="has no spectrum 3"):
        read_spectrum(files["mwmVisit-apo"], 3)
    with pytest.raises(SpectrumError, match="count from 0"):
        read_spectrum(files["mwmVisit-apo"], -1)


def test_reading_is_lazy(files):
    spectra = read_spectra(files["mwmVisit-apo"])
    assert next(spectra).index == 0
    spectra.close()


def test_round_trip(tmp_path):
    source = at_rest(12.5)
    for write in (
        lambda p: write_apstar(p, [source], release="dr17"),
        lambda p: write_aspcapstar(p, source),
        lambda p: write_mwm(p, apo=[source]),
    ):
        write(tmp_path / "a.fits")
        back = read_spectrum(tmp_path / "a.fits")
        np.testing.assert_array_equal(back.good, source.good)
        np.testing.assert_allclose(back.flux[source.good], source.flux[source.good], rtol=1e-6)
        np.testing.assert_allclose(back.ivar[source.good], source.ivar[source.good], rtol=1e-4)
        assert back.v_correction == pytest.approx(12.5, abs=1e-5)


def test_missing_velocity_is_not_a_velocity(tmp_path):
    from dataclasses import replace

    for release in ("dr16", "dr17", "dr19"):
        write_apstar(tmp_path / "a.fits", [replace(at_rest(1.0), v_correction=None)], release=release)
        assert read_spectrum(tmp_path / "a.fits").v_correction is None


def edit(path, change):
    with fits.open(path, memmap=False) as hdus:
        change(hdus)
        hdus.writeto(path, overwrite=True, output_verify="ignore")


@pytest.mark.parametrize(
    ("kind", "change", "message"),
    [
        ("apStar-1", lambda h: h.__delitem__(slice(3, None)), "HDU 3"),
        ("apStar-1", lambda h: h[1].header.update(CDELT1=-1.0), "CDELT1"),
        ("apStar-1", lambda h: h[1].header.update(CRVAL1=1.0), "no wavelengths of APOGEE"),
        ("apStar-1", lambda h: setattr(h[2], "data", h[2].data[:, :50]), "HDU 2: shape"),
        ("apStar-1", lambda h: setattr(h[3], "data", h[3].data.astype("f4")), "another kind"),
        ("apStar-1", lambda h: setattr(h[1], "data", np.ones((2, 2, 9))), "shape"),
        ("aspcapStar", lambda h: setattr(h[2], "data", h[2].data[:50]), "HDU 2: shape"),
        ("mwmVisit-apo", lambda h: h[3].columns.del_col("ivar"), "HDU 3: column 'ivar'"),
        ("mwmVisit-apo", lambda h: h[3].header.remove("CDELT"), "CDELT"),
        ("mwmVisit-datasum", lambda h: h.pop(4), "holds no APOGEE spectrum"),
    ],
)
def test_bad_files_are_told(tmp_path, kind, change, message):
    path = write_all(tmp_path)[kind]
    edit(path, change)
    with pytest.raises(SpectrumError, match=message) as caught:
        list(read_spectra(path))
    assert path.name in str(caught.value)
    assert "\n" not in str(caught.value)


def test_all_masked_is_read(tmp_path):
    spectrum = at_rest(3.0)
    nothing = spectrum.masked(np.ones(8575, bool))
    write_apstar(tmp_path / "a.fits", [nothing])
    assert not read_spectrum(tmp_path / "a.fits").good.any()


def test_errors_and_fluxes_of_no_use_are_masked(tmp_path):
    write_apstar(tmp_path / "a.fits", [at_rest(3.0)])

    def spoil(hdus):
        hdus[1].data[0, 2000], hdus[2].data[0, 2001:2004] = np.nan, (0, np.inf, -1)

    edit(tmp_path / "a.fits", spoil)
    good = read_spectrum(tmp_path / "a.fits").good
    assert not good[2000:2004].any()
    assert good[2004:2100].all()


def test_other_grids_are_refused(tmp_path):
    with pytest.raises(SpectrumError, match="another grid"):
        write_apstar(tmp_path / "a.fits", [visit()])


def as_dr13(path):
    """An aspcapStar as up to DR16: an apStar's keywords in the first header, labels in PARAM and FPARAM alone."""
    write_aspcapstar(path, at_rest(36.4))

    def change(hdus):
        hdus[0].header.update(
            {"NVISITS": 3, "OBJ": "star", "VHELIO": 36.4, "VRAD": 0.0, "SNR": 144.0, "FIELD": "169+04"}
        )
        param = np.array([[4500.0, -9999.0, 0.6, -0.5, 0.0, 0.0, 0.1, 1.0, 0.0]], "f4")
        fitted = np.array([[4400.0, 2.5, 0.6, -0.4, 0.0, 0.0, 0.2, 1.0, 0.0]], "f4")
        hdus[4] = fits.BinTableHDU.from_columns(
            [fits.Column("PARAM", "9E", array=param), fits.Column("FPARAM", "9E", array=fitted)]
        )

    edit(path, change)
    return path


def test_aspcapstar_of_dr13_is_no_apstar(tmp_path):
    (spectrum,) = read_spectra(as_dr13(tmp_path / "aspcapStar-r6-l30e.2-star.fits"))
    assert (spectrum.id, spectrum.frame, spectrum.v_correction) == ("star", "rest", 36.4)
    assert barycentric_velocity(spectrum) == pytest.approx(V_BARY, abs=0.02)
    found = {k: v for k, v in spectrum.meta.items() if k.endswith("_survey") or k in ("snr", "field")}
    # What the pipeline did not calibrate is as it was fitted.
    assert (found.pop("field"), len(found)) == ("169+04", 5)
    expected = {
        "teff_survey": 4500.0,
        "logg_survey": 2.5,
        "m_h_survey": -0.5,
        "alpha_m_survey": 0.1,
        "snr": 144.0,
    }
    assert found == pytest.approx(expected)


def test_real_aspcapstar_files(shared):
    import csv

    folder = shared / "data" / "real"
    if not (folder / "labels.csv").is_file():
        pytest.skip(f"{folder / 'labels.csv'} is absent")
    with (folder / "labels.csv").open(encoding="utf-8") as opened:
        rows = [row for row in csv.DictReader(opened) if row["kind"] == "aspcapStar"]
    assert rows
    for row in rows:
        (spectrum,) = read_spectra(folder / row["file"])
        found = {name: spectrum.meta[f"{name}_survey"] for name in ("teff", "logg", "m_h", "alpha_m")}
        found |= {"snr": spectrum.meta["snr"], "v_rad": spectrum.v_correction}
        assert found == pytest.approx({name: float(row[name]) for name in found}, rel=1e-4, abs=1e-4)
        assert spectrum.id == row["star_id"]
        assert spectrum.good.sum() > 6500


def test_real_apogee_files_are_read(shared):
    folder = shared / "data" / "real" / "apogee_dr13"
    if not folder.is_dir():
        pytest.skip(f"{folder} is absent")
    for path in sorted(folder.iterdir()):
        spectra = list(read_spectra(path))
        expected = {"apStar": (8575, "rest"), "aspcapStar": (8575, "rest"), "apVisit": (12288, "observatory")}
        assert {(s.grid.n_pixels, s.frame) for s in spectra} == {expected[path.name.split("-")[0]]}
        assert len(spectra) == 1 or path.name.startswith("apStar")
