"""The command line: its contract on good and bad input."""

import json

import numpy as np
import pytest
import xarray as xr
from astropy.io import fits
from astropy.table import Table

from maury.models import load_model
from maury.spectra import read_spectrum
from maury.spectra.formats.writers import write_apvisit
from maury.training.demo import TRUTH, write_demo

LABELS = ["teff", "logg", "m_h", "alpha_m", "v_rad", "v_sini"]


@pytest.fixture(scope="session")
def demo_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("demo") / "apVisit-demo.fits"
    write_demo(path, load_model())
    return path


def test_json_of_a_good_file_holds_the_truth(run, demo_file):
    code, out, _ = run("infer", demo_file, "--json")
    entry = json.loads(out)
    assert code == 0
    assert list(entry["labels"]) == LABELS
    assert entry["method"] in ("refined", "nested")
    assert entry["khat"] < 0.7
    assert entry["flag_bad"] == []
    for name in LABELS:
        statistics = entry["labels"][name]
        assert abs(statistics["mean"] - TRUTH[name]) < 4 * statistics["std"], name
    assert entry["v_bary"]["p50"] == pytest.approx(entry["labels"]["v_rad"]["p50"] + 12.34, abs=0.01)
    assert 0.9 < entry["rchi2_jitter"] < 1.1


def test_same_seed_gives_the_same_answer(run, demo_file):
    first, second = (json.loads(run("infer", demo_file, "--json", "--seed", "5")[1]) for _ in range(2))
    first.pop("seconds"), second.pop("seconds")
    assert first == second


def test_output_folder_holds_draws_table_and_pictures(run, demo_file, tmp_path):
    folder = tmp_path / "results"
    code, out, _ = run("infer", demo_file, tmp_path / "missing.fits", "--output", folder)
    assert code == 0
    assert "teff" in out
    names = {path.name for path in folder.iterdir()}
    assert names == {
        "apVisit-demo.nc",
        "apVisit-demo_corner.png",
        "apVisit-demo_fit.png",
        "summary.ecsv",
    }
    tree = xr.open_datatree(folder / "apVisit-demo.nc", engine="h5netcdf")
    assert {"posterior", "sample_stats", "flow"} <= set(tree.children)
    weights = np.exp(tree["sample_stats"]["log_weight"].values)
    assert weights.sum() == pytest.approx(1, rel=1e-6)
    table = Table.read(folder / "summary.ecsv")
    assert len(table) == 2
    assert table["teff_p50"].unit == "K"
    assert table["flag_bad"][1] == "unreadable"
    assert "no such file" in table["reason"][1]
    assert table["teff_p50"].mask[1]


@pytest.mark.parametrize("kind", ["missing", "empty", "truncated", "text", "other", "folder"])
def test_unusable_file_is_one_line_and_exit_2(run, demo_file, tmp_path, kind):
    path = tmp_path / f"{kind}.fits"
    if kind == "empty":
        path.touch()
    elif kind == "truncated":
        path.write_bytes(demo_file.read_bytes()[:40_000])
    elif kind == "text":
        path.write_text("not a spectrum\n" * 200)
    elif kind == "other":
        fits.PrimaryHDU(np.zeros((5, 5))).writeto(path)
    elif kind == "folder":
        path.mkdir()
    code, out, error = run("infer", path, "--json")
    entry = json.loads(out)
    assert code == 2
    assert entry["flag_bad"] == ["unreadable"]
    assert entry["labels"] is None
    assert path.name in entry["error"]
    assert error.count("\n") == 1
    assert "Traceback" not in error


def test_good_files_are_done_beside_bad_ones(run, demo_file, tmp_path):
    code, out, _ = run("infer", tmp_path / "nope.fits", demo_file, "--json")
    entries = [json.loads(line) for line in out.splitlines()]
    assert code == 0
    assert [bool(entry["flag_bad"]) for entry in entries] == [True, False]


def test_all_pixels_masked(run, demo_file, tmp_path):
    spectrum = read_spectrum(demo_file)
    path = tmp_path / "masked.fits"
    write_apvisit(path, spectrum.masked(np.ones(spectrum.grid.n_pixels, dtype=bool)))
    code, out, _ = run("infer", path, "--json")
    assert code == 2
    assert json.loads(out)["flag_bad"] == ["all_masked"]


def test_unknown_model_suggests_the_nearest(run, demo_file):
    code, _, error = run("infer", demo_file, "--model", "kurucz-apogeee")
    assert code == 2
    assert "kurucz-apogee" in error
    assert error.count("\n") == 1


def test_cuda_that_is_not_there(run, demo_file):
    import torch

    if torch.cuda.is_available():
        pytest.skip("this machine has a CUDA device")
    code, _, error = run("infer", demo_file, "--device", "cuda")
    assert code == 2
    assert "--device cpu" in error


def test_models(run):
    assert "kurucz-apogee" in run("models", "list")[1]
    cards = json.loads(run("models", "show", "kurucz-apogee")[1])
    assert cards["emulator"]["held_out"]["rms"] < 1e-3
    assert [label["name"] for label in cards["estimator"]["labels"]] == LABELS


def test_config_with_an_unknown_key(run, tmp_path):
    config = tmp_path / "train.toml"
    config.write_text('name = "x"\nstepz = 3\n')
    code, _, error = run("train", config, "--output", tmp_path / "out")
    assert code == 2
    assert "train.toml: stepz: no such key" in error
