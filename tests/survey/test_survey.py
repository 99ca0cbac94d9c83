"""Surveys of a few spectra: whole, resumable, and told apart from damaged ones."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import duckdb
import numpy as np
import pyarrow.dataset as ds
import pytest
from astropy.table import Table
from distributed import Client, LocalCluster
from typer.testing import CliRunner

import maury
from maury.checks.calibration import simulated_spectra
from maury.cli import app
from maury.errors import ConfigError, MauryError
from maury.models import folder, load_model
from maury.posterior.columns import HEALPIX
from maury.spectra import read_spectrum
from maury.spectra.formats.writers import write_apvisit
from maury.survey.catalogue import healpix29
from maury.survey.export import export, read_catalogue
from maury.survey.inputs import expand
from maury.survey.run import Progress, cluster, prepare, run
from maury.survey.store import Store, SurveySettings, model_version
from maury.survey.verify import repair, verify

N_VISITS = 7


@pytest.fixture(scope="module")
def visits(tmp_path_factory):
    """A folder with seven visits and a file that is none."""
    root = tmp_path_factory.mktemp("visits")
    for i, (spectrum, _, _) in enumerate(simulated_spectra(load_model(), N_VISITS, "apvisit", 3)):
        known = replace(spectrum, meta={"ra": 10.0 + i, "dec": -20.0}, v_correction=5.0)
        write_apvisit(root / f"apVisit-{i}.fits", known)
    (root / "bad.fits").write_text("garbage")
    return root


@pytest.fixture(scope="module")
def client():
    """Workers in threads: the same code without the wait for processes."""
    with (
        LocalCluster(n_workers=1, threads_per_worker=2, processes=False, dashboard_address=None) as local,
        Client(local, set_as_default=False) as client,
    ):
        yield client


def settings(**changes):
    wanted = {
        "model": "kurucz-apogee",
        "model_version": model_version(folder("kurucz-apogee")),
        "maury_version": maury.__version__,
        "stage": "flow",
        "files_per_task": 3,
        "draws": 100,
    }
    return SurveySettings(**(wanted | changes))


def survey(output, visits, client, **changes):
    resume = changes.pop("resume", False)
    tasks = prepare(output, settings(**changes), lambda: expand([visits]), resume)
    return run(output, client, tasks=tasks)


@pytest.fixture(scope="module")
def done(visits, client, tmp_path_factory):
    output = tmp_path_factory.mktemp("survey")
    survey(output, visits, client, keep=8)
    return output


def copy(done, tmp_path):
    import shutil

    return Path(shutil.copytree(done, tmp_path / "copy"))


def rows(output):
    return ds.dataset(output / "catalogue").to_table().sort_by("file").to_pylist()


def test_every_input_is_there_once(done, visits):
    found = verify(done)
    assert found.whole
    assert (found.tasks, found.files, found.rows, found.errors) == (3, N_VISITS + 1, N_VISITS, 1)
    names = [Path(row["file"]).name for row in rows(done)]
    assert names == [f"apVisit-{i}.fits" for i in range(N_VISITS)]
    (error,) = ds.dataset(done / "errors").to_table().to_pylist()
    assert error["flag_bad"] == "unreadable"
    assert "not a FITS file" in error["reason"]


def test_rows_know_where_they_come_from(done):
    row = rows(done)[0]
    assert row["model_version"] == model_version(folder("kurucz-apogee"))
    assert len(row["sha256"]) == 64
    assert row[HEALPIX] == healpix29(10.0, -20.0)
    assert row["v_bary_p50"] == pytest.approx(row["v_rad_p50"] + 5.0, abs=0.01)
    assert row["method"] == "flow"
    assert healpix29(np.nan, 0.0) == -1


def test_units_and_ucds_are_in_the_schema(done):
    schema = ds.dataset(done / "catalogue").schema
    assert schema.field("teff_p50").metadata[b"unit"] == b"K"
    assert schema.field("v_rad_p84").metadata[b"ucd"] == b"spect.dopplerVeloc.opt;stat.max"


def test_kept_draws_give_the_median_back(done):
    row = ds.dataset(done / "draws").to_table().to_pylist()[0]
    draws = row["teff_offset"] + row["teff_scale"] * np.array(row["teff_draws"], dtype=float)
    assert len(draws) == 8
    assert np.median(draws) == pytest.approx(row["teff_offset"], abs=0.01 * row["teff_scale"])


def test_others_open_it(done, tmp_path):
    assert export(done, tmp_path / "c.fits") == N_VISITS
    assert export(done, tmp_path / "c.vot") == N_VISITS
    fits, votable = (Table.read(tmp_path / name) for name in ("c.fits", "c.vot"))
    for table in (fits, votable, read_catalogue(done)):
        assert table["teff_p50"].unit == "K"
        assert table["v_rad_p50"].unit == "km/s"
        assert len(table) == N_VISITS
    assert votable["teff_p50"].meta["ucd"] == "phys.temperature.effective;stat.median"
    pattern = done / "catalogue" / "*.parquet"
    (found,) = duckdb.sql(f"select count(*) from '{pattern}'").fetchall()
    assert found == (N_VISITS,)
    assert len(ds.dataset(done / "catalogue").to_table().to_pandas()) == N_VISITS
    with pytest.raises(ConfigError, match=r"must end in \.fits"):
        export(done, tmp_path / "c.csv")


def test_a_second_run_needs_resume_and_the_same_settings(done, visits, client):
    with pytest.raises(ConfigError, match="use --resume"):
        survey(done, visits, client, keep=8)
    with pytest.raises(ConfigError, match="draws is 100 there and 200 here"):
        survey(done, visits, client, keep=8, draws=200, resume=True)
    again = survey(done, visits, client, keep=8, resume=True)
    assert (again.done, again.fresh) == (3, 0)


def test_resume_alone_goes_on_as_the_run_was_begun(done, client, tmp_path, monkeypatch):
    """A survey of the flow, with draws of its own: no option has to be said again, and another one is refused."""
    from contextlib import nullcontext

    monkeypatch.setattr("maury.survey.run.cluster", lambda *_: nullcontext(client))
    output = copy(done, tmp_path)
    Store(output).commit_path(next(Store(output).tasks())).unlink()
    result = CliRunner().invoke(app, ["survey", "--output", str(output), "--resume"])
    assert result.exit_code == 0, result.output
    assert f"{N_VISITS} rows" in result.output
    assert verify(output).whole
    for option, message in (
        ("--seed", "seed is 0 there and 3000 here"),
        ("--budget", "budget is 20000 there"),
    ):
        other = CliRunner().invoke(app, ["survey", "--output", str(output), "--resume", option, "3000"])
        assert message in str(other.exception)
    nothing = CliRunner().invoke(app, ["survey", "--output", str(tmp_path / "none"), "--resume"])
    assert "holds no survey to go on with" in str(nothing.exception)


def test_inputs_that_change_or_vanish_while_they_are_read(done, visits, client, tmp_path, monkeypatch):
    """Between checksum and reading: nothing is told of a content that nobody knows, and the next run does it again."""
    import shutil

    from maury.survey import worker

    copied = Path(shutil.copytree(visits, tmp_path / "visits"))
    changing, vanishing, kept = (
        copied / "apVisit-0.fits",
        copied / "apVisit-1.fits",
        visits / "apVisit-1.fits",
    )
    real = worker.identity

    def restless(path):
        found = real(path)
        if path == changing:
            path.write_bytes((visits / "apVisit-5.fits").read_bytes())
        elif path == vanishing:
            path.unlink()
        return found

    monkeypatch.setattr(worker, "identity", restless)
    output = tmp_path / "survey"
    survey(output, copied, client)
    monkeypatch.undo()
    found = verify(output)
    assert not found.damaged
    assert found.changed == [str(changing)]
    assert found.errors == 2
    shutil.copy(kept, vanishing)
    assert set(verify(output).changed) == {str(changing), str(vanishing)}
    survey(output, copied, client, resume=True)
    assert verify(output).whole
    table, undisturbed = rows(output), rows(done)
    assert table[0]["sha256"] == undisturbed[5]["sha256"]
    assert table[1]["teff_p50"] == pytest.approx(undisturbed[1]["teff_p50"], rel=1e-6)


def test_a_file_that_hangs_its_reader_is_a_row(visits, client, tmp_path, monkeypatch):
    """The kernel ends the process that reads; the survey goes on, with the file among the errors."""
    import shutil

    from maury.spectra.formats import isolated

    copied = tmp_path / "visits"
    copied.mkdir()
    for name in ("good.fits", "hang.fits"):
        shutil.copy(visits / "apVisit-1.fits", copied / name)
    hang = (
        "from maury.spectra.formats import isolated as here; from maury.spectra.formats.isolated import registry\n"
        "good = registry.read_each\n"
        "def read(path, **more):\n"
        "    while 'hang.fits' in path: pass\n"
        "    return good(path, **more)\n"
        "registry.read_each = read\n"
        "here._serve()\n"
    )
    short = isolated.Limits(seconds=0.5)
    monkeypatch.setattr(isolated, "_START", "import sys; sys.path[:] = {path!r}\n" + hang)
    monkeypatch.setattr(isolated.Limits, "of_file", lambda *_: short)
    output = tmp_path / "survey"
    survey(output, copied, client)
    assert [Path(row["file"]).name for row in rows(output)] == ["good.fits"]
    (error,) = ds.dataset(output / "errors").to_table().to_pylist()
    assert Path(error["file"]).name == "hang.fits"
    assert error["flag_bad"] == "unreadable"
    assert "more than 0.5 s of the processor" in error["reason"]
    assert verify(output).whole
    # Nobody else shall have such a reader.
    isolated.close_all()


def test_a_clock_that_was_set_back_changes_nothing(done, visits, client, tmp_path):
    import os
    import shutil

    copied = Path(shutil.copytree(visits, tmp_path / "visits"))
    output = tmp_path / "survey"
    survey(output, copied, client)
    for file in [*copied.iterdir(), *output.rglob("*")]:
        os.utime(file, (1e9, 1e9))
    again = survey(output, copied, client, resume=True)
    assert again.fresh == 0
    assert verify(output).whole


def test_a_run_that_was_killed_as_it_began_is_begun_again(visits, tmp_path):
    """By the same words: there is nothing to resume. What is somebody's own is not taken for it."""
    for name in ("catalogue", "commits", "errors"):
        (tmp_path / "s" / name).mkdir(parents=True)
    (tmp_path / "s" / ".host-1-2-plan.jsonl").write_text('{"task": 0, "fi', encoding="utf-8")
    assert prepare(tmp_path / "s", settings(), lambda: expand([visits]), False) == 3
    for name in ("thesis.tex", "catalogue/mine.fits", ".git/config"):
        file = tmp_path / name.split("/")[0].strip(".") / "own" / name
        file.parent.mkdir(parents=True)
        file.write_text("x", encoding="utf-8")
        with pytest.raises(ConfigError, match="is not empty, and holds no survey"):
            prepare(file.parents[name.count("/")], settings(), lambda: expand([visits]), False)


def test_two_runs_in_one_folder(visits, client, tmp_path):
    from maury.files import alone

    output = tmp_path / "survey"
    output.mkdir()
    with alone(output, output / ".lock"), pytest.raises(MauryError, match="another process is writing it"):
        prepare(output, settings(), lambda: expand([visits]), True)
    tasks = prepare(output, settings(), lambda: expand([visits]), False)
    with alone(output, output / ".lock"), pytest.raises(MauryError, match="another process is writing it"):
        run(output, client, tasks=tasks)


@pytest.mark.parametrize("call", ["acquire", "replace"])
def test_output_that_cannot_be_written(visits, client, tmp_path, monkeypatch, call):
    """Read-only from the beginning, or from the first result on: told with the folder's name, and nothing is lost."""
    tasks = prepare(tmp_path / "s", settings(), lambda: expand([visits / "apVisit-1.fits"]), False)

    def refuses(*_, **__):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(
        {"acquire": "maury.files.FileLock.acquire", "replace": "maury.survey.store.os.replace"}[call], refuses
    )
    with pytest.raises(MauryError, match=r"cannot be written.*Read-only file system"):
        run(tmp_path / "s", client, tasks=tasks)
    monkeypatch.undo()
    run(tmp_path / "s", client, tasks=tasks)
    assert verify(tmp_path / "s").whole


def test_a_run_that_was_cut_goes_on(done, visits, client, tmp_path):
    """A task that was never committed, half of its parts on disk: done again, to the same rows."""
    output = copy(done, tmp_path)
    task = next(Store(output).tasks())
    Store(output).commit_path(task).unlink()
    (output / "catalogue" / ".123-4-0000000.parquet").write_bytes(b"half")
    before = verify(output)
    assert before.missing == [0]
    assert len(before.leftover) == 3
    survey(output, visits, client, keep=8, resume=True)
    repair(output, verify(output))
    assert verify(output).whole
    for a, b in zip(rows(done), rows(output), strict=True):
        assert a["teff_p50"] == pytest.approx(b["teff_p50"], rel=1e-6)


def test_damage_is_found_and_repaired(done, client, tmp_path):
    output = copy(done, tmp_path)
    store = Store(output)
    first, second, _ = store.tasks()
    part = store.part("catalogue", first)
    part.write_bytes(part.read_bytes()[:-1] + b"x")
    store.part("catalogue", second).unlink()
    found = verify(output)
    assert set(found.damaged) == {0, 1}
    assert "not what was written" in found.damaged[0]
    assert "is missing" in found.damaged[1]
    assert repair(output, found) == 2
    run(output, client, tasks=3)
    assert verify(output).whole
    history = [json.loads(line) for line in (output / "history.jsonl").read_text().splitlines()]
    assert [entry["task"] for entry in history] == [0, 1]


def test_a_changed_input_is_done_again(visits, client, tmp_path):
    import shutil

    copied = Path(shutil.copytree(visits, tmp_path / "visits"))
    output = tmp_path / "survey"
    survey(output, copied, client)
    other = (copied / "apVisit-5.fits").read_bytes()
    (copied / "apVisit-0.fits").write_bytes(other)
    assert verify(output).changed == [str(copied / "apVisit-0.fits")]
    survey(output, copied, client, resume=True)
    assert verify(output).whole
    table = rows(output)
    assert table[0]["sha256"] == table[5]["sha256"]
    assert "changed since" in (output / "history.jsonl").read_text()


def test_a_file_named_twice_is_taken_once(visits, client, tmp_path):
    output = tmp_path / "survey"
    file = visits / "apVisit-0.fits"
    tasks = prepare(output, settings(), lambda: expand([file, file, visits]), False)
    run(output, client, tasks=tasks)
    found = verify(output)
    assert found.whole
    assert found.files == N_VISITS + 1
    # A plan that was meddled with is told.
    plan = output / "plan.jsonl"
    plan.write_text(plan.read_text().replace("apVisit-6", "apVisit-0"))
    assert verify(output).twice == [str(file)]


def test_new_files_join_a_survey_that_goes_on(done, visits, client, tmp_path):
    import shutil

    output = copy(done, tmp_path)
    new = Path(shutil.copy(visits / "apVisit-0.fits", tmp_path / "new.fits"))
    tasks = prepare(output, settings(keep=8), lambda: expand([visits, new]), True)
    assert tasks == 4
    found = run(output, client, tasks=tasks)
    assert (found.done, found.fresh) == (4, 1)
    assert verify(output).whole
    assert prepare(output, settings(keep=8), None, True) == 4


def test_a_lost_scheduler_is_waited_for(visits, client, tmp_path, monkeypatch):
    """Lost in the middle, not there for a while, back again: the run goes on counting where it was."""
    from contextlib import contextmanager

    from maury.survey import run as module

    monkeypatch.setattr(module, "_PAUSE", 0.01)
    tasks = prepare(tmp_path / "s", settings(), lambda: expand([visits]), False)
    calls, notes = [], []

    @contextmanager
    def connect():
        calls.append(None)
        if len(calls) == 2:
            raise module.Unreachable("not there")
        yield client

    real = module._Drive._settle

    def settle(self, task, future, waiting):
        if len(calls) == 1 and self._found.done:
            raise module.SchedulerLost("gone")
        return real(self, task, future, waiting)

    monkeypatch.setattr(module._Drive, "_settle", settle)
    found = module.supervise(tmp_path / "s", connect, lambda p: notes.append(p.note), tasks=tasks)
    assert len(calls) == 3
    assert found.done == tasks == 3
    assert "the scheduler is lost, waiting for it" in notes
    assert verify(tmp_path / "s").whole
    monkeypatch.setattr(module, "_PATIENCE", 0.0)
    with pytest.raises(MauryError, match="not there"):
        module.supervise(tmp_path / "s", _never, tasks=tasks)


def test_a_client_without_scheduler_is_a_lost_scheduler(visits, tmp_path):
    """However it shows: here, all that a client does once its cluster is closed."""
    from maury.survey.run import SchedulerLost

    tasks = prepare(tmp_path / "s", settings(), lambda: expand([visits]), False)
    with (
        LocalCluster(n_workers=1, threads_per_worker=1, processes=False, dashboard_address=None) as local,
        Client(local, set_as_default=False) as gone,
    ):
        pass
    with pytest.raises(SchedulerLost, match="--resume"):
        run(tmp_path / "s", gone, tasks=tasks)
    assert not (tmp_path / "s" / ".lock").exists()


def _never():
    from maury.survey.run import Unreachable

    raise Unreachable("not there")


def test_verified_rows(visits, client, tmp_path):
    output = tmp_path / "survey"
    prepare(output, settings(stage="verified"), lambda: expand([visits / "apVisit-1.fits"]), False)
    run(output, client, tasks=1)
    (row,) = rows(output)
    assert row["khat"] < 0.7
    assert row["jitter_p50"] > 0
    assert row["p_predictive"] > 0


def test_a_worker_with_another_model_ends_the_run(visits, client, tmp_path):
    tasks = prepare(tmp_path / "s", settings(model_version="abc"), lambda: expand([visits]), False)
    with pytest.raises(MauryError, match=r"worker on .*this worker has version .* begun with abc.*--resume"):
        run(tmp_path / "s", client, tasks=tasks)


def test_inputs_of_every_kind(visits, tmp_path):
    files = [str(visits / f"apVisit-{i}.fits") for i in range(2)]
    (tmp_path / "list.txt").write_text("# two\n" + "\n".join(files) + "\n\n")
    Table({"FILE": files}).write(tmp_path / "c.csv")
    for inputs, catalogues in (
        ([str(visits / "apVisit-[01].fits")], []),
        ([tmp_path / "list.txt"], []),
        ([], [tmp_path / "c.csv"]),
    ):
        assert list(map(str, expand(inputs, catalogues))) == files
    assert len(list(expand([visits]))) == N_VISITS + 1


@pytest.mark.parametrize(
    ("inputs", "reason"),
    [(["nothing/*.fits"], "no spectra there"), ([], "no input"), (["empty"], "no spectra there")],
)
def test_no_input_is_told(tmp_path, monkeypatch, inputs, reason):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match=reason):
        prepare(tmp_path / "s", settings(), lambda: expand(inputs), False)
    assert not (tmp_path / "s" / "survey.json").exists()


def test_catalogues_without_paths_are_refused(tmp_path):
    Table({"teff": [1]}).write(tmp_path / "c.csv")
    with pytest.raises(ConfigError, match="no column of paths"):
        list(expand([], [tmp_path / "c.csv"]))
    with pytest.raises(ConfigError, match="cannot be read as a table"):
        list(expand([], [tmp_path / "none.csv"]))


def test_an_unreachable_scheduler_is_told(monkeypatch):
    monkeypatch.setattr("maury.survey.run._TIMEOUT", "1s")
    with pytest.raises(MauryError, match="cannot be reached"), cluster("tcp://127.0.0.1:9", 1):
        pass


def test_commands_beside_the_run(done, tmp_path):
    result = CliRunner().invoke(app, ["survey", "verify", str(done)])
    assert result.exit_code == 0
    assert json.loads(result.stdout)["whole"]
    result = CliRunner().invoke(app, ["survey", "verify", str(tmp_path)])
    assert "holds no survey" in str(result.exception)


@pytest.mark.slow
def test_from_the_command_line_with_processes(visits, tmp_path):
    arguments = ["survey", str(visits), "--output", str(tmp_path / "s"), "--flow-only", "--workers", "2"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    assert f"{N_VISITS} rows" in result.output
    assert verify(tmp_path / "s").whole


def test_a_catalogue_of_spectra_is_a_survey(visits, client, tmp_path):
    """The same rows as of the visits' files, each naming its partition and place; a row that holds nothing is an error."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    seen = [read_spectrum(visits / f"apVisit-{i}.fits") for i in range(3)]
    cells = [
        {
            "wavelength": one.grid.wavelength.tolist(),
            "flux": one.flux.tolist(),
            "ivar": one.ivar.tolist(),
        }
        for one in seen
    ]
    table = pa.table(
        {"object_id": ["a", "b", "c", "d"], "RA": [1.0, 2.0, 3.0, 4.0], "DE": [5.0] * 4, "v_correction": [5.0] * 4,
         "resolution": [22_500.0] * 4, "spectrum": [*cells, None]}
    )  # fmt: skip
    path = tmp_path / "sky" / "dataset" / "Norder=0" / "Dir=0" / "Npix=3.parquet"
    path.parent.mkdir(parents=True)
    pq.write_table(table, path)
    (tmp_path / "sky" / "hats.properties").write_text("hats_nrows=4\nhats_col_ra=RA\nhats_col_dec=DE\n")
    output = tmp_path / "out"
    wanted = settings(instrument="apogee")
    tasks = prepare(output, wanted, lambda: expand([tmp_path / "sky"], rows=2), resume=False)
    assert tasks == 2
    run(output, client, tasks=tasks)
    found = rows(output)
    assert [(row["file"], row["row"], row["id"]) for row in found] == [
        (str(path), i, name) for i, name in enumerate("abc")
    ]
    assert [row["ra"] for row in found] == [1.0, 2.0, 3.0]
    assert found[0][HEALPIX] == healpix29(1.0, 5.0)
    (error,) = ds.dataset(output / "errors").to_table().to_pylist()
    assert (error["file"], error["row"], error["flag_bad"]) == (str(path), 3, "unreadable")
    assert verify(output).whole
    assert export(output, tmp_path / "stars.hats") == 3


def test_how_far_tasks_are_is_told_before_the_first_is_done(tmp_path):
    store = Store(tmp_path)
    store.begin(settings(), [Path("/a.fits"), Path("/b.fits"), Path("/c.fits"), Path("/d.fits")])
    one, two = store.tasks()
    assert store.underway() == 0
    store.note(one, 1)
    store.note(two, 1)
    store.note(two, 2)
    assert store.underway() == 3
    told = Progress(tasks=2, underway=3, size=3)
    told.began -= 30
    assert told.rate == pytest.approx(0.1, rel=0.01)
    # Of six spectra three are done.
    assert told.left == pytest.approx(30, rel=0.01)
    assert Progress(tasks=2).left is None
    store.recover()
    assert store.underway() == 0


def test_labels_are_those_that_the_model_knows(visits, tmp_path):
    def refused(*words):
        result = CliRunner().invoke(app, ["survey", str(visits), "--output", str(tmp_path / "s"), *words])
        assert result.exception is not None
        return str(result.exception)

    assert "leave --labels out" in refused("--flow-only", "--labels", "elements")
    assert "labels: " in refused("--labels", "xx_fe")
    assert not (tmp_path / "s").exists()
