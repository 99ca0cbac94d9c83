"""Turns at reading: few files are read at a time, one of each session, away from the thread that answers."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from maury.errors import ReaderError, SpectrumError
from maury.serve.reading import LIMITS, File, Listed, to_plot, wrong_regions
from maury.serve.settings import Refused, ServerSettings
from maury.spectra.formats import isolated

T = TypeVar("T")


class Readers:
    """Whoever wants something from a file waits for a turn here; sessions take turns.

    Parameters
    ----------
    settings
        How many files may be read side by side.
    """

    def __init__(self, settings: ServerSettings) -> None:
        self._number = settings.readers
        self._turns = asyncio.Semaphore(settings.readers)
        self._sessions: dict[str, asyncio.Lock] = {}
        self._pool = ThreadPoolExecutor(settings.readers, "maury-reader")
        self._ending = False

    def start(self, number: int | None = None) -> None:
        """Have processes ready before there are files, all or some of them."""
        if not self._ending:
            isolated.prepare(number or self._number, LIMITS)

    def stop(self) -> None:
        """Take no more files; those who wait are refused."""
        self._ending = True
        self._pool.shutdown(wait=False)

    async def listing(self, owner: str, file: File) -> tuple[tuple[Listed, ...], str]:
        """Return a file's spectra, and what stopped the reading.

        Raises
        ------
        Refused
            If not one could be read within the limits.
        """
        return await self._turn(owner, file.listing)

    async def plot(self, owner: str, file: File, index: int) -> str:
        """Return a spectrum for the page, as JSON.

        Raises
        ------
        Refused
            If it cannot be read within the limits.
        """
        return await self._turn(owner, lambda: json.dumps(to_plot(file.read(index)), allow_nan=False))

    async def wrong_regions(
        self, owner: str, file: File, index: int, regions: Sequence[tuple[float, float]]
    ) -> dict[str, str]:
        """Say what is wrong with regions to be left out of a spectrum.

        Raises
        ------
        Refused
            If the spectrum cannot be read within the limits.
        """
        return await self._turn(owner, lambda: wrong_regions(file.read(index), regions))

    async def _turn(self, owner: str, do: Callable[[], T]) -> T:
        async with self._waiting(owner):
            if self._ending:
                raise Refused("the server is ending", 503)
            doing = asyncio.get_running_loop().run_in_executor(self._pool, do)
            try:
                return await asyncio.shield(doing)
            except asyncio.CancelledError:
                # Once begun, it is waited for, so that no session has more than one turn at a time.
                await asyncio.wait([doing])
                raise
            except SpectrumError as error:
                raise Refused(str(error), 422) from None
            except ReaderError as error:
                raise Refused(str(error), 503) from None

    @contextlib.asynccontextmanager
    async def _waiting(self, owner: str) -> AsyncIterator[None]:
        mine = self._sessions.setdefault(owner, asyncio.Lock())
        try:
            async with mine, self._turns:
                yield
        finally:
            # No one holds it and no one waits for it.
            if not mine.locked() and self._sessions.get(owner) is mine:
                del self._sessions[owner]
