"""Files that browsers sent: received with limits, and kept under random names for a time."""

from __future__ import annotations

import asyncio
import errno
import re
import secrets
import shutil
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from maury.serve.guard import owned
from maury.serve.readers import Readers
from maury.serve.reading import STORED, File, Listed
from maury.serve.settings import Refused, ServerSettings
from maury.text import readable

_NAME_LENGTH = 120
_MB = 2**20
# Seconds before it is judged how fast a file comes.
_FIRST = 0.5


@dataclass(frozen=True)
class Upload:
    """A file that is kept.

    Attributes
    ----------
    id
        Random; also the name of its folder.
    owner
        The session that sent it.
    name
        What the browser called it: shown, never used as a path.
    folder
        Where it and its results lie.
    size
        Bytes.
    spectra
        What it holds, the first 200 spectra.
    trouble
        Why not all of it could be read; empty if it could.
    used
        When it was last used, seconds since 1970.
    """

    id: str
    owner: str
    name: str
    folder: Path
    size: int
    spectra: tuple[Listed, ...] = ()
    trouble: str = ""
    used: float = 0.0

    @property
    def file(self) -> File:
        """The file on disk, with its name."""
        return File(self.folder / STORED, self.name)


@dataclass(eq=False)
class _Arrival:
    """A file on its way."""

    owner: str
    limit: asyncio.Timeout
    size: int = 0
    gives_way: bool = False
    began: float = field(default_factory=time.monotonic)

    @property
    def age(self) -> float:
        """Seconds since its request."""
        return time.monotonic() - self.began

    @property
    def rate(self) -> float:
        """Bytes per second so far."""
        return self.size / max(self.age, 1e-3)


def shown_name(name: str) -> str:
    """Return what the page shows of a file's name: its last part, without control characters, not too long."""
    last = re.split(r"[/\\]", name)[-1]
    return readable(last).strip()[-_NAME_LENGTH:] or "unnamed"


class Uploads:
    """The files that are kept.

    Parameters
    ----------
    root
        Folder that they lie in, each in one of its own.
    settings
        Limits of size, number and time.
    readers
        Who looks into them.
    """

    def __init__(self, root: Path, settings: ServerSettings, readers: Readers) -> None:
        self._root, self._settings, self._readers = root, settings, readers
        self._kept: dict[str, Upload] = {}
        # From their request until they are kept; those that are being received are also in the second.
        self._coming: list[_Arrival] = []
        self._receiving: list[_Arrival] = []

    async def receive(
        self, owner: str, name: str, announced: int | None, chunks: AsyncIterator[bytes]
    ) -> Upload:
        """Write a file as it arrives, and have it looked into; nothing of it stays if it is refused.

        It has `ServerSettings.patience` seconds, and one more for every `ServerSettings.pace` bytes that have come. Where too many
        arrive, the slowest gives way.

        Raises
        ------
        Refused
            If it is too large, empty, too slow, one too many, or holds no spectrum.
        """
        if announced is not None and announced > self._settings.max_upload:
            raise self._too_large()
        key = secrets.token_urlsafe(18)
        upload = Upload(key, owner, shown_name(name), self._root / key, 0)
        arrival = _Arrival(owner, asyncio.timeout(None))
        self._check_room(owner, announced or 0)
        self._coming.append(arrival)
        try:
            await self._place(arrival)
            upload.folder.mkdir(mode=0o700)
            try:
                async with arrival.limit:
                    await self._write(upload.file.path, arrival, chunks)
            finally:
                self._receiving.remove(arrival)
            upload = replace(upload, size=arrival.size)
            spectra, trouble = await self._readers.listing(owner, upload.file)
        except BaseException as error:
            shutil.rmtree(upload.folder, ignore_errors=True)
            if isinstance(error, TimeoutError):
                raise self._too_slow(arrival) from None
            if isinstance(error, OSError):
                raise _no_room(error) from None
            raise
        finally:
            self._coming.remove(arrival)
        self._kept[key] = replace(upload, spectra=spectra, trouble=trouble, used=time.time())
        return self._kept[key]

    def _check_room(self, owner: str, announced: int) -> None:
        settings = self._settings
        files = [upload.owner for upload in self._kept.values()] + [arrival.owner for arrival in self._coming]
        if files.count(owner) >= settings.most_files:
            raise Refused(
                f"{settings.most_files} files are kept for you; remove some, or wait until older ones are deleted",
                429,
            )
        taken = sum(upload.size for upload in self._kept.values()) + sum(a.size for a in self._coming)
        if len(files) >= settings.all_files or taken + announced > settings.all_bytes:
            raise Refused("too many files are kept; wait until older ones are deleted", 429)

    async def _place(self, arrival: _Arrival) -> None:
        """Wait until this file may arrive; for that, one that is too slow may have to go."""
        settings = self._settings
        if sum(other.owner == arrival.owner for other in self._receiving) >= settings.most_arriving:
            raise Refused(
                f"{settings.most_arriving} files of yours arrive already; send one after the other", 429
            )
        while len(self._receiving) >= settings.all_arriving:
            slow = [
                a for a in self._receiving if a.age > _FIRST and a.rate < settings.pace and not a.gives_way
            ]
            if slow:
                slowest = min(slow, key=lambda other: other.rate)
                slowest.gives_way = True
                slowest.limit.reschedule(asyncio.get_running_loop().time())
            elif arrival.age > settings.patience:
                raise Refused("too many files arrive at once; try again in a minute", 429)
            await asyncio.sleep(0.02)
        self._receiving.append(arrival)

    async def _write(self, path: Path, arrival: _Arrival, chunks: AsyncIterator[bytes]) -> None:
        settings, loop = self._settings, asyncio.get_running_loop()
        began = loop.time()
        with path.open("wb") as stream:
            while True:
                if not arrival.gives_way:
                    arrival.limit.reschedule(began + settings.patience + arrival.size / settings.pace)
                chunk = await anext(chunks, None)
                if chunk is None:
                    break
                arrival.size += len(chunk)
                if arrival.size > settings.max_upload:
                    raise self._too_large()
                stream.write(chunk)
        if not arrival.size:
            raise Refused("the file is empty", 422)

    def _too_large(self) -> Refused:
        return Refused(
            f"the file is larger than {self._settings.max_upload / _MB:g} MB; "
            "maury infer on the command line has no such limit",
            413,
        )

    def _too_slow(self, arrival: _Arrival) -> Refused:
        if arrival.gives_way:
            return Refused("the file came so slowly that it had to give way to others; send it again", 503)
        return Refused("the file came too slowly; send it again", 408)

    def get(self, owner: str, key: str) -> Upload:
        """Return a session's file.

        Raises
        ------
        Refused
            If there is none of that id, or it is another session's.
        """
        return owned(self._kept, owner, key, "file")

    def of(self, owner: str) -> list[Upload]:
        """Return a session's files, the oldest first."""
        return [upload for upload in self._kept.values() if upload.owner == owner]

    def touch(self, key: str) -> None:
        """Count a file's time from now."""
        if key in self._kept:
            self._kept[key] = replace(self._kept[key], used=time.time())

    def expired(self) -> list[Upload]:
        """Files whose time is over."""
        end = time.time() - self._settings.keep
        return [upload for upload in self._kept.values() if upload.used < end]

    def remove(self, upload: Upload) -> None:
        """Delete a file and its results."""
        self._kept.pop(upload.id, None)
        shutil.rmtree(upload.folder, ignore_errors=True)


def _no_room(error: OSError) -> Refused:
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return Refused("the server has no room left on its disk", 507)
    return Refused(f"the server cannot write the file ({error.strerror})", 500)
