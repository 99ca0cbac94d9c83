"""Tasks that take their workers with them: their files one by one, and a row of errors for the one that kills."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from maury.errors import MauryError
from maury.files import split_rows
from maury.survey.store import PARTS, Commit, InputFile, Store, Task, identity

# Dask gives a task up when it lost its worker four times. Workers die of other things too: so often may it be given up.
_PATIENCE = 3
# The same for one file alone.
_PATIENCE_ALONE = 2


@dataclass
class _Pieces:
    """Files of a task that are done one by one: attempts by place, None where a file kills its worker."""

    task: Task
    attempts: dict[int, str | None] = field(default_factory=dict)


class Salvage:
    """Finds the file in a task that kills workers, and finishes the task without it."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._killed: dict[str, int] = {}
        self._pieces: dict[int, _Pieces] = {}

    def killed(self, task: Task, count: Callable[[Commit], None]) -> list[Task]:
        """Note that Dask gave a task up; return what to try next."""
        times = self._killed[task.name] = self._killed.get(task.name, 0) + 1
        if task.piece is None:
            if times < _PATIENCE:
                return [task]
            self._pieces[task.number] = _Pieces(task)
            return [replace(task, files=(file,), piece=i) for i, file in enumerate(task.files)]
        if times < _PATIENCE_ALONE:
            return [task]
        self._note(task, None, count)
        return []

    def done(self, task: Task, who: str, count: Callable[[Commit], None]) -> None:
        """Note that one file of a task is done."""
        self._note(task, who, count)

    def _note(self, task: Task, who: str | None, count: Callable[[Commit], None]) -> None:
        pieces = self._pieces[task.number]
        assert task.piece is not None
        pieces.attempts[task.piece] = who
        if len(pieces.attempts) == len(pieces.task.files):
            count(self._join(pieces))
            del self._pieces[task.number]

    def _join(self, pieces: _Pieces) -> Commit:
        """Commit a task from its files' attempts."""
        task, store = pieces.task, self._store
        tables: dict[str, list[pa.Table]] = {kind: [] for kind in PARTS}
        commits, files = [], []
        for i, file in enumerate(task.files):
            piece, who = replace(task, files=(file,), piece=i), pieces.attempts[i]
            if who is None:
                checksum, size, mtime = identity(Path(file))
                files.append(InputFile(file, size, mtime, checksum, 0, 1))
                tables["errors"].append(_error(file, checksum))
                continue
            commit = store.staged(piece, who)
            if commit is None:
                raise MauryError(
                    f"{store.folder}: what a worker wrote for {file} is not here; go on with --resume"
                )
            commits.append(commit)
            files += commit.files
            for kind in commit.parts:
                tables[kind].append(pq.read_table(store.staged_part(piece, who, kind)))
        # If none of many files was done, the cluster is at fault, and not the files.
        if not commits and len(files) > 1:
            raise MauryError(
                f"task {task.number}: every worker that began it was lost, whichever of its files it had; "
                "look at the workers' logs and memory, then go on with --resume"
            )
        whole = Commit(
            task=task.number,
            files=tuple(files),
            rows=sum(f.rows for f in files),
            errors=sum(f.errors for f in files),
            flagged=sum(c.flagged for c in commits),
            seconds=sum(c.seconds for c in commits),
            parts={
                kind: store.write_part(kind, task, pa.concat_tables(some))
                for kind, some in tables.items()
                if some
            },
        )
        store.commit(task, whole)
        published = store.publish(task, store.who)
        assert published is not None
        return published


def _error(file: str, checksum: str) -> pa.Table:
    from maury.survey.catalogue import ERRORS

    reason = "every worker that was given this file was killed: by a crash, or for the memory it took"
    path, rows = split_rows(file)
    row = {
        "file": str(path),
        "row": rows.start if rows else 0,
        "sha256": checksum,
        "flag_bad": "killed_worker",
        "reason": reason,
    }
    return pa.Table.from_pylist([row | {"traceback": ""}], ERRORS)
