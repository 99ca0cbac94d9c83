"""Two samples are told apart if they differ, and not if they do not."""

import numpy as np
import pytest

from maury.checks.comparison import c2st, jensen_shannon


def test_c2st_is_a_half_for_equal_densities_and_more_for_others():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, 2000, 3))
    assert abs(c2st(a, b) - 0.5) < 0.03
    assert c2st(a, b + np.array([0.5, 0, 0])) > 0.56
    assert c2st(a, b * np.array([1, 1, 3])) > 0.65
    # Scales and units do not matter.
    assert abs(c2st(1e4 * a + 5000, 1e4 * b + 5000) - 0.5) < 0.03


def test_jensen_shannon_of_gaussians():
    rng = np.random.default_rng(1)
    a, b = rng.normal(size=(2, 20_000))
    assert jensen_shannon(a, b) < 1e-3
    # For a small shift d it is d^2 / 8.
    assert jensen_shannon(a, b + 0.3) == pytest.approx(0.3**2 / 8, rel=0.15)
    # Densities that do not meet: ln 2.
    assert jensen_shannon(a, b + 100) == pytest.approx(np.log(2), abs=1e-3)
    assert jensen_shannon(a * 0 + 1, b * 0 + 1) == 0


def test_jensen_shannon_takes_weights():
    rng = np.random.default_rng(2)
    wide, target = 2 * rng.normal(size=40_000), rng.normal(size=20_000)
    log_weights = -0.5 * wide**2 + 0.5 * (wide / 2) ** 2
    weights = np.exp(log_weights - log_weights.max())
    assert jensen_shannon(wide, target, weights / weights.sum()) < 1e-3


def test_jensen_shannon_at_a_bound():
    rng = np.random.default_rng(3)
    a, b = np.abs(rng.normal(size=(2, 20_000)))
    assert jensen_shannon(a, b) < 1e-3


def test_far_draws_without_weight_do_not_matter():
    """A proposal's draws cover the prior; all but the narrow posterior's have weights of 0."""
    rng = np.random.default_rng(3)
    narrow, wide = rng.normal(0, 0.05, 5000), rng.uniform(-200, 200, 200)
    weights = np.concatenate([np.full(5000, 1 / 5000), np.full(200, 1e-300)])
    found = jensen_shannon(np.concatenate([narrow, wide]), rng.normal(0, 0.05, 5000), weights)
    assert 0 <= found < 2e-3
