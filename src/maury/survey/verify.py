"""Is a survey whole? Every file of the plan accounted for exactly once, every part as it was written."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow.parquet as pq

from maury.files import sha256
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
        Parts that no commit knows.
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
    """Check a survey's folder against its plan.

    Raises
    ------
    ConfigError
        If it holds no survey.
    """
    store = Store(folder)
    _ = store.settings
    found, seen = Verification(), set[int]()
    for task in store.tasks():
        found.tasks += 1
        for file in task.files:
            if hash(file) in seen:
                found.twice.append(file)
            seen.add(hash(file))
        commit = store.committed(task)
        if commit is None:
            found.missing.append(task.number)
            found.leftover += [str(p) for kind in PARTS if (p := store.part(kind, task)).exists()]
            continue
        reason = _damage(store, task, commit)
        if reason:
            found.damaged[task.number] = reason
            continue
        found.changed += store.changed(commit)
        found.files += len(commit.files)
        found.rows += commit.rows
        found.errors += commit.errors
    found.leftover += [str(path) for path in _unfinished(folder)]
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
    for kind, expected in (("catalogue", commit.rows), ("errors", commit.errors)):
        if kind in commit.parts:
            table = pq.read_table(store.part(kind, task), columns=["file", "row"])
            keys += zip(table["file"].to_pylist(), table["row"].to_pylist(), strict=True)
            if table.num_rows != expected:
                return f"{store.part(kind, task)} has {table.num_rows} rows instead of {expected}"
        elif expected:
            return f"its {kind} are missing"
    if len(set(keys)) != len(keys):
        return "a spectrum is there twice"
    return ""


def _unfinished(folder: Path) -> Iterator[Path]:
    """Yield files that a killed worker left under a temporary name."""
    for part in (*PARTS, "commits"):
        yield from (folder / part).glob(".*")


def repair(folder: Path, found: Verification) -> int:
    """Withdraw what is damaged or changed and remove leftovers; return the number of tasks to be done again."""
    store = Store(folder)
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
