"""A process that does what must not harm the server, and can be killed: requests and answers are lines of JSON."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from typing import Any, BinaryIO

Message = Mapping[str, Any]
_NICE = "MAURY_CHILD_NICE"


class Ended(Exception):
    """The process is no more; its message says how it ended."""


class Child:
    """A Python process that answers requests.

    Parameters
    ----------
    module
        What is run in it; it calls `answer`.
    arguments
        Handed to it.
    nice
        How far it stands back behind the server itself, where the system knows of that.
    environment
        Variables added to this process's.
    """

    def __init__(
        self, module: str, *arguments: str, nice: int = 0, environment: Mapping[str, str] | None = None
    ) -> None:
        # -P: what lies in the working directory is never imported. A session of its own: Ctrl-C is the server's to handle.
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", module, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=os.environ | {_NICE: str(nice)} | dict(environment or {}),
            start_new_session=True,
        )
        self._heard: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as stream:
            for line in stream:
                self._heard.put(line)
        self._heard.put(None)

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    @property
    def alive(self) -> bool:
        """Whether it runs."""
        return self._process.poll() is None

    def send(self, message: Message) -> None:
        """Send a request.

        Raises
        ------
        Ended
            If the process is no more.
        """
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(message).encode() + b"\n")
            self._process.stdin.flush()
        except (OSError, ValueError):
            raise Ended(self._how()) from None

    def receive(self, seconds: float) -> Message | None:
        """Return its next message; None if there is none within some seconds.

        Raises
        ------
        Ended
            If the process is no more.
        """
        try:
            line = self._heard.get(timeout=max(seconds, 0.0))
        except queue.Empty:
            return None
        if line is None:
            # For whoever else listens.
            self._heard.put(None)
            raise Ended(self._how())
        message: Message = json.loads(line)
        return message

    def _how(self) -> str:
        try:
            code = self._process.wait(1)
        except subprocess.TimeoutExpired:
            return "it closed its output"
        if code < 0:
            try:
                return f"killed by {signal.Signals(-code).name}"
            except ValueError:
                return f"killed by signal {-code}"
        return f"it ended with status {code}"

    def kill(self) -> None:
        """End it at once, and what it has started itself."""
        if hasattr(os, "killpg") and self._process.poll() is None:
            # It leads a group of its own, in which its readers are too.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
        self._process.kill()
        self._process.wait()
        if self._process.stdin is not None:
            with contextlib.suppress(OSError):
                self._process.stdin.close()


def answer(
    handle: Callable[[Message, Callable[[Message], None]], None],
    urgent: Callable[[Message], bool] = lambda _: False,
) -> None:
    """In the process: handle requests one after the other until the server is gone.

    Parameters
    ----------
    handle
        Told a request and where to send messages.
    urgent
        Told every request as it comes, while another is being handled; true if there is nothing more to do about it.
    """
    if hasattr(os, "nice"):
        os.nice(int(os.environ.get(_NICE, "0")))
    # What libraries print goes to the log, not between the messages.
    sys.stdout.flush()
    out: BinaryIO = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    lock = threading.Lock()
    waiting: queue.SimpleQueue[Message] = queue.SimpleQueue()

    def listen() -> None:
        for line in sys.stdin.buffer:
            message = json.loads(line)
            if not urgent(message):
                waiting.put(message)
        # Whatever is being done, nobody waits for it.
        os._exit(0)

    def tell(message: Message) -> None:
        with lock:
            out.write(json.dumps(message).encode() + b"\n")
            out.flush()

    threading.Thread(target=listen, daemon=True).start()
    while True:
        handle(waiting.get(), tell)
