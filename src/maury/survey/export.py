"""A survey's catalogue as one file: FITS or VOTable, units and UCDs kept."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
from astropy.table import MaskedColumn, Table

from maury.errors import ConfigError
from maury.files import disk_errors, first_line, writing
from maury.survey.columns import to_votable, vo_unit
from maury.survey.store import Store

_FORMATS = {".fits": "fits", ".vot": "votable", ".xml": "votable"}


def read_rows(folder: Path, kind: str = "catalogue") -> pa.Table:
    """Read all committed rows of a part, ``catalogue``, ``errors`` or ``draws``; of the latter two there may be none.

    Raises
    ------
    ConfigError
        If the folder holds no survey, no task is done yet, or a part cannot be read.
    """
    store = Store(folder)
    _ = store.settings
    done = [task for task in store.tasks() if store.committed(task) is not None]
    if not done:
        raise ConfigError(f"{folder}: no task is done yet")
    parts = [str(part) for part in (store.part(kind, task) for task in done) if part.exists()]
    if not parts and kind != "catalogue":
        return pa.table({})
    try:
        return ds.dataset(parts, format="parquet").to_table()
    except (OSError, pa.ArrowException) as error:
        raise ConfigError(
            f"{folder / kind}: cannot be read ({first_line(error)}); maury survey repair {folder} mends it"
        ) from None


def read_catalogue(folder: Path) -> Table:
    """Read all committed rows as an astropy table.

    Raises
    ------
    ConfigError
        If the folder holds no survey, or no rows.
    """
    data = read_rows(folder)
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


def export(folder: Path, output: Path) -> int:
    """Write the catalogue as FITS (.fits) or VOTable (.vot, .xml); return the number of rows.

    Raises
    ------
    ConfigError
        If the ending is another one.
    """
    kind = _FORMATS.get(output.suffix)
    if kind is None:
        raise ConfigError(f"{output}: must end in {', '.join(_FORMATS)}")
    table = read_catalogue(folder)
    with disk_errors(output), writing(output) as temporary:
        if kind == "votable":
            to_votable(table).to_xml(str(temporary))
        else:
            for number, name in enumerate(table.colnames, start=1):
                table.meta[f"TUCD{number}"] = table[name].meta["ucd"]
            table.write(temporary, format="fits", overwrite=True)
    return len(table)
