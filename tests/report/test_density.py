"""Smooth densities of weighted draws."""

import numpy as np
import pytest

from maury.report.density import effective, heights, line, plane

RNG = np.random.default_rng(8)


def test_of_few_draws_a_gaussian_comes_out():
    x = RNG.normal(5.0, 2.0, 200)
    found = line(x, np.full(200, 1 / 200), -3.0, 13.0, 40)
    assert found.sum() == pytest.approx(1.0, abs=0.02)
    middle = -3 + 0.4 * (np.arange(40) + 0.5)
    exact = np.exp(-0.5 * ((middle - x.mean()) / x.std()) ** 2) / (x.std() * np.sqrt(2 * np.pi)) * 0.4
    assert np.abs(found - exact).max() < 0.15 * exact.max()
    # One hump, not the dozen that the draws' histogram has.
    assert (np.diff(np.sign(np.diff(found))) < 0).sum() <= 2


def test_nothing_bends_down_where_the_prior_ends():
    x = RNG.uniform(0, 1, 2000)
    found = line(x, np.ones(2000), 0.0, 1.0, 30)
    assert found[0] == pytest.approx(1 / 30, rel=0.25)


def test_a_narrow_ridge_is_not_washed_out():
    x = RNG.normal(size=400)
    y = x + 0.15 * RNG.normal(size=400)
    found = plane(x, y, np.ones(400), np.array([[-3.0, 3.0], [-3.0, 3.0]]), 60)
    assert found.shape == (60, 60)
    # Along the other diagonal it is as thin as the draws are, to a third.
    place = -3 + 0.1 * (np.arange(60) + 0.5)
    across = np.array([found[i, 59 - i] for i in range(60)])
    width = np.sqrt(across @ place**2 / across.sum())
    assert width == pytest.approx(0.15 / 2 / np.sqrt(1 - 0.15**2 / 4), rel=0.6)
    assert found[30, 30] > 5 * found[30, 45]


def test_shares_lie_above_their_heights():
    x, y = RNG.normal(size=(2, 20_000))
    found = plane(x, y, np.ones(20_000), np.array([[-5.0, 5.0], [-5.0, 5.0]]), 60)
    for share, height in zip((0.393, 0.865), heights(found, (0.393, 0.865)), strict=True):
        assert found[found >= height].sum() / found.sum() == pytest.approx(share, abs=0.02)
    assert effective(np.array([1.0, 1.0, 0.0])) == pytest.approx(2.0)
    # Draws that are all alike, and of the lightest weights, are a density too.
    assert np.isfinite(line(np.zeros(50), np.full(50, 1e-200), -1.0, 1.0, 20)).all()
