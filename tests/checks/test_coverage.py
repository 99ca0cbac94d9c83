"""Coverage checks accept posteriors that are right and see those that are too narrow, too wide or shifted."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from maury.checks.coverage import (
    bins,
    central_credibility,
    coverage,
    highest_density_credibility,
    needed,
    tarp_credibility,
)
from maury.errors import ConfigError

N, DRAWS, D = 600, 400, 3


def credibilities(scale=1.0, shift=0.0, seed=0):
    """Of N Gaussian posteriors: by density, by TARP, and by the rank of the first label."""
    rng = np.random.default_rng(seed)
    by_density, by_tarp, by_rank = np.empty((3, N))
    equal = np.full(DRAWS, 1 / DRAWS)
    for i in range(N):
        truth = rng.normal(size=D)
        # Posterior of a datum of the same noise: mean half of the datum, variance one half.
        datum = truth + rng.normal(size=D)
        mean, sigma = datum / 2 + shift, scale * np.sqrt(0.5)
        draws = mean + sigma * rng.normal(size=(DRAWS, D))

        def log_density(x, mean=mean):
            return -np.square(x - mean).sum(-1)

        by_density[i] = highest_density_credibility(log_density(draws), equal, log_density(truth))
        by_tarp[i] = tarp_credibility(draws, equal, truth, rng.normal(size=D))
        by_rank[i] = central_credibility(np.array([equal @ (draws[:, 0] < truth[0])]))[0]
    return by_density, by_tarp, by_rank


def test_right_posteriors_pass():
    for values in credibilities():
        found = coverage(values)
        assert found.p_value > 0.01
        assert found.error < found.band
        assert abs(found.bias) < 0.04


@pytest.mark.parametrize(("scale", "sign"), [(0.6, -1), (1.6, 1)])
def test_wrong_widths_are_seen(scale, sign):
    by_density, by_tarp, by_rank = (coverage(values) for values in credibilities(scale))
    for found in (by_density, by_rank):
        assert found.p_value < 1e-4
        assert np.sign(found.bias) == sign
    # TARP's curve crosses the diagonal where widths are wrong: its error tells.
    assert by_tarp.error > by_tarp.band


def test_a_shift_is_seen():
    by_density, _, by_rank = (coverage(values) for values in credibilities(shift=0.5))
    assert by_density.p_value < 1e-4
    assert by_rank.p_value < 1e-4


@given(st.lists(st.floats(0, 1), min_size=20, max_size=60, unique=True))
def test_shares_rise_to_one(values):
    found = coverage(np.array(values))
    assert (np.diff(found.share) >= 0).all()
    assert found.share[-1] == 1
    assert 0 <= found.error <= 1


def test_what_cannot_be_judged_is_refused():
    with pytest.raises(ConfigError, match="at least 20 spectra, not 5"):
        coverage(np.linspace(0, 1, 5))
    with pytest.raises(ConfigError, match="2 of 30 credibilities are not finite"):
        coverage(np.r_[np.linspace(0, 1, 28), np.nan, np.nan])
    with pytest.raises(ConfigError, match=r"all credibilities are 0\.5"):
        coverage(np.full(30, 0.5))


def test_number_needed():
    assert needed(0.03) == 2953
    # That many pass at the error asked for.
    rng = np.random.default_rng(0)
    assert coverage(rng.random(needed(0.03))).band == pytest.approx(0.03, rel=0.02)


def test_bins_take_every_value_once():
    values = np.array([10.0, 20, 50, 100, 300])
    members = [member for _, member in bins(values, np.array([10, 50, 300]))]
    assert (sum(m.astype(int) for m in members) == 1).all()
    assert [name for name, _ in bins(values, np.array([10, 50, 300]))] == ["10-50", "50-300"]
