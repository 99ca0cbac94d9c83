"""Line-spread functions against direct quadrature in pixel space."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gauss_hermite import profile
from maury.errors import SpectrumError
from maury.spectra import nominal_visit_grid, read_apvisit
from maury.spectra.instrument import apstar_grid, nominal_visit_lsf
from maury.spectra.linespread import FWHM, ChipGaussians, GaussHermite, Gaussian, Tabulated, log_pixel_size
from maury.spectra.spectrum import PixelGrid


@pytest.mark.parametrize("chip", [0, 1, 2])
@pytest.mark.parametrize("cycles", [0.01, 0.05, 0.12])
def test_gauss_hermite_is_the_transform_of_the_profile(chip, cycles):
    grid, lsf = nominal_visit_grid(), nominal_visit_lsf()
    i = chip * 4096 + 1000
    size = log_pixel_size(grid)[i]
    found = lsf.transform(grid, np.array([cycles / size]))[i, 0]
    y = np.linspace(-120, 120, 48_001)
    # Pixels of the file run against the wavelength: its profile, a function of x - x0, is one of u - u_i over the pixel's size.
    values = profile(nominal_visit_lsf().coefficients[chip], 4095 - 1000, y)
    expected = (values * np.exp(2j * np.pi * cycles * y)).sum() * (y[1] - y[0])
    assert found == pytest.approx(expected, abs=1e-8)


def test_light_is_conserved():
    grid = nominal_visit_grid()
    for lsf in (nominal_visit_lsf(), Gaussian(22_500), Tabulated(np.ones((grid.n_pixels, 5)))):
        np.testing.assert_allclose(lsf.transform(grid, np.array([0.0]))[:, 0], 1, rtol=1e-12)


def test_real_visit_has_the_survey_s_resolving_power(shared):
    spectrum = read_apvisit(shared / "data/real/apVisit-r13-9518-57729-104.fits")
    power = spectrum.lsf.resolving_power(spectrum.grid)
    blue, green = (power[slice(*chip)] for chip in spectrum.grid.chips[:2])
    assert green.max() == pytest.approx(25_600, rel=0.02)
    assert blue.min() == pytest.approx(23_300, rel=0.01)
    assert power.min() > 22_500
    assert power.max() < 25_800


@given(resolution=st.floats(1e3, 1e5))
def test_gaussian_has_its_resolving_power(resolution):
    grid = apstar_grid()
    np.testing.assert_allclose(Gaussian(resolution, integrate=False).resolving_power(grid), resolution)
    assert (Gaussian(resolution).resolving_power(grid) < resolution).all()


def test_gaussian_is_sampled_by_tabulated_kernels():
    grid, sigma = apstar_grid(), 2.0
    step = log_pixel_size(grid)[0]
    kernel = np.exp(-0.5 * (np.arange(-12, 13) / sigma) ** 2)
    table = Tabulated(np.tile(kernel, (grid.n_pixels, 1)))
    gaussian = Gaussian(1 / (FWHM * sigma * step), integrate=False)
    f = np.array([0, 0.1, 0.3]) / step
    np.testing.assert_allclose(table.transform(grid, f)[::900], gaussian.transform(grid, f)[::900], atol=2e-6)
    np.testing.assert_allclose(table.resolving_power(grid), gaussian.resolution, rtol=1e-3)


def test_chips_do_not_see_each_other():
    w = np.concatenate([np.linspace(15000, 15010, 51), np.linspace(16000, 16010, 51)])
    size = log_pixel_size(PixelGrid(w, ((0, 51), (51, 102))))
    assert size.max() < 2e-5


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({0: -1.0}, "Hermite"),
        ({2: 40.0}, "Hermite"),
        ({20: 3.0}, "wings of type 3"),
        ({9: -3.0}, "not positive"),
        ({3: 9.0}, "end before"),
        ({5: np.nan}, "finite"),
    ],
)
def test_useless_coefficients_are_refused(change, message):
    row = nominal_visit_lsf().coefficients[0]
    for index, value in change.items():
        row[index] = value
    with pytest.raises(SpectrumError, match=message):
        GaussHermite(np.tile(row, (3, 1))).transform(nominal_visit_grid(), np.array([0.0]))


def test_other_bad_input_is_refused():
    with pytest.raises(SpectrumError, match="resolving power"):
        Gaussian(0)
    with pytest.raises(SpectrumError, match="2 n"):
        Tabulated(np.ones((4, 4)))
    with pytest.raises(SpectrumError, match="positive sum"):
        Tabulated(np.zeros((4, 3)))
    with pytest.raises(SpectrumError, match="3 tabulated kernels"):
        Tabulated(np.ones((3, 3))).transform(apstar_grid(), np.array([0.0]))
    with pytest.raises(SpectrumError, match="negative lobes"):
        Tabulated(np.tile([-0.2, 1.0, 0.1], (4, 1)))
    one_chip = replace(apstar_grid(), chips=((0, 8575),))
    with pytest.raises(SpectrumError, match="3 chips for 1"):
        nominal_visit_lsf().transform(one_chip, np.array([0.0]))


def test_negative_lobes_are_refused():
    damaged = nominal_visit_lsf().coefficients.copy()
    # The constant of the third Hermite coefficient: a third of the light below zero.
    start = int(damaged[0, 2]) + 4 + int((damaged[0, 3:6] + 1).sum())
    damaged[0, start] = 1.5
    with pytest.raises(SpectrumError, match=r"negative lobes of \d+%.*resolving power"):
        GaussHermite(damaged).resolving_power(nominal_visit_grid())


@pytest.mark.parametrize(
    "lsf",
    [
        nominal_visit_lsf(),
        Gaussian(22_500),
        ChipGaussians((20_000.0, 22_000.0, 24_000.0)),
        Tabulated(np.random.default_rng(1).random((nominal_visit_grid().n_pixels, 5))),
    ],
    ids=lambda lsf: type(lsf).__name__,
)
def test_some_pixels_are_those_of_all(lsf):
    grid, rows = nominal_visit_grid(), np.array([3, 700, 5000, 5001, 12_000])
    f = np.linspace(0, 20_000, 7)
    np.testing.assert_allclose(lsf.transform(grid, f, rows), lsf.transform(grid, f)[rows], rtol=1e-12)
