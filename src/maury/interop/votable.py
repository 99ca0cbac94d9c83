"""A posterior as a VOTable, with units and UCDs: its draws, or one row of percentiles."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

import maury
from maury.errors import MauryError
from maury.files import disk_errors, writing
from maury.names import meant
from maury.posterior.columns import Column, Output, of_catalogue, row, to_votable, vo_unit
from maury.posterior.draws import draws_of
from maury.quantities import quantity

if TYPE_CHECKING:
    from astropy.io.votable.tree import VOTableFile
    from astropy.table import Table

    from maury.posterior.result import Posterior

Content = Literal["draws", "summary"]
_WHAT = {"v_bary": "barycentric radial velocity", "v_rad": "radial velocity in the frame of the file"}
_STATISTICS = (
    Column("log_weight", "float64", "", "stat.weight", "ln of the normalised weight"),
    Column("log_likelihood", "float64", "", "stat.likelihood", "ln of the likelihood"),
    Column("log_prior", "float64", "", "stat.likelihood", "ln of the prior's density over u"),
)


def votable(
    posterior: Posterior,
    content: str = "draws",
    *,
    weighted: bool = False,
    number: int | None = None,
    seed: int = 0,
) -> VOTableFile:
    """Return a VOTable of one table.

    Parameters
    ----------
    posterior
        The posterior.
    content
        ``"draws"``: one row a draw, columns by label, ``v_bary`` and the log densities. ``"summary"``: one row with the columns of a
        survey's catalogue.
    weighted, number, seed
        Of draws: see `maury.posterior.draws.draws_of`. They are equally weighted unless ``weighted``.

    Raises
    ------
    MauryError
        If ``content`` is neither.
    """
    known = ("draws", "summary")
    if content not in known:
        raise MauryError(f"content {content!r}: {meant(content, known)}")
    table = _draws(posterior, weighted, number, seed) if content == "draws" else _summary(posterior)
    found = to_votable(table)
    found.description = f"maury {maury.__version__}, model {posterior.model}: {table.meta['note']}"
    inner = found.get_first_table()
    inner.ID, inner.name = content, f"{posterior.spectrum.id or 'spectrum'} {content}"
    inner.description = table.meta["note"]
    return found


def write_votable(path: str | Path, table: VOTableFile) -> None:
    """Write a VOTable, whole or not at all.

    Raises
    ------
    MauryError
        If it cannot be written.
    """
    with disk_errors(Path(path)), writing(path) as temporary:
        table.to_xml(str(temporary))


def _table(columns: list[tuple[Column, object]], note: str) -> Table:
    from astropy.table import MaskedColumn
    from astropy.table import Table as AstroTable

    table = AstroTable(meta={"note": note})
    for column, data in columns:
        kind = None if column.kind == "string" else column.kind
        table[column.name] = MaskedColumn(
            np.asarray(data, dtype=kind),
            unit=vo_unit(column.unit),
            description=column.description,
            meta={"ucd": column.ucd},
        )
    return table


def _draws(posterior: Posterior, weighted: bool, number: int | None, seed: int) -> Table:
    draws = draws_of(posterior, weighted=weighted, number=number, seed=seed)
    columns: list[tuple[Column, object]] = []
    for name, data in draws.values.items():
        known = quantity(name)
        columns.append((Column(name, "float64", known.unit, known.ucd, _WHAT.get(name, name)), data))
    columns += [(column, getattr(draws, column.name)) for column in _STATISTICS]
    return _table(columns, draws.note)


def _summary(posterior: Posterior) -> Table:
    told = row(posterior, Output.catalogue)
    known = [c for c in of_catalogue(posterior.labels.names) if told.get(c.name) is not None]
    return _table([(c, [told[c.name]]) for c in known], "percentiles of the verified posterior")
