"""Runs in a queue, and the one thread that has them worked off, session by session."""

from __future__ import annotations

import logging
import secrets
import shutil
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, Protocol

from maury.errors import MauryError
from maury.priors import Prior
from maury.serve.guard import owned
from maury.serve.settings import Refused, ServerSettings
from maury.serve.uploads import Upload
from maury.serve.wanted import Wanted

_LOG = logging.getLogger("maury.serve")
State = Literal["queued", "running", "done", "failed", "cancelled"]
Progress = Callable[[str], None]


@dataclass(frozen=True)
class Run:
    """One inference: what is wanted, and how far it is.

    Attributes
    ----------
    id, owner, upload
        Its random id, whose it is, of which file.
    number
        Counts the runs of a file from 1.
    wanted, priors
        What was asked for.
    state, stage
        Whether it waits, runs or has ended, and what it is doing.
    stages
        Stage and second (from its start) at which it began.
    error
        Why it failed or was cancelled, in one sentence.
    result
        The numbers, as ``maury infer --json`` gives them.
    seconds
        From its start to its end.
    turn
        Runs are done by their turns: a session's runs have one each, and those of another come between.
    """

    id: str
    owner: str
    upload: Upload
    number: int
    wanted: Wanted
    priors: Mapping[str, Prior]
    state: State = "queued"
    stage: str = ""
    stages: tuple[tuple[str, float], ...] = ()
    error: str = ""
    result: Mapping[str, Any] | None = None
    seconds: float = 0.0
    turn: int = 0

    @property
    def folder(self) -> Path:
        """Where its results lie."""
        return self.upload.folder / self.id

    @property
    def ended(self) -> bool:
        """Whether nothing more will come."""
        return self.state in ("done", "failed", "cancelled")


class _Cancelled(Exception):
    """Raised by ``progress`` to end a run."""


class Work(Protocol):
    """Who does the runs."""

    def prepare(self) -> None:
        """Do, before the first run, what makes it quick."""

    def __call__(self, run: Run, progress: Progress) -> Mapping[str, Any]:
        """Do a run: tell its stages, return the numbers. What is raised ends the run alone.

        ``progress`` is called often: it raises what ends a run that is no longer wanted.
        """

    def stop(self) -> None:
        """Give up whatever is being done; called from another thread."""


class Jobs:
    """A queue of runs.

    Parameters
    ----------
    work
        Does them.
    settings
        Length of the queue, and how long a run outlives its page.
    """

    def __init__(self, work: Work, settings: ServerSettings) -> None:
        self._work, self._settings = work, settings
        self._runs: dict[str, Run] = {}
        self._cancelled: set[str] = set()
        # Until when each session is taken to have a page open.
        self._watched: dict[str, float] = {}
        self._change = threading.Condition(threading.RLock())
        self._ending = False
        # The turn of the run that was begun last.
        self._turn = 0
        self.ready = threading.Event()
        self._thread = threading.Thread(target=self._loop, name="maury-worker", daemon=True)

    def start(self) -> None:
        """Start the worker."""
        self._thread.start()

    def stop(self, seconds: float = 3.0) -> None:
        """Cancel everything; wait some seconds for the worker to end."""
        with self._change:
            self._ending = True
            self._cancelled |= set(self._runs)
            self._change.notify_all()
        self._work.stop()
        if self._thread.is_alive():
            self._thread.join(seconds)

    def check_room(self, owner: str) -> None:
        """Say whether one more run of a session can wait.

        Raises
        ------
        Refused
            If too many wait already.
        """
        with self._change:
            waiting = [run.owner for run in self._runs.values() if run.state == "queued"]
        if waiting.count(owner) >= self._settings.most_waiting:
            raise Refused(
                f"{self._settings.most_waiting} runs of yours are waiting already; let some end first", 429
            )
        if len(waiting) >= self._settings.all_waiting:
            raise Refused(f"{len(waiting)} runs are waiting already; try again in a minute", 429)

    def add(self, owner: str, upload: Upload, wanted: Wanted, priors: Mapping[str, Prior]) -> Run:
        """Put a run into the queue; beyond `ServerSettings.most_runs` of a session the oldest results are dropped.

        Raises
        ------
        Refused
            If the queue is full.
        """
        with self._change:
            self.check_room(owner)
            number = max((run.number for run in self._of(owner, upload.id)), default=0) + 1
            turn = max(
                (r.turn + 1 for r in self._runs.values() if r.owner == owner and not r.ended), default=0
            )
            turn = max(turn, self._turn)
            run = Run(secrets.token_urlsafe(18), owner, upload, number, wanted, priors, turn=turn)
            self._runs[run.id] = run
            old = [r for r in self._runs.values() if r.owner == owner and r.ended]
            most = self._settings.most_runs - sum(
                r.owner == owner and not r.ended for r in self._runs.values()
            )
            for dropped in old[: max(len(old) - max(most, 0), 0)]:
                del self._runs[dropped.id]
                shutil.rmtree(dropped.folder, ignore_errors=True)
            self._watch(owner)
            self._change.notify_all()
        return run

    def get(self, owner: str, key: str) -> Run:
        """Return a session's run.

        Raises
        ------
        Refused
            If there is none of that id, or it is another session's.
        """
        return owned(self._runs, owner, key, "run")

    def _of(self, owner: str, upload: str) -> list[Run]:
        return [run for run in self._runs.values() if run.owner == owner and run.upload.id == upload]

    def of(self, owner: str, upload: str) -> list[Run]:
        """Return the runs of a session's file, the oldest first."""
        with self._change:
            return self._of(owner, upload)

    def ahead(self, run: Run) -> int:
        """How many runs come before one that waits."""
        with self._change:
            running = sum(r.state == "running" for r in self._runs.values())
            queue = [r.id for r in self._queue()]
            return queue.index(run.id) + running if run.id in queue else 0

    def _queue(self) -> list[Run]:
        # Of equal turns, the one that came first.
        return sorted((run for run in self._runs.values() if run.state == "queued"), key=lambda run: run.turn)

    def cancel(self, owner: str, key: str) -> Run:
        """Cancel a run: at once if it waits, at the next word of its progress if it runs.

        Raises
        ------
        Refused
            If there is no such run.
        """
        with self._change:
            run = self.get(owner, key)
            if run.state == "queued":
                self._end(run, "cancelled", "cancelled")
            elif run.state == "running":
                self._cancelled.add(key)
            return self._runs[key]

    def cancel_all(self, owner: str) -> None:
        """Cancel all runs of a session."""
        with self._change:
            for run in [run for run in self._runs.values() if run.owner == owner and not run.ended]:
                self.cancel(owner, run.id)

    def done(self, owner: str) -> list[Run]:
        """Return a session's runs that have results, the oldest first."""
        with self._change:
            return [run for run in self._runs.values() if run.owner == owner and run.state == "done"]

    def _watch(self, owner: str) -> None:
        self._watched[owner] = time.monotonic() + self._settings.lease

    def watch(self, owner: str) -> None:
        """Note that a session's page asks for its runs."""
        with self._change:
            self._watch(owner)

    def leave(self, owner: str) -> None:
        """Note that a session's page is being closed, or loaded anew."""
        with self._change:
            self._watched[owner] = time.monotonic() + self._settings.grace

    def forget(self, upload: str) -> None:
        """Cancel and drop the runs of a file that is being deleted."""
        with self._change:
            for run in [run for run in self._runs.values() if run.upload.id == upload]:
                if run.state == "running":
                    self._cancelled.add(run.id)
                del self._runs[run.id]

    def sweep(self) -> None:
        """Cancel waiting runs whose page is gone."""
        with self._change:
            for run in list(self._runs.values()):
                if run.state == "queued" and self._abandoned(run):
                    self._end(run, "cancelled", "its page was closed")
            # Sessions without runs need not be remembered.
            owners = {run.owner for run in self._runs.values()}
            self._watched = {k: v for k, v in self._watched.items() if k in owners}

    def _abandoned(self, run: Run) -> bool:
        return time.monotonic() > self._watched.get(run.owner, 0.0)

    def _end(self, run: Run, state: State, error: str = "", **more: Any) -> None:
        # A run that was forgotten meanwhile does not come back.
        if run.id in self._runs:
            self._runs[run.id] = replace(self._runs[run.id], state=state, error=error, **more)
        self._cancelled.discard(run.id)

    def _next(self) -> Run | None:
        """Wait for the next run; None at the end."""
        with self._change:
            while not self._ending:
                run = next(iter(self._queue()), None)
                if run is None:
                    self._change.wait()
                elif self._abandoned(run):
                    self._end(run, "cancelled", "its page was closed")
                else:
                    self._runs[run.id] = replace(run, state="running")
                    self._turn = run.turn
                    return run
        return None

    def _loop(self) -> None:
        try:
            self._work.prepare()
        except Exception:
            _LOG.exception("the first run will be slower")
        self.ready.set()
        while (run := self._next()) is not None:
            self._do(run)

    def _do(self, run: Run) -> None:
        began = time.perf_counter()

        def progress(stage: str) -> None:
            with self._change:
                if run.id in self._cancelled:
                    raise _Cancelled("cancelled")
                if self._abandoned(run):
                    raise _Cancelled("its page was closed")
                now = self._runs.get(run.id, run)
                if now.stage != stage:
                    stages = (*now.stages, (stage, time.perf_counter() - began))
                    self._runs[run.id] = replace(now, stage=stage, stages=stages)

        state: State = "failed"
        error, result = "", None
        try:
            result = self._work(run, progress)
            state = "done"
        except _Cancelled as reason:
            state, error = "cancelled", str(reason)
        except MauryError as reason:
            error = run.upload.file.named(str(reason))
        except Exception:
            if not self._ending:
                _LOG.exception("run %s failed", run.id)
            error = "something went wrong inside maury; the server's log has the details"
        with self._change:
            self._end(run, state, error, result=result, seconds=time.perf_counter() - began)
            if run.id not in self._runs:
                shutil.rmtree(run.folder, ignore_errors=True)
