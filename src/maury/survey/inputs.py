"""Which files a survey is of: names, patterns, folders, lists, and catalogues with a column of paths."""

from __future__ import annotations

import glob
from collections.abc import Iterable, Iterator
from pathlib import Path

from maury.errors import ConfigError
from maury.files import first_line, open_table

_LISTS = (".txt", ".lst")
_SPECTRA = (".fits", ".fits.gz", ".fits.bz2", ".fit", ".ecsv", ".parquet")
# What catalogues call the column of paths.
PATH_COLUMNS = ("path", "file", "filename", "filepath", "spectrum")


def expand(inputs: Iterable[str | Path], catalogues: Iterable[str | Path] = ()) -> Iterator[Path]:
    """Yield files one by one: nothing is held in memory, and nothing is opened.

    Parameters
    ----------
    inputs
        Files, patterns (``visits/**/*.fits``), folders (all spectra below), and text files ending in .txt or .lst with a path a line.
    catalogues
        Tables (FITS, CSV, ECSV, Parquet) with a column of paths, relative to the table's folder unless they are absolute.

    Raises
    ------
    ConfigError
        If a pattern, folder or list has no files, or cannot be read.
    """
    for item in map(str, inputs):
        path = Path(item)
        found = False
        for found_path in _expand_one(item, path):
            found = True
            yield found_path
        if not found:
            raise ConfigError(f"{item}: no spectra there")
    for catalogue in map(Path, catalogues):
        yield from _from_catalogue(catalogue)


def _expand_one(item: str, path: Path) -> Iterator[Path]:
    if path.is_dir():
        try:
            yield from (p for p in sorted(path.rglob("*")) if p.name.endswith(_SPECTRA) and p.is_file())
        except OSError as error:
            raise ConfigError(f"{path}: cannot be read ({error.strerror})") from None
    elif path.suffix in _LISTS and path.is_file():
        yield from _from_list(path)
    elif not path.exists() and glob.has_magic(item):
        yield from map(Path, sorted(glob.glob(item, recursive=True)))
    else:
        yield path


def _from_list(path: Path) -> Iterator[Path]:
    try:
        with path.open() as lines:
            for line in lines:
                name = line.strip()
                if name and not name.startswith("#"):
                    yield path.parent / name
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read as a list of files ({first_line(error)})") from None


def _from_catalogue(path: Path) -> Iterator[Path]:
    table = open_table(path, ConfigError)
    names = {name.lower(): name for name in table.colnames}
    column = next((names[name] for name in PATH_COLUMNS if name in names), None)
    if column is None:
        raise ConfigError(f"{path}: has no column of paths; it may be called {', '.join(PATH_COLUMNS)}")
    for value in table[column]:
        text = (value.decode() if isinstance(value, bytes) else str(value)).strip()
        if text:
            yield path.parent / text
