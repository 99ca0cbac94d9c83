"""Parquet files with a spectrum in each row: nested columns, lists, rows that hold none, and pieces of files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from maury.errors import Failure, SpectrumError
from maury.files import split_rows
from maury.spectra import read_spectra, read_spectrum
from maury.spectra.formats import isolated
from maury.spectra.formats.nested import is_nested, primary_catalogue, read_nested, rows_of
from maury.spectra.formats.registry import read_all, read_each
from maury.spectra.instrument import apogee
from maury.spectra.linespread import Gaussian

N, PIXELS = 7, 50
WAVELENGTH = np.linspace(1520.0, 1560.0, PIXELS)
SAID = {"medium": "vacuum", "wavelength_unit": "nm"}


def spectra(n: int = N) -> list[dict[str, list[float]]]:
    rng = np.random.default_rng(0)
    return [
        {
            "wavelength": WAVELENGTH.tolist(),
            "flux": rng.normal(1, 0.1, PIXELS).tolist(),
            "ivar": [100.0] * PIXELS,
            "mask": [False] * (PIXELS - 1) + [True],
        }
        for _ in range(n)
    ]


def write(path: Path, cells: list | None = None, kind: pa.DataType | None = None, **columns: list) -> Path:
    cells = spectra() if cells is None else cells
    n = len(cells)
    told = {"object_id": [f"star {i}" for i in range(n)]} | {key: [value] * n for key, value in SAID.items()}
    table = pa.table({"spectrum": pa.array(cells, kind)} | told | columns)
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path, row_group_size=3)
    return path


def test_each_row_is_a_spectrum(tmp_path: Path) -> None:
    path = write(tmp_path / "c.parquet", resolution=[22_500.0] * N, ra=[10.0] * N, dec=[-5.0] * N)
    found = list(read_spectra(path))
    assert [spectrum.index for spectrum in found] == list(range(N))
    assert [spectrum.id for spectrum in found] == [f"star {i}" for i in range(N)]
    one = found[4]
    np.testing.assert_allclose(one.grid.wavelength, 10 * WAVELENGTH)
    np.testing.assert_array_equal(one.flux, spectra()[4]["flux"])
    assert one.good.tolist() == [True] * (PIXELS - 1) + [False]
    assert one.lsf == Gaussian(22_500.0)
    assert (one.meta["ra"], one.meta["dec"], one.path) == (10.0, -5.0, str(path))


def test_lists_beside_each_other_and_lists_of_structs(tmp_path: Path) -> None:
    nested = write(tmp_path / "a.parquet")
    cells = spectra()
    lists = {name: [cell[name] for cell in cells] for name in cells[0]}
    pq.write_table(
        pa.table(lists | {key: [value] * N for key, value in SAID.items()}), tmp_path / "b.parquet"
    )
    structs = [
        [dict(zip(cell, row, strict=True)) for row in zip(*cell.values(), strict=True)] for cell in cells
    ]
    write(tmp_path / "c.parquet", structs)
    for name in ("b.parquet", "c.parquet"):
        for one, other in zip(read_spectra(tmp_path / name), read_spectra(nested), strict=True):
            np.testing.assert_array_equal(one.flux, other.flux)
            np.testing.assert_array_equal(one.ivar, other.ivar)
    assert read_spectrum(tmp_path / "b.parquet", 3).id == "b-3"


def test_a_row_without_a_spectrum_is_a_failure_of_its_own(tmp_path: Path) -> None:
    cells = spectra()
    kind = pa.array(cells).type
    cells[1] = None
    cells[3] = {**cells[3], "flux": cells[3]["flux"][:-1]}
    cells[5] = {name: [] for name in cells[5]}
    path = write(tmp_path / "c.parquet", cells, kind)
    for found in (list(read_each(path)), list(isolated.read_each(path)), list(read_all([path]))):
        assert [item.index for item in found] == list(range(N))
        failed = [item for item in found if isinstance(item, Failure)]
        assert [item.index for item in failed] == [1, 3, 5]
        assert failed[1].reason.startswith(f"{path} row 3: wavelength, flux, noise and mask have different")
        assert {item.flag for item in failed} == {"unreadable"}
    with pytest.raises(SpectrumError, match="row 1: column 'wavelength' is null"):
        list(read_spectra(path))
    with pytest.raises(SpectrumError, match="row 1"):
        list(isolated.read_spectra(path))


def test_pieces_of_a_file(tmp_path: Path) -> None:
    path = write(tmp_path / "c.parquet")
    assert list(rows_of(path, 3)) == [range(0, 3), range(3, 6), range(6, 7)]
    for read in (read_all, isolated.read_all):
        found = list(read([f"{path}[2:5]"]))
        assert [item.index for item in found] == [2, 3, 4]
    assert not list(read_each(f"{path}[7:9]"))
    assert split_rows(path) == (path, None)
    path.rename(tmp_path / "c.parquet[0:2]")
    assert split_rows(tmp_path / "c.parquet[0:2]") == (tmp_path / "c.parquet[0:2]", None)


def test_the_instrument_tells_what_a_catalogue_leaves_open(tmp_path: Path) -> None:
    cells = [{**cell, "wavelength": (10 * WAVELENGTH).tolist()} for cell in spectra()]
    path = write(
        tmp_path / "c.parquet", cells, medium=[None] * N, wavelength_unit=[None] * N, restframe=[True] * N
    )
    with pytest.raises(SpectrumError, match="column 'wavelength' has no unit"):
        read_spectrum(path)
    one = read_spectrum(path, instrument=apogee())
    assert one.frame == "rest"
    np.testing.assert_allclose(one.grid.wavelength, 10 * WAVELENGTH)


def test_positions_stand_where_the_catalogue_says(tmp_path: Path) -> None:
    cat = tmp_path / "sky"
    path = write(cat / "dataset/Norder=0/Dir=0/Npix=3.parquet", RAJ2000=[12.5] * N, dec=[np.nan] * N)
    (cat / "hats.properties").write_text("#HATS catalog\nhats_col_ra=RAJ2000\nhats_nrows=7\n")
    assert primary_catalogue(cat) == cat
    meta = read_spectrum(path).meta
    assert meta["ra"] == 12.5
    assert "dec" not in meta


def test_units_may_stand_with_the_fields(tmp_path: Path) -> None:
    cells = spectra()
    fields = [
        pa.field(name, pa.list_(pa.float64()), metadata={"unit": unit})
        for name, unit in (("wavelength", "nm"), ("flux", "Jy"), ("ivar", ""))
    ]
    table = pa.table(
        [pa.array([{f.name: cell[f.name] for f in fields} for cell in cells], pa.struct(fields))],
        pa.schema([pa.field("spectrum", pa.struct(fields))], metadata={"medium": "vacuum"}),
    )
    pq.write_table(table, tmp_path / "c.parquet")
    assert read_spectrum(tmp_path / "c.parquet").meta["flux_unit"] == "Jy"


def test_other_tables_are_none(tmp_path: Path) -> None:
    flat, words = tmp_path / "flat.parquet", tmp_path / "words.parquet"
    pq.write_table(pa.table({"wavelength": [1.0, 2.0], "flux": [1.0, 1.0]}), flat)
    pq.write_table(pa.table({"wavelength": [["a"]], "flux": [["b"]], "error": [["c"]]}), words)
    damaged = tmp_path / "damaged.parquet"
    damaged.write_bytes(b"PAR1" + bytes(100) + b"PAR1")
    assert [is_nested(path) for path in (flat, words, damaged, tmp_path)] == [False, True, False, False]
    with pytest.raises(SpectrumError, match="no nested column with wavelength, flux"):
        list(read_nested(flat))
    with pytest.raises(SpectrumError, match="does not hold numbers, one a pixel, but string"):
        read_spectrum(words)
    assert primary_catalogue(tmp_path) is None


def test_rows_of_too_many_pixels_are_not_unpacked(tmp_path: Path) -> None:
    path = tmp_path / "c.parquet"
    many = [0.0] * 1_000_001
    pq.write_table(pa.table({"wavelength": [many], "flux": [many], "ivar": [many]}), path)
    assert path.stat().st_size < 100_000
    with pytest.raises(SpectrumError, match="its rows have 1000001 pixels; a spectrum has 1000000 at most"):
        read_spectrum(path)
