"""Recalibrated regions hold their share of truths, whatever was wrong with them."""

from __future__ import annotations

import numpy as np
import pytest

from maury.errors import ModelError
from maury.networks.conformal import FILE, Conformal


def credibilities(rng, n, power):
    """Of a flow whose regions are too narrow: truths lie farther out than they should."""
    return {"joint": rng.random(n) ** power, "teff": rng.random(n) ** power, "tarp": rng.random(n)}


@pytest.mark.parametrize("power", [0.3, 1.0, 2.5])
@pytest.mark.parametrize("level", [0.5, 0.683, 0.95])
def test_regions_hold_their_share_of_new_truths(power, level):
    rng = np.random.default_rng(1)
    shares = []
    for _ in range(200):
        known = Conformal.of(credibilities(rng, 200, power))
        new = rng.random(500) ** power
        shares.append(np.mean(new <= known.level("joint", level)))
    # On average over calibration sets between the level and 1/201 more.
    assert level - 0.006 < np.mean(shares) < level + 0.012


def test_quantiles_move_outwards_where_the_flow_is_too_narrow_and_the_median_stays():
    known = Conformal.of(credibilities(np.random.default_rng(0), 1000, 0.3))
    assert known.quantile("teff", 0.16) < 0.1
    assert known.quantile("teff", 0.84) == pytest.approx(1 - known.quantile("teff", 0.16))
    assert known.quantile("teff", 0.5) == 0.5


def test_a_level_that_too_few_truths_can_promise_is_the_whole_posterior():
    known = Conformal.of({"joint": np.linspace(0, 0.9, 150)})
    assert known.level("joint", 0.999) == 1.0
    assert known.level("joint", 0.0) == 0.0


def test_a_sum_of_weights_that_is_one_up_to_rounding_is_one():
    assert Conformal.of({"joint": np.append(np.linspace(0, 1, 120), 1 + 1e-12)}).scores["joint"].max() == 1.0


def test_saved_and_loaded(tmp_path):
    known = Conformal.of(credibilities(np.random.default_rng(0), 120, 1.0))
    known.save(tmp_path / FILE)
    again = Conformal.load(tmp_path / FILE)
    assert set(again.scores) == {"joint", "teff"}
    np.testing.assert_allclose(again.scores["joint"], known.scores["joint"], atol=1e-6)


@pytest.mark.parametrize(
    "text", ["", "{}", '{"scores": {"joint": [0.1, 0.2]}}', '{"scores": {"joint": "no"}}', '{"scores": [1]}']
)
def test_a_damaged_file_is_told(tmp_path, text):
    (tmp_path / FILE).write_text(text, encoding="utf-8")
    with pytest.raises(ModelError, match=r"conformal"):
        Conformal.load(tmp_path / FILE)
