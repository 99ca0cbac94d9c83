"""``maury survey``: tasks to a Dask cluster, no more at a time than it can chew, until all are committed."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from maury.errors import ConfigError, MauryError
from maury.files import alone, disk_errors, first_line
from maury.survey.store import Commit, Settings, Store, Task, differences
from maury.survey.worker import run_task

if TYPE_CHECKING:
    from distributed import Client

# Tasks on their way, for each worker's thread: enough that none waits, few enough that memory stays flat.
_AHEAD = 2
_TIMEOUT = "20s"
# Times that a task may lose its worker before it is blamed for it.
_LOSSES = 10


@dataclass
class Progress:
    """How far a survey is.

    Attributes
    ----------
    tasks, done
        Tasks in all, and committed ones.
    rows, errors, flagged
        Of the committed ones.
    fresh
        Spectra done by this run, after which ``rate`` (spectra/s) is told.
    dashboard
        Address of Dask's own page.
    """

    tasks: int
    done: int = 0
    rows: int = 0
    errors: int = 0
    flagged: int = 0
    fresh: int = 0
    dashboard: str = ""
    began: float = field(default_factory=time.monotonic)

    def add(self, commit: Commit, fresh: bool) -> None:
        """Count a task."""
        self.done += 1
        self.rows += commit.rows
        self.errors += commit.errors
        self.flagged += commit.flagged
        if fresh:
            self.fresh += commit.rows + commit.errors

    @property
    def rate(self) -> float:
        """Spectra a second of this run."""
        return self.fresh / max(time.monotonic() - self.began, 1e-9)


def prepare(folder: Path, settings: Settings, files: Callable[[], Iterator[Path]], resume: bool) -> int:
    """Begin a survey, or go on with one; return the number of tasks.

    Raises
    ------
    ConfigError
        If the folder holds a survey and ``resume`` is not asked for, or one with other settings.
    """
    store = Store(folder)
    if (folder / "survey.json").exists():
        if not resume:
            raise ConfigError(
                f"{folder}: holds a survey already; use --resume to go on with it, or choose another --output"
            )
        stored = store.settings
        if stored != settings:
            raise ConfigError(
                f"{folder}: was begun with other settings ({differences(stored, settings)}); choose another --output"
            )
        return sum(1 for _ in store.tasks())
    if folder.exists() and any(folder.iterdir()) and not (folder / "plan.jsonl").exists() and not resume:
        raise ConfigError(f"{folder}: is not empty, and holds no survey; choose another --output")
    with disk_errors(folder):
        return store.begin(settings, files())


@contextmanager
def cluster(scheduler: str | None, workers: int) -> Iterator[Client]:
    """Connect to a Dask scheduler, or start a cluster of this machine's.

    Raises
    ------
    MauryError
        If the scheduler does not answer.
    """
    from distributed import Client, LocalCluster

    if scheduler:
        try:
            client = Client(scheduler, timeout=_TIMEOUT, set_as_default=False)
        except (OSError, TimeoutError, ValueError) as error:
            raise MauryError(
                f"scheduler {scheduler}: cannot be reached ({first_line(error)}); its address looks like tcp://HOST:8786"
            ) from None
        with client:
            yield client
        return
    with (
        LocalCluster(
            n_workers=workers, threads_per_worker=1, processes=True, dashboard_address=":0"
        ) as local,
        Client(local, set_as_default=False) as client,
    ):
        yield client


def run(
    folder: Path,
    client: Client,
    progress: Callable[[Progress], None] = lambda _: None,
    *,
    tasks: int,
    device: str = "cpu",
    threads: int = 1,
) -> Progress:
    """Do all tasks of a survey that are not committed.

    Tasks whose input files changed since are done again, and noted in ``history.jsonl``.

    Parameters
    ----------
    folder
        The survey's, as `prepare` left it; every worker must see it under this name.
    client
        Of a Dask cluster.
    progress
        Told after each task.
    tasks
        Their number.
    device, threads
        For each worker.

    Raises
    ------
    MauryError
        If a task cannot be done for a reason that is not its spectra's: the disk is full, a worker has no model. What is
        committed stays.
    """
    store = Store(folder)
    found = Progress(tasks, dashboard=client.dashboard_link or "")
    with alone(folder, folder / ".lock"):
        todo = _todo(store, found)
        progress(found)
        _drive(folder, client, todo, found, progress, device, threads)
    return found


def _todo(store: Store, found: Progress) -> Iterator[Task]:
    """Yield tasks without a commit, and those whose files changed."""
    for task in store.tasks():
        commit = store.committed(task)
        if commit is not None:
            changed = store.changed(commit)
            if not changed:
                found.add(commit, fresh=False)
                continue
            store.withdraw(task, f"changed since: {', '.join(changed)}")
        yield task


def _drive(
    folder: Path,
    client: Client,
    todo: Iterator[Task],
    found: Progress,
    progress: Callable[[Progress], None],
    device: str,
    threads: int,
) -> None:
    from distributed import as_completed

    def submit(task: Task) -> Any:
        return client.submit(
            run_task, str(folder.absolute()), task, device, threads,
            key=f"maury-{task.name}-{time.time_ns()}", retries=_LOSSES, pure=False,
        )  # fmt: skip

    ahead = max(1, _AHEAD * sum(client.nthreads().values()))
    waiting = as_completed(loop=client.loop)
    for task in islice(todo, ahead):
        waiting.add(submit(task))
    for future in waiting:
        if future.status == "error":
            error = future.exception()
            client.cancel(list(waiting.futures), force=True)
            if isinstance(error, MauryError):
                raise MauryError(f"{error}; what is done stays, go on with --resume")
            raise MauryError(
                f"a worker failed ({type(error).__name__}: {first_line(error)}); what is done stays, go on with --resume"
            )
        found.add(future.result(), fresh=True)
        future.release()
        progress(found)
        for task in islice(todo, 1):
            waiting.add(submit(task))
