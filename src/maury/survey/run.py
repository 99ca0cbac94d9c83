"""``maury survey``: tasks to a Dask cluster, no more at a time than it can chew, until all are committed."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent import futures
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from maury.errors import ConfigError, MauryError
from maury.files import alone, disk_errors, first_line
from maury.survey.attempt import GPU, attempt
from maury.survey.salvage import Salvage
from maury.survey.store import Commit, Store, SurveySettings, Task, differences

if TYPE_CHECKING:
    from distributed import Client

# Tasks on their way, for each worker's thread: enough that none waits, few enough that memory stays flat.
_AHEAD = 2
_TIMEOUT = "20s"
# Dask keeps the times of 100,000 tasks, and profiles each second of a worker, for its pages: hundreds of MB that grow for hours.
LOGS = {
    "distributed.scheduler.dashboard.tasks.task-stream-length": 1000,
    "distributed.worker.profile.enabled": False,
}
# Seconds that a lost scheduler is waited for, and between attempts to reach it; losses without a task done in between.
_PATIENCE, _PAUSE, _LOSSES = 600.0, 2.0, 20


class SchedulerLost(MauryError):
    """The scheduler went away in the middle of a run; what is committed stays."""


class Unreachable(MauryError):
    """There is no scheduler at an address."""


@contextmanager
def _connected(client: Client) -> Iterator[None]:
    """Tell whatever a client says of a scheduler that is not there as `SchedulerLost`."""
    try:
        yield
    except (Exception, asyncio.CancelledError) as error:
        # A closed client fails with whatever its missing parts raise.
        lost = isinstance(error, (OSError, asyncio.CancelledError, futures.CancelledError))
        if not lost and client.status == "running":
            raise
        raise SchedulerLost(
            f"the scheduler was lost ({type(error).__name__}); what is done stays, go on with --resume"
        ) from None


@dataclass
class Progress:
    """How far a survey is.

    Attributes
    ----------
    tasks, done
        Tasks in all, and committed ones.
    rows, errors, flagged
        Of the committed ones.
    fresh, fresh_tasks
        Spectra and tasks done by this run, after which ``rate`` (spectra/s) and ``left`` are told.
    underway
        Spectra of tasks that are not done yet.
    size
        Files of a task, as planned.
    dashboard
        Address of Dask's own page.
    note
        What hinders the run at the moment.
    """

    tasks: int
    done: int = 0
    rows: int = 0
    errors: int = 0
    flagged: int = 0
    fresh: int = 0
    fresh_tasks: int = 0
    underway: int = 0
    size: int = 1
    dashboard: str = ""
    note: str = ""
    began: float = field(default_factory=time.monotonic)

    def add(self, commit: Commit, fresh: bool) -> None:
        """Count a task."""
        self.done += 1
        self.rows += commit.rows
        self.errors += commit.errors
        self.flagged += commit.flagged
        if fresh:
            self.fresh += commit.rows + commit.errors
            self.fresh_tasks += 1

    @property
    def rate(self) -> float:
        """Spectra a second of this run."""
        return (self.fresh + self.underway) / max(time.monotonic() - self.began, 1e-9)

    @property
    def left(self) -> float | None:
        """Seconds until the end, at this run's rate; None before its first spectrum."""
        of_a_task = self.fresh / self.fresh_tasks if self.fresh_tasks else self.size
        begun = self.underway / max(of_a_task, 1)
        if self.fresh_tasks + begun == 0:
            return None
        pace = (time.monotonic() - self.began) / (self.fresh_tasks + begun)
        return max(0.0, self.tasks - self.done - begun) * pace


def prepare(
    folder: Path, settings: SurveySettings, files: Callable[[], Iterator[Path]] | None, resume: bool
) -> int:
    """Begin a survey, or go on with one; return the number of tasks.

    Parameters
    ----------
    folder
        The survey's.
    settings
        What its numbers depend on.
    files
        Yields its input; what is not in the plan of a survey that goes on is added. None adds nothing.
    resume
        Whether to go on.

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
        if files is None:
            return sum(1 for _ in store.tasks())
        with disk_errors(folder), alone(folder, folder / ".lock"):
            return store.extend(files())
    if folder.exists() and not store.beginning and not resume:
        raise ConfigError(f"{folder}: is not empty, and holds no survey; choose another --output")
    if files is None:
        raise ConfigError(f"{folder}: holds no survey to go on with; name its inputs")
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    # Of two that begin at once, the second finds the first's survey.
    with disk_errors(folder), alone(folder, folder / ".lock"):
        if (folder / "survey.json").exists():
            raise ConfigError(f"{folder}: another run has begun a survey there; choose another --output")
        return store.begin(settings, files())


@contextmanager
def cluster(scheduler: str | None, workers: int) -> Iterator[Client]:
    """Connect to a Dask scheduler, or start a cluster of this machine's.

    Raises
    ------
    Unreachable
        If the scheduler does not answer.
    """
    import dask
    from distributed import Client, LocalCluster

    if scheduler:
        try:
            client = Client(scheduler, timeout=_TIMEOUT, set_as_default=False)
        except (OSError, TimeoutError, ValueError) as error:
            raise Unreachable(
                f"scheduler {scheduler}: cannot be reached ({first_line(error)}); its address looks like tcp://HOST:8786"
            ) from None
        try:
            yield client
        finally:
            # Of a scheduler that is gone nobody answers.
            client.close(timeout=5)
        return
    with (
        dask.config.set(LOGS),
        LocalCluster(
            n_workers=workers, threads_per_worker=1, processes=True, dashboard_address=":0"
        ) as local,
        Client(local, set_as_default=False) as client,
    ):
        yield client


def supervise(
    folder: Path,
    connect: Callable[[], AbstractContextManager[Client]],
    progress: Callable[[Progress], None] = lambda _: None,
    *,
    tasks: int,
    device: str = "auto",
    threads: int = 1,
) -> Progress:
    """Do as `run`, and again when a lost scheduler is back.

    Parameters
    ----------
    folder, progress, tasks, device, threads
        As for `run`.
    connect
        Gives a client, as `cluster` does.

    Raises
    ------
    MauryError
        As `run`; and if the scheduler stays away for ten minutes, or is lost time and again.
    """
    before = Progress(tasks)
    lost: tuple[float, MauryError] | None = None
    losses, done = 0, 0
    while True:
        try:
            with connect() as client:
                return run(
                    folder, client, progress, tasks=tasks, device=device, threads=threads, before=before
                )
        except (SchedulerLost, Unreachable) as error:
            if lost is None and isinstance(error, Unreachable):
                raise
            if isinstance(error, SchedulerLost) or lost is None:
                lost = time.monotonic(), error
                losses = losses + 1 if before.fresh_tasks == done else 0
                done = before.fresh_tasks
                if losses > _LOSSES:
                    raise
            elif time.monotonic() - lost[0] > _PATIENCE:
                raise lost[1] from None
            before.note = "the scheduler is lost, waiting for it"
            progress(before)
            time.sleep(_PAUSE)


def run(
    folder: Path,
    client: Client,
    progress: Callable[[Progress], None] = lambda _: None,
    *,
    tasks: int,
    device: str = "auto",
    threads: int = 1,
    before: Progress | None = None,
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
    device
        ``"auto"``, ``"cpu"`` or ``"cuda"``. ``"cuda"`` sends tasks to workers with the resource GPU alone, where there are any.
    threads
        For each worker.
    before
        Where this run goes on counting.

    Raises
    ------
    MauryError
        If a task cannot be done for a reason that is not its spectra's: the disk is full, a worker has no model. What is
        committed stays.
    """
    store = Store(folder)
    found = before or Progress(tasks)
    found.done = found.rows = found.errors = found.flagged = 0
    found.dashboard, found.note = client.dashboard_link or "", ""
    found.size = store.settings.files_per_task
    with alone(folder, folder / ".lock"):
        store.recover()
        todo = _todo(store, found)
        progress(found)
        _Drive(store, client, found, device, threads).through(todo, progress)
        store.recover()
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


class _Drive:
    """Keeps a cluster busy."""

    def __init__(self, store: Store, client: Client, found: Progress, device: str, threads: int) -> None:
        self._store, self._client, self._found = store, client, found
        self._device, self._threads = device, threads
        self._salvage = Salvage(store)
        self._task_of: dict[str, Task] = {}

    def through(self, todo: Iterator[Task], progress: Callable[[Progress], None]) -> None:
        from distributed import as_completed

        waiting = as_completed(loop=self._client.loop)
        for task in islice(todo, self._ahead()):
            waiting.add(self._submit(task))
        for future in waiting:
            task = self._task_of.pop(future.key)
            again = self._settle(task, future, waiting)
            future.release()
            progress(self._found)
            # Workers may have come since.
            room = max(0, self._ahead() - len(self._task_of) - len(again))
            for fresh in (*again, *islice(todo, room)):
                waiting.add(self._submit(fresh))

    def _ahead(self) -> int:
        with _connected(self._client):
            return max(1, _AHEAD * sum(self._client.nthreads().values()))

    def _settle(self, task: Task, future: Any, waiting: Any) -> list[Task]:
        """Take in what came of a task; return what is to be submitted on account of it."""
        from distributed import KilledWorker

        if future.status in ("cancelled", "lost"):
            raise SchedulerLost("the scheduler was lost; what is done stays, go on with --resume")
        if future.status == "error":
            error = future.exception()
            if isinstance(error, KilledWorker):
                return self._salvage.killed(task, self._count)
            self._client.cancel(list(waiting.futures), force=True)
            if isinstance(error, MauryError):
                raise MauryError(f"{error}; what is done stays, go on with --resume")
            raise MauryError(
                f"a worker failed ({type(error).__name__}: {first_line(error)}); what is done stays, go on with --resume"
            )
        # Not an error of the task: those are told above.
        with _connected(self._client):
            who = future.result()
        if task.piece is not None:
            self._salvage.done(task, who, self._count)
            return []
        commit = self._store.publish(task, who)
        if commit is None:
            raise MauryError(
                f"{self._store.folder}: what a worker wrote for task {task.number} is not here; workers must see the same folder"
            )
        self._count(commit)
        return []

    def _count(self, commit: Commit) -> None:
        self._found.add(commit, fresh=True)
        self._found.underway = self._store.underway()

    def _submit(self, task: Task) -> Any:
        key = f"maury-{task.name}-{uuid.uuid4().hex}"
        self._task_of[key] = task
        # An error is final: what is wrong with a spectrum is a row, and what is left is wrong with the cluster.
        with _connected(self._client):
            return self._client.submit(
                attempt, str(self._store.folder.absolute()), task, self._device, self._threads,
                key=key, retries=0, pure=False, resources=self._resources(),
            )  # fmt: skip

    def _resources(self) -> dict[str, float] | None:
        if self._device != "cuda":
            return None
        workers = self._client.scheduler_info()["workers"].values()
        return {GPU: 1} if any(GPU in worker.get("resources", {}) for worker in workers) else None
