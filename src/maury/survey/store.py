"""A survey's folder: its settings, its plan, and parts that are there whole or not at all.

::

    survey.json               settings; another run with other ones is refused
    plan.jsonl                a task a line: its number and files
    catalogue/0000012.parquet rows of task 12
    errors/0000012.parquet    spectra of task 12 without a row, and why
    draws/0000012.parquet     draws of task 12, if they are kept
    commits/0000012.json      written last: counts, checksums of inputs and parts. Without it, a task is not done
    staged/0000012-WHO.*      an attempt at task 12 by one worker, and how far it is
    history.jsonl             tasks that were done again, and why

Workers write into ``staged`` alone, each under names of its own; the one process that holds ``.lock`` moves a whole attempt to its
place. So a worker that was given up for lost, and still lives, disturbs nothing.
"""

from __future__ import annotations

import hashlib
import json
import os
import socket
import stat
import threading
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from maury.constants import BUDGET, FALSE_ALARM
from maury.errors import ConfigError
from maury.files import disk_errors, sha256, split_rows, sweep, writing
from maury.priors import Prior
from maury.survey.inputs import Seen, spectra_of

PARTS = ("catalogue", "errors", "draws")
FOLDERS = (*PARTS, "commits", "staged")


class SurveySettings(BaseModel):
    """What a survey's numbers depend on."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: str
    model_version: str
    maury_version: str
    draws: int = Field(256, ge=16)
    noise: Literal["auto", "independent", "correlated"] = "auto"
    stage: Literal["verified", "flow"] = "verified"
    conformal: bool = Field(False, description="whether the flow's intervals are recalibrated")
    false_alarm: float = Field(FALSE_ALARM, gt=0, lt=1)
    budget: int = Field(BUDGET, gt=0, description="likelihoods that a spectrum may take")
    nuisances: str = Field("default", description="what else the model is uncertain of, by name")
    seed: int = Field(0, ge=0, le=2**62)
    keep: int = Field(0, ge=0, description="draws of each spectrum that are kept")
    files_per_task: int = Field(50, gt=0)
    priors: dict[str, Prior] = Field({}, description="that replace the model's, by label")
    masks: tuple[tuple[float, float], ...] = Field((), description="wavelengths left out, vacuum Angstrom")
    labels: str = Field("basic", description="what is inferred beside the model's own labels")
    instrument: str = Field("", description="whose tables are read: name or file; the model's by default")


@dataclass(frozen=True)
class Task:
    """Files, or pieces of them (``FILE[0:256]``), in the order of the input; or one of these, the ``piece``-th, tried alone."""

    number: int
    files: tuple[str, ...]
    piece: int | None = None

    @property
    def name(self) -> str:
        """Of its parts."""
        return f"{self.number:07d}" + ("" if self.piece is None else f".{self.piece}")


@dataclass(frozen=True)
class InputFile:
    """A file as it was read: size, time of change (ns), checksum, and what came of its spectra."""

    path: str
    size: int
    mtime_ns: int
    sha256: str
    rows: int
    errors: int


@dataclass(frozen=True)
class Commit:
    """What a task left.

    ``parts`` holds the SHA-256 of each part; ``flagged`` counts rows with a ``flag_bad``.
    """

    task: int
    files: tuple[InputFile, ...]
    rows: int
    errors: int
    flagged: int
    seconds: float
    parts: dict[str, str]


class Store:
    """Reads and writes a survey's folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._staged = folder / "staged"

    @property
    def who(self) -> str:
        """Name of this thread among all workers."""
        return f"{socket.gethostname()}-{os.getpid()}-{threading.get_ident()}"

    # -- settings and plan

    @property
    def settings(self) -> SurveySettings:
        """Of the survey in this folder.

        Raises
        ------
        ConfigError
            If there is none, or it cannot be read.
        """
        path = self.folder / "survey.json"
        try:
            return SurveySettings(**json.loads(path.read_text(encoding="utf-8")))
        except FileNotFoundError:
            raise ConfigError(f"{self.folder}: holds no survey (there is no survey.json)") from None
        except (ValueError, TypeError, ValidationError) as error:
            raise ConfigError(f"{path}: cannot be read ({str(error).splitlines()[0]})") from None

    @property
    def beginning(self) -> bool:
        """Whether the folder holds no more than a survey that was killed before it had settings."""
        for path in self.folder.iterdir():
            ours = path.is_file() and (path.name.startswith(".") or path.name == "plan.jsonl")
            if not ours and not (path.name in FOLDERS and path.is_dir() and not any(path.iterdir())):
                return False
        return True

    def begin(self, settings: SurveySettings, files: Iterable[Path]) -> int:
        """Write plan and settings; return the number of tasks.

        Raises
        ------
        ConfigError
            If there are no files.
        """
        for part in FOLDERS:
            (self.folder / part).mkdir(parents=True, exist_ok=True)
        number = self._plan(files, settings.files_per_task, old=())
        # Last: with it, the folder is a survey.
        with writing(self.folder / "survey.json") as temporary:
            temporary.write_text(settings.model_dump_json(indent=1) + "\n", encoding="utf-8")
        return number

    def extend(self, files: Iterable[Path]) -> int:
        """Add tasks of those files that are not in the plan; return the number of all tasks."""
        return self._plan(files, self.settings.files_per_task, old=self.tasks())

    def _plan(self, files: Iterable[Path], size: int, old: Iterable[Task]) -> int:
        sweep(self.folder)
        number, seen = 0, Seen()
        with writing(self.folder / "plan.jsonl") as temporary, temporary.open("w", encoding="utf-8") as plan:

            def write(chunk: Iterable[str]) -> None:
                nonlocal number
                plan.write(json.dumps({"task": number, "files": list(chunk)}) + "\n")
                number += 1

            for task in old:
                for name in task.files:
                    seen.add(name)
                write(task.files)
            # A file that is named twice, or by two patterns, is one.
            fresh = (name for name in map(_absolute, files) if seen.add(name))
            for chunk in _chunks(fresh, size):
                write(chunk)
            if not number:
                raise ConfigError("no input: name files, patterns, folders, lists or --from a catalogue")
        return number

    def tasks(self) -> Iterator[Task]:
        """Yield the plan's tasks, one line at a time."""
        with (self.folder / "plan.jsonl").open(encoding="utf-8") as plan:
            for line in plan:
                entry = json.loads(line)
                yield Task(entry["task"], tuple(entry["files"]))

    # -- parts

    def part(self, kind: str, task: Task) -> Path:
        """File of a part."""
        return self.folder / kind / f"{task.name}.parquet"

    def staged_part(self, task: Task, who: str, kind: str) -> Path:
        """File of a part of a worker's attempt."""
        return self._staged / f"{task.name}-{who}.{kind}.parquet"

    def _staged_commit(self, task: Task, who: str) -> Path:
        return self._staged / f"{task.name}-{who}.json"

    def staged(self, task: Task, who: str) -> Commit | None:
        """Return what a worker's attempt left, or None if it is not whole."""
        return _read_commit(self._staged_commit(task, who))

    def write_part(self, kind: str, task: Task, table: pa.Table) -> str:
        """Write a part of this worker's attempt; return its SHA-256."""
        path = self.staged_part(task, self.who, kind)
        with disk_errors(path):
            try:
                pq.write_table(table, path, compression="zstd")
            except BaseException:
                path.unlink(missing_ok=True)
                raise
        return sha256(path)

    def commit_path(self, task: Task) -> Path:
        """File that says that a task is done."""
        return self.folder / "commits" / f"{task.name}.json"

    def commit(self, task: Task, found: Commit) -> None:
        """Declare this worker's attempt whole; it counts when `publish` has moved it to its place."""
        path = self._staged_commit(task, self.who)
        with disk_errors(path), writing(path) as temporary:
            temporary.write_text(json.dumps(asdict(found)) + "\n", encoding="utf-8")

    def publish(self, task: Task, who: str) -> Commit | None:
        """Make a worker's attempt the task's result, by renaming alone; return None if it is not whole.

        Only whoever holds the survey's lock may do so. Killed midway, it goes on when it is called again.
        """
        found = self.staged(task, who)
        if found is None:
            return None
        with disk_errors(self.folder):
            for kind, checksum in found.parts.items():
                here, there = self.staged_part(task, who, kind), self.part(kind, task)
                if here.exists():
                    os.replace(here, there)
                elif not there.exists() or sha256(there) != checksum:
                    return None
            for kind in set(PARTS) - set(found.parts):
                self.part(kind, task).unlink(missing_ok=True)
            os.replace(self._staged_commit(task, who), self.commit_path(task))
            for note in self._staged.glob(f"{task.number:07d}[.-]*.count"):
                note.unlink(missing_ok=True)
        return found

    def note(self, task: Task, done: int) -> None:
        """Note how many spectra of a task this worker has done, for whoever watches; nothing depends on it."""
        with suppress(OSError):
            self._note(task, self.who).write_text(str(done), encoding="utf-8")

    def _note(self, task: Task, who: str) -> Path:
        return self._staged / f"{task.name}-{who}.count"

    def underway(self) -> int:
        """Return how many spectra of tasks that are not committed are done."""
        found = 0
        with suppress(OSError):
            for path in self._staged.glob("*.count"):
                with suppress(OSError, ValueError):
                    found += int(path.read_text(encoding="utf-8") or 0)
        return found

    def recover(self) -> int:
        """Publish what workers finished for a run that did not live to do so, and remove what is left; return the number."""
        with disk_errors(self.folder):
            self._staged.mkdir(exist_ok=True)
        number = 0
        for path in sorted(self._staged.glob("[0-9]*.json")):
            name, _, who = path.stem.partition("-")
            if not name.isdigit():
                # A file of a task, not the task.
                continue
            task = Task(int(name), ())
            if not self.commit_path(task).exists():
                number += self.publish(task, who) is not None
        with disk_errors(self.folder):
            for path in self._staged.iterdir():
                path.unlink(missing_ok=True)
        return number

    def committed(self, task: Task) -> Commit | None:
        """Return what a task left, or None if it is not done."""
        return _read_commit(self.commit_path(task))

    def withdraw(self, task: Task, reason: str) -> None:
        """Undo a task, and note why."""
        # The note first: a kill in between leaves one too many rather than none.
        path = self.folder / "history.jsonl"
        with disk_errors(path), path.open("a", encoding="utf-8") as history:
            history.write(json.dumps({"task": task.number, "reason": reason}) + "\n")
        self.commit_path(task).unlink(missing_ok=True)
        for kind in PARTS:
            self.part(kind, task).unlink(missing_ok=True)

    def changed(self, commit: Commit) -> list[str]:
        """Files that are not what they were when they were read: another size or time, and another checksum."""
        found = []
        for file in commit.files:
            path = split_rows(file.path)[0]
            try:
                status = path.stat()
            except (OSError, ValueError):
                # One that is gone since then keeps its rows; one that was never there may have come.
                continue
            if (status.st_size, status.st_mtime_ns) == (file.size, file.mtime_ns):
                continue
            # One that is there, but still not to be read, has none.
            if identity(path)[0] != file.sha256:
                found.append(file.path)
        return found


def _chunks(names: Iterable[str], size: int) -> Iterator[list[str]]:
    """Yield so many files together; rows of one file count as many."""
    chunk: list[str] = []
    count = 0
    for name in names:
        if chunk and count + spectra_of(name) > size:
            yield chunk
            chunk, count = [], 0
        chunk.append(name)
        count += spectra_of(name)
    if chunk:
        yield chunk


def _absolute(path: Path) -> str:
    # Resolving costs a look at every folder above; only where it matters.
    return str(path.resolve() if ".." in path.parts else path.absolute())


def _read_commit(path: Path) -> Commit | None:
    try:
        entry = json.loads(path.read_text(encoding="utf-8"))
        return Commit(**entry | {"files": tuple(InputFile(**f) for f in entry["files"])})
    except FileNotFoundError:
        return None
    except (ValueError, TypeError, KeyError):
        # Not of our making: the task is done again.
        return None


def unchanged(file: InputFile) -> bool:
    """Tell whether a file has still the size and time of change that were noted, or is still not to be read."""
    try:
        status = split_rows(file.path)[0].stat()
    except (OSError, ValueError):
        return file.size < 0
    if not stat.S_ISREG(status.st_mode):
        return file.size < 0
    return (status.st_size, status.st_mtime_ns) == (file.size, file.mtime_ns)


def identity(path: Path) -> tuple[str, int, int]:
    """Checksum, size and time of change (ns) of a file; nothing of one that cannot be read, or is a pipe or device, which may never end.

    Of ``FILE[20:30]`` they are the file's.
    """
    path, rows = split_rows(path)
    try:
        status = path.stat()
        if stat.S_ISREG(status.st_mode):
            size, mtime = status.st_size, status.st_mtime_ns
            # Pieces of one file come one after another.
            return (sha256(path) if rows is None else _checksum(path, size, mtime)), size, mtime
    except (OSError, ValueError):
        # A name with a NUL is no name either.
        pass
    return "", -1, -1


@lru_cache(maxsize=16)
def _checksum(path: Path, size: int, mtime_ns: int) -> str:
    return sha256(path)


def model_version(folder: Path) -> str:
    """Short name of a model's weights: twelve characters of the SHA-256 of all of them."""
    digest = hashlib.sha256()
    for file in sorted(folder.glob("*.safetensors")):
        digest.update(file.name.encode() + file.read_bytes())
    return digest.hexdigest()[:12]


def differences(stored: SurveySettings, wanted: SurveySettings) -> str:
    """Name the settings in which two runs differ."""
    a, b = stored.model_dump(), wanted.model_dump()
    return ", ".join(f"{k} is {a[k]} there and {b[k]} here" for k in a if a[k] != b[k])
