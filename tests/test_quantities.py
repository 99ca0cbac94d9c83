"""One table says what every label is."""

import re
from pathlib import Path

import pytest
from astropy import units
from astropy.io.votable.ucd import check_ucd
from matplotlib.mathtext import MathTextParser

from maury.errors import LabelError
from maury.labels import Label, LabelSet, label
from maury.priors import Uniform
from maury.quantities import TABLE, Role, is_known, quantity, table

NAMES = [entry.name for entry in TABLE]
COMING = [
    *("alpha_m", "c_m", "n_m", "v_micro", "v_macro", "c12_c13", "fe_h"),
    *(
        f"{x}_{of}"
        for x in ("c", "n", "o", "mg", "al", "si", "ca", "ti", "v", "ce", "nd")
        for of in ("m", "fe", "h")
    ),
]


def test_no_name_stands_twice():
    assert len(set(NAMES)) == len(NAMES)


@pytest.mark.parametrize("name", COMING)
def test_labels_to_come_are_there(name):
    found = quantity(name)
    assert is_known(name)
    assert found.unit == ("km/s" if name in ("v_micro", "v_macro") else "" if name == "c12_c13" else "dex")
    assert found.role == Role.stellar
    assert found.is_abundance == (name not in ("v_micro", "v_macro"))


@pytest.mark.parametrize("entry", TABLE, ids=NAMES)
def test_others_understand_each(entry):
    units.Unit(entry.unit)
    for ending in ("", ";stat.min", ";stat.median", ";stat.max"):
        assert check_ucd(entry.ucd + ending, check_controlled_vocabulary=True)
    MathTextParser("agg").parse(entry.axis)
    assert entry.short
    assert entry.long
    assert not re.search(r"[<>&$]", entry.short)


def test_vanadium_is_no_velocity():
    assert (quantity("v_m").unit, quantity("v_fe").unit, quantity("v_rad").unit) == ("dex", "dex", "km/s")


@pytest.mark.parametrize(
    ("name", "star", "visit", "unit"),
    [
        ("teff_2", 2, None, "K"),
        ("v_rad_2", 2, None, "km/s"),
        ("v_rad_1", None, 1, "km/s"),
        ("v_bary_12", None, 12, "km/s"),
        ("jitter_3", None, 3, ""),
    ],
)
def test_numbers_are_told_from_names(name, star, visit, unit):
    found = quantity(name)
    assert (found.name, found.star, found.visit, found.unit) == (name, star, visit, unit)
    assert found.digits == quantity(name.rpartition("_")[0]).digits
    assert found.role == quantity(name.rpartition("_")[0]).role


def test_a_number_is_of_a_star_or_of_a_visit():
    assert quantity("v_rad").of(visit=2).long == "Radial velocity of visit 2"
    assert quantity("v_rad").of(star=2).long == "Radial velocity of the companion"
    assert quantity("teff").of(star=3).title == "Teff (3) [K]"
    for wrong in ({}, {"star": 2, "visit": 1}):
        with pytest.raises(ValueError, match="v_rad: needs the number"):
            quantity("v_rad").of(**wrong)
    with pytest.raises(ValueError, match="teff_2: "):
        quantity("teff_2").of(star=3)


@pytest.mark.parametrize("name", ["frequency", "phase_0", "frequency_2", "_2", ""])
def test_other_names_mean_nothing_more(name):
    found = quantity(name)
    assert not is_known(name)
    assert (found.name, found.unit, found.axis) == (name, "", name)


def test_sets_know_the_roles_of_their_labels():
    labels = LabelSet(
        tuple(label(name, Uniform(low=0, high=1)) for name in ("teff", "v_rad", "jitter", "v_sini"))
    )
    assert labels.of(Role.stellar).names == ("teff", "v_sini")
    assert labels.of(Role.stellar, Role.velocity).names == ("teff", "v_rad", "v_sini")
    assert labels.without(Role.nuisance).names == ("teff", "v_rad", "v_sini")


def test_cards_that_take_another_unit_are_refused():
    entry = label("teff", Uniform(low=3, high=7)).to_dict()
    with pytest.raises(LabelError, match="label teff: is in kK; maury has it in K"):
        Label.from_dict(entry | {"unit": "kK"})
    own = {**entry, "name": "frequency", "unit": "Hz", "symbol": "$f$"}
    assert Label.from_dict(own).axis == "$f$ [Hz]"
    assert Label.from_dict(own).to_dict() == own


def test_the_docs_have_the_table():
    text = (Path(__file__).parents[1] / "docs" / "labels.md").read_text(encoding="utf-8")
    assert table() in text, "run python docs/tools/tables.py"
