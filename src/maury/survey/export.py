"""A survey's catalogue as one file, FITS, VOTable or Parquet, or as a catalogue in HATS; units and UCDs are kept."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq
from astropy.table import MaskedColumn, Table

from maury.errors import ConfigError, MauryWarning
from maury.files import disk_errors, first_line, writing
from maury.posterior.columns import HEALPIX, to_votable, vo_unit
from maury.survey.store import Store

_FORMATS = {".fits": "fits", ".vot": "votable", ".xml": "votable", ".parquet": "parquet", ".hats": "hats"}


def read_rows(folder: Path, kind: str = "catalogue", only: pc.Expression | None = None) -> pa.Table:
    """Read all committed rows of a part, ``catalogue``, ``errors`` or ``draws``; of the latter two there may be none.

    ``only`` says which rows are wanted.

    Raises
    ------
    ConfigError
        If the folder holds no survey, no task is done yet, or a part cannot be read.
    """
    parts = list(_parts(folder, kind))
    if not parts and kind != "catalogue":
        return pa.table({})
    try:
        return ds.dataset(parts, format="parquet").to_table(filter=only)
    except (OSError, pa.ArrowException) as error:
        raise ConfigError(
            f"{folder / kind}: cannot be read ({first_line(error)}); maury survey repair {folder} mends it"
        ) from None


def read_catalogue(folder: Path, positioned: bool = False) -> Table:
    """Read all committed rows as an astropy table.

    Parameters
    ----------
    folder
        The survey's.
    positioned
        Whether to leave out rows without a position in the sky.

    Raises
    ------
    ConfigError
        If the folder holds no survey, or no rows.
    """
    data = read_rows(folder, only=pc.field(HEALPIX) >= 0 if positioned else None)
    table = Table(masked=True)
    for field in data.schema:
        column = data[field.name]
        missing = np.asarray(column.is_null())
        kind = field.type.to_pandas_dtype()
        text = kind is np.str_ or field.type == "string"
        values = column.fill_null("" if text else 0).to_pylist()
        known = {k.decode(): v.decode() for k, v in (field.metadata or {}).items()}
        table[field.name] = MaskedColumn(
            np.array(values, dtype=None if text else kind),
            mask=missing,
            unit=vo_unit(known.get("unit", "")),
            description=known.get("description", ""),
            meta={"ucd": known.get("ucd", "")},
        )
    return table


def _parts(folder: Path, kind: str = "catalogue") -> Iterator[str]:
    store, any_done = Store(folder), False
    _ = store.settings
    for task in store.tasks():
        commit = store.committed(task)
        if commit is not None:
            any_done = True
            if kind in commit.parts:
                yield str(store.part(kind, task))
    if not any_done:
        raise ConfigError(f"{folder}: no task is done yet")


def export(folder: Path, output: Path, positioned: bool = False) -> int:
    """Write the catalogue as FITS (.fits), VOTable (.vot, .xml), Parquet (.parquet) or HATS (.hats); return the number of rows.

    Parameters
    ----------
    folder, positioned
        As for `read_catalogue`. HATS has no place for a row without a position: there such rows are left out, with a warning.
    output
        The file; a folder for HATS, which ``lsdb.open_catalog`` opens. Parquet is written task by task and HATS partition by partition, the
        others are in memory whole.

    Raises
    ------
    ConfigError
        If the ending is another one, or there are no rows.
    """
    kind = _FORMATS.get(output.suffix)
    if kind is None:
        raise ConfigError(f"{output}: must end in {', '.join(_FORMATS)}")
    if kind == "parquet":
        with disk_errors(output), writing(output) as temporary:
            return _to_parquet(folder, temporary, positioned)
    if kind == "hats":
        return _to_hats(folder, output)
    table = read_catalogue(folder, positioned)
    with disk_errors(output), writing(output) as temporary:
        if kind == "votable":
            to_votable(table).to_xml(str(temporary))
        else:
            for number, name in enumerate(table.colnames, start=1):
                table.meta[f"TUCD{number}"] = table[name].meta["ucd"]
            table.write(temporary, format="fits", overwrite=True)
    return len(table)


def _to_hats(folder: Path, output: Path) -> int:
    from maury.survey.hats import write_hats

    settings = Store(folder).settings
    how = "verified" if settings.stage == "verified" else "by the flow alone"
    description = f"Stellar labels from spectra, {how}: model {settings.model} ({settings.model_version})"
    rows, left_out = write_hats(list(_parts(folder)), output, description)
    if left_out:
        warnings.warn(
            f"{output}: {left_out} rows have no position and are left out: HATS has no place for them",
            MauryWarning,
            stacklevel=2,
        )
    return rows


def _to_parquet(folder: Path, output: Path, positioned: bool) -> int:
    number, writer = 0, None
    try:
        for part in _parts(folder):
            table: pa.Table = pq.read_table(part)
            if positioned:
                table = table.filter(pc.field(HEALPIX) >= 0)
            if writer is None:
                writer = pq.ParquetWriter(output, table.schema, compression="zstd")
            writer.write_table(table)
            number += table.num_rows
    finally:
        if writer is not None:
            writer.close()
    return number
