"""The processes that read uploads, seen from the server: few of them, each with limits, and a turn for every session."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import queue
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor

from maury.serve.child import Child, Ended, Message
from maury.serve.reading import MEMORY, File, Listed
from maury.serve.settings import Refused, Settings

_LOG = logging.getLogger("maury.serve")
# Ahead of inference, behind the server itself.
_NICE = 2


class Readers:
    """The processes that read.

    A session has one file read at a time; sessions take turns.

    Parameters
    ----------
    settings
        Their number, and the time that they have.
    """

    def __init__(self, settings: Settings) -> None:
        self._seconds, self._number = settings.reading, settings.readers
        self._idle: queue.SimpleQueue[Child] = queue.SimpleQueue()
        self._all: set[Child] = set()
        self._turns = asyncio.Semaphore(settings.readers)
        self._sessions: dict[str, asyncio.Lock] = {}
        self._pool = ThreadPoolExecutor(settings.readers, "maury-reader")
        self._ending = False

    def start(self) -> None:
        """Start a process, so that the first file need not wait for it."""
        self._idle.put(self._new())

    def stop(self) -> None:
        """End all of them."""
        self._ending = True
        for child in list(self._all):
            child.kill()
        self._pool.shutdown(wait=False)

    async def listing(self, owner: str, file: File) -> tuple[tuple[Listed, ...], str]:
        """Return a file's spectra, and what stopped the reading.

        Raises
        ------
        Refused
            If not one could be read within the limits.
        """
        found = await self._ask(owner, file, {"do": "list"})
        return tuple(Listed(**listed) for listed in found["spectra"]), found["trouble"]

    async def plot(self, owner: str, file: File, index: int) -> str:
        """Return a spectrum for the page, as JSON.

        Raises
        ------
        Refused
            If it cannot be read within the limits.
        """
        text: str = (await self._ask(owner, file, {"do": "plot", "index": index}))["text"]
        return text

    async def wrong_regions(
        self, owner: str, file: File, index: int, regions: Sequence[tuple[float, float]]
    ) -> dict[str, str]:
        """Say what is wrong with regions to be left out of a spectrum.

        Raises
        ------
        Refused
            If the spectrum cannot be read within the limits.
        """
        request = {"do": "regions", "index": index, "regions": [list(region) for region in regions]}
        wrong: dict[str, str] = (await self._ask(owner, file, request))["wrong"]
        return wrong

    @contextlib.asynccontextmanager
    async def _turn(self, owner: str) -> AsyncIterator[None]:
        mine = self._sessions.setdefault(owner, asyncio.Lock())
        try:
            async with mine, self._turns:
                yield
        finally:
            # No one holds it and no one waits for it.
            if not mine.locked() and self._sessions.get(owner) is mine:
                del self._sessions[owner]

    async def _ask(self, owner: str, file: File, request: Message) -> Message:
        message = dict(request) | {"path": str(file.path), "name": file.name}
        async with self._turn(owner):
            # Once begun, it is waited for, so that no one has more than one turn at a time.
            asked = asyncio.get_running_loop().run_in_executor(self._pool, self._exchange, message)
            try:
                found = await asyncio.shield(asked)
            except asyncio.CancelledError:
                await asyncio.wait([asked])
                raise
            except Ended as how:
                _LOG.warning("%s was not read: %s", file.path, how)
                raise Refused(
                    f"{file.name}: could not be read in {self._seconds:g} s and {MEMORY >> 20} MiB of memory; "
                    "maury infer on the command line has no such limit",
                    422,
                ) from None
        if "error" in found:
            raise Refused(found["error"], 422)
        if "failed" in found:
            raise RuntimeError(f"{file.path} could not be read:\n{found['failed']}")
        return found

    def _exchange(self, message: Message) -> Message:
        """Have one of the processes answer; one that does not is killed."""
        try:
            child = self._idle.get_nowait()
        except queue.Empty:
            child = self._new()
        good = False
        try:
            child.send(message)
            found = child.receive(self._seconds)
            if found is None:
                raise Ended("it took too long")
            good = not found.get("grown", False)
            return found
        finally:
            if good:
                self._idle.put(child)
            else:
                self._all.discard(child)
                child.kill()
                if not self._ending:
                    self._idle.put(self._new())

    def _new(self) -> Child:
        one = {name: "1" for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")}
        child = Child("maury.serve.reading", str(self._seconds), nice=_NICE, environment=one)
        self._all.add(child)
        return child
