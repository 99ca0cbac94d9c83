"""Several visits of one star: sharper than one, and it is told whether the star moves."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import xarray as xr
from typer.testing import CliRunner

from maury.cli import app
from maury.constants import C_KMS
from maury.errors import InferenceError
from maury.inference.visits import infer_visits
from maury.models import load_model
from maury.posterior.store import load, load_joint
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


@pytest.fixture(scope="module")
def file(still, tmp_path_factory):
    path = tmp_path_factory.mktemp("joint") / "joint.nc"
    still.save(path)
    return path


def test_what_is_read_is_what_was_saved(still, file):
    found = load_joint(file)
    assert found.summary() == still.summary()
    assert found.labels == still.labels
    assert found.to_json() == json.loads(json.dumps(still.to_json()))
    assert found.evaluations == still.evaluations
    assert [visit.summary() for visit in found.visits] == [visit.summary() for visit in still.visits]
    for a, b in zip(found.fits, still.fits, strict=True):
        np.testing.assert_array_equal(a.pixels, b.pixels)
        np.testing.assert_array_equal(a.flux, b.flux)
    assert repr(found) == repr(still)


def test_others_open_it(still, file):
    """Whoever takes the draws of ``posterior`` as they are has the right answer."""
    with xr.open_dataset(file, group="posterior", engine="h5netcdf") as posterior:
        assert {*still.labels.names, "v_bary_1", "v_bary_2"} == set(posterior.data_vars)
        assert posterior["v_bary_2"].attrs["units"] == "km/s"
        assert posterior["v_rad_2"].attrs["long_name"] == "Radial velocity of visit 2"
        assert "equally weighted" in posterior.attrs["draws"]
        for name, entry in still.summary().items():
            error = 4 * entry["std"] / still.ess**0.5
            assert float(posterior[name].mean()) == pytest.approx(entry["mean"], abs=error), name
    with xr.open_dataset(file, group="weighted", engine="h5netcdf") as weighted:
        np.testing.assert_array_equal(weighted["log_weight"].values[0], still.log_weights)
    arviz = pytest.importorskip("arviz")
    summary = arviz.summary(arviz.from_netcdf(str(file)), var_names=["teff", "v_rad_1"], kind="stats")
    assert summary.loc["teff", "sd"] == pytest.approx(still.summary()["teff"]["std"], rel=0.2)


def test_files_of_one_spectrum_and_of_several_tell_which_they_are(still, file, tmp_path):
    still.visits[0].save(tmp_path / "one.nc")
    with pytest.raises(InferenceError, match=r"one\.nc: holds a posterior of one spectrum; .*maury\.load"):
        load_joint(tmp_path / "one.nc")
    with pytest.raises(InferenceError, match=r"joint\.nc: holds one star from several visits; .*load_joint"):
        load(file)
    with pytest.raises(InferenceError, match=r"no\.nc: no such file"):
        load_joint(tmp_path / "no.nc")
    tree = xr.open_datatree(file, engine="h5netcdf").load()
    del tree["fits"]
    tree.to_netcdf(tmp_path / "damaged.nc", engine="h5netcdf")
    with pytest.raises(InferenceError, match=r"damaged\.nc: is damaged .*infer the visits again"):
        load_joint(tmp_path / "damaged.nc")


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
    assert load_joint(tmp_path / "out" / "joint.nc").khat == found["khat"]
    assert (tmp_path / "out" / "joint_visits.png").stat().st_size > 10_000
    assert json.loads((tmp_path / "out" / "joint.json").read_text())["velocity_variation"] < 0
