"""The comparison with references, on a spectrum; the figures proper come from ``maury check exact``."""

import json

import numpy as np
import pytest
from typer.testing import CliRunner

from maury.checks import exact
from maury.cli import app
from maury.models import load_model
from maury.sampling.chains import ChainConfig


@pytest.fixture(scope="module")
def model():
    return load_model()


def quick(monkeypatch):
    """References that are rough but soon done."""
    monkeypatch.setattr(exact, "ChainConfig", lambda **_: ChainConfig(steps=400, look=200))
    monkeypatch.setattr(exact, "_COMPARED", 1000)


def test_emcee_and_the_verified_posterior_agree(model, monkeypatch):
    quick(monkeypatch)
    (found,) = exact.compare(model, 1, references=("emcee",), snr=(50, 60), draws=3000, seed=3)
    assert found.c2st < 0.58
    assert max(found.jensen_shannon.values()) < 10
    assert max(map(abs, found.shift.values())) < 0.25
    assert np.isnan(found.evidence_difference)
    assert found.reference_evaluations == 400 * 64
    figures = exact.summary([found])["emcee"]
    assert figures["cost_ratio_median"] > 10


def test_command_line(monkeypatch, tmp_path):
    quick(monkeypatch)
    arguments = [
        "check",
        "exact",
        "--number",
        "1",
        "--reference",
        "emcee",
        "--output",
        str(tmp_path),
        "--json",
    ]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["reference"] == "emcee"
    assert json.loads((tmp_path / "exact.json").read_text())["emcee"]["spectra"] == 1
    assert len((tmp_path / "exact.jsonl").read_text().splitlines()) == 1 + 1


@pytest.mark.slow
def test_nested_sampling_agrees_in_evidence(model):
    (found,) = exact.compare(model, 1, snr=(50, 60), seed=3)
    assert abs(found.evidence_difference) < 0.1
    assert max(found.jensen_shannon.values()) < 5
