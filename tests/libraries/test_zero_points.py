"""Zero points of a library's elements: means of standards, kept with the model, told, and subtracted where that is asked for."""

from __future__ import annotations

import numpy as np
import pytest

from maury.errors import ModelError
from maury.labels import LabelSet, label
from maury.libraries.zero_points import FILE, Offset, ZeroPoint, ZeroPoints
from maury.posterior.abundances import abundances
from maury.priors import Uniform


def point(h, fe, error=0.04):
    return ZeroPoint(Offset(h, error), Offset(fe, error))


@pytest.fixture
def found():
    return ZeroPoints.of(
        [{"o_m": point(0.1, 0.16), "s_m": point(0.0, 0.02)}, {"o_m": point(0.12, 0.2)}], {"model": "m"}
    )


def test_standards_that_agree_make_the_error_smaller(found):
    o, s = found.points["o_m"], found.points["s_m"]
    assert o.h.value == pytest.approx(0.11)
    assert o.h.error == pytest.approx(np.hypot(0.04, 0.03) / np.sqrt(2))
    assert s.fe == Offset(0.02, pytest.approx(0.05))


def test_standards_that_disagree_make_it_larger():
    found = ZeroPoints.of([{"o_m": point(0.3, 0.3)}, {"o_m": point(-0.3, -0.3)}])
    assert found.points["o_m"].h.error == pytest.approx(0.3)


def test_they_are_kept(found, tmp_path):
    found.save(tmp_path)
    assert ZeroPoints.load(tmp_path / FILE) == found


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        '{"points": ' + "[" * 100_000,
        '{"points": {"o_m": {}}, "card": {}}',
        '{"points": {"o_m": {"h": {"value": NaN, "error": 1}, "fe": {"value": 0, "error": 1}}}, "card": {}}',
        '{"points": {"o_m": {"h": {"value": 0, "error": 0}, "fe": {"value": 0, "error": 1}}}, "card": {}}',
    ],
)
def test_a_damaged_file_is_refused(tmp_path, text):
    (tmp_path / FILE).write_text(text, encoding="utf-8")
    with pytest.raises(ModelError, match="holds no zero points"):
        ZeroPoints.load(tmp_path / FILE)
    with pytest.raises(ModelError, match="at least one"):
        ZeroPoints.of([{}])


def test_elements_know_them_and_they_are_subtracted_once(found):
    labels = LabelSet((label("m_h", Uniform(low=-1.0, high=1.0)), label("o_m", Uniform(low=-1.0, high=1.0))))
    draws = np.random.default_rng(0).normal([-0.3, 0.4], [0.02, 0.03], (4000, 2))
    weights = np.full(4000, 1 / 4000)
    (entry,) = abundances(labels, draws, weights, {"o_m": 0.15}, found)
    (plain,) = abundances(labels, draws, weights, {"o_m": 0.15})
    assert plain.without_zero_point() == plain
    assert (entry.fe_p50, entry.fe_std) == (plain.fe_p50, plain.fe_std)
    assert entry.fe_total == pytest.approx(np.hypot(entry.fe_std, found.points["o_m"].fe.error))
    once = entry.without_zero_point()
    assert once.corrected
    assert once.without_zero_point() == once
    assert once.fe_p50 == pytest.approx(plain.fe_p50 - 0.18)
    assert once.h_p84 == pytest.approx(plain.h_p84 - 0.11)
