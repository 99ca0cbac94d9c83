"""Predictive checks: quiet where the model is right, loud where a chip, a line or the noise is not."""

from dataclasses import replace

import numpy as np
import pytest

from maury.inference.infer import infer
from maury.likelihood.residuals import ljung_box
from maury.models import load_model
from maury.posterior.predictive import LINES, by_chip, by_line, checked, worst
from maury.training.demo import TRUTH, simulate_visit


@pytest.fixture(scope="module")
def posterior():
    return infer(simulate_visit(load_model(), TRUTH, snr=80, seed=5, v_correction=0.0))


def checks(posterior, fit):
    grid, v = posterior.spectrum.grid, posterior.quantile("v_rad", 0.5)
    return checked(fit, by_chip(fit, grid), 22), checked(fit, by_line(fit, grid, v), 22)


def test_a_right_model_passes(posterior):
    chips, lines = checks(posterior, posterior.fit)
    assert [c.name for c in chips] == ["chip 1", "chip 2", "chip 3"]
    assert sum(c.n_pixels for c in chips) == len(posterior.fit.pixels)
    assert {c.name for c in lines} <= set(LINES)
    assert {"Fe I", "Mg I", "Al I", "Si I", "OH", "CO", "Brackett"} <= {c.name for c in lines}
    assert worst(chips + lines) > 0.01


def test_a_bad_chip_is_named(posterior):
    fit, grid = posterior.fit, posterior.spectrum.grid
    start, stop = grid.chips[1]
    noisy = np.where((fit.pixels >= start) & (fit.pixels < stop), 1.15, 1.0)
    chips, _ = checks(posterior, replace(fit, whitened=fit.whitened * noisy))
    assert min(chips, key=lambda c: c.p_scatter).name == "chip 2"
    assert chips[1].p_scatter < 1e-4
    assert min(chips[0].p_scatter, chips[2].p_scatter) > 0.01


def test_a_wrong_line_is_named(posterior):
    fit, v = posterior.fit, posterior.quantile("v_rad", 0.5)
    wavelength = posterior.spectrum.grid.wavelength[fit.pixels] / (1 + v / 299_792.458)
    distance = np.abs(wavelength[:, None] - np.array(LINES["Al I"])).min(1)
    dip = fit.whitened - 3 * np.exp(-((distance / 1.0) ** 2))
    _, lines = checks(posterior, replace(fit, whitened=dip))
    assert min(lines, key=lambda c: min(c.p_scatter, c.p_correlation)).name == "Al I"


def test_fringes_autocorrelated(posterior):
    """A sine of 0.3 sigma over 30 pixels: chi-squared hardly sees it, the correlation does."""
    fit = posterior.fit
    fringe = fit.whitened + 0.3 * np.sin(2 * np.pi * fit.pixels / 30)
    chips, _ = checks(posterior, replace(fit, whitened=fringe))
    assert max(c.p_correlation for c in chips) < 5e-3
    assert max(c.p_scatter for c in chips) > 5e-3


def test_ljung_box_is_uniform_under_noise_and_skips_gaps():
    rng = np.random.default_rng(0)
    pixels = np.flatnonzero(rng.random(1500) < 0.9)
    p = np.array([ljung_box(rng.normal(size=len(pixels)), pixels)[1] for _ in range(400)])
    assert abs(np.mean(p < 0.1) - 0.1) < 0.05
    # Neighbours across a gap are no neighbours.
    apart = np.arange(0, 3000, 3)
    assert ljung_box(np.ones(1000), apart) == (0.0, 1.0)
