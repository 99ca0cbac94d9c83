"""Ties: what follows what, and which stars there are."""

from __future__ import annotations

import pytest
import torch

from maury.errors import LabelError
from maury.labels import LabelSet, label
from maury.libraries.ties import Region, Tie, Ties
from maury.priors import LogUniform, Uniform

LIBRARY = LabelSet(
    (
        label("teff", Uniform(3500.0, 8000.0)),
        label("o_m", Uniform(-1.0, 1.0)),
        label("mg_m", Uniform(-1.0, 1.0)),
        label("c12_c13", LogUniform(3.0, 90.0)),
    )
)
LABELS = LabelSet((label("teff", Uniform(3500.0, 8000.0)), label("alpha_m", Uniform(-0.5, 0.8))))
TIES = {
    "o_m": Tie(at=0.05, follows={"alpha_m": 1.0}, scatter=0.1),
    "mg_m": Tie(follows={"alpha_m": 0.5}),
    "c12_c13": Tie(at=3.0, scatter=0.5),
}


def test_a_label_is_inferred_or_follows():
    ties = Ties(LIBRARY, LABELS, TIES)
    assert ties.matrix().tolist() == [[1, 0], [0, 1], [0, 0.5], [0, 0]]
    assert ties.offset().tolist() == [0, 0.05, 0, 3]
    assert ties.logarithmic().tolist() == [False, False, False, True]
    assert ties.scatter().tolist() == [0, 0.1, 0.1, 0.5]


def test_it_survives_its_card():
    ties = Ties(LIBRARY, LABELS, TIES)
    assert Ties.from_dict(LIBRARY, ties.to_dict()) == ties


def test_departures_have_the_scatter_but_no_mean_of_those_that_follow_together():
    drawn = Ties(LIBRARY, LABELS, TIES).departures(20_000, torch.Generator().manual_seed(0))
    # Slopes 1 and 0.5, scatters alike: along (1, 0.5) there is none, across it all.
    assert (drawn[:, 1] + 0.5 * drawn[:, 2]).abs().max() < 1e-12
    across = (0.5 * drawn[:, 1] - drawn[:, 2]) / 1.25**0.5
    assert float(across.std()) == pytest.approx(0.1, rel=0.05)
    assert float(drawn[:, 3].std()) == pytest.approx(0.5, rel=0.05)
    assert (drawn[:, 0] == 0).all()


@pytest.mark.parametrize(
    ("labels", "ties", "message"),
    [
        (LABELS, {k: v for k, v in TIES.items() if k != "mg_m"}, "mg_m: a label of the library is either"),
        (LABELS, TIES | {"teff": Tie()}, "teff: a label of the library is either"),
        (LABELS, TIES | {"mg": Tie()}, "ties.mg: no such label"),
        (
            LABELS.with_priors({"teff": Uniform(3000.0, 8000.0)}),
            TIES,
            r"teff: \[3000, 8000\] reaches beyond the library's \[3500, 8000\]",
        ),
        (LABELS, TIES | {"mg_m": Tie(follows={"alpha": 1.0})}, "follows alpha, which is not inferred"),
        (
            LABELS + LabelSet((label("ce_m", Uniform(-1.0, 1.0)),)),
            TIES,
            "ce_m: no label of the library is this or follows it",
        ),
    ],
)
def test_impossible_ties_are_told(labels, ties, message):
    with pytest.raises(LabelError, match=message):
        Ties(LIBRARY, labels, ties)


def test_a_region_lies_between_two_lines():
    region = Region((4000.0, 5000.0), (0.0, 1.0), (5.0, 4.0))
    teff = torch.tensor([4500.0, 4500.0, 4500.0, 3000.0, 9000.0])
    logg = torch.tensor([0.6, 0.4, 4.6, 0.1, 3.9])
    assert region.inside(teff, logg).tolist() == [True, False, False, True, True]
    assert Region.from_dict(region.to_dict()) == region


@pytest.mark.parametrize(
    "lines",
    [((4000.0,), (0.0,), (5.0,)), ((2.0, 1.0), (0.0, 0.0), (1.0, 1.0)), ((1.0, 2.0), (0.0, 1.0), (1.0, 1.0))],
)
def test_an_impossible_region_is_told(lines):
    with pytest.raises(LabelError, match="a region is two lines"):
        Region(*lines)


RELATED = Ties(
    LabelSet((label("logg", Uniform(0.0, 5.0)), label("v_micro", LogUniform(0.3, 4.0)))),
    LabelSet((label("logg", Uniform(0.0, 5.0)), label("v_micro", LogUniform(0.3, 4.0)))),
    relations={"v_micro": Tie(at=1.0, follows={"logg": -0.2}, scatter=0.3)},
)


def test_a_relation_is_drawn_about_and_measured_from():
    labels = torch.stack([torch.linspace(0.5, 4.5, 4000), torch.ones(4000)], 1).double()
    drawn = RELATED.related(labels, ("v_micro",), torch.Generator().manual_seed(1))
    z = RELATED.standardised(drawn, ("v_micro",))[:, 0]
    assert float(z.mean()) == pytest.approx(0, abs=0.05)
    assert float(z.std()) == pytest.approx(1, abs=0.05)
    assert (drawn[:, 0] == labels[:, 0]).all()
    assert drawn[:, 1].min() >= 0.3
    assert drawn[:, 1].max() <= 4.0
    assert RELATED.standardised(labels, ()).shape == (4000, 0)
    assert Ties.from_dict(RELATED.library, RELATED.to_dict()) == RELATED


@pytest.mark.parametrize(
    ("name", "relation", "message"),
    [
        ("v_mic", Tie(), "relations.v_mic: v_mic is not inferred"),
        ("v_micro", Tie(follows={"log_g": 1.0}), "log_g is not inferred"),
        ("v_micro", Tie(scatter=0.0), "a relation without scatter is a tie"),
    ],
)
def test_an_impossible_relation_is_told(name, relation, message):
    with pytest.raises(LabelError, match=message):
        Ties(RELATED.library, RELATED.labels, relations={name: relation})
