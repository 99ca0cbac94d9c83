"""Downloads that come whole: resumed, retried, verified, and no faster than the server likes."""

from __future__ import annotations

import http.client
import random
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
import warnings
from collections.abc import Callable, Iterable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import TypeVar

from astropy.io import fits

from maury.errors import DownloadError, MauryError
from maury.files import first_line

T = TypeVar("T")
# Neither the handling of warnings nor astropy's reader is safe among threads.
fits_lock = threading.Lock()
_CHUNK = 1 << 18
_RETRIED = {408, 425, 429, 500, 502, 503, 504}
_MAX_DELAY_S = 60.0


class Missing(DownloadError):
    """The archive has no such file."""


@dataclass
class Archive:
    """A web server with files.

    Attributes
    ----------
    base
        Address that all paths begin at.
    attempts
        How often a file is tried in all.
    patience
        Seconds before the second attempt; doubled for each further one.
    timeout
        Seconds without a byte after which a connection is given up.
    rate
        Requests a second at most, all threads together; 0 for no limit.
    stop
        Set to end all downloads soon.
    """

    base: str
    attempts: int = 7
    patience: float = 1.0
    timeout: float = 60.0
    rate: float = 0.0
    stop: threading.Event = field(default_factory=threading.Event)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)
    _next: float = 0.0

    def __post_init__(self) -> None:
        if urllib.parse.urlsplit(self.base).scheme not in ("http", "https"):
            raise DownloadError(f"base address {self.base!r}: must begin with http:// or https://")

    def wait_turn(self) -> None:
        """Wait until another request is allowed."""
        if not self.rate:
            return
        with self._lock:
            now = time.monotonic()
            self._next = max(self._next, now) + 1 / self.rate
            pause = self._next - 1 / self.rate - now
        self.stop.wait(pause)

    def url(self, path: PurePosixPath) -> str:
        """Address of a file."""
        return f"{self.base.rstrip('/')}/{urllib.parse.quote(str(path), safe='/=+')}"

    def download(self, path: PurePosixPath, target: Path, check: Callable[[Path], None]) -> None:
        """Download a file to ``target``, go on with what of it is there, and verify it; try again where that may help.

        Raises
        ------
        Missing
            If the archive does not have it.
        DownloadError
            If it did not come whole and sound in all attempts.
        OSError
            If it cannot be written.
        """
        url = self.url(path)
        for attempt in range(1, self.attempts + 1):
            pause = self.patience * 2 ** (attempt - 1)
            try:
                self._continue(url, target)
                check(target)
            except urllib.error.HTTPError as error:
                if error.code in (404, 410):
                    raise Missing(f"{url}: not in the archive") from None
                reason = f"the server answered {error.code} {error.reason}"
                if error.code == 416:
                    # What is there is longer than the file: not a part of it.
                    target.unlink(missing_ok=True)
                elif error.code not in _RETRIED:
                    raise DownloadError(f"{url}: {reason}") from None
                pause = max(pause, _retry_after(error))
            except MauryError as error:
                # It came whole, and is damaged.
                target.unlink(missing_ok=True)
                reason = str(error)
            except (urllib.error.URLError, http.client.HTTPException, ConnectionError, TimeoutError) as error:
                reason = f"connection lost ({first_line(error)})"
            else:
                return
            if attempt < self.attempts and self.stop.wait(
                min(pause, _MAX_DELAY_S) * random.uniform(0.8, 1.2)
            ):
                raise DownloadError(f"{url}: stopped")
        raise DownloadError(f"{url}: {reason}; given up after {self.attempts} attempts, run it again later")

    def _continue(self, url: str, target: Path) -> None:
        done = target.stat().st_size if target.exists() else 0
        headers = {"User-Agent": "maury", "Accept-Encoding": "identity"}
        if done:
            headers["Range"] = f"bytes={done}-"
        request = urllib.request.Request(url, headers=headers)
        self.wait_turn()
        with urllib.request.urlopen(request, timeout=self.timeout) as answer:
            first, _, total = (
                (answer.headers.get("Content-Range") or "").removeprefix("bytes ").partition("/")
            )
            continued = answer.status == 206 and first.startswith(f"{done}-")
            length = answer.headers.get("Content-Length")
            expected = int(total) if continued and total.isdigit() else int(length) if length else None
            with target.open("ab" if continued else "wb") as file:
                while chunk := answer.read(_CHUNK):
                    file.write(chunk)
                    if self.stop.is_set():
                        raise DownloadError(f"{url}: stopped")
                size = file.tell()
        if expected is not None and size < expected:
            raise http.client.IncompleteRead(b"", expected - size)
        if expected is not None and size > expected:
            raise DownloadError(f"{url}: {size} bytes instead of {expected}")


def _retry_after(error: urllib.error.HTTPError) -> float:
    value = error.headers.get("Retry-After", "") if error.headers else ""
    return float(value) if value.isdigit() else 0.0


def verify_checksums(path: Path) -> None:
    """Raise a `DownloadError` if a FITS file is not readable or contradicts the CHECKSUM or DATASUM in it."""
    try:
        with fits_lock, warnings.catch_warnings(), fits.open(path, memmap=False) as hdus:
            warnings.simplefilter("ignore")
            for i, hdu in enumerate(hdus):
                if hdu.verify_datasum() == 0 or hdu.verify_checksum() == 0:
                    raise DownloadError(f"{path.name} HDU {i}: damaged, its checksum differs")
    except (OSError, ValueError, TypeError, fits.VerifyError) as error:
        raise DownloadError(f"{path.name}: not a readable FITS file ({first_line(error)})") from None


def download_all(
    archive: Archive,
    items: Iterable[T],
    one: Callable[[T], None],
    *,
    jobs: int,
    patience: int,
    progress: Callable[[int], None] = lambda done: None,
) -> list[MauryError]:
    """Do ``one`` for each item in threads; return the failures.

    Parameters
    ----------
    archive
        Told to stop when this ends, however it ends.
    items
        What to do.
    one
        Downloads an item; a `MauryError` of it does not end the others.
    jobs
        Threads.
    patience
        Failures after which the rest is given up: the archive is then ill as a whole.
    progress
        Told how many are done.
    """
    done, failed = 0, list[MauryError]()
    with ThreadPoolExecutor(jobs) as pool:
        waiting: set[Future[None]] = {pool.submit(one, item) for item in items}
        try:
            while waiting and len(failed) < patience:
                finished, waiting = wait(waiting, return_when=FIRST_COMPLETED)
                for future in finished:
                    error = future.exception()
                    if isinstance(error, MauryError):
                        failed.append(error)
                    elif error is not None:
                        raise error
                    else:
                        done += 1
                        progress(done)
        finally:
            archive.stop.set()
            pool.shutdown(cancel_futures=True)
            archive.stop.clear()
    return failed
