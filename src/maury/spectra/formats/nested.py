"""Parquet files whose rows are spectra: partitions of HATS catalogues, as LSDB, hats and nested-pandas write them, and their like.

A spectrum is a nested column, ``spectrum: struct<wavelength: list, flux: list, ivar: list, ...>`` (nested-pandas; a list of structs is
read as well), or columns of lists beside each other. What else a row says of it (``id``, ``medium``, ``frame``, ``resolution``,
``v_correction``) stands in columns of numbers or words.

The layout of catalogues: https://www.ivoa.net/documents/Notes/HATS/
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from maury.errors import Failure, SpectrumError
from maury.files import first_line
from maury.spectra.formats.columns import MAX_PIXELS, Column, PlainTable, plain_meta, table_kind
from maury.spectra.formats.fits import reason
from maury.spectra.formats.table import (
    COLUMNS,
    FLUX,
    FRAME,
    MEDIUM,
    NAME,
    RESOLUTION,
    V_CORRECTION,
    WAVELENGTH,
    from_columns,
)
from maury.spectra.instrument import Instrument
from maury.spectra.spectrum import Spectrum
from maury.text import readable

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

__all__ = ["is_nested", "primary_catalogue", "properties", "read_nested", "rows_of"]

_UNIT = "wavelength_unit"
# What catalogues call their objects, beside what tables of one spectrum do.
_NAMES = (*NAME, "object_id", "source_id", "sdss_id", "apogee_id", "gaia_dr3_source_id", "name")
_META = frozenset((*MEDIUM, *FRAME, *RESOLUTION, *V_CORRECTION, *_NAMES, "restframe", "ra", "dec", _UNIT))
# Pixels that are unpacked together, and bytes that are read of the disk at a time.
_PIXELS, _BUFFER = 2**21, 2**20
_MAX_FOOTER = 2**26
_PROPERTIES, _COLLECTION = ("hats.properties", "properties"), "collection.properties"


# HATS


def properties(folder: Path, name: str | None = None) -> dict[str, str]:
    """Read the properties of a HATS catalogue or collection, keys with a value each; nothing where the folder holds none.

    Parameters
    ----------
    folder
        The catalogue's.
    name
        Of the file; those of a catalogue by default.
    """
    for each in _PROPERTIES if name is None else (name,):
        path = folder / each
        try:
            if not path.is_file() or path.stat().st_size > 2**20:
                continue
            text = path.read_text(encoding="utf-8", errors="replace")
        except OSError:
            continue
        parts = (line.partition("=") for line in text.splitlines() if not line.startswith("#"))
        found = {key.strip(): value.strip() for key, equals, value in parts if equals}
        # Any Java program's file may be called properties.
        if name is not None or "hats_col_ra" in found or "hats_nrows" in found:
            return found
    return {}


def primary_catalogue(folder: Path) -> Path | None:
    """Return the folder of the objects of a HATS catalogue, or of a collection of one with its margins; None of another folder."""
    if known := properties(folder, _COLLECTION).get("hats_primary_table_url"):
        folder = folder / known
    return folder if properties(folder) else None


# Parquet


def is_nested(path: str | os.PathLike[str]) -> bool:
    """Tell whether a file is a Parquet table with a spectrum in each row."""
    try:
        if table_kind(Path(path)) != "parquet":
            return False
        with _opened(Path(path)) as file:
            return _layout(file.schema_arrow) is not None
    except SpectrumError:
        return False


def rows_of(path: Path, size: int) -> Iterator[range]:
    """Yield ranges of at most ``size`` rows that make up a file.

    Raises
    ------
    SpectrumError
        If it cannot be read.
    """
    with _opened(path) as file:
        number = int(file.metadata.num_rows)
    for start in range(0, number, size):
        yield range(start, min(start + size, number))


@contextmanager
def _opened(path: Path) -> Iterator[pq.ParquetFile]:
    try:
        import pyarrow.parquet as pq
    except ImportError:
        raise SpectrumError(
            f"{path}: a Parquet table needs the package pyarrow: pip install pyarrow"
        ) from None
    try:
        file = pq.ParquetFile(
            path,
            buffer_size=_BUFFER,
            pre_buffer=False,
            thrift_string_size_limit=_MAX_FOOTER,
            thrift_container_size_limit=_MAX_FOOTER,
        )
    except Exception as error:
        raise SpectrumError(f"{path}: cannot be read as a table ({reason(error)})") from None
    with file:
        yield file


@dataclass(frozen=True)
class _Layout:
    """Where a table keeps its spectra: the nested column, None where its lists are columns themselves; the lists; what tells of a row."""

    nested: str | None
    lists: Mapping[str, pa.Field]
    scalars: tuple[str, ...]


def _layout(schema: pa.Schema) -> _Layout | None:
    import pyarrow as pa

    def is_list(kind: pa.DataType) -> bool:
        return pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)

    def is_spectrum(names: Sequence[str]) -> bool:
        lower = {name.lower() for name in names}
        return bool(lower & set(WAVELENGTH)) and bool(lower & set(FLUX))

    def is_scalar(kind: pa.DataType) -> bool:
        return (
            pa.types.is_integer(kind)
            or pa.types.is_floating(kind)
            or pa.types.is_boolean(kind)
            or pa.types.is_string(kind)
            or pa.types.is_large_string(kind)
        )

    scalars = tuple(field.name for field in schema if is_scalar(field.type))
    beside: dict[str, pa.Field] = {}
    # A column called so comes first, should there be several.
    for field in sorted(schema, key=lambda field: field.name != "spectrum"):
        kind = field.type
        inner = kind.value_type if is_list(kind) else kind
        if pa.types.is_struct(inner):
            children = {c.name: c for c in inner if is_list(kind) or is_list(c.type)}
            if is_spectrum(list(children)):
                return _Layout(field.name, _wanted(children), scalars)
        elif is_list(kind):
            beside[field.name] = field
    return _Layout(None, _wanted(beside), scalars) if is_spectrum(list(beside)) else None


def _wanted(lists: Mapping[str, pa.Field]) -> dict[str, pa.Field]:
    return {name: field for name, field in lists.items() if name.lower() in COLUMNS}


def read_nested(
    path: Path, rows: range | None = None, *, reject: int | None = None, instrument: Instrument | None = None
) -> Iterator[Spectrum | Failure]:
    """Yield the spectra of a Parquet file's rows, a few of which are in memory at a time; a failure in place of a row that holds none.

    Parameters
    ----------
    path
        The file.
    rows
        Which of them; all by default.
    reject, instrument
        As for `maury.spectra.formats.table.read_table`.

    Yields
    ------
    Spectrum or Failure
        Its index is the row's place in the file, from 0. A position is kept in ``meta``, under ``ra`` and ``dec``.

    Raises
    ------
    SpectrumError
        If the file cannot be read or has no column of spectra.
    """
    with _opened(path) as file:
        layout = _layout(file.schema_arrow)
        if layout is None:
            has = readable(", ".join(file.schema_arrow.names[:40]))
            raise SpectrumError(
                f"{path}: has no nested column with wavelength, flux, and error or ivar in it; its columns are {has}"
            )
        reader = _Reader(path, file, layout, reject, instrument)
        wanted = rows if rows is not None else range(file.metadata.num_rows)
        try:
            yield from reader.read(wanted)
        except SpectrumError:
            raise
        except Exception as error:
            raise SpectrumError(f"{path}: cannot be read as a table ({first_line(error)})") from None


class _Reader:
    """Reads rows of an open file."""

    def __init__(
        self,
        path: Path,
        file: pq.ParquetFile,
        layout: _Layout,
        reject: int | None,
        instrument: Instrument | None,
    ) -> None:
        self._path, self._file, self._layout = path, file, layout
        self._reject, self._instrument = reject, instrument
        self._position = self._position_columns()
        own = {name for name in layout.scalars if name.lower() in _META}
        self._scalars = tuple(own | (set(self._position.values()) & set(layout.scalars)))
        self._units = {
            name.lower(): (field.metadata or {}).get(b"unit", b"").decode("utf-8", "replace") or None
            for name, field in layout.lists.items()
        }
        told = (file.schema_arrow.metadata or {}).items()
        self._meta = {
            key.decode("utf-8", "replace").lower(): value.decode("utf-8", "replace")
            for key, value in told
            if key.decode("utf-8", "replace").lower() in _META and len(value) < 200
        }

    def _position_columns(self) -> dict[str, str]:
        """Columns of right ascension and declination, as the catalogue that the file is a partition of calls them."""
        for folder in self._path.absolute().parents:
            if folder.name == "dataset":
                known = properties(folder.parent)
                return {"ra": known.get("hats_col_ra", "ra"), "dec": known.get("hats_col_dec", "dec")}
        return {"ra": "ra", "dec": "dec"}

    def _columns(self) -> list[str]:
        nested = self._layout.nested
        lists = [name if nested is None else f"{nested}.{name}" for name in self._layout.lists]
        if nested is not None and self._is_list_of_structs(nested):
            # Parts of a struct in a list have names of the format's own.
            lists = [nested]
        return [*lists, *self._scalars]

    def _is_list_of_structs(self, nested: str) -> bool:
        import pyarrow as pa

        return not pa.types.is_struct(self._file.schema_arrow.field(nested).type)

    def read(self, rows: range) -> Iterator[Spectrum | Failure]:
        columns, metadata, first = self._columns(), self._file.metadata, 0
        for group in range(metadata.num_row_groups):
            known = metadata.row_group(group)
            last = first + known.num_rows
            if first < rows.stop and last > rows.start:
                at = first
                for batch in self._file.iter_batches(
                    self._batch_size(known), row_groups=[group], columns=columns, use_threads=False
                ):
                    for row in range(max(rows.start - at, 0), min(rows.stop - at, batch.num_rows)):
                        yield self._row(batch, row, at + row)
                    at += batch.num_rows
                    if at >= rows.stop:
                        break
            first = last

    def _batch_size(self, group: Any) -> int:
        """Rows that are unpacked together; a few kilobytes can hold the same row a thousand million times."""
        values = max(group.column(i).num_values for i in range(group.num_columns))
        each = values / max(group.num_rows, 1)
        if each > MAX_PIXELS:
            raise SpectrumError(
                f"{self._path}: its rows have {each:.0f} pixels; a spectrum has {MAX_PIXELS} at most"
            )
        return max(1, min(256, int(_PIXELS / max(each, 1))))

    def _row(self, batch: pa.RecordBatch, row: int, index: int) -> Spectrum | Failure:
        where = f"{self._path} row {index}"
        try:
            told = {name.lower(): batch.column(name)[row].as_py() for name in self._scalars}
            columns = self._lists(batch, row, where)
            meta = plain_meta(self._meta | {key: value for key, value in told.items() if value is not None})
            if (unit := meta.get(_UNIT)) is not None:
                columns = {
                    name: column._replace(unit=column.unit or str(unit)) if name in WAVELENGTH else column
                    for name, column in columns.items()
                }
            if meta.pop("restframe", False) and not any(key in meta for key in FRAME):
                meta["frame"] = "rest"
            name = next((str(meta[key]) for key in _NAMES if meta.get(key) not in (None, "")), "")
            meta["id"] = name or f"{self._path.stem}-{index}"
            table = PlainTable(tuple(columns), columns, meta)
            spectrum = from_columns(
                table, where, self._path, instrument=self._instrument, reject=self._reject
            )
        except SpectrumError as error:
            advice = ""
            # Nobody states things row by row by hand.
            if self._instrument is None and ("has no unit" in str(error) or "does not say" in str(error)):
                advice = "; in columns wavelength_unit and medium, or by --instrument"
            return Failure(self._path, index, error.flag, f"{error}{advice}")
        place = {key: _number(told.get(name.lower())) for key, name in self._position.items()}
        known = {key: value for key, value in place.items() if value is not None}
        return replace(spectrum, index=index, meta=spectrum.meta | known)

    def _lists(self, batch: pa.RecordBatch, row: int, where: str) -> dict[str, Column]:
        nested = self._layout.nested
        found: dict[str, Column] = {}
        if nested is not None and self._is_list_of_structs(nested):
            cells = batch.column(nested)[row].values
            if cells is None:
                raise SpectrumError(f"{where}: column {nested!r} is null there")
            values = {name: cells.field(name) for name in self._layout.lists}
        else:
            values = {}
            for name in self._layout.lists:
                column = batch.column(name) if nested is None else batch.column(nested).field(name)
                cell = column[row].values
                if cell is None:
                    raise SpectrumError(f"{where}: column {name!r} is null there")
                values[name] = cell
        for name, array in values.items():
            found.setdefault(name.lower(), Column(_numbers(array, name, where), self._units[name.lower()]))
        return found


def _numbers(array: pa.Array, name: str, where: str) -> NDArray[Any]:
    import pyarrow as pa

    kind = array.type
    if not (pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)):
        raise SpectrumError(
            f"{where}: column {name!r} does not hold numbers, one a pixel, but {str(kind)[:40]}"
        )
    if pa.types.is_boolean(kind) and not array.null_count:
        return np.asarray(array.to_numpy(zero_copy_only=False), bool)
    return np.asarray(array.cast(pa.float64()).to_numpy(zero_copy_only=False), np.float64)


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and np.isfinite(value) else None
