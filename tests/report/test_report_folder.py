"""Reports of folders, from the command line."""

import json
import re

import pytest
from typer.testing import CliRunner

from maury import cli
from maury.errors import ConfigError, InferenceError
from maury.report.folder import recognise, report


@pytest.fixture(scope="module")
def folder(posterior, tmp_path_factory):
    """Two stars, a damaged file, and the table of a spectrum that failed."""
    root = tmp_path_factory.mktemp("results")
    posterior.save(root / "one.nc")
    posterior.save(root / "index.nc")
    (root / "broken.nc").write_text("junk")
    return root


def test_a_page_a_star_and_an_index(run, folder):
    code, out, error = run("report", folder)
    assert code == 0
    assert "index.html" in out
    assert "broken.nc: cannot be read" in error
    index = (folder / "index.html").read_text()
    # A file called index.nc does not overwrite the index.
    for name in ("one.html", "index_2.html"):
        assert (folder / name).exists()
        assert f'href="{name}"' in index
    assert "<script>document" not in index
    assert "Not usable" in index
    assert len(re.findall(r"<tr><th scope=\"row\">", index)) == 3


def test_one_star_into_a_file_of_ones_choice(run, posterior, tmp_path):
    (tmp_path / "in").mkdir()
    posterior.save(tmp_path / "in" / "one.nc")
    code, _, _ = run("report", tmp_path / "in", "--output", tmp_path / "out" / "page.html")
    assert code == 0
    assert 'id="spectrum"' in (tmp_path / "out" / "page.html").read_text()
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["page.html"]


def test_failed_spectra_are_listed(posterior, tmp_path):
    from maury.report.tables import write_summary

    posterior.save(tmp_path / "one.nc")
    failed = {"file": "bad.fits", "index": 0, "flag_bad": "unreadable", "reason": "<i>not FITS</i>"}
    write_summary(tmp_path / "summary.ecsv", [posterior.row(), failed])
    report(tmp_path)
    index = (tmp_path / "index.html").read_text()
    assert "bad.fits" in index
    assert "&lt;i&gt;not FITS" in index


def test_joint_results(tmp_path):
    entry = {"p16": 4490.0, "p50": 4500.0, "p84": 4512.0, "mean": 4500.0, "std": 11.0, "unit": "K"}
    velocity = {"p16": -1.1, "p50": -1.0, "p84": -0.9, "mean": -1.0, "std": 0.1, "unit": "km/s"}
    visit = {
        "file": "a/<b>.fits",
        "index": 0,
        "v_rad": velocity,
        "v_bary": None,
        "jitter": velocity,
        "rchi2": 1,
        "rchi2_jitter": 1.0,
    }
    found = {
        "model": "kurucz-apogee", "labels": {"teff": entry}, "visits": [visit, visit | {"v_bary": 3.0}],
        "velocity_variation": 7.25, "log_evidence": -1.0, "log_evidence_constant": -8.25, "ess": 500.0, "draws": 2000,
        "khat": 0.2, "seconds": 3.0, "flag_warn": ["variable_velocity", "novel[1]"], "flag_bad": [],
    }  # fmt: skip
    (tmp_path / "joint.json").write_text(json.dumps(found))
    # The draws of all visits, which are no star's own file.
    (tmp_path / "joint.nc").write_bytes(b"")
    (page,) = report(tmp_path)
    text = page.read_text()
    assert "4500" in text
    assert "7.2" in text
    assert "Visit 1: " in text
    assert "&lt;b&gt;" in text
    (tmp_path / "joint.json").write_text("{}")
    with pytest.raises(ConfigError, match=r"joint\.json: cannot be read as a joint result"):
        report(tmp_path)


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("missing", "no such folder"),
        ("file", "is no folder"),
        ("empty", "is empty"),
        ("foreign", "holds neither"),
    ],
)
def test_what_is_no_result_is_told(run, tmp_path, kind, reason):
    path = tmp_path / kind
    if kind == "file":
        path.write_text("x")
    elif kind != "missing":
        path.mkdir()
        if kind == "foreign":
            (path / "notes.txt").write_text("x")
    code, _, error = run("report", path)
    assert code == 2
    assert reason in error
    assert error.count("\n") == 1


def test_damaged_files_alone_are_an_error(tmp_path):
    (tmp_path / "a.nc").write_text("junk")
    with pytest.raises(InferenceError, match=r"a\.nc"):
        report(tmp_path)


def test_a_page_that_cannot_be_written(run, folder, tmp_path):
    (tmp_path / "file").write_text("x")
    code, _, error = run("report", folder, "--output", tmp_path / "file" / "page.html")
    assert code == 2
    assert "cannot be written" in error.splitlines()[-1]


def test_kinds_of_folders(folder):
    assert recognise(folder) == "stars"
    assert CliRunner().invoke(cli.app, ["report", "--help"]).exit_code == 0


def test_the_index_has_files_units_and_a_kiel_diagram(posterior, tmp_path):
    from dataclasses import replace

    posterior.save(tmp_path / "one.nc")
    hot = replace(
        posterior,
        draws=posterior.draws * 1.02,
        spectrum=replace(posterior.spectrum, id="Hot", path="x/hot.fits"),
    )
    hot.save(tmp_path / "two.nc")
    replace(hot, flag_bad=("no_star",)).save(tmp_path / "none.nc")
    report(tmp_path)
    index = (tmp_path / "index.html").read_text()
    assert re.search(r'Teff</button> <span class="unit-of">K<', index)
    assert '<span class="file-of">hot.fits</span>' in index
    # What is no star has no place in the diagram; a limit is one in the table.
    assert index.count('<circle class="star') == 2
    assert 'href="two.html"' in index
    assert re.search(r"<td>&lt; \d", index)
    (tmp_path / "two.nc").unlink()
    report(tmp_path)
    assert '<svg class="kiel"' not in (tmp_path / "index.html").read_text()
