"""The flow's intervals, recalibrated where that is asked for, and told."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from maury.errors import ModelError
from maury.inference.flow import amortised
from maury.models import load_model
from maury.networks.conformal import Conformal
from maury.survey import catalogue


@pytest.fixture(scope="module")
def model():
    """A flow whose truths lie twice as far out as it says."""
    plain = load_model()
    scores = np.linspace(0, 1, 400) ** 0.25
    return replace(
        plain, conformal=Conformal.of(dict.fromkeys(("joint", *plain.estimator.labels.names), scores))
    )


def test_intervals_are_wider_draws_the_same_and_the_output_says_so(model, visit):
    (plain,), (wide,) = amortised([visit], model), amortised([visit], model, conformal=True)
    np.testing.assert_array_equal(plain.draws, wide.draws)
    one, two = plain.summary(), wide.summary()
    for name in one:
        assert two[name]["p16"] < one[name]["p16"] < one[name]["p84"] < two[name]["p84"]
        assert two[name]["p50"] == pytest.approx(one[name]["p50"])
    assert (plain.method, wide.method) == ("flow", "flow, conformal")
    row = catalogue.row(wide)
    assert row["method"] == "flow, conformal"
    assert row["khat"] is None
    assert row["teff_p84"] == pytest.approx(two["teff"]["p84"])


def test_a_model_without_is_told(visit):
    with pytest.raises(ModelError, match=r"conformal\.json"):
        amortised([visit], load_model(), conformal=True)


def test_the_option_goes_with_the_flow_alone(run, tmp_path):
    status, _, err = run("survey", "run", "nothing.fits", "--output", tmp_path / "s", "--conformal")
    assert status == 2
    assert "--flow-only" in err
    status, _, err = run(
        "survey", "run", "nothing.fits", "--output", tmp_path / "s", "--conformal", "--flow-only"
    )
    assert status == 2
    assert "conformal.json" in err
