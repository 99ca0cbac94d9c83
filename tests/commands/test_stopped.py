"""Ctrl-C: what is done stays, one line says how to go on, and the same command does."""

from __future__ import annotations

import shutil
import signal
import time
from dataclasses import replace

import pytest
from astropy.table import Table

from maury.checks import runs
from maury.commands import progress
from maury.models import load_model
from maury.training import simulations
from maury.training.demo import write_demo
from maury.training.fit import Training
from slow_task import sleep

TRAIN = """
name = "tiny"
epochs = 2
epoch = 1
batch = 8
validation = 8
novelty = 0
accelerator = "cpu"

[network.featurizer]
kind = "aligned"
width = 16
blocks = 1
components = 4
features = 8

[network.flow]
kind = "nsf"
transforms = 1
hidden = [16]

[problem]
model = "kurucz-apogee"
"""


@pytest.fixture
def stopped(run):
    """Run a command that is stopped; return what it said."""

    def call(*words):
        code, _, error = run(*words)
        assert code == 130, error
        assert "Traceback" not in error
        line = error.strip().splitlines()[-1]
        assert line.startswith("stopped")
        return line

    return call


def interrupt(*_, **__):
    raise KeyboardInterrupt


def then_interrupt(items):
    yield from items
    raise KeyboardInterrupt


def test_infer_leaves_the_table_of_what_is_done(stopped, monkeypatch, tmp_path):
    import maury
    import maury.inference.infer as module

    write_demo(tmp_path / "a.fits", load_model())
    shutil.copy(tmp_path / "a.fits", tmp_path / "b.fits")
    posterior = maury.infer(tmp_path / "a.fits", draws=100, noise="independent", nuisances="none")
    ready = [posterior]
    monkeypatch.setattr(
        module,
        "infer_with",
        lambda spectrum, *_: replace(ready.pop(), spectrum=spectrum) if ready else interrupt(),
    )
    monkeypatch.setattr("maury.report.plots.draw_picture", lambda path, make: None)
    line = stopped("infer", tmp_path / "a.fits", tmp_path / "b.fits", "--output", tmp_path / "out")
    assert f"results of 1 spectra are in {tmp_path / 'out'}" in line
    assert len(Table.read(tmp_path / "out" / "summary.ecsv")) == 1
    assert (tmp_path / "out" / "a.nc").exists()


def test_a_survey_says_how_to_go_on(stopped, monkeypatch, tmp_path):
    (tmp_path / "a.fits").write_text("of no matter", encoding="utf-8")
    monkeypatch.setattr("maury.survey.run.supervise", interrupt)
    line = stopped("survey", tmp_path / "a.fits", "--output", tmp_path / "s")
    assert f"maury survey --output {tmp_path / 's'} --resume goes on" in line


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("maury.checks.calibration.calibrate", ["calibration", "--number", 20]),
        ("maury.checks.exact.compare", ["exact", "--number", 2]),
        ("maury.checks.gap.spoil", ["misfit", "--number", 1, "--fault", "fringes"]),
        ("maury.checks.sky.look", ["sky", "LABELS"]),
    ],
)
def test_checks_say_what_is_kept(stopped, monkeypatch, tmp_path, name, words):
    labels = tmp_path / "labels.csv"
    labels.write_text("file,star,teff\na.fits,Sun,5772\n", encoding="utf-8")
    monkeypatch.setattr("maury.checks.sky.read_stars", lambda _: [])
    monkeypatch.setattr(name, lambda *_, **__: then_interrupt([]))
    words = [labels if word == "LABELS" else word for word in words]
    line = stopped("check", *words, "--output", tmp_path / "out")
    assert f"what is done is in {tmp_path / 'out'}; the same command goes on" in line
    assert "with --output DIR" in stopped("check", *words)


def test_a_check_goes_on_where_it_was_stopped(tmp_path):
    seen = []

    def task(model, key):
        seen.append(key)
        if key == [2] and seen.count(key) == 1:
            raise KeyboardInterrupt
        return key[0]

    keys, store = [[1], [2], [3]], tmp_path / "results.jsonl"
    with pytest.raises(KeyboardInterrupt):
        list(runs.run(None, task, keys, store=store))
    assert list(runs.run(None, task, keys, store=store)) == [1, 2, 3]
    assert seen == [[1], [2], [2], [3]]


def test_processes_of_a_check_end_with_it():
    results = runs._in_processes("no model", sleep, [[0], [1], [1]], 1)
    assert next(results) == 0
    began = time.monotonic()
    results.close()
    assert time.monotonic() - began < 20


def test_training_is_quiet_stops_and_goes_on(run, stopped, monkeypatch, tmp_path):
    config, out = tmp_path / "train.toml", tmp_path / "out"
    config.write_text(TRAIN, encoding="utf-8")
    step = Training.training_step

    def until_the_second_epoch(self, batch, index):
        if self.current_epoch == 1:
            raise KeyboardInterrupt
        return step(self, batch, index)

    handler = signal.getsignal(signal.SIGINT)
    monkeypatch.setattr(Training, "training_step", until_the_second_epoch)
    line = stopped("train", config, "--output", out)
    assert f"the last epoch that was complete is in {out}; the same command goes on" in line
    # Lightning leaves it ignored.
    assert signal.getsignal(signal.SIGINT) is handler
    assert (out / "estimator.safetensors").exists()

    monkeypatch.setattr(Training, "training_step", step)
    monkeypatch.setattr(progress, "LOG_EVERY", -1.0)
    code, printed, error = run("train", config, "--output", out)
    assert code == 0
    assert printed == ""
    lines = error.strip().splitlines()
    assert all(line.startswith("epochs: ") for line in lines[:-1])
    assert lines[-1].startswith("The estimator and its loss curve are in")
    assert any(line.startswith("epochs: 2 of 2, log density ") for line in lines)
    assert any(line.endswith(" left") for line in lines)


def test_simulating_goes_on(run, stopped, monkeypatch, tmp_path):
    config = tmp_path / "simulate.toml"
    config.write_text('number = 24\nbatch = 8\nmodel = "kurucz-apogee"\n', encoding="utf-8")
    made = simulations._simulate

    def stop_early(settings, partial, tell):
        made(settings, partial, lambda done, total: interrupt() if done > 8 else tell(done, total))

    monkeypatch.setattr(simulations, "_simulate", stop_early)
    line = stopped("simulate", "--config", config, "--output", tmp_path / "set.h5")
    assert "the same command goes on" in line
    assert not (tmp_path / "set.h5").exists()
    begun = []
    monkeypatch.setattr(
        simulations,
        "_simulate",
        lambda settings, partial, tell: made(
            settings, partial, lambda done, total: (begun.append(done), tell(done, total))
        ),
    )
    code, _, _ = run("simulate", "--config", config, "--output", tmp_path / "set.h5")
    assert code == 0
    assert begun[0] >= 8


@pytest.mark.parametrize(
    ("name", "words", "said"),
    [
        ("maury.reproduce.stars.run_stars", ["reproduce", "three", "--output", "OUT"], "goes on from there"),
        ("maury.archive.fetch.fetch_products", ["fetch", "apogee", "--from", "TABLE", "--output", "OUT"], "goes on from there"),
        ("maury.libraries.fetch.fetch", ["models", "fetch", "phoenix-aces", "--output", "OUT"], "goes on from there"),
        ("maury.libraries.build.build_from_file", ["models", "build", "TABLE", "--output", "OUT"], ""),
    ],
)  # fmt: skip
def test_long_commands_say_what_is_kept(stopped, monkeypatch, tmp_path, name, words, said):
    monkeypatch.setattr("maury.archive.catalogue.read_catalogue", lambda *_: [])
    monkeypatch.setattr(name, interrupt)
    places = {"OUT": tmp_path / "out", "TABLE": tmp_path / "table.csv"}
    assert said in stopped(*(places.get(word, word) for word in words))


def test_synthesis_says_what_is_kept(stopped, monkeypatch, tmp_path):
    from types import SimpleNamespace

    monkeypatch.setattr("maury.toml.read_config", lambda *_: SimpleNamespace(number=5))
    monkeypatch.setattr("maury.libraries.synthesis.grid.synthesise", interrupt)
    line = stopped("models", "synthesise", tmp_path / "grid.toml", "--output", tmp_path / "grid")
    assert "the same command goes on from there" in line


class Clock:
    """Seconds that a test makes pass."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


def test_rates_are_of_this_run_alone():
    clock = Clock()
    pace = progress.Pace(clock)
    assert pace.in_words(10) == ""
    for done in range(1, 6):
        # Of an earlier run.
        clock.now += 0.0001
        pace.add(done)
    assert pace.rate == 0
    clock.now += 20
    pace.add(6)
    assert pace.in_words(10) == "20 s each, 0:01:20 left"
    clock.now += 5
    assert pace.in_words(10) == "20 s each, 0:01:15 left"
    clock.now += 5
    pace.add(306)
    assert pace.in_words(None) == "10/s"


def test_a_log_has_a_line_now_and_then(monkeypatch, capsys):
    monkeypatch.setattr(progress, "LOG_EVERY", -1.0)
    assert list(progress.counted([1, 2], "stars", 2)) == [1, 2]
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "stars: 0 of 2"
    assert lines[-1].startswith("stars: 2 of 2")


def test_a_terminal_has_a_bar(monkeypatch, capsys):
    monkeypatch.setattr(progress.err, "_force_terminal", True)
    assert list(progress.counted([1, 2], "[b]stars", 2)) == [1, 2]
    assert "[b]stars" in capsys.readouterr().err


def test_inferring_many_files_tells_the_time_left(monkeypatch, capsys):
    from pathlib import Path

    from maury.commands.infer import _numbered

    clock = Clock()
    monkeypatch.setattr("maury.commands.infer.time.monotonic", clock)
    monkeypatch.setattr(progress.Pace.__init__, "__defaults__", (clock,))
    told, rows = [], []
    tell = _numbered([Path("a.fits"), Path("b.fits"), Path("c.parquet[0:9]")], rows, told.append)
    tell("a.fits: flow")
    clock.now = 20.0
    rows += [{"file": "a.fits"}, {"file": "a.fits"}]
    tell("b.fits: flow")
    clock.now = 80.0
    rows.append({"file": "b.fits"})
    tell("c.parquet: flow")
    assert told == [
        "a.fits: flow",
        "spectrum 3 (10 s each, 0:00:40 left): b.fits: flow",
        "spectrum 4 (26.7 s each, 0:00:40 left): c.parquet: flow",
    ]
    # One line a minute where nobody watches.
    assert capsys.readouterr().err.splitlines() == told[2:]
