"""The catalogue's schema, with units and UCDs, and its rows; a HEALPix index for HATS."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import pyarrow as pa

from maury.inference.flow import Amortised
from maury.posterior import columns
from maury.posterior.columns import HEALPIX
from maury.posterior.result import Posterior

ORDER = 29


def _field(column: columns.Column) -> pa.Field:
    known = {"unit": column.unit, "ucd": column.ucd, "description": column.description}
    return pa.field(column.name, getattr(pa, column.kind)(), metadata={k: v for k, v in known.items() if v})


ERRORS = pa.schema([_field(column) for column in columns.ERRORS])


def schema(labels: Sequence[str]) -> pa.Schema:
    """Arrow schema of the catalogue of some labels, nuisance included."""
    return _schema(tuple(labels))


@lru_cache(maxsize=8)
def _schema(labels: tuple[str, ...]) -> pa.Schema:
    known = columns.of_catalogue(labels)
    return pa.schema([_field(c) for c in known], metadata={"table_meta_yaml": _for_astropy(known)})


def _for_astropy(known: Iterable[columns.Column]) -> str:
    """Units and descriptions as astropy keeps them in Parquet: it does not look at those of the fields."""
    from astropy.table import Column as AstropyColumn
    from astropy.table import Table, meta

    table = Table()
    for c in known:
        kind = "str" if c.kind == "string" else c.kind
        table[c.name] = AstropyColumn(dtype=kind, unit=c.unit or None, description=c.description)
    return "\n".join(meta.get_yaml_from_table(table))


def healpix29(ra: float, dec: float) -> int:
    """Nested HEALPix index of order 29; -1 where the position is not known."""
    from astropy import units
    from astropy_healpix import HEALPix

    if not (np.isfinite(ra) and np.isfinite(dec) and -90 <= dec <= 90):
        return -1
    grid = HEALPix(nside=2**ORDER, order="nested")
    return int(grid.lonlat_to_healpix(ra * units.deg, dec * units.deg))


def row(found: Posterior | Amortised) -> dict[str, Any]:
    """Return the catalogue's row of a posterior, verified or the flow's, of which what only verification tells is missing."""
    told = columns.row(found, columns.Output.catalogue)
    place = [np.nan if told[name] is None else told[name] for name in ("ra", "dec")]
    return told | {"ra": place[0], "dec": place[1], HEALPIX: healpix29(*place)}
