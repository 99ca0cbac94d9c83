"""Which spectra: rows of a catalogue on disk, or of the survey's own database by a small query."""

from __future__ import annotations

import json
import re
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from maury.archive.products import Product
from maury.errors import DownloadError
from maury.files import first_line, open_table

QUERIES = "https://skyserver.sdss.org/{release}/SkyServerWS/SearchTools/SqlSearch"
# Names that the survey's catalogues give to the same columns.
_OTHER_NAMES = {
    "fiberid": "fiber",
    "apogeeid": "apogee_id",
    "obj": "apogee_id",
    "sdss4_apogee_id": "apogee_id",
}
_TABLES = {"apVisit": "apogeeVisit", "apStar": "apogeeStar", "aspcapStar": "apogeeStar"}
_COLUMNS = {"fiber": "fiberid as fiber"}
_NAME = re.compile(r"[A-Za-z0-9+._-]+")


def read_catalogue(path: str | Path, product: Product) -> Iterator[dict[str, Any]]:
    """Yield the rows of a FITS, CSV, ECSV or Parquet table, such as the survey's allVisit, with the product's columns.

    Raises
    ------
    DownloadError
        If it cannot be read, or lacks a column.
    """
    path = Path(path)
    table = open_table(path, DownloadError)
    names = {}
    for name in table.colnames:
        lower = name.lower()
        names[_OTHER_NAMES.get(lower, lower)] = name
    missing = [name for name in product.needs if name not in names]
    if missing:
        raise DownloadError(f"{path}: has no column {', '.join(missing)}; {product.wants}")
    columns = [table[names[name]] for name in product.needs]
    for values in zip(*columns, strict=True):
        yield {
            name: value.decode() if isinstance(value, bytes) else value
            for name, value in zip(product.needs, values, strict=True)
        }


def query(
    product: Product,
    ids: Sequence[str],
    fields: Sequence[str],
    *,
    address: str = QUERIES,
    timeout: float = 60.0,
) -> Iterator[dict[str, Any]]:
    """Yield rows of the survey's database for stars or fields.

    Parameters
    ----------
    product
        What is to be downloaded. Products that are named by ``sdss_id`` alone need no query.
    ids, fields
        Names of stars (2M...; sdss_id for mwmStar and mwmVisit), and of fields.
    address, timeout
        Of SkyServer's SQL search, with ``{release}`` in it; seconds.

    Raises
    ------
    DownloadError
        If a name is of an impossible form, nothing is found, or the server does not answer.
    """
    for name in (*ids, *fields):
        if not _NAME.fullmatch(name):
            raise DownloadError(f"{name!r}: no name of a star or a field")
    if product.needs == ("sdss_id",):
        if fields:
            raise DownloadError(f"{product.kind}: is found by sdss_id, not by field; use --id or --from")
        yield from ({"sdss_id": name} for name in ids)
        return
    table = _TABLES.get(product.kind)
    if table is None or product.release != "dr17":
        raise DownloadError(f"{product.kind} of {product.release}: {product.wants}; give one by --from")
    for column, names in (("apogee_id", ids), ("field", fields)):
        for name in names:
            columns = ", ".join(_COLUMNS.get(c, c) for c in product.needs)
            rows = _ask(
                address.format(release=product.release),
                f"select {columns} from {table} where {column} = '{name}'",
                timeout,
            )
            if not rows:
                raise DownloadError(f"{name}: {product.release} has no {product.kind} of it")
            yield from rows


def _ask(address: str, sql: str, timeout: float) -> list[dict[str, Any]]:
    url = f"{address}?{urllib.parse.urlencode({'cmd': sql, 'format': 'json'})}"
    request = urllib.request.Request(url, headers={"User-Agent": "maury"})
    try:
        with urllib.request.urlopen(request, timeout=timeout) as answer:
            found = json.load(answer)
        rows: list[dict[str, Any]] = found[0]["Rows"]
    except (urllib.error.URLError, TimeoutError, ConnectionError) as error:
        raise DownloadError(
            f"{address}: does not answer ({first_line(error)}); give a catalogue by --from"
        ) from None
    except (ValueError, KeyError, IndexError, TypeError):
        raise DownloadError(
            f"{address}: answered something else than rows; give a catalogue by --from"
        ) from None
    return rows
