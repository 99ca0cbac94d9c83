"""Start the server, and leave nothing behind at its end."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import functools
import gc
import shutil
import signal
import socket
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import uvicorn
from starlette.applications import Starlette

from maury.errors import MauryError
from maury.files import alone
from maury.serve.connections import Patient
from maury.serve.settings import ServerSettings
from maury.serve.worker import Worker

_PREFIX = "maury-serve-"
_LOCK = ".lock"
# Seconds: before which a folder may not hold its lock yet, and for answers on their way when the server ends.
_YOUNG, _LAST_WORDS = 60.0, 0.3


def serve(settings: ServerSettings, started: Callable[[str], None] = lambda _: None) -> None:
    """Serve until interrupted.

    Parameters
    ----------
    settings
        Where, with which model, and the limits.
    started
        Told the page's address once it answers.

    Raises
    ------
    MauryError
        If the port is in use or cannot be had, or the model cannot be loaded.
    """
    with contextlib.ExitStack() as stack:
        opened = stack.enter_context(contextlib.closing(listen(settings.host, settings.port)))
        stack.enter_context(_terminated_as_interrupted())
        root = stack.enter_context(working_folder())
        port: int = opened.getsockname()[1]
        settings = replace(settings, port=port)
        # It loads the model while this process imports the rest.
        worker = Worker(settings)
        stack.callback(worker.stop)

        from maury.serve.app import create_app
        from maury.serve.jobs import Jobs
        from maury.serve.readers import Readers
        from maury.serve.uploads import Uploads
        from maury.serve.wanted import choices
        from maury.spectra.formats import isolated

        readers = Readers(settings)
        stack.callback(isolated.close_all)
        models = choices(settings.model)
        jobs = Jobs(worker, settings)
        app = create_app(settings, models, readers, Uploads(root, settings, readers), jobs)
        worker.load()
        name = f"[{settings.host}]" if ":" in settings.host else settings.host

        def ending() -> None:
            readers.stop()
            isolated.close_all()
            worker.stop()

        with contextlib.suppress(KeyboardInterrupt):
            _Server(configured(app, settings), lambda: started(f"http://{name}:{port}"), ending).run(
                sockets=[opened]
            )
    # Looking for cycles among all that torch has loaded would take seconds of a busy machine at the very end.
    gc.freeze()


def configured(app: Starlette, settings: ServerSettings) -> uvicorn.Config:
    """Return uvicorn's settings for an application."""
    return uvicorn.Config(
        app,
        # What it takes for the class of a connection.
        http=functools.partial(Patient, settings=settings),  # type: ignore[arg-type]
        ws="none",
        loop="asyncio",
        log_level="error",
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=1,
    )


def listen(host: str, port: int) -> socket.socket:
    """Take a port.

    Raises
    ------
    MauryError
        If it is in use, needs rights, or the host is no address of this machine.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        opened = socket.socket(family, kind, protocol)
    except OSError as error:
        raise MauryError(f"--host {host}: is no address of this machine ({error.strerror})") from None
    try:
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        opened.bind(address)
        # Two that have bound a port can find out only now.
        opened.listen(128)
    except OSError as error:
        opened.close()
        if error.errno == errno.EADDRINUSE:
            advice = "is maury serve running already? Choose another with --port, or 0 for any that is free"
            raise MauryError(f"port {port} is in use: {advice}") from None
        raise MauryError(f"cannot listen on {host} port {port} ({error.strerror})") from None
    return opened


@contextmanager
def working_folder() -> Iterator[Path]:
    """Yield a folder of this server alone; delete it at the end, and now those of servers that were killed."""
    for stale in Path(tempfile.gettempdir()).glob(_PREFIX + "*"):
        # One that starts just now may not hold its lock yet.
        if time.time() - stale.stat().st_ctime < _YOUNG:
            continue
        # A lock that is held is another server's.
        with contextlib.suppress(MauryError, OSError), alone(stale, stale / _LOCK):
            shutil.rmtree(stale, ignore_errors=True)
    root = Path(tempfile.mkdtemp(prefix=_PREFIX))
    with alone(root, root / _LOCK):
        try:
            yield root
        finally:
            shutil.rmtree(root, ignore_errors=True)


@contextmanager
def _terminated_as_interrupted() -> Iterator[None]:
    """Let SIGTERM end the server as Ctrl-C does, so that what was kept is deleted."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


class _Server(uvicorn.Server):
    """Tells when it answers, and ends when it is told to."""

    def __init__(
        self, config: uvicorn.Config, started: Callable[[], None], ending: Callable[[], None]
    ) -> None:
        super().__init__(config)
        self._told, self._ending = started, ending

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._told()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        # What waits for a process is answered by its end.
        await asyncio.to_thread(self._ending)
        await asyncio.sleep(_LAST_WORDS)
        for connection in list(self.server_state.connections):
            connection.transport.abort()
        await super().shutdown(sockets)
