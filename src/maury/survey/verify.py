"""Is a survey whole? Every file of the plan accounted for exactly once, every part as it was written."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow.parquet as pq

from maury.files import alone, sha256, split_rows
from maury.survey.inputs import Seen
from maury.survey.store import PARTS, Commit, Store, Task


@dataclass
class Verification:
    """What was found.

    Attributes
    ----------
    tasks, files, rows, errors
        Tasks in the plan; files, rows and failures of committed ones.
    missing
        Tasks without a commit.
    damaged
        Tasks whose parts are not what was committed, and why.
    changed
        Files that changed since they were read.
    twice
        Files that the plan names more than once.
    leftover
        Parts that no commit knows, which readers of the dataset would take for rows.
    """

    tasks: int = 0
    files: int = 0
    rows: int = 0
    errors: int = 0
    missing: list[int] = field(default_factory=list)
    damaged: dict[int, str] = field(default_factory=dict)
    changed: list[str] = field(default_factory=list)
    twice: list[str] = field(default_factory=list)
    leftover: list[str] = field(default_factory=list)

    @property
    def whole(self) -> bool:
        """Tell whether every input is there exactly once."""
        return not (self.missing or self.damaged or self.changed or self.twice or self.leftover)


def verify(folder: Path) -> Verification:
    """Check a survey's folder against its plan; one task at a time is in memory.

    Raises
    ------
    ConfigError
        If it holds no survey.
    """
    store = Store(folder)
    _ = store.settings
    found, seen = Verification(), Seen()
    expected = dict.fromkeys((*PARTS, "commits"), 0)
    for task in store.tasks():
        found.tasks += 1
        for file in task.files:
            if not seen.add(file):
                found.twice.append(file)
        commit = store.committed(task)
        if commit is None:
            found.missing.append(task.number)
            found.leftover += [str(p) for kind in PARTS if (p := store.part(kind, task)).exists()]
            continue
        for kind in (*commit.parts, "commits"):
            expected[kind] += 1
        reason = _damage(store, task, commit)
        if reason:
            found.damaged[task.number] = reason
            continue
        found.changed += store.changed(commit)
        found.files += len(commit.files)
        found.rows += commit.rows
        found.errors += commit.errors
    found.leftover += [
        str(path) for path in _strays(store, expected, found) if str(path) not in found.leftover
    ]
    return found


def _damage(store: Store, task: Task, commit: Commit) -> str:
    """Say what is wrong with a committed task; nothing if it is well."""
    if [f.path for f in commit.files] != list(task.files):
        return "its files are not those of the plan"
    for kind, checksum in commit.parts.items():
        path = store.part(kind, task)
        if not path.exists():
            return f"{path} is missing"
        if sha256(path) != checksum:
            return f"{path} is not what was written"
    keys: list[tuple[str, int]] = []
    wanted: dict[str, tuple[int, int, str]] = {}
    for f in commit.files:
        # Pieces of one file are told apart by their rows.
        name = str(split_rows(f.path)[0])
        rows, errors, _ = wanted.get(name, (0, 0, ""))
        wanted[name] = rows + f.rows, errors + f.errors, f.sha256
    for number, kind in enumerate(("catalogue", "errors")):
        expected = (commit.rows, commit.errors)[number]
        if kind not in commit.parts:
            if expected:
                return f"its {kind} are missing"
            continue
        table = pq.read_table(store.part(kind, task), columns=["file", "row", "sha256"])
        files, checksums = table["file"].to_pylist(), table["sha256"].to_pylist()
        keys += zip(files, table["row"].to_pylist(), strict=True)
        if table.num_rows != expected:
            return f"{store.part(kind, task)} has {table.num_rows} rows instead of {expected}"
        for file, count in Counter(files).items():
            if wanted.get(file, (0, 0, ""))[number] != count:
                return f"{store.part(kind, task)} has {count} rows of {file}, which the commit does not"
        if any(wanted[file][2] != checksum for file, checksum in zip(files, checksums, strict=True)):
            return f"{store.part(kind, task)} has rows of a file with another checksum"
    if len(set(keys)) != len(keys):
        return "a spectrum is there twice"
    if any(f.rows + f.errors == 0 for f in commit.files):
        return "a file left neither rows nor errors"
    return ""


def _strays(store: Store, expected: dict[str, int], found: Verification) -> Iterator[Path]:
    """Yield files that belong to no task, or that a killed process left under a temporary name."""
    yield from store.folder.glob(".*-plan.jsonl")
    for kind, number in expected.items():
        names = os.listdir(store.folder / kind)
        if len(names) == number and not found.damaged:
            continue
        for name in names:
            stem = name.partition(".")[0]
            task = Task(int(stem) if stem.isdigit() else -1, ())
            path = store.folder / kind / name
            commit = store.committed(task) if 0 <= task.number < found.tasks else None
            known = commit is not None and (kind == "commits" or kind in commit.parts)
            if not known or path not in (store.commit_path(task), store.part(kind, task)):
                yield path


def repair(folder: Path, found: Verification) -> int:
    """Withdraw what is damaged or changed and remove leftovers; return the number of tasks to be done again.

    Raises
    ------
    MauryError
        If the survey is running.
    """
    with alone(folder, folder / ".lock"):
        return _repair(Store(folder), found)


def _repair(store: Store, found: Verification) -> int:
    changed = set(found.changed)
    again = len(found.missing)
    for task in store.tasks():
        reason = found.damaged.get(task.number, "")
        if not reason and changed & set(task.files):
            reason = "an input file changed since"
        if reason:
            store.withdraw(task, reason)
            again += 1
    for path in found.leftover:
        Path(path).unlink(missing_ok=True)
    return again
