"""Spectrographs: what their files say, and what is made of it."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from astropy import units
from astropy.table import Table

from maury.errors import ConfigError, InferenceError, ModelError, SpectrumError
from maury.spectra import PixelGrid, Spectrum, nominal_visit_grid, read_table
from maury.spectra.air import to_vacuum
from maury.spectra.instrument import (
    Instrument,
    Mask,
    apogee,
    nominal_visit_lsf,
    of_card,
    read_instrument,
    shipped_instruments,
)
from maury.spectra.linespread import ChipGaussians, GaussHermite, Gaussian
from maury.spectra.regrid import on_network_grid

TEXT = """
name = "two"
medium = "vacuum"
frame = "barycentric"
unit = "nm"
resolution = 20000.0

[[chips]]
name = "blue"
linear = { start = 510.0, step = 0.01, number = 500 }

[[chips]]
name = "red"
linear = { start = 530.0, step = 0.01, number = 500 }
resolution = 15000.0

[mask]
bits = { BAD = 0, COSMIC = 1, GHOST = 3 }
reject = ["BAD", 1]
"""


def instrument(folder: Path, text: str = TEXT) -> Instrument:
    path = folder / "two.toml"
    path.write_text(text)
    return read_instrument(path)


def flat(wavelength: np.ndarray, *chips: tuple[int, int], lsf=None) -> Spectrum:
    grid = PixelGrid(wavelength, chips or ((0, len(wavelength)),))
    return Spectrum(grid, np.ones(len(wavelength)), np.ones(len(wavelength)), lsf=lsf)


def test_apogee_is_what_its_files_are():
    one = apogee()
    exponent = 4.179 + 6e-6 * np.arange(8575)
    np.testing.assert_array_equal(one.grid.wavelength, 10.0**exponent)
    assert one.grid.chips == ((246, 3274), (3585, 6080), (6344, 8335))
    assert one.grid_lsf == Gaussian(22_500.0, integrate=False)
    # What a file does not tell is the usual fibre's profile, wings included, on any grid.
    told = one.assumed_lsf
    frequency = np.array([0.0, 3000.0, 8000.0])
    on_detector = one.lsf.transform(one.pixels, frequency)
    np.testing.assert_array_equal(told.transform(one.pixels, frequency), on_detector)
    near = np.abs(one.pixels.wavelength - one.grid.wavelength[5000]).argmin()
    np.testing.assert_array_equal(
        told.transform(one.grid, frequency, np.array([5000, 5000])), on_detector[[near, near]]
    )
    assert told.resolving_power(one.grid)[5000] == one.lsf.resolving_power(one.pixels)[near]
    assert one.mask.value == 16639 | 4096
    assert one.pixels.chips == nominal_visit_grid().chips
    np.testing.assert_array_equal(one.pixels.wavelength, nominal_visit_grid().wavelength)
    assert isinstance(one.lsf, GaussHermite)
    np.testing.assert_array_equal(one.lsf.coefficients, nominal_visit_lsf().coefficients)


@pytest.mark.parametrize("name", list(shipped_instruments()))
def test_shipped_instruments_survive_their_cards(name):
    one = read_instrument(name)
    assert one.name == name
    assert of_card(json.loads(json.dumps(one.card()))) == one
    grid = one.grid
    # The fastest star stays on the grid, wherever it is moved to.
    lag = max(map(abs, one.training.v_rad)) / 299792.458 / (one.layout.log10_step * math.log(10))
    assert grid.chips[0][0] > lag
    assert grid.chips[-1][1] < grid.n_pixels - lag
    for (low, high), (start, stop) in zip(one.ranges, grid.chips, strict=True):
        if one.network is None:
            assert grid.wavelength[start] == pytest.approx(low, rel=3e-5)
            assert grid.wavelength[stop - 1] == pytest.approx(high, rel=3e-5)


def test_a_grid_is_the_chips_own_where_they_share_one():
    one = read_instrument("igrins-like")
    np.testing.assert_allclose(
        one.grid.wavelength[slice(*one.grid.chips[0])], one.pixels.wavelength[:27360], rtol=1e-12
    )


def test_sampling_by_file_polynomial_and_part(tmp_path):
    wave = np.linspace(6000.0, 6010.0, 30)
    np.savetxt(tmp_path / "blue.txt", wave, fmt="%.10f")
    text = """
name = "mixed"
medium = "air"
unit = "Angstrom"
resolution = 30000
[[chips]]
file = "blue.txt"
[[chips]]
polynomial = { coefficients = [6100.0, 5.0, 0.1], number = 100 }
pixels = [10, 90]
"""
    one = instrument(tmp_path, text)
    assert one.pixels.chips == ((0, 30), (30, 110))
    np.testing.assert_allclose(one.pixels.wavelength[:30], to_vacuum(wave), atol=1e-6)
    x = (np.arange(10, 90) + 0.5) / 50 - 1
    np.testing.assert_allclose(one.pixels.wavelength[30:], to_vacuum(6100 + 5 * x + 0.1 * x**2))
    # The card needs no file beside it.
    assert of_card(one.card()) == one


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("start = 530.0", "start = 512.0", r"chips\.1 \(red\) begins at 512 nm, before chips\.0 \(blue\) ends"),
        ("resolution = 20000.0", "resolution = -1", r"two\.toml: resolution: .*greater than 0"),
        ("resolution = 20000.0", "", r"chips\.0 \(blue\): give a resolution"),
        ("resolution = 15000.0", "resolutoin = 15000.0", r"chips\.1\.resolutoin.*did you mean 'resolution'"),
        ("step = 0.01, number = 500 }\n\n", "step = -0.01, number = 500 }\n\n", r"chips\.0\.linear\.step"),
        ("linear = { start = 510.0, step = 0.01, number = 500 }", "", r"chips\.0: needs one of log10, .* none"),
        (
            "linear = { start = 510.0, step = 0.01, number = 500 }",
            "wavelength = [510.0, 511.0, 510.5]",
            r"chips\.0\.wavelength: wavelengths must rise strictly; pixel 2 \(510\.5\)",
        ),
        (
            "linear = { start = 510.0, step = 0.01, number = 500 }",
            'file = "nothing.txt"',
            r"chips\.0: .*nothing\.txt cannot be read",
        ),
        ('"BAD", 1', '"BED", 1', r"mask: reject: no bit 'BED'; known are .*did you mean 'BAD'"),
        ('medium = "vacuum"', "", r"medium: Field required"),
        ('unit = "nm"', 'unit = "furlong"', r"unit: no 'furlong'; known are Angstrom, nm, micron"),
    ],
)  # fmt: skip
def test_errors_name_file_and_field(tmp_path, old, new, message):
    assert old in TEXT
    with pytest.raises(ConfigError, match=message):
        instrument(tmp_path, TEXT.replace(old, new, 1))


def test_unknown_instruments_get_a_suggestion(tmp_path):
    with pytest.raises(ConfigError, match="did you mean 'igrins-like'"):
        read_instrument("igrins")
    with pytest.raises(ConfigError, match="known are 4most-hr-like, apogee"):
        read_instrument(tmp_path / "xyz.toml")
    with pytest.raises(ModelError, match="its instrument cannot be read"):
        of_card({"name": "x"})


def test_restriction_keeps_pixels_and_profile():
    one = read_instrument("igrins-like").restricted(15_000, 17_000)
    assert [chip.name for chip in one.chips] == ["H"]
    whole = read_instrument("igrins-like").pixels.wavelength
    np.testing.assert_array_equal(one.pixels.wavelength, whole[(whole >= 15_000) & (whole <= 17_000)])
    part = apogee().restricted(15_500, 16_200)
    power = apogee().lsf.resolving_power(apogee().pixels)
    inside = (apogee().pixels.wavelength >= 15_500) & (apogee().pixels.wavelength <= 16_200)
    np.testing.assert_allclose(part.lsf.resolving_power(part.pixels), power[inside], rtol=5e-3)
    with pytest.raises(ConfigError, match="none of its chips"):
        apogee().restricted(5000, 6000)


def test_spectra_get_chips_and_profile(tmp_path):
    one = instrument(tmp_path)
    # One stretch in the table, with a piece between the chips.
    wavelength = np.arange(5090.0, 5360.0, 0.1)
    seen = one.adopt(flat(wavelength))
    assert seen.lsf == ChipGaussians((20000.0, 15000.0))
    w = seen.grid.wavelength
    for (start, stop), (low, high) in zip(seen.grid.chips, one.ranges, strict=True):
        # The observer's own motion is in the wavelengths.
        assert low - 2 < w[start] < low
        assert high < w[stop - 1] < high + 2
    assert seen.good.sum() == sum(stop - start for start, stop in seen.grid.chips)
    assert seen.meta["chips"] == ["blue", "red"]
    # One chip alone has one resolving power; what a spectrum says of itself is believed.
    assert one.adopt(flat(wavelength[wavelength > 5250])).lsf == Gaussian(15000.0)
    assert one.adopt(flat(wavelength, lsf=Gaussian(9000.0))).lsf == Gaussian(9000.0)
    with pytest.raises(InferenceError, match=r"covers 4000-4010.*chips of two \(blue 5100-5150, red 5300"):
        one.adopt(flat(np.arange(4000.0, 4010.0, 0.1)))
    visit = flat(nominal_visit_grid().wavelength, *nominal_visit_grid().chips, lsf=nominal_visit_lsf())
    assert apogee().adopt(visit) is visit


def test_profiles_by_chip_are_gaussians(tmp_path):
    one = instrument(tmp_path)
    frequency = np.linspace(0, 3e4, 7)
    found = one.lsf.transform(one.pixels, frequency)
    for chip, resolution in zip(one.pixels.chips, (20000.0, 15000.0), strict=True):
        rows = slice(*chip)
        expected = Gaussian(resolution).transform(one.pixels, frequency)
        np.testing.assert_allclose(found[rows], expected[rows])
        power = Gaussian(resolution).resolving_power(one.pixels)
        np.testing.assert_allclose(one.lsf.resolving_power(one.pixels)[rows], power[rows])


def test_native_pixels_reach_the_grid_of_networks(tmp_path):
    one = instrument(tmp_path)
    flux, ivar = on_network_grid(one.adopt(flat(one.pixels.wavelength, *one.pixels.chips)), one)
    held = ivar > 0
    on_chip = np.zeros(len(flux), dtype=bool)
    for start, stop in one.grid.chips:
        on_chip[start:stop] = True
    assert held[on_chip].mean() > 0.99
    assert held[~on_chip].mean() < 0.01
    np.testing.assert_allclose(flux[held], 1)


def test_tables_take_what_they_leave_out_from_the_instrument(tmp_path):
    one = instrument(tmp_path)
    table = Table(
        {
            "wavelength": np.linspace(510, 515, 8),
            "flux": np.ones(8),
            "error": np.ones(8),
            "mask": np.arange(8),
        }
    )
    table.write(tmp_path / "t.ecsv")
    found = read_table(tmp_path / "t.ecsv", instrument=one)
    assert found.frame == "barycentric"
    assert found.grid.wavelength[0] == pytest.approx(5100)
    # Bit 2 is not named: only bits 0 and 1 reject.
    np.testing.assert_array_equal(found.good, [True, False, False, False, True, False, False, False])
    np.testing.assert_array_equal(
        read_table(tmp_path / "t.ecsv", instrument=one, reject=4).good, np.arange(8) & 4 == 0
    )
    any_bit = read_table(tmp_path / "t.ecsv", instrument=one.model_copy(update={"mask": Mask()}))
    np.testing.assert_array_equal(any_bit.good, np.arange(8) == 0)
    table["mask"] = np.arange(8) > 5
    table["wavelength"] = np.linspace(0.510, 0.515, 8) * units.micron
    table.meta["medium"] = "air"
    table.write(tmp_path / "t.ecsv", overwrite=True)
    stated = read_table(tmp_path / "t.ecsv", instrument=one)
    assert stated.grid.wavelength[0] == pytest.approx(5101.42, abs=0.01)
    # A mask of yes and no has no bits.
    np.testing.assert_array_equal(stated.good, np.arange(8) <= 5)


# Fibres


def test_chips_and_fibres_of_apogee_differ_as_real_ones_do():
    one = apogee()
    blue, green, red = one.resolving_powers
    assert 23_000 < blue < 25_000
    assert 22_600 < green < 25_500
    assert 23_000 < red < 25_500
    assert one.varies
    assert one.n_fibres == 13
    powers = np.array([one._powers(one.fibre_lsf(i)) for i in range(one.n_fibres)])
    assert 20_000 < powers.min() < 22_500
    assert 24_500 < powers.max() < 26_000
    # The last one is the fibre of the visit that is shown everywhere.
    np.testing.assert_allclose(one.fibre_lsf(12).coefficients[:, 9], [2.2405, 2.4498, 2.8688])
    np.testing.assert_array_equal(one.fibre_lsf(0).coefficients, one.lsf.coefficients)


def test_a_wider_fibre_is_as_much_wider():
    one = apogee()
    plain, wide = one.fibre_lsf(3), one.fibre_lsf(3, 1.1)
    frequency = np.array([0.0, 100.0, 1000.0, 4000.0])
    size = np.gradient(np.log(one.pixels.wavelength[:4096]))
    narrow = plain.transform(one.pixels, 1.1 * frequency)[100] / np.sinc(2.2 * frequency * size[100])
    expected = narrow * np.sinc(2 * frequency * size[100])
    np.testing.assert_allclose(wide.transform(one.pixels, frequency)[100], expected, rtol=1e-3)
    on_grid = one.fibre_lsf(3, 1.1, native=False)
    assert on_grid == Gaussian(22_500 / 1.1, integrate=False)
    with pytest.raises(SpectrumError, match="cannot be wider by a factor of 0"):
        plain.widened(0)


def test_instruments_of_one_resolving_power_may_have_a_spread(tmp_path):
    text = """
name = "plain"
medium = "vacuum"
unit = "Angstrom"
resolution = 30000
spread = 0.05
[[chips]]
log10 = { start = 3.8, step = 4e-6, number = 3000 }
"""
    one = instrument(tmp_path, text)
    assert one.varies
    assert one.n_fibres == 1
    assert one.fibre_lsf(0, 1.25) == Gaussian(24_000.0)
    with pytest.raises(ConfigError, match="a row a chip of each fibre is wanted, beside gauss_hermite"):
        instrument(tmp_path, text.replace("spread = 0.05", "fibres = [[1.0, 2.0]]"))
    assert not read_instrument("igrins-like").varies
    cut = apogee().restricted(15_200, 15_300)
    assert cut.n_fibres == 13
    assert cut.fibre_lsf(12).coefficients.shape[0] == 1
