"""A survey's folder: its settings, its plan, and parts that are there whole or not at all.

::

    survey.json              settings; another run with other ones is refused
    plan.jsonl               a task a line: its number and files
    catalogue/000012.parquet rows of task 12
    errors/000012.parquet    spectra of task 12 without a row, and why
    draws/000012.parquet     draws of task 12, if they are kept
    commits/000012.json      written last: counts, checksums of inputs and parts. Without it, a task is not done
    history.jsonl            tasks that were done again, and why
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Literal

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from maury.errors import ConfigError
from maury.files import sha256, writing

PARTS = ("catalogue", "errors", "draws")


class Settings(BaseModel):
    """What a survey's numbers depend on."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: str
    model_version: str
    maury_version: str
    draws: int = Field(400, ge=100)
    noise: Literal["auto", "independent", "correlated"] = "auto"
    stage: Literal["verified", "flow"] = "verified"
    false_alarm: float = Field(0.01, gt=0, lt=1)
    seed: int = Field(0, ge=0)
    keep: int = Field(0, ge=0, description="draws of each spectrum that are kept")
    files_per_task: int = Field(50, gt=0)


@dataclass(frozen=True)
class Task:
    """Some files, in the order of the input."""

    number: int
    files: tuple[str, ...]

    @property
    def name(self) -> str:
        """Of its parts."""
        return f"{self.number:07d}"


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

    # -- settings and plan

    @property
    def settings(self) -> Settings:
        """Of the survey in this folder.

        Raises
        ------
        ConfigError
            If there is none, or it cannot be read.
        """
        path = self.folder / "survey.json"
        try:
            return Settings(**json.loads(path.read_text()))
        except FileNotFoundError:
            raise ConfigError(f"{self.folder}: holds no survey (there is no survey.json)") from None
        except (ValueError, TypeError, ValidationError) as error:
            raise ConfigError(f"{path}: cannot be read ({str(error).splitlines()[0]})") from None

    def begin(self, settings: Settings, files: Iterable[Path]) -> int:
        """Write plan and settings; return the number of tasks.

        Raises
        ------
        ConfigError
            If there are no files.
        """
        for part in (*PARTS, "commits"):
            (self.folder / part).mkdir(parents=True, exist_ok=True)
        number = 0
        files = iter(files)
        with writing(self.folder / "plan.jsonl") as temporary, temporary.open("w") as plan:
            while chunk := [str(path.absolute()) for path in islice(files, settings.files_per_task)]:
                plan.write(json.dumps({"task": number, "files": chunk}) + "\n")
                number += 1
            if not number:
                raise ConfigError("no input: name files, patterns, folders, lists or --from a catalogue")
        # Last: with it, the folder is a survey.
        with writing(self.folder / "survey.json") as temporary:
            temporary.write_text(settings.model_dump_json(indent=1) + "\n")
        return number

    def tasks(self) -> Iterator[Task]:
        """Yield the plan's tasks, one line at a time."""
        with (self.folder / "plan.jsonl").open() as plan:
            for line in plan:
                entry = json.loads(line)
                yield Task(entry["task"], tuple(entry["files"]))

    # -- parts

    def part(self, kind: str, task: Task) -> Path:
        """File of a part."""
        return self.folder / kind / f"{task.name}.parquet"

    def write_part(self, kind: str, task: Task, table: pa.Table) -> str:
        """Write a part; return its SHA-256."""
        path = self.part(kind, task)
        with writing(path) as temporary:
            pq.write_table(table, temporary, compression="zstd")
        return sha256(path)

    def commit_path(self, task: Task) -> Path:
        """File that says that a task is done."""
        return self.folder / "commits" / f"{task.name}.json"

    def commit(self, task: Task, found: Commit) -> None:
        """Declare a task done."""
        with writing(self.commit_path(task)) as temporary:
            temporary.write_text(json.dumps(asdict(found)) + "\n")

    def committed(self, task: Task) -> Commit | None:
        """Return what a task left, or None if it is not done."""
        try:
            entry = json.loads(self.commit_path(task).read_text())
            return Commit(**entry | {"files": tuple(InputFile(**f) for f in entry["files"])})
        except FileNotFoundError:
            return None
        except (ValueError, TypeError, KeyError):
            # Not of our making: the task is done again.
            return None

    def withdraw(self, task: Task, reason: str) -> None:
        """Undo a task, and note why."""
        self.commit_path(task).unlink(missing_ok=True)
        for kind in PARTS:
            self.part(kind, task).unlink(missing_ok=True)
        with (self.folder / "history.jsonl").open("a") as history:
            history.write(json.dumps({"task": task.number, "reason": reason}) + "\n")

    def changed(self, commit: Commit) -> list[str]:
        """Files that are not what they were when they were read: another size or time, and another checksum."""
        found = []
        for file in commit.files:
            path = Path(file.path)
            try:
                status = path.stat()
            except OSError:
                # One that is gone since then keeps its rows; one that was never there may have come.
                continue
            if (status.st_size, status.st_mtime_ns) == (file.size, file.mtime_ns):
                continue
            if sha256(path) != file.sha256:
                found.append(file.path)
        return found


def model_version(folder: Path) -> str:
    """Short name of a model's weights: twelve characters of the SHA-256 of all of them."""
    digest = hashlib.sha256()
    for file in sorted(folder.glob("*.safetensors")):
        digest.update(file.name.encode() + file.read_bytes())
    return digest.hexdigest()[:12]


def differences(stored: Settings, wanted: Settings) -> str:
    """Name the settings in which two runs differ."""
    a, b = stored.model_dump(), wanted.model_dump()
    return ", ".join(f"{k} is {a[k]} there and {b[k]} here" for k in a if a[k] != b[k])
