"""Which files a survey is of: names, patterns, folders, HATS catalogues, lists, and catalogues with a column of paths."""

from __future__ import annotations

import fnmatch
import glob
import os
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from maury.errors import ConfigError, SpectrumError
from maury.files import first_line, open_table, split_rows
from maury.spectra.formats.nested import is_nested, primary_catalogue, properties, rows_of

_LISTS = (".txt", ".lst")
_SPECTRA = (".fits", ".fits.gz", ".fits.bz2", ".fit", ".ecsv", ".parquet", ".vot")
# Rows of a catalogue of spectra that are a task by themselves, at least: enough for a batch, few enough to be done again.
FEWEST_ROWS = 256
# What catalogues call the column of paths.
PATH_COLUMNS = ("path", "file", "filename", "filepath", "spectrum")
# Rows of a catalogue that are in memory together.
_ROWS = 100_000


class Seen:
    """Names that were met before, on disk rather than in memory beyond a few megabytes."""

    def __init__(self) -> None:
        # A database of its own file, which is gone with the process.
        self._names = sqlite3.connect("", isolation_level=None)
        self._names.execute("pragma journal_mode = off")
        self._names.execute("pragma synchronous = off")
        self._names.execute("create table names (name text primary key) without rowid")

    def add(self, name: str) -> bool:
        """Note a name; tell whether it is new."""
        return self._names.execute("insert or ignore into names values (?)", (name,)).rowcount == 1


def expand(
    inputs: Iterable[str | Path], catalogues: Iterable[str | Path] = (), rows: int = FEWEST_ROWS
) -> Iterator[Path]:
    """Yield files one by one: of names, one folder's at most is in memory, and nothing but lists and Parquet's footers is read.

    Parameters
    ----------
    inputs
        Files, patterns (``visits/**/*.fits``), folders (all spectra below), HATS catalogues of spectra or collections of one, text files
        ending in .txt or .lst with a path a line, and catalogues: tables in CSV, or FITS tables of the survey's names
        (``allVisit-*.fits``, ``allStar-*.fits``).
    catalogues
        Tables of any name (FITS, CSV, ECSV, Parquet) with a column of paths, relative to the table's folder unless they are
        absolute.
    rows
        A Parquet file with a spectrum in each row is cut into pieces of so many, ``Npix=5.parquet[0:256]``.

    Raises
    ------
    ConfigError
        If a pattern, folder or list has no files, or cannot be read; none is left out silently.
    """
    for item in map(str, inputs):
        path = Path(item)
        found = False
        for found_path in _expand_one(item, path):
            found = True
            yield from _cut(found_path, rows)
        if not found:
            raise ConfigError(f"{item}: no spectra there")
    for catalogue in map(Path, catalogues):
        yield from _from_catalogue(catalogue)


def is_catalogue(path: Path) -> bool:
    """Tell by a file's name whether it is a table of spectra's paths."""
    return path.suffix == ".csv" or path.name.lower().startswith(("allvisit", "allstar"))


def _cut(path: Path, size: int) -> Iterator[Path]:
    """Yield a file as it is; one whose rows are spectra in pieces."""
    if path.suffix != ".parquet" or not is_nested(path):
        yield path
        return
    try:
        for rows in rows_of(path, size):
            yield Path(f"{path}[{rows.start}:{rows.stop}]")
    except SpectrumError as error:
        raise ConfigError(str(error)) from None


def spectra_of(name: str) -> int:
    """Return how many spectra a name stands for: those of ``FILE[20:30]``, else 1."""
    rows = split_rows(name)[1]
    return 1 if rows is None else max(len(rows), 1)


def _expand_one(item: str, path: Path) -> Iterator[Path]:
    if split_rows(path)[1] is not None and split_rows(path)[0].exists():
        yield path
    elif path.is_dir():
        yield from _below(path)
    elif path.suffix in _LISTS and path.is_file():
        yield from _from_list(path)
    elif not path.exists() and glob.has_magic(item):
        anchor = Path(path.anchor)
        yield from _matching(anchor, path.parts[1:] if path.anchor else path.parts)
    elif is_catalogue(path):
        yield from _from_catalogue(path)
    else:
        yield path


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    """Return what is in a folder, by name; glob and rglob would pass over one that cannot be read."""
    try:
        with os.scandir(folder) as found:
            return sorted(found, key=lambda entry: entry.name)
    except OSError as error:
        raise ConfigError(
            f"{folder}: cannot be read ({error.strerror}); give access or leave it out"
        ) from None


def _partitions(catalogue: Path) -> Iterator[Path]:
    """Yield the partitions of a HATS catalogue, files or folders of files."""
    kind = properties(catalogue).get("dataproduct_type", "object")
    if kind not in ("object", "source"):
        raise ConfigError(
            f"{catalogue}: a HATS catalogue of the type {kind!r}; spectra are in those of objects or sources"
        )
    for order in _entries(catalogue / "dataset"):
        if order.name.startswith("Norder="):
            yield from _leaves(Path(order.path))


def _leaves(folder: Path) -> Iterator[Path]:
    for entry in _entries(folder):
        if entry.is_dir():
            yield from _leaves(folder / entry.name)
        elif not entry.name.startswith(("_", ".")):
            yield folder / entry.name


def _below(folder: Path) -> Iterator[Path]:
    if (catalogue := primary_catalogue(folder)) is not None:
        yield from _partitions(catalogue)
        return
    for entry in _entries(folder):
        if entry.is_dir(follow_symlinks=False):
            yield from _below(folder / entry.name)
        elif entry.name.endswith(_SPECTRA) and entry.is_file():
            yield folder / entry.name


def _matching(folder: Path, parts: Sequence[str]) -> Iterator[Path]:
    """Yield paths that match a pattern's parts, folder by folder."""
    part, rest = parts[0], parts[1:]
    if not glob.has_magic(part):
        path = folder / part
        if not rest and path.exists():
            yield path
        elif rest and path.is_dir():
            yield from _matching(path, rest)
        return
    for entry in _entries(folder):
        if entry.name.startswith(".") and not part.startswith("."):
            continue
        if part == "**":
            if entry.is_dir(follow_symlinks=False):
                yield from _matching(folder / entry.name, parts)
            elif not rest:
                yield folder / entry.name
        elif fnmatch.fnmatchcase(entry.name, part):
            if not rest:
                yield folder / entry.name
            elif entry.is_dir():
                yield from _matching(folder / entry.name, rest)
    if part == "**" and rest:
        yield from _matching(folder, rest)


def _from_list(path: Path) -> Iterator[Path]:
    try:
        with path.open(encoding="utf-8-sig") as lines:
            for line in lines:
                name = line.strip()
                if name and not name.startswith("#"):
                    yield path.parent / name
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read as a list of files ({first_line(error)})") from None


def _from_catalogue(path: Path) -> Iterator[Path]:
    for value in _column(path):
        text = (value.decode() if isinstance(value, bytes) else str(value)).strip()
        if text:
            yield path.parent / text


def _column(path: Path) -> Iterator[Any]:
    """Yield the paths of a table; of large formats that one column alone is read."""
    if path.suffix == ".parquet":
        yield from _parquet_column(path)
        return
    if ".fit" in path.name:
        yield from _fits_column(path)
        return
    table = open_table(path, ConfigError)
    yield from table[_path_column(path, table.colnames)]


def _path_column(path: Path, names: Sequence[str]) -> str:
    lower = {name.lower(): name for name in names}
    column = next((lower[name] for name in PATH_COLUMNS if name in lower), None)
    if column is None:
        raise ConfigError(f"{path}: has no column of paths; it may be called {', '.join(PATH_COLUMNS)}")
    return column


def _parquet_column(path: Path) -> Iterator[Any]:
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(path)
    except Exception as error:
        raise ConfigError(f"{path}: cannot be read as a table ({first_line(error)})") from None
    column = _path_column(path, file.schema_arrow.names)
    for batch in file.iter_batches(_ROWS, columns=[column]):
        yield from (value for value in batch[0].to_pylist() if value)


def _fits_column(path: Path) -> Iterator[Any]:
    from astropy.io import fits

    try:
        with fits.open(path, memmap=True) as hdus:
            data = hdus[1].data
            column = _path_column(path, data.names)
            for first in range(0, len(data), _ROWS):
                yield from data[first : first + _ROWS][column].tolist()
    except ConfigError:
        raise
    except Exception as error:
        raise ConfigError(f"{path}: cannot be read as a table ({first_line(error)})") from None
