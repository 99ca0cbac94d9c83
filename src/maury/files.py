"""Files that appear whole or not at all."""

from __future__ import annotations

import errno
import hashlib
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout

from maury.errors import MauryError

if TYPE_CHECKING:
    from astropy.table import Table


@contextmanager
def writing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary name beside ``path``; it is renamed to ``path`` if the body succeeds and removed if not.

    The temporary name keeps the ending, by which many writers choose their format.

    Examples
    --------
    >>> with writing("summary.ecsv") as temporary:  # doctest: +SKIP
    ...     table.write(temporary)
    """
    path = Path(path)
    temporary = path.with_name(f".{os.getpid()}-{threading.get_ident()}-{path.name}")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def alone(output: str | os.PathLike[str], lock: str | os.PathLike[str]) -> Iterator[None]:
    """Hold the file ``lock`` while ``output`` is being made; the hold ends with the process, however that ends.

    Raises
    ------
    MauryError
        If another process holds it.
    """
    held = FileLock(lock, timeout=0)
    try:
        held.acquire()
    except Timeout:
        raise MauryError(f"{output}: another process is writing it; wait for it to end") from None
    try:
        yield
    finally:
        # While it is held: whoever opened the file before this finds it gone and makes a new one.
        Path(lock).unlink(missing_ok=True)
        held.release()


def sha256(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def open_table(path: Path, error: type[MauryError]) -> Table:
    """Read a table in any format that astropy knows by its name; what goes wrong is raised as ``error``."""
    # Half a second to import.
    from astropy.table import Table

    try:
        return Table.read(path, **({"hdu": 1} if ".fit" in path.name else {}))
    except Exception as reason:
        raise error(f"{path}: cannot be read as a table ({first_line(reason)})") from None


def first_line(error: BaseException) -> str:
    """Return the first line of an exception's message, or its kind if it has none."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


@contextmanager
def disk_errors(path: Path, advice: str = "") -> Iterator[None]:
    """Turn whatever stops a file from being written into a `MauryError` that names it and ends with ``advice``."""
    try:
        yield
    except MauryError:
        raise
    except (OSError, RuntimeError) as error:
        # HDF5 tells its reason in the message alone.
        full = getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT) or "No space left" in str(error)
        if isinstance(error, RuntimeError) and not full:
            raise
        reason = "the disk is full" if full else f"cannot be written ({first_line(error)})"
        raise MauryError(
            f"{path}: {reason}; {advice or 'free some space or choose another place'}"
        ) from error


def finite(value: Any) -> Any:
    """Replace what JSON cannot hold by null."""
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [finite(item) for item in value]
    if isinstance(value, float) and not abs(value) < float("inf"):
        return None
    return value
