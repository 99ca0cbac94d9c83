"""Denser training: draws where they are wanted, weights that take it back."""

from __future__ import annotations

import pytest
import torch

from maury.errors import ConfigError
from maury.training.density import Denser, Density
from maury.training.simulations import ProblemConfig, build_problem


@pytest.fixture(scope="module")
def problem():
    return build_problem(ProblemConfig(model="kurucz-apogee"))


BOXES = (
    Denser(share=0.3, within={"v_sini": (0.0, 20.0)}),
    Denser(share=0.2, within={"teff": (3500.0, 5000.0), "logg": (4.0, 5.0)}),
)


def test_weighted_draws_are_those_of_the_prior(problem):
    labels, weight = Density(problem, BOXES).sample(40_000, torch.Generator().manual_seed(0))
    v_sini = labels[:, problem.labels.index("v_sini")]
    assert float((v_sini < 20).double().mean()) > 0.4
    assert float(weight.max()) <= 2.0 + 1e-9
    assert float(weight.mean()) == pytest.approx(1.0, abs=0.01)
    for name in ("v_sini", "teff", "logg", "m_h"):
        x = torch.special.ndtr(problem.labels.to_normal(labels)[:, problem.labels.index(name)])
        for edge in (0.1, 0.2, 0.5, 0.8):
            assert float((weight * (x < edge)).mean()) == pytest.approx(edge, abs=0.015)


@pytest.mark.parametrize(
    ("boxes", "match"),
    [
        (
            [{"share": 0.6, "within": {"teff": (4000, 5000)}}, {"share": 0.5, "within": {"logg": (4, 5)}}],
            "sum to 1",
        ),
        ([{"share": 0.1, "within": {"tef": (4000, 5000)}}], "no such label"),
        ([{"share": 0.1, "within": {"teff": (4000, 4000.001)}}], "too little"),
    ],
)
def test_boxes_that_cannot_be(problem, boxes, match):
    with pytest.raises(ConfigError, match=match):
        Density(problem, [Denser.model_validate(box) for box in boxes])
