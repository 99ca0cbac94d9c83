"""Several visits of one star: sharper than one, and it is told whether the star moves."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from typer.testing import CliRunner

from maury.cli import app
from maury.constants import C_KMS
from maury.errors import InferenceError
from maury.inference.visits import infer_visits
from maury.models import load_model
from maury.spectra.formats.writers import write_apvisit
from maury.training.demo import TRUTH, simulate_visit

CORRECTIONS = (-20.0, 14.0)


@pytest.fixture(scope="module")
def model():
    return load_model()


def visits(model, velocities, snr=60):
    out = []
    for i, (v, c) in enumerate(zip(velocities, CORRECTIONS, strict=True)):
        truth = dict(TRUTH) | {"v_rad": (v - c) / (1 + c / C_KMS)}
        out.append(simulate_visit(model, truth, snr=snr, seed=20 + i, v_correction=c))
    return out


@pytest.fixture(scope="module")
def still(model):
    return infer_visits(visits(model, (30.0, 30.0)), model)


def test_two_visits_know_more_than_one(still):
    joint = still.summary()
    for name in ("teff", "logg", "m_h", "v_sini"):
        alone = [visit.summary()[name]["std"] for visit in still.visits]
        expected = np.sum(np.array(alone) ** -2.0) ** -0.5
        assert joint[name]["std"] == pytest.approx(expected, rel=0.2)
        assert abs(joint[name]["p50"] - TRUTH[name]) < 4 * joint[name]["std"]
    assert still.khat < 0.7
    assert still.ess > 500


def test_a_star_that_does_not_move(still):
    assert still.velocity_variation < -3
    assert "variable_velocity" not in still.flag_warn
    assert still.v_bary() == pytest.approx([30.0, 30.0], abs=0.3)


def test_a_star_that_moves(model):
    # Each visit's wavelengths may be off by 0.2 km/s.
    moving = infer_visits(visits(model, (30.0, 32.5)), model)
    assert moving.velocity_variation > 5
    assert "variable_velocity" in moving.flag_warn
    assert np.diff(moving.v_bary())[0] == pytest.approx(2.5, abs=0.8)


def test_without_corrections_nothing_is_said_of_movement(model):
    unknown = [replace(s, v_correction=None) for s in visits(model, (30.0, 30.0))]
    found = infer_visits(unknown, model, draws=500)
    assert found.velocity_variation is None
    assert found.v_bary() == [None, None]


def test_one_visit_is_refused(model):
    with pytest.raises(InferenceError, match="at least two spectra, not 1"):
        infer_visits(visits(model, (30.0, 30.0))[:1], model)


def test_from_the_command_line(model, tmp_path):
    files = []
    for i, spectrum in enumerate(visits(model, (30.0, 30.0))):
        files.append(str(tmp_path / f"apVisit-{i}.fits"))
        # Of different nights: of one exposure only one would stay.
        spectrum = replace(spectrum, meta=spectrum.meta | {"jd_mid": 2457729.7 + 20 * i})
        write_apvisit(files[-1], spectrum)
    result = CliRunner().invoke(
        app, ["infer", *files, "--joint", "--json", "--output", str(tmp_path / "out")]
    )
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout.splitlines()[0])
    assert set(found["labels"]) == {"teff", "logg", "m_h", "alpha_m", "v_sini"}
    assert len(found["visits"]) == 2
    assert found["visits"][1]["v_rad"]["unit"] == "km/s"
    assert found["visits"][0]["v_bary"] == pytest.approx(30.0, abs=0.5)
    assert (tmp_path / "out" / "joint_visits.png").stat().st_size > 10_000
    assert json.loads((tmp_path / "out" / "joint.json").read_text())["velocity_variation"] < 0
