"""A survey's catalogue in HATS, the layout that LSDB opens: partitions of the sky, none much larger than another.

The layout is small, and written here with pyarrow alone: https://www.ivoa.net/documents/Notes/HATS/. Rows go through spill files, so that
one partition, or a few ten thousand rows of the input, are in memory at a time.
"""

from __future__ import annotations

import os
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

import maury
from maury.errors import ConfigError
from maury.files import disk_errors
from maury.posterior.columns import HEALPIX
from maury.survey.catalogue import ORDER

# The deepest order of a partition, rows of a partition, and rows that wait in memory for their partitions.
_DEEPEST, _MOST, _WAITING = 8, 100_000, 20_000


@dataclass(frozen=True)
class Partition:
    """A pixel of the sky, of nested HEALPix, whose rows are one file."""

    order: int
    pixel: int

    @property
    def path(self) -> str:
        """Of its file, below ``dataset``."""
        return f"Norder={self.order}/Dir={self.pixel // 10_000 * 10_000}/Npix={self.pixel}.parquet"


def write_hats(
    parts: Sequence[str], output: Path, description: str = "", most: int = _MOST
) -> tuple[int, int]:
    """Write Parquet files of a catalogue as one in HATS; return the number of its rows, and of those without a position.

    Parameters
    ----------
    parts
        Files of one schema, with the columns ``_healpix_29``, ``ra`` and ``dec``. Rows whose index is below 0 are left out.
    output
        The catalogue's folder, which must not be there yet.
    description
        One line for its properties.
    most
        Rows of a partition, unless they are closer together than 0.2 degrees.

    Raises
    ------
    ConfigError
        If the folder is there, or no row has a position.
    """
    if output.exists():
        raise ConfigError(f"{output}: is there already; choose another name, or remove it")
    counts, left_out = _count(parts)
    if not counts.any():
        raise ConfigError(f"{output}: no row has a position, and HATS has no place for such")
    partitions = list(_partitions(counts, most))
    with (
        disk_errors(output),
        tempfile.TemporaryDirectory(dir=output.parent, prefix=f".{output.name}-") as temporary,
    ):
        spilt, made = Path(temporary, "spilt"), Path(temporary, "made")
        _spill(parts, partitions, spilt)
        _write_dataset(partitions, spilt, made, pq.read_schema(parts[0]))
        rows = int(counts.sum())
        _write_words(
            made, output.stem, partitions, rows, int(max(_rows(counts, p) for p in partitions)), description
        )
        os.replace(made, output)
    return rows, left_out


def _index(table: pa.Table) -> NDArray[np.int64]:
    return np.asarray(table[HEALPIX].fill_null(-1).to_numpy(), np.int64)


def _deep(index: NDArray[np.int64]) -> NDArray[np.int64]:
    return index >> 2 * (ORDER - _DEEPEST)


def _count(parts: Sequence[str]) -> tuple[NDArray[np.int64], int]:
    """Rows by pixels of the deepest order, and the number of those without a position."""
    counts, left_out = np.zeros(12 * 4**_DEEPEST, np.int64), 0
    for part in parts:
        index = _index(pq.read_table(part, columns=[HEALPIX]))
        left_out += int(np.count_nonzero(index < 0))
        counts += np.bincount(_deep(index[index >= 0]), minlength=len(counts))
    return counts, left_out


def _rows(counts: NDArray[np.int64], partition: Partition) -> int:
    width = 4 ** (_DEEPEST - partition.order)
    return int(counts[partition.pixel * width : (partition.pixel + 1) * width].sum())


def _partitions(counts: NDArray[np.int64], most: int) -> Iterator[Partition]:
    """Yield pixels that have rows: the largest ones with no more than ``most``."""
    waiting = [Partition(0, pixel) for pixel in reversed(range(12))]
    while waiting:
        one = waiting.pop()
        number = _rows(counts, one)
        if number == 0:
            continue
        if number <= most or one.order == _DEEPEST:
            yield one
        else:
            waiting += [Partition(one.order + 1, 4 * one.pixel + child) for child in reversed(range(4))]


def _spill(parts: Sequence[str], partitions: Sequence[Partition], folder: Path) -> None:
    """Sort rows into folders of the partitions."""
    number_of = np.full(12 * 4**_DEEPEST, -1)
    for number, partition in enumerate(partitions):
        width = 4 ** (_DEEPEST - partition.order)
        number_of[partition.pixel * width : (partition.pixel + 1) * width] = number
    waiting: dict[int, list[pa.Table]] = defaultdict(list)
    rows, flushes = 0, 0

    def flush() -> None:
        nonlocal rows, flushes
        for number, tables in waiting.items():
            (folder / str(number)).mkdir(parents=True, exist_ok=True)
            pq.write_table(pa.concat_tables(tables), folder / str(number) / f"{flushes}.parquet")
        waiting.clear()
        rows, flushes = 0, flushes + 1

    for part in parts:
        table = pq.read_table(part)
        index = _index(table)
        table, index = table.filter(pa.array(index >= 0)), index[index >= 0]
        belongs = number_of[_deep(index)]
        for number in np.unique(belongs):
            waiting[int(number)].append(table.filter(pa.array(belongs == number)))
        rows += table.num_rows
        if rows > _WAITING:
            flush()
    flush()


def _write_dataset(partitions: Sequence[Partition], spilt: Path, output: Path, schema: pa.Schema) -> None:
    """Write each partition, its rows by their index, and what readers want to know of all of them at once."""
    footers = []
    for number, partition in enumerate(partitions):
        tables = [pq.read_table(path) for path in sorted((spilt / str(number)).iterdir())]
        path = output / "dataset" / partition.path
        path.parent.mkdir(parents=True, exist_ok=True)
        collected: list[pq.FileMetaData] = []
        pq.write_table(
            pa.concat_tables(tables).sort_by(HEALPIX).replace_schema_metadata(schema.metadata),
            path, compression="zstd", metadata_collector=collected,
        )  # fmt: skip
        collected[0].set_file_path(partition.path)
        footers += collected
    pq.write_metadata(schema, output / "dataset" / "_common_metadata")
    pq.write_metadata(schema, output / "dataset" / "_metadata", metadata_collector=footers)


def _write_words(
    folder: Path, name: str, partitions: Sequence[Partition], rows: int, most: int, description: str
) -> None:
    """Write the list of partitions and the catalogue's properties."""
    lines = ["Norder,Npix", *(f"{one.order},{one.pixel}" for one in partitions)]
    (folder / "partition_info.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    size = sum(path.stat().st_size for path in folder.rglob("*.parquet"))
    known = {
        "obs_collection": name,
        "obs_description": description,
        "dataproduct_type": "object",
        "hats_nrows": rows,
        "hats_col_ra": "ra",
        "hats_col_dec": "dec",
        "hats_col_healpix": HEALPIX,
        "hats_col_healpix_order": ORDER,
        "hats_npix_suffix": ".parquet",
        "hats_max_rows": most,
        "hats_order": max(one.order for one in partitions),
        "hats_estsize": size // 1024,
        "moc_sky_fraction": f"{sum(1 / (12 * 4**one.order) for one in partitions):.5f}",
        "hats_builder": f"maury v{maury.__version__}",
        "hats_creation_date": datetime.now(UTC).strftime("%Y-%m-%dT%H:%MUTC"),
        "hats_version": "v1.0",
    }
    text = "#HATS catalog\n" + "".join(
        f"{key}={_escaped(value)}\n" for key, value in known.items() if value != ""
    )
    # The second name is what readers of before 2025 look for.
    for each in ("hats.properties", "properties"):
        (folder / each).write_text(text, encoding="utf-8")


def _escaped(value: object) -> str:
    """Return a value as Java's properties have it, on one line."""
    return " ".join(str(value).split()).replace("\\", "\\\\")
