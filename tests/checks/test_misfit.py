"""Figures of the simulated reality gap, from results made by hand and from two real ones."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from maury.checks.gap import FAULTS, NONE, Result, spoil
from maury.checks.misfit import detection, labels_under, needed, write
from maury.cli import app
from maury.errors import ModelError
from maury.models import folder, load_model


def result(fault, strength, options, offset, p=0.5, grade="none", correlated=False):
    return Result(
        fault,
        strength,
        options,
        {"teff": offset},
        {"teff": 10.0},
        {"teff": abs(offset) < 10},
        p,
        0.5,
        grade,
        correlated,
        (),
        0.3,
    )


RESULTS = [
    result("none", 0.0, "auto", 1.0),
    result("fringes", 0.01, "auto", 5.0, 0.001, "severe"),
    result("fringes", 0.01, "auto", -7.0, 0.5, correlated=True),
    result("fringes", 0.01, "independent", 30.0),
    result("fringes", 0.01, "independent", 20.0),
]


def test_detection_counts_both_kinds_of_evidence():
    found = detection([r for r in RESULTS if r.options == "auto"], 0.01)
    assert found["none"]["0"]["either"] == 0
    assert found["fringes"]["0.01"] == {
        "misfit": 1.0, "novel": 0.0, "either": 1.0, "moderate": 0.5, "severe": 0.5, "number": 2,
    }  # fmt: skip
    assert needed(0.01) == 1000


def test_labels_are_judged_by_noise_model():
    found = labels_under(RESULTS)["fringes 0.01"]
    assert found["independent"]["bias"]["teff"] == pytest.approx(25)
    assert found["independent"]["bias_sigma"]["teff"] == pytest.approx(2.5)
    assert found["independent"]["coverage_68_mean"] == 0
    assert found["auto"]["coverage_68"]["teff"] == 1


def test_a_run_is_written(tmp_path):
    model = load_model()
    faults, store = [(NONE, 0.0), (FAULTS["sky"], 0.1)], tmp_path / "results.jsonl"
    results = list(spoil(model, faults, 1, draws=200, store=store))
    assert list(spoil(model, faults, 1, draws=200, store=store)) == results
    assert [(r.fault, r.options) for r in results] == [
        (fault, options) for fault in ("none", "sky") for options in ("independent", "auto", "robust")
    ]  # fmt: skip
    figures = {
        "detection": detection(results, 0.01),
        "labels": labels_under(results),
        "false_alarm": 0.01,
        "model": "kurucz-apogee",
        "impostors": {"flat": ["no_star"]},
        "meaning": {"sky": FAULTS["sky"].meaning},
    }
    write(tmp_path, figures)
    assert {p.name for p in tmp_path.iterdir()} == {
        "misfit.html", "misfit.json", "results.jsonl", "detection.png", "coverage.png",
    }  # fmt: skip
    assert len((tmp_path / "results.jsonl").read_text().splitlines()) == 1 + 2
    assert json.loads((tmp_path / "misfit.json").read_text())["false_alarm"] == 0.01


def test_an_estimator_without_a_forward_model_is_refused(tmp_path):
    """Nothing can be checked without one: its card names an emulator that is not there."""
    source = folder("kurucz-apogee")
    for suffix in (".safetensors", ".json"):
        (tmp_path / f"estimator{suffix}").write_bytes((source / f"estimator{suffix}").read_bytes())
    card = json.loads((tmp_path / "estimator.json").read_text())
    (tmp_path / "estimator.json").write_text(json.dumps(card | {"emulator": "lost"}))
    with pytest.raises(ModelError, match="no model 'lost'"):
        load_model(tmp_path)


def test_unknown_faults_and_rates_are_refused():
    for arguments, reason in (
        (["--fault", "fringe"], "did you mean 'fringes'"),
        (["--false-alarm", "2"], "between 0 and 1"),
    ):
        result = CliRunner().invoke(app, ["check", "misfit", *arguments])
        assert reason in str(result.exception)
