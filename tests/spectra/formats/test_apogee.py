"""What the apVisit reader makes of a file: pixels, masks, velocities, names, damage."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.io import fits
from flat_star import make_spectrum
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from maury.errors import SpectrumError
from maury.spectra import read_apvisit
from maury.spectra.formats.bits import BAD, DEFAULT_REJECT, PIXMASK, bits
from maury.spectra.formats.cards import unsigned

N = 64
Visit = Callable[..., Path]
Edit = Callable[[fits.HDUList], Any]


def put(hdu: int, row: int, column: int | slice, value: float) -> Edit:
    """Put a value into an HDU as the file has it: row 0 red, wavelength falling."""

    def edit(hdus: fits.HDUList) -> None:
        hdus[hdu].data[row, column] = value

    return edit


def test_real_visit(real_visit: Path) -> None:
    spectrum = read_apvisit(real_visit)
    assert spectrum.grid.n_pixels == 12288
    assert spectrum.grid.chips == ((0, 4096), (4096, 8192), (8192, 12288))
    assert spectrum.id == "2M00242666+5341178"
    assert spectrum.frame == "observatory"
    assert spectrum.v_correction == pytest.approx(-14.5807888)
    assert spectrum.snr == pytest.approx(90, abs=2)
    assert spectrum.bitmask is not None
    assert np.mean((spectrum.bitmask & DEFAULT_REJECT) != 0) == pytest.approx(0.053, abs=0.002)
    assert np.mean(~spectrum.good) == pytest.approx(0.057, abs=0.003)
    assert np.mean((spectrum.bitmask & BAD) != 0) == pytest.approx(0.017, abs=0.001)
    assert np.all(np.diff(spectrum.grid.wavelength) > 0)
    for name in ("flux", "ivar"):
        assert getattr(spectrum, name).dtype == np.float64
        assert getattr(spectrum, name).dtype.isnative
    # Blue, green, red: the file has red first.
    assert spectrum.lsf is not None
    np.testing.assert_allclose(spectrum.lsf.coefficients[:, 9], [2.2404542, 2.44982195, 2.86876607])
    expected = {
        "telescope": "apo25m",
        "plate": "9518",
        "fiber": 104,
        "mjd": 57729,
        "n_pairs": 5,
        "starflag": 0,
        "snr": 89.5949,
        "survey": "apogee2-manga",
        "release": "DR13-DR16",
        "v_rad_survey": -67.472,
        "v_correction_source": "header",
    }
    assert expected.items() <= spectrum.meta.items()


def test_pixels_are_those_of_the_file(real_visit: Path) -> None:
    spectrum = read_apvisit(real_visit, reject=0)
    with fits.open(real_visit) as hdus:
        np.testing.assert_array_equal(spectrum.flux[:4096], hdus[1].data[2, ::-1])
        np.testing.assert_array_equal(spectrum.grid.wavelength[-4096:], hdus[4].data[0, ::-1])
        good = spectrum.good[4096:8192]
        np.testing.assert_allclose(
            spectrum.ivar[4096:8192][good], hdus[2].data[1, ::-1][good].astype(float) ** -2
        )


def test_each_bit_rejects_by_its_rule(write_visit: Visit) -> None:
    bitmask = np.zeros(3 * N, dtype=np.int64)
    places = {name: 5 * bit for name, bit in PIXMASK.items() if bit < 15}
    for name, place in places.items():
        bitmask[place] = bits(name)
    path = write_visit(bitmask=bitmask)
    for reject in (DEFAULT_REJECT, BAD, 0, bits("PERSIST_LOW", "SIG_TELLURIC")):
        out = {place for name, place in places.items() if bits(name) & reject}
        assert set(np.flatnonzero(~read_apvisit(path, reject=reject).good)) == out


def test_sign_bit_of_the_mask_is_one_bit() -> None:
    mask = np.array([-32768, 1, -1], dtype=np.int16)
    np.testing.assert_array_equal(unsigned(mask), [32768, 1, 65535])
    np.testing.assert_array_equal(unsigned(mask.astype(np.int32)), [2**32 - 32768, 1, 2**32 - 1])
    np.testing.assert_array_equal(unsigned(np.array([5], np.int64)), [5])


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 0.0, -1.0, 1e9])
def test_useless_errors_take_the_pixel_out(write_visit: Visit, value: float) -> None:
    good = read_apvisit(write_visit(put(2, 0, 3, value))).good
    assert list(np.flatnonzero(~good)) == [3 * N - 1 - 3]


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_flux_that_is_not_finite_takes_the_pixel_out(write_visit: Visit, value: float) -> None:
    spectrum = read_apvisit(write_visit(put(1, 2, 0, value)))
    assert list(np.flatnonzero(~spectrum.good)) == [N - 1]
    assert spectrum.flux[N - 1] == 0


def test_negative_flux_is_kept(write_visit: Visit) -> None:
    spectrum = read_apvisit(write_visit(put(1, 2, 0, -123.0)))
    assert spectrum.flux[N - 1] == -123
    assert spectrum.good.all()


def test_error_limit_is_that_of_the_chip(write_visit: Visit) -> None:
    # A chip of large errors is as good as they say.
    spectrum = read_apvisit(write_visit(put(2, 0, slice(None), 1e5)))
    assert spectrum.good.all()


@pytest.mark.parametrize("columns", [[0], [N - 1], [5, 6, 7], [0, 1, 30, N - 1]])
def test_missing_wavelengths_are_filled_and_out_of_use(write_visit: Visit, columns: list[int]) -> None:
    source = make_spectrum(2048)
    expected = source.grid.wavelength
    edits = [
        put(4, 1, column, value) for column, value in zip(columns, (np.nan, 0, np.inf, -1), strict=False)
    ]
    spectrum = read_apvisit(write_visit(*edits, source=source))
    places = sorted(2 * 2048 - 1 - column for column in columns)
    assert list(np.flatnonzero(~spectrum.good)) == places
    np.testing.assert_allclose(spectrum.grid.wavelength, expected, atol=1e-3)


@pytest.mark.parametrize("value", ["mask", "flux", "error"])
def test_nothing_usable_is_no_error(write_visit: Visit, value: str) -> None:
    edits = {
        "mask": [put(3, row, slice(None), 1) for row in range(3)],
        "flux": [put(1, row, slice(None), np.nan) for row in range(3)],
        "error": [put(2, row, slice(None), np.inf) for row in range(3)],
    }
    spectrum = read_apvisit(write_visit(*edits[value]))
    assert not spectrum.good.any()
    assert spectrum.snr == 0


def test_rows_that_rise_and_chips_in_another_order_are_read_alike(write_visit: Visit) -> None:
    expected = read_apvisit(write_visit())

    def turn(hdus: fits.HDUList) -> None:
        for hdu in hdus[1:9]:
            hdu.data = hdu.data[[1, 2, 0], ::-1].copy()
        hdus[10].data = hdus[10].data[[1, 2, 0]].copy()

    turned = read_apvisit(write_visit(turn))
    np.testing.assert_array_equal(turned.flux, expected.flux)
    np.testing.assert_array_equal(turned.grid.wavelength, expected.grid.wavelength)


def test_double_precision_and_wide_masks_are_read(write_visit: Visit) -> None:
    def widen(hdus: fits.HDUList) -> None:
        hdus[1].data = hdus[1].data.astype(">f8")
        hdus[2].data = hdus[2].data.astype(">f8")
        hdus[2].data[0, 0] = 1e-200
        hdus[3].data = hdus[3].data.astype(">i8") | 2**40

    spectrum = read_apvisit(write_visit(widen))
    assert list(np.flatnonzero(~spectrum.good)) == [3 * N - 1]
    assert spectrum.bitmask is not None
    assert set(spectrum.bitmask) == {2**40}


# Barycentric correction


def test_correction_is_that_of_the_header_first(write_visit: Visit) -> None:
    spectrum = read_apvisit(write_visit(release="dr17", header={"BC": 3.5}))
    assert (spectrum.v_correction, spectrum.meta["v_correction_source"]) == (3.5, "header")


@pytest.mark.parametrize("mark", [-9999.99, -9999.0, 99.99, 0.0, "", "none", None])
@pytest.mark.parametrize("release", ["dr16", "dr17"])
def test_marks_for_missing_corrections_are_seen(write_visit: Visit, mark: Any, release: str) -> None:
    table = mark if isinstance(mark, float) else None
    source = make_spectrum(v_correction=table)
    options = {"header": {"BC": mark}} if release == "dr16" else {}
    spectrum = read_apvisit(write_visit(source=source, release=release, **options))
    assert spectrum.meta["v_correction_source"] == "astropy"
    assert spectrum.v_correction == pytest.approx(-14.58, abs=0.02)


@pytest.mark.parametrize(
    "header",
    [
        {"RA": None},
        {"DEC": -9999.99},
        {"RA": 0.0, "DEC": 0.0},
        {"JD-MID": 0.0},
        {"JD-MID": "unknown"},
        {"TELESCOP": None},
        {"TELESCOP": "hubble"},
        {"DEC": 91.0},
    ],
)
def test_correction_is_none_where_it_cannot_be_known(write_visit: Visit, header: dict[str, Any]) -> None:
    spectrum = read_apvisit(write_visit(release="dr19", header=header))
    assert spectrum.v_correction is None
    assert spectrum.meta["v_correction_source"] is None


def test_all_releases_give_the_same_correction(write_visit: Visit) -> None:
    found = [read_apvisit(write_visit(release=release)).v_correction for release in ("dr16", "dr17", "dr19")]
    assert np.ptp(np.array(found, dtype=float)) < 0.02


# Names and what else the header says


def test_values_that_look_like_marks_are_kept_where_they_mean_something(write_visit: Visit) -> None:
    meta = read_apvisit(write_visit(header={"FIBERID": 99, "RA": 99.99, "SNR": 99.99})).meta
    assert (meta["fiber"], meta["ra"], meta["snr"]) == (99, 99.99, 99.99)


def test_survey_s_velocities_are_kept_unless_missing(write_visit: Visit) -> None:
    meta = {"v_rad_survey": -67.5, "v_helio_survey": -82.0}
    for release in ("dr16", "dr17"):
        path = write_visit(source=make_spectrum(meta=meta), release=release)
        assert meta.items() <= read_apvisit(path).meta.items()
    found = read_apvisit(write_visit(header={"VRAD": 99.99, "VHELIO": -9999.99})).meta
    assert not {"v_rad_survey", "v_helio_survey"} & found.keys()


@pytest.mark.parametrize("objid", [None, "", "   "])
def test_name_is_the_file_s_where_the_header_has_none(write_visit: Visit, objid: str | None) -> None:
    path = write_visit(header={"OBJID": objid})
    assert read_apvisit(path).id == "apVisit-test"
    named = path.rename(path.with_name("star.1.fits"))
    assert read_apvisit(named).id == "star.1"


# Damage


def drop(hdu: int) -> Edit:
    """Cut the file off before an HDU."""

    def edit(hdus: fits.HDUList) -> None:
        del hdus[hdu:]

    return edit


def reshape(hdu: int, shape: tuple[int, ...]) -> Edit:
    def edit(hdus: fits.HDUList) -> None:
        hdus[hdu].data = np.ones(shape, hdus[hdu].data.dtype)

    return edit


def swap_chips(hdus: fits.HDUList) -> None:
    hdus[4].data[0] = hdus[4].data[1] + 5


def to_micron(hdus: fits.HDUList) -> None:
    hdus[4].data /= 1e4


def to_float(hdus: fits.HDUList) -> None:
    hdus[3].data = hdus[3].data.astype(float)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        *((drop(hdu), f"HDU {hdu}: missing") for hdu in range(1, 5)),
        (reshape(1, (2, N)), r"HDU 1: shape \(2, 64\)"),
        (reshape(1, (3, 1)), r"HDU 1: shape \(3, 1\)"),
        (reshape(1, (N,)), "HDU 1: shape"),
        (reshape(1, (3, 2, N)), "HDU 1: shape"),
        (reshape(2, (3, N - 1)), r"HDU 2: shape \(3, 63\)"),
        (reshape(4, (3, N + 1)), "HDU 4: shape"),
        (reshape(10, (2, 26)), "HDU 10: shape"),
        (to_float, "HDU 3: values of type"),
        (put(4, 1, 5, 16000.0), "HDU 4: wavelengths of chip row 1 do not run one way"),
        (swap_chips, "HDU 4: chip rows 1 and 0 overlap"),
        (put(4, 2, slice(0, 40), np.nan), "HDU 4: chip row 2 has too few finite wavelengths"),
        (put(4, 2, slice(None), np.nan), "HDU 4: chip row 2 has too few finite wavelengths"),
        (put(4, 0, 0, 1e6), "HDU 4: wavelengths .* leave"),
        (to_micron, "HDU 4: wavelengths 1.51.* leave"),
    ],
)
def test_what_is_wrong_is_named(write_visit: Visit, edit: Edit, message: str) -> None:
    with pytest.raises(SpectrumError, match=rf"apVisit-test\.fits {message}"):
        read_apvisit(write_visit(edit))


@pytest.mark.parametrize("edit", [drop(10), reshape(10, (3, 0)), put(10, 0, 9, np.nan)])
def test_lsf_may_be_absent(write_visit: Visit, edit: Edit) -> None:
    assert read_apvisit(write_visit(edit)).meta["lsf_source"] == "assumed"


def test_table_may_be_absent(write_visit: Visit) -> None:
    assert read_apvisit(write_visit(drop(11), release="dr17")).meta["v_correction_source"] == "astropy"


def test_other_files_are_no_visits(tmp_path: Path) -> None:
    fits.PrimaryHDU(np.ones((3, 4))).writeto(tmp_path / "other.fits")
    with pytest.raises(SpectrumError, match=r"other\.fits: not an apVisit"):
        read_apvisit(tmp_path / "other.fits")


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    mask=st.lists(st.integers(0, 2**15 - 1), min_size=24, max_size=24),
    out=st.lists(st.booleans(), min_size=24, max_size=24),
    reject=st.sampled_from([DEFAULT_REJECT, BAD, 0]),
)
def test_any_mask_survives(write_visit: Visit, mask: list[int], out: list[bool], reject: int) -> None:
    source = make_spectrum(8)
    source = replace(source, ivar=np.where(out, 0, source.ivar))
    back = read_apvisit(write_visit(source=source, bitmask=np.array(mask)), reject=reject)
    assert back.bitmask is not None
    # Only pixels out of use without a mark get one.
    changed = back.bitmask != mask
    assert not np.any(changed & source.good)
    if reject == DEFAULT_REJECT:
        np.testing.assert_array_equal(back.good, source.good & ((np.array(mask) & reject) == 0))
