"""The local test sees what an average hides, and nothing where there is nothing."""

from __future__ import annotations

import numpy as np
import pytest

from maury.checks.local import local_coverage
from maury.errors import ConfigError


def known(rng, n):
    return {
        "snr": rng.uniform(10, 300, n),
        "v_sini": rng.uniform(0, 100, n),
        "teff": rng.uniform(3500, 8000, n),
    }


def test_right_posteriors_pass_as_often_as_they_should():
    rng = np.random.default_rng(0)
    p = [local_coverage(rng.random(150), known(rng, 150), seed).p_value for seed in range(60)]
    assert np.mean(np.array(p) < 0.1) < 0.25
    assert 0.3 < np.mean(p) < 0.7


def test_regions_too_narrow_for_some_and_too_wide_for_others_are_found():
    """On average over all spectra they hold their share."""
    rng = np.random.default_rng(1)
    n = 600
    of = known(rng, n)
    slow = of["v_sini"] < 50
    credibility = np.where(slow, rng.random(n) ** 0.5, rng.random(n) ** 2)
    found = local_coverage(credibility, of)
    assert found.p_value < 0.01
    assert found.where_lowest["v_sini"] < 50 < found.where_highest["v_sini"]
    assert found.lowest < 0.6 < 0.75 < found.highest


def test_few_spectra_are_refused():
    rng = np.random.default_rng(0)
    with pytest.raises(ConfigError, match="at least 60"):
        local_coverage(rng.random(20), known(rng, 20))
