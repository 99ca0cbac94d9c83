"""The model on the networks' grid is the model on pixels, whatever the profile."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from maury.forward.onchips import OnChips
from maury.networks.prepare import network_ranges
from maury.spectra.instrument import apogee
from maury.spectra.linespread import Gaussian
from maury.spectra.regrid import on_network_grid, response
from maury.spectra.seen import profile
from maury.spectra.spectrum import Spectrum


@pytest.fixture(scope="module")
def onchips(forward):
    return OnChips(forward, apogee(), network_ranges(forward.emulator, apogee()))


@pytest.fixture(scope="module")
def stars(forward, labels):
    theta = labels.sample(6, torch.Generator().manual_seed(1))[:, : forward.n_labels]
    theta[:3, -1] = torch.tensor([0.0, 3.0, 12.0])
    return theta


def computed(onchips, forward, stars, lsf, grid):
    seen = torch.from_numpy(profile(lsf, grid, apogee())).expand(len(stars), -1, -1, -1, -1)
    out = torch.ones(len(stars), onchips.n_grid)
    amplitudes = onchips.amplitudes(forward.emulator.coefficients(stars[:, :-2]))
    for c, chip in enumerate(onchips.chips):
        kernel = onchips.kernels(chip, stars[:, -2], stars[:, -1])
        spectrum = chip.transform(amplitudes) * kernel.whole
        out[:, chip.pixels] = 1 + chip.seen(spectrum, chip.profiles(seen[:, onchips.number[c]]))
    inside = torch.zeros(onchips.n_grid, dtype=torch.bool)
    for chip in onchips.chips:
        inside[chip.pixels.start + 60 : chip.pixels.stop - 60] = True
    return out, inside


@pytest.mark.parametrize("resolution", [20_000.0, 22_500.0, 24_000.0])
def test_a_gaussian_on_the_grid(onchips, forward, stars, resolution):
    lsf = Gaussian(resolution, integrate=False)
    out, inside = computed(onchips, forward, stars, lsf, apogee().grid)
    expected = forward.sampler(apogee().grid, lsf)(forward(stars))
    # Spectra that contain a profile are sharpened, and what is noise there is not.
    assert float((out - expected)[:, inside].abs().max()) < 0.03
    assert float((out - expected)[:, inside].square().mean().sqrt()) < 2e-3


def test_slopes_are_those_of_differences(onchips, forward, stars):
    chip = onchips.chips[0]
    rest = chip.transform(onchips.amplitudes(forward.emulator.coefficients(stars[:, :-2])))

    def spectra(v_rad, square):
        return chip.to_pixels(rest * onchips.kernels(chip, v_rad, square.sqrt()).whole)

    v_rad, square = stars[:, -2], stars[:, -1].square().clamp_min(9.0)
    kernel = onchips.kernels(chip, v_rad, square.sqrt())
    for slope, moved, step in (
        (chip.to_pixels(rest * kernel.whole * kernel.by_v_rad()), (0.5, 0.0), 1.0),
        (chip.to_pixels(rest * kernel.by_square()), (0.0, 1.0), 2.0),
    ):
        difference = spectra(v_rad + moved[0], square + moved[1]) - spectra(
            v_rad - moved[0], square - moved[1]
        )
        assert float((slope - difference / step).abs().max()) < 0.03 * float(slope.abs().max())


def test_the_slope_by_the_square_is_finite_without_rotation(onchips, forward, stars):
    chip = onchips.chips[0]
    still = torch.zeros(len(stars), dtype=torch.float64)
    assert torch.view_as_real(onchips.kernels(chip, still, still).by_square()).isfinite().all()


def test_a_profile_tells_how_regridding_blurs():
    """Waves on a visit's pixels, brought to the networks' grid."""
    instrument = apogee()
    grid = instrument.pixels
    start, stop = grid.chips[1]
    position = (np.log10(grid.wavelength) - instrument.layout.log10_start) / instrument.layout.log10_step
    spacing = float(np.median(np.diff(position[start:stop])))
    a, b = instrument.grid.chips[1]
    for frequency in (0.05, 0.2):
        flux = np.cos(2 * np.pi * frequency * position)
        out, _ = on_network_grid(Spectrum(grid, 2 + flux, np.ones_like(flux)), instrument)
        wave = np.cos(2 * np.pi * frequency * np.arange(len(out)))
        inside = slice(a + 100, b - 100)
        amplitude = 2 * np.mean((out - 2)[inside] * wave[inside])
        assert amplitude == pytest.approx(float(response(spacing, np.array(frequency))), abs=0.02)
