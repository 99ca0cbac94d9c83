"""Two samples are told apart if they differ, and not if they do not."""

import numpy as np

from maury.checks.comparison import c2st


def test_c2st_is_a_half_for_equal_densities_and_more_for_others():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, 2000, 3))
    assert abs(c2st(a, b) - 0.5) < 0.03
    assert c2st(a, b + np.array([0.5, 0, 0])) > 0.56
    assert c2st(a, b * np.array([1, 1, 3])) > 0.65
    # Scales and units do not matter.
    assert abs(c2st(1e4 * a + 5000, 1e4 * b + 5000) - 0.5) < 0.03
