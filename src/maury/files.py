"""Files that appear whole or not at all."""

from __future__ import annotations

import errno
import hashlib
import io
import itertools
import json
import os
import re
import socket
import threading
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout

from maury.errors import MauryError
from maury.text import readable
from maury.untrusted import check_votable, is_votable

if TYPE_CHECKING:
    from astropy.table import Table

# FILE[20:30].
_PART = re.compile(r"(?P<path>.+)\[(?P<start>\d+):(?P<stop>\d+)\]")
_REFERRING = (".h5", ".hdf5", ".hdf", ".asdf")


# Bytes of a name, such that an ending and a temporary name find room within the 255 that disks allow.
_LONGEST = 180


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
    temporary = path.with_name(f".{socket.gethostname()}-{os.getpid()}-{threading.get_ident()}-{path.name}")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: str | os.PathLike[str], value: Any) -> None:
    """Write a value as JSON, one line an entry, under a temporary name, and rename."""
    with writing(path) as temporary:
        temporary.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")


def distinct(names: Sequence[str], taken: Iterable[str] = ()) -> list[str]:
    """Return names of files that no two share: the first that has a name keeps it, others are numbered past every other.

    Names that differ in letter case alone, or in how accents are written, are one on some disks, and count as one.

    Parameters
    ----------
    names
        Without their endings.
    taken
        Further names that none may have.

    Examples
    --------
    >>> distinct(["star", "star", "star_2"])
    ['star', 'star_3', 'star_2']
    """

    def key(name: str) -> str:
        return unicodedata.normalize("NFC", name).casefold()

    used = set(map(key, taken))
    kept = used | set(map(key, names))
    found = []
    for name in names:
        if key(name) in used:
            name = next(n for n in (f"{name}_{i}" for i in itertools.count(2)) if key(n) not in kept | used)
        used.add(key(name))
        found.append(name)
    return found


def output_name(file: Path) -> str:
    """Return what the outputs that belong to an input file are called, without ending.

    Examples
    --------
    >>> output_name(Path("spectra/apVisit-1.fits.gz"))
    'apVisit-1'
    """
    name = file.name.split(".fits")[0] or file.name
    # Bytes that are no text in the user's language must stay: there is no other way to write them there.
    name = "".join(letter if "\udc80" <= letter <= "\udcff" else readable(letter) for letter in name)
    while len(os.fsencode(name)) > _LONGEST:
        name = name[:-1]
    return name


def split_rows(name: str | os.PathLike[str]) -> tuple[Path, range | None]:
    """Part ``FILE[20:30]`` into the file and the places of its spectra; None stands for all of them.

    Examples
    --------
    >>> split_rows("Npix=5.parquet[20:30]")
    (PosixPath('Npix=5.parquet'), range(20, 30))
    """
    found = _PART.fullmatch(os.fspath(name))
    if found is None or os.path.exists(name):
        return Path(name), None
    return Path(found["path"]), range(int(found["start"]), int(found["stop"]))


def sweep(folder: Path) -> int:
    """Remove what killed processes of this host have left of `writing` in a folder; return the number of files."""
    name = re.compile(rf"\.{re.escape(socket.gethostname())}-(\d+)-\d+-")
    found = [(path, name.match(path.name)) for path in folder.iterdir()]
    left = [path for path, match in found if match and not _runs(int(match[1]))]
    for path in left:
        path.unlink(missing_ok=True)
    return len(left)


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


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
    except OSError as error:
        raise MauryError(
            f"{output}: cannot be written ({error.strerror or error}); give access or choose another place"
        ) from None
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
    """Read a table in any format that astropy knows by its name; what goes wrong is raised as ``error``.

    Nothing outside the file is read: a VOTable may name an address for its data, HDF5 and ASDF other files.
    """
    # Half a second to import.
    from astropy.table import Table

    if path.suffix.lower() in _REFERRING:
        raise error(f"{path}: may refer to other files, and is not read: write it as ECSV, FITS or Parquet")
    if path.is_file():
        with path.open("rb") as opened:
            head = opened.read(2048)
            if is_votable(head):
                check_votable(head + opened.read(), path, error)
    try:
        if path.suffix == ".ecsv":
            return Table.read(path, format="ascii.ecsv", encoding="utf-8")
        return Table.read(path, **({"hdu": 1} if ".fit" in path.name else {}))
    except Exception as reason:
        raise error(f"{path}: cannot be read as a table ({first_line(reason)})") from None


def write_ecsv(path: Path, table: Table) -> None:
    """Write a table as ECSV, which is UTF-8 wherever it is written; it appears whole or not at all."""
    # astropy would write in the encoding of the user's language.
    text = io.StringIO()
    table.write(text, format="ascii.ecsv")
    with writing(path) as temporary:
        temporary.write_text(text.getvalue(), encoding="utf-8")


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
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    if isinstance(value, float) and not abs(value) < float("inf"):
        return None
    return value
