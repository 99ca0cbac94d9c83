"""Tables of any format as plain columns: what a spectrum needs of them is read, the rest is not.

A table may be anybody's. Sizes are looked at before anything is unpacked, columns that are not asked for stay where they are, metadata
are values and never objects, and nothing refers to another file or to the network.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import yaml
from astropy.io import fits
from numpy.typing import NDArray

from maury.errors import SpectrumError
from maury.spectra.formats.fits import reason
from maury.untrusted import check_votable, is_votable

MAX_PIXELS = 1_000_000
_MAX_COLUMNS = 1000
# Bytes. Text is ten times as much once it is numbers and back; XML more so.
_MAX_TEXT, _MAX_XML, _MAX_HEADER, _MAX_FOOTER = 2**26, 2**23, 2**18, 2**22
_BOM = b"\xef\xbb\xbf"
Wanted = Callable[[str], bool]


class Column(NamedTuple):
    """Numbers of a column, ``nan`` where masked, and its unit as the file writes it; ``ucd`` where the format has them."""

    values: NDArray[Any]
    unit: str | None = None
    ucd: str = ""


class Measured(NamedTuple):
    """A number with a unit, in metadata."""

    value: Any
    unit: str


@dataclass(frozen=True)
class PlainTable:
    """Columns by their names in lower case.

    Parameters
    ----------
    names
        Of all its columns.
    columns
        Those that were read.
    meta
        Metadata: names in lower case, no lists and the like.
    """

    names: tuple[str, ...]
    columns: Mapping[str, Column]
    meta: Mapping[str, Any] = field(default_factory=dict)


def table_kind(path: Path) -> str | None:
    """Tell from its first bytes what kind of table a file is: ``ecsv``, ``parquet``, ``votable`` or none of them (None)."""
    try:
        # A pipe would wait for ever.
        if not path.is_file():
            return None
        with path.open("rb") as stream:
            head = stream.read(2048)
    except (OSError, ValueError):
        return None
    text = head.removeprefix(_BOM)
    if text.startswith(b"# %ECSV"):
        return "ecsv"
    if head.startswith(b"PAR1"):
        return "parquet"
    return "votable" if is_votable(head) else None


def plain_meta(meta: Mapping[Any, Any] | None) -> dict[str, Any]:
    """Return metadata by names in lower case, without lists and the like: a file of 1 kB can nest some that print as gigabytes."""
    kept = (str, bool, int, float, np.generic, Measured)
    return {
        key.strip().lower(): value
        for key, value in (meta or {}).items()
        if isinstance(key, str) and isinstance(value, kept)
    }


# FITS


def fits_columns(hdus: fits.HDUList, number: int, wanted: Wanted, where: str) -> PlainTable:
    """Read columns of a FITS table; metadata are those of its header, and of the first HDU's where that has none.

    Raises
    ------
    SpectrumError
        If a wanted column cannot be read, or its arrays differ in length.
    """
    hdu = hdus[number]
    names = [str(name) for name in hdu.columns.names]
    columns = {}
    for name, column in zip(names, hdu.columns, strict=True):
        if name.lower() in columns or not wanted(name.lower()):
            continue
        if re.match(r"\d*[PQ]", str(column.format)):
            raise SpectrumError(
                f"{where}: column {name!r} holds arrays of varying length; write them with one length"
            )
        try:
            values = np.asarray(hdu.data.field(name))
            # Of integers alone: a null of floats is not a number.
            if isinstance(column.null, int) and values.dtype.kind in "iu":
                values = np.where(values == column.null, np.nan, values)
        except Exception as error:
            raise SpectrumError(f"{where}: column {name!r} cannot be read ({reason(error)})") from None
        columns[name.lower()] = Column(values, None if column.unit is None else str(column.unit))
    meta = {**_cards(hdus[0].header), **_cards(hdu.header)}
    return PlainTable(tuple(name.lower() for name in names), columns, plain_meta(meta))


def _cards(header: fits.Header) -> dict[str, Any]:
    """Keywords that can be read: what cannot is nobody's loss until somebody asks for it."""
    found = {}
    for card in header.cards:
        try:
            if card.keyword and not isinstance(card.value, fits.Undefined):
                found[card.keyword] = card.value
        except (fits.VerifyError, ValueError):
            continue
    return found


# ECSV


class _Loader(yaml.SafeLoader):
    """YAML without objects, and without merged mappings, of which a kilobyte can hold a thousand million."""

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        """Drop ``<<``."""
        node.value = [pair for pair in node.value if pair[0].tag != "tag:yaml.org,2002:merge"]


def _quantity(loader: yaml.SafeLoader, suffix: str, node: yaml.Node) -> Any:
    """Turn astropy's quantities into a number with a unit, its numbers into numbers; other tags are nothing."""
    if isinstance(node, yaml.MappingNode):
        parts = loader.construct_mapping(node, deep=True)
        unit = parts.get("unit")
        if set(parts) >= {"value", "unit"}:
            return Measured(parts["value"], str(unit.get("unit")) if isinstance(unit, dict) else str(unit))
        return parts
    return loader.construct_scalar(node) if isinstance(node, yaml.ScalarNode) else None


_Loader.add_multi_constructor("!", _quantity)


def read_ecsv(path: Path, wanted: Wanted) -> PlainTable:
    """Read columns of a table in ECSV (`APE 6 <https://github.com/astropy/astropy-APEs/blob/main/APE6.rst>`_).

    Raises
    ------
    SpectrumError
        If the file is too large, its header is damaged, or it holds no such columns.
    """
    if path.stat().st_size > _MAX_TEXT:
        raise SpectrumError(
            f"{path}: a text table of more than {_MAX_TEXT >> 20} MiB; write it as FITS or Parquet"
        )
    content = path.read_bytes().removeprefix(_BOM)
    start = _end_of_header(content)
    if start > _MAX_HEADER:
        raise SpectrumError(
            f"{path}: its header has more than {_MAX_HEADER >> 10} KiB; no spectrum needs so many columns or words"
        )
    header = _ecsv_header(content[:start], path)
    delimiter = header.get("delimiter", " ")
    described = [entry for entry in header.get("datatype", []) if isinstance(entry, dict) and "name" in entry]
    if delimiter not in (" ", ",") or len(described) > _MAX_COLUMNS:
        raise SpectrumError(f"{path}: damaged header: {len(described)} columns, {delimiter!r} between them")
    if content.count(b"\n", start) > MAX_PIXELS + 2:
        raise SpectrumError(f"{path}: more than {MAX_PIXELS} rows; a spectrum has one row a pixel")
    by_name = {str(entry["name"]): entry for entry in described}
    chosen = [name for name in by_name if wanted(name.lower().removesuffix(".mask"))]
    for name in chosen:
        if "subtype" in by_name[name] or not re.fullmatch(
            r"(u?int|float)\d+|bool", str(by_name[name].get("datatype"))
        ):
            raise SpectrumError(f"{path}: column {name!r} does not hold numbers, one a pixel")
    try:
        read = _ecsv_rows(content[start:], delimiter, chosen)
    except Exception as error:
        raise SpectrumError(f"{path}: its rows cannot be read ({reason(error)})") from None
    columns: dict[str, Column] = {}
    for name in chosen:
        if name.endswith(".mask") and name.removesuffix(".mask") in by_name:
            continue
        values, unit = read[name], by_name[name].get("unit")
        if f"{name}.mask" in read:
            values = np.where(read[f"{name}.mask"] != 0, np.nan, values)
        elif by_name[name]["datatype"] == "bool" and np.isfinite(values).all():
            values = values.astype(bool)
        columns.setdefault(name.lower(), Column(values, None if unit is None else str(unit)))
    return PlainTable(tuple(name.lower() for name in by_name), columns, _yaml_meta(header))


def _yaml_meta(header: Mapping[str, Any]) -> dict[str, Any]:
    """Return the metadata of a header; an ordered mapping was read as pairs."""
    meta = header.get("meta")
    if isinstance(meta, list):
        meta = dict(pair for pair in meta if isinstance(pair, tuple))
    return plain_meta(meta if isinstance(meta, dict) else {})


def _end_of_header(content: bytes) -> int:
    """Return where the first line begins that is no comment."""
    at = 0
    while content.startswith(b"#", at):
        end = content.find(b"\n", at)
        if end < 0 or end > _MAX_HEADER:
            return len(content)
        at = end + 1
    return at


def _ecsv_header(content: bytes, path: Path) -> dict[str, Any]:
    lines = content.decode("utf-8", "replace").splitlines()
    try:
        loaded = yaml.load("\n".join(line[2:] for line in lines[1:]), _Loader)
    except (yaml.YAMLError, ValueError, TypeError, RecursionError, AttributeError) as error:
        raise SpectrumError(f"{path}: cannot be read as a table: damaged header ({reason(error)})") from None
    if not isinstance(loaded, dict) or not isinstance(loaded.get("datatype"), list):
        raise SpectrumError(f"{path}: cannot be read as a table: its header tells no columns")
    return loaded


def _ecsv_rows(content: bytes, delimiter: str, names: list[str]) -> dict[str, NDArray[np.float64]]:
    from astropy.io import ascii as text_tables

    if not names:
        return {}
    table = text_tables.read(
        content.decode("utf-8", "replace"), format="fast_basic", guess=False, delimiter=delimiter,
        include_names=names, fill_values=[("", "nan")],
    )  # fmt: skip
    found = {}
    for name in names:
        values = np.ma.asarray(table[name])
        if values.dtype.kind == "U":
            if not np.isin(values.compressed(), ("True", "False")).all():
                raise ValueError(f"column {name!r} does not hold numbers")
            values = np.ma.masked_array(values.data == "True", values.mask)
        found[name] = np.ma.filled(values.astype(np.float64), np.nan)
    return found


# Parquet


def read_parquet(path: Path, wanted: Wanted) -> PlainTable:
    """Read columns of a table in Parquet, with astropy's header where that is there.

    Raises
    ------
    SpectrumError
        If it is too large or damaged, a wanted column does not hold numbers, or pyarrow is not installed.
    """
    try:
        import pyarrow as pa
        import pyarrow.parquet as parquet
    except ImportError:
        raise SpectrumError(
            f"{path}: a Parquet table needs the package pyarrow: pip install pyarrow"
        ) from None
    with path.open("rb") as stream:
        stream.seek(-8, io.SEEK_END)
        footer = int.from_bytes(stream.read(4), "little")
    if footer > _MAX_FOOTER:
        raise SpectrumError(f"{path}: damaged, or of more columns than a spectrum has")
    try:
        with parquet.ParquetFile(
            path, thrift_string_size_limit=_MAX_FOOTER, thrift_container_size_limit=_MAX_FOOTER
        ) as opened:
            known, schema = opened.metadata, opened.schema_arrow
            # A few kilobytes can hold the same row a thousand million times: look before it is unpacked.
            if known.num_rows > MAX_PIXELS or known.num_columns > _MAX_COLUMNS:
                raise SpectrumError(
                    f"{path}: has {known.num_rows} rows and {known.num_columns} columns; "
                    f"a spectrum has one row a pixel, {MAX_PIXELS} at most"
                )
            names = list(dict.fromkeys(schema.names))
            chosen = [name for name in names if wanted(name.lower())]
            for name in chosen:
                kind = schema.field(name).type
                if not (pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)):
                    raise SpectrumError(
                        f"{path}: column {name!r} does not hold numbers, one a pixel, but {str(kind)[:40]}"
                    )
            read = opened.read(columns=chosen, use_threads=False)
            described = (schema.metadata or {}).get(b"table_meta_yaml", b"")
            columns = {name: _arrow_numbers(read[name]) for name in chosen}
    except (pa.ArrowException, OSError, ValueError, KeyError) as error:
        raise SpectrumError(f"{path}: cannot be read as a table ({reason(error)})") from None
    header = _parquet_header(described, path)
    entries = [entry for entry in header.get("datatype", []) if isinstance(entry, dict)]
    unit_of = {str(entry.get("name")): entry.get("unit") for entry in entries}
    found: dict[str, Column] = {}
    for name, values in columns.items():
        told = unit_of.get(name) or (
            (schema.field(name).metadata or {}).get(b"unit", b"").decode("utf-8", "replace") or None
        )
        found.setdefault(name.lower(), Column(values, None if told is None else str(told)))
    return PlainTable(tuple(name.lower() for name in names), found, _yaml_meta(header))


def _arrow_numbers(column: Any) -> NDArray[Any]:
    import pyarrow as pa

    if pa.types.is_boolean(column.type) and not column.null_count:
        return np.asarray(column.to_numpy(), bool)
    return np.asarray(column.cast(pa.float64()).to_numpy(), np.float64)


def _parquet_header(text: bytes, path: Path) -> dict[str, Any]:
    if len(text) > _MAX_HEADER:
        raise SpectrumError(f"{path}: its header has more than {_MAX_HEADER >> 10} KiB")
    return (
        _ecsv_header(b"# \n" + b"\n".join(b"# " + line for line in text.splitlines()), path) if text else {}
    )


# VOTable


def read_votable(path: Path, wanted: Wanted) -> PlainTable:
    """Read columns of the first table of a VOTable that has data; one that refers to another file or address is refused.

    Raises
    ------
    SpectrumError
        If it is too large, damaged, refers to something outside itself, or a wanted column does not hold one number a pixel.
    """
    from astropy.io import votable

    if path.stat().st_size > _MAX_XML:
        raise SpectrumError(
            f"{path}: a VOTable of more than {_MAX_XML >> 20} MiB; write it as FITS or Parquet"
        )
    content = path.read_bytes()
    check_votable(content, path, SpectrumError)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            parsed = votable.parse(io.BytesIO(content), verify="ignore")
            tables = [table for table in parsed.iter_tables() if len(table.array)]
            table = next(t for t in tables if any(wanted(str(f.name).lower()) for f in t.fields))
            rows = table.array
    except StopIteration:
        raise SpectrumError(f"{path}: a VOTable without columns of a spectrum") from None
    except Exception as error:
        raise SpectrumError(f"{path}: cannot be read as a VOTable ({reason(error)})") from None
    columns: dict[str, Column] = {}
    for one in table.fields:
        name = str(one.name).lower()
        if not wanted(name) or name in columns:
            continue
        values = np.ma.asarray(rows[one.ID])
        if values.dtype.kind not in "iufb":
            raise SpectrumError(f"{path}: column {str(one.name)!r} does not hold numbers, one a pixel")
        unit = None if one.unit is None else str(one.unit)
        columns[name] = Column(np.ma.filled(values.astype(np.float64), np.nan), unit, str(one.ucd or ""))
    told = [*parsed.params, *(p for resource in parsed.resources for p in resource.params), *table.params]
    meta = {str(param.name): param.value for param in told}
    return PlainTable(tuple(str(f.name).lower() for f in table.fields), columns, plain_meta(meta))
