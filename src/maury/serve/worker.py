"""The process that infers, seen from the server: told runs, asked to end them, and replaced when it dies."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from maury.errors import InferenceError, ModelError
from maury.serve.child import Child, Ended
from maury.serve.settings import ServerSettings

if TYPE_CHECKING:
    from maury.serve.jobs import Progress, Run

_LOG = logging.getLogger("maury.serve")
# Behind the server.
_NICE = 5
_MODULE = "maury.serve.work"
# Seconds between looks at whether a run is still wanted, and those that the process has to end one that is not.
_LOOK, _GRACE = 0.2, 2.0


class Worker:
    """Does runs in a process of its own.

    One that dies, whatever of, takes its run with it; the next run has another.

    Parameters
    ----------
    settings
        The model, and how long a run may take.
    """

    def __init__(self, settings: ServerSettings) -> None:
        self._settings = settings
        self._ending = False
        self._lock = threading.Lock()
        self._child = self._new()

    @property
    def pid(self) -> int:
        """The process's id."""
        return self._child.pid

    def load(self) -> None:
        """Wait until the model is loaded.

        Raises
        ------
        ModelError
            If it cannot be.
        """
        try:
            while (message := self._child.receive(1.0)) is None:
                pass
        except Ended as how:
            raise ModelError(f"{self._settings.model}: the process that loads it ended ({how})") from None
        if "refused" in message:
            raise ModelError(message["refused"])

    def prepare(self) -> None:
        """Wait until it has warmed up, and log what keeps it from that."""
        try:
            while "ready" not in (message := self._child.receive(1.0) or {}):
                pass
        except Ended as how:
            if not self._ending:
                _LOG.error("the process that infers ended while it was getting ready: %s", how)
            return
        if message["trouble"]:
            _LOG.error("the first run will be slower:\n%s", message["trouble"])

    def __call__(self, run: Run, progress: Progress) -> Mapping[str, Any]:
        """Do a run.

        Raises
        ------
        MauryError
            If it fails, takes too long, or the process dies.
        """
        child, name = self._alive(), run.upload.name
        try:
            child.send(
                {
                    "do": "run",
                    "run": run.id,
                    "path": str(run.upload.file.path),
                    "name": name,
                    "wanted": run.wanted.model_dump(mode="json"),
                    "folder": str(run.folder),
                }
            )
            return self._follow(child, name, progress)
        except Ended as how:
            if self._ending:
                raise InferenceError("the server is ending") from None
            _LOG.error("the process that infers ended: %s", how)
            self._alive()
            raise InferenceError(
                f"{name}: the process that worked on it ended ({how}); is there enough memory?"
            ) from None
        except (_Told, _Failed):
            raise
        except BaseException:
            self._give_up(child, run.id)
            raise

    def _follow(self, child: Child, name: str, progress: Progress) -> Mapping[str, Any]:
        """Pass its stages on until it has the numbers."""
        began = time.monotonic()
        stage = ""
        while True:
            if stage:
                progress(stage)
            message = child.receive(_LOOK)
            if message is None:
                if time.monotonic() - began > self._settings.longest_run:
                    raise InferenceError(
                        f"{name}: took more than {self._settings.longest_run / 60:g} minutes; "
                        "maury infer on the command line has no such limit"
                    )
            elif "stage" in message:
                stage = message["stage"]
            elif "result" in message:
                result: Mapping[str, Any] = message["result"]
                return result
            elif "error" in message:
                raise _Told(message["error"])
            elif "failed" in message:
                raise _Failed(message["failed"])
            elif "refused" in message:
                # A model that could be loaded before.
                raise InferenceError(message["refused"])

    def _give_up(self, child: Child, run: str) -> None:
        """Have what the process does end; if it does not listen, end the process."""
        end = time.monotonic() + _GRACE
        try:
            child.send({"do": "cancel", "run": run})
            while time.monotonic() < end and not self._ending:
                message = child.receive(_LOOK) or {}
                if message.keys() & {"ended", "result", "error", "failed"}:
                    return
        except Ended:
            pass
        child.kill()
        self._alive()

    def _alive(self) -> Child:
        with self._lock:
            if not self._child.alive and not self._ending:
                self._child = self._new()
            return self._child

    def _new(self) -> Child:
        child = Child(_MODULE, self._settings.model, nice=_NICE)
        child.send({"do": "load"})
        return child

    def stop(self) -> None:
        """End the process."""
        self._ending = True
        with self._lock:
            self._child.kill()


class _Told(InferenceError):
    """What is wrong with a run, told by the process, which lives on."""


class _Failed(RuntimeError):
    """A fault of maury's, told by the process, which lives on; the message is its traceback."""
