"""Attempts of workers: staged, published by one process, recovered, and joined where a file kills its worker."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest

from maury.errors import MauryError
from maury.survey.catalogue import ERRORS
from maury.survey.salvage import Salvage
from maury.survey.store import Commit, InputFile, Store, SurveySettings, identity
from maury.survey.verify import repair, verify

SCHEMA = pa.schema(
    [("file", pa.string()), ("row", pa.int32()), ("sha256", pa.string()), ("value", pa.int32())]
)


@pytest.fixture
def store(tmp_path):
    files = [tmp_path / f"{i}.fits" for i in range(6)]
    for file in files:
        file.write_text(file.name)
    found = Store(tmp_path / "s")
    found.begin(SurveySettings(model="m", model_version="1", maury_version="0", files_per_task=3), files)
    return found


class Other(Store):
    """Another worker than this thread."""

    who = "other-1-2"


def stage(store, task, value=0, errors=False):
    """Do what a worker does."""
    files = [(file, *identity(Path(file))) for file in task.files]
    rows = [{"file": f, "row": 0, "sha256": sha, "value": value} for f, sha, _, _ in files]
    parts = {"catalogue": store.write_part("catalogue", task, pa.Table.from_pylist(rows, SCHEMA))}
    if errors:
        parts["errors"] = store.write_part("errors", task, pa.Table.from_pylist([], ERRORS))
    inputs = tuple(InputFile(f, size, mtime, sha, 1, 0) for f, sha, size, mtime in files)
    store.commit(task, Commit(task.number, inputs, len(rows), 0, 0, 0.1, parts))


def values(store):
    parts = sorted((store.folder / "catalogue").glob("*.parquet"))
    return [value for part in parts for value in pq.read_table(part)["value"].to_pylist()]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="pipes with names are Unix's")
def test_what_never_ends_has_no_checksum(tmp_path):
    """A list from elsewhere may name a pipe or a device: whoever reads it to its end waits for ever."""
    os.mkfifo(tmp_path / "pipe.fits")
    for path in (tmp_path / "pipe.fits", Path("/dev/zero"), tmp_path, Path("a\0b.fits")):
        assert identity(path) == ("", -1, -1)
        found = InputFile(str(path), *identity(path)[1:], "", 0, 1)
        assert Store(tmp_path).changed(Commit(0, (found,), 0, 1, 0, 0.1, {})) == []


def test_a_worker_alone_changes_nothing(store):
    task = next(store.tasks())
    stage(store, task)
    assert store.committed(task) is None
    assert values(store) == []
    assert store.publish(task, store.who).rows == 3
    assert values(store) == [0, 0, 0]
    assert store.publish(task, "nobody") is None


def test_a_worker_that_was_given_up_disturbs_nothing(store):
    """It finishes after another did its task: the first result stays, and nothing is left."""
    late, task = Other(store.folder), next(store.tasks())
    stage(store, task, value=1)
    store.publish(task, store.who)
    stage(late, task, value=2)
    assert store.recover() == 0
    assert values(store) == [1, 1, 1]
    assert not list((store.folder / "staged").iterdir())
    assert verify(store.folder).missing == [1]


def test_what_was_finished_for_a_dead_client_is_recovered(store):
    one, two = store.tasks()
    stage(store, one, value=1)
    stage(Other(store.folder), two, value=2)
    store.write_part("draws", two, pa.Table.from_pylist([], SCHEMA))
    assert store.recover() == 2
    assert verify(store.folder).whole
    assert sorted(values(store)) == [1, 1, 1, 2, 2, 2]


@pytest.mark.parametrize("renamed", [0, 1, 2])
def test_killed_while_publishing(store, renamed, monkeypatch):
    """Between any two renames: what is there is finished, or left out as a whole."""
    task = next(store.tasks())
    stage(store, task, errors=True)
    import maury.survey.store as module

    count, real = 0, module.os.replace

    def dies(a, b):
        nonlocal count
        count += 1
        if count > renamed:
            raise KeyboardInterrupt
        real(a, b)

    monkeypatch.setattr(module.os, "replace", dies)
    with pytest.raises(KeyboardInterrupt):
        store.publish(task, store.who)
    assert store.committed(task) is None
    monkeypatch.undo()
    assert store.recover() == 1
    assert store.committed(task).rows == 3
    assert verify(store.folder).missing == [1]
    assert not verify(store.folder).damaged


def test_parts_of_an_earlier_result_go(store):
    task = next(store.tasks())
    stage(store, task, errors=True)
    store.publish(task, store.who)
    assert store.part("errors", task).exists()
    stage(store, task)
    store.publish(task, store.who)
    assert not store.part("errors", task).exists()


def test_full_disks_are_told(store, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("maury.survey.store.pq.write_table", full)
    with pytest.raises(MauryError, match="the disk is full"):
        stage(store, next(store.tasks()))
    assert not list((store.folder / "staged").iterdir())


def test_plans_grow_and_files_are_in_them_once(store, tmp_path):
    new = [tmp_path / "0.fits", tmp_path / "new.fits", tmp_path / "." / "x" / ".." / "new.fits"]
    (tmp_path / "x").mkdir()
    assert store.extend(new) == 3
    assert [len(task.files) for task in store.tasks()] == [3, 3, 1]
    assert store.extend(new) == 3


def test_strays_are_found_and_removed(store):
    for task in store.tasks():
        stage(store, task)
        store.publish(task, store.who)
    assert verify(store.folder).whole
    stray = store.folder / "catalogue" / "0000009.parquet"
    stray.write_bytes(store.part("catalogue", task).read_bytes())
    (store.folder / "catalogue" / "copy.parquet").write_bytes(stray.read_bytes())
    found = verify(store.folder)
    assert [Path(p).name for p in sorted(found.leftover)] == ["0000009.parquet", "copy.parquet"]
    repair(store.folder, found)
    assert verify(store.folder).whole


def test_rows_of_the_wrong_file_are_damage(store):
    task = next(store.tasks())
    stage(store, task)
    path = store.staged_part(task, store.who, "catalogue")
    table = pq.read_table(path)
    other = table.set_column(0, "file", pa.array([task.files[0]] * 3))
    checksum = store.write_part("catalogue", task, other)
    found = store.staged(task, store.who)
    store.commit(task, replace(found, parts={"catalogue": checksum}))
    store.publish(task, store.who)
    assert "which the commit does not" in verify(store.folder).damaged[0]


def test_a_file_that_kills_its_worker_ends_in_errors(store):
    """Dask gives up the task three times, then its files are tried alone; the killer gets a row of errors."""
    task, counted = next(store.tasks()), []
    salvage = Salvage(store)
    assert salvage.killed(task, counted.append) == [task]
    assert salvage.killed(task, counted.append) == [task]
    pieces = salvage.killed(task, counted.append)
    assert [p.files for p in pieces] == [(file,) for file in task.files]
    for piece in pieces[:2]:
        stage(store, piece, value=5)
        salvage.done(piece, store.who, counted.append)
    assert salvage.killed(pieces[2], counted.append) == [pieces[2]]
    assert salvage.killed(pieces[2], counted.append) == []
    (commit,) = counted
    assert (commit.rows, commit.errors) == (2, 1)
    found = verify(store.folder)
    assert found.missing == [1]
    assert not found.damaged
    assert not found.changed
    (error,) = ds.dataset(store.folder / "errors", format="parquet").to_table().to_pylist()
    assert error["file"] == task.files[2]
    assert error["flag_bad"] == "killed_worker"
    assert values(store) == [5, 5]


def test_a_cluster_that_kills_every_file_is_told(store):
    task, salvage = next(store.tasks()), Salvage(store)
    for _ in range(3):
        pieces = salvage.killed(task, print)
    for piece in pieces:
        salvage.killed(piece, print)
    salvage.killed(pieces[0], print)
    salvage.killed(pieces[1], print)
    with pytest.raises(MauryError, match="every worker that began it was lost"):
        salvage.killed(pieces[2], print)


def test_history_is_written_before_a_result_is_withdrawn(store):
    task = next(store.tasks())
    stage(store, task)
    store.publish(task, store.who)
    store.withdraw(task, "why not")
    assert store.committed(task) is None
    assert json.loads((store.folder / "history.jsonl").read_text())["reason"] == "why not"
