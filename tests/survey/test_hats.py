"""HATS on both sides of a survey: catalogues that LSDB wrote are its input, and LSDB opens what it exports."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from maury.errors import ConfigError, MauryWarning
from maury.spectra.formats.registry import read_all
from maury.spectra.instrument import apogee
from maury.survey.catalogue import HEALPIX, healpix29, schema
from maury.survey.export import export
from maury.survey.hats import write_hats
from maury.survey.inputs import expand
from maury.survey.store import Commit, InputFile, Store, SurveySettings, identity
from maury.survey.verify import verify

LABELS = ("teff", "logg", "v_rad")
N, PIXELS = 30, 40


@pytest.fixture
def serial():
    import dask

    with dask.config.set(scheduler="synchronous"):
        yield


@pytest.fixture(scope="module")
def sky(tmp_path_factory):
    """A collection of spectra with a margin, laid out as LSDB does; and its fluxes by star."""
    root, rng = tmp_path_factory.mktemp("sky") / "spectra", np.random.default_rng(1)
    flux: dict[str, np.ndarray] = {}
    for number, order in enumerate(
        ("Norder=0/Dir=0/Npix=3", "Norder=1/Dir=0/Npix=20", "Norder=1/Dir=10000/Npix=21")
    ):
        ids = [f"star {i}" for i in range(10 * number, 10 * number + 10)]
        flux |= {name: rng.normal(1, 0.1, PIXELS).astype("f4") for name in ids}
        cells = [
            {"wavelength": np.linspace(15_200, 16_900, PIXELS), "flux": flux[i], "ivar": [100.0] * PIXELS}
            for i in ids
        ]
        table = pa.table({"object_id": ids, "RA": [10.0] * 10, "DE": [-5.0] * 10, "spectrum": cells})
        for folder in ("stars", "stars_5arcs"):
            path = root / folder / "dataset" / f"{order}.parquet"
            path.parent.mkdir(parents=True, exist_ok=True)
            pq.write_table(table, path)
            pq.write_metadata(table.schema, root / folder / "dataset" / "_common_metadata")
            (root / folder / "per_partition_statistics.parquet").write_bytes(path.read_bytes())
    (root / "collection.properties").write_text(
        "#HATS Collection\nobs_collection=sky\nhats_primary_table_url=stars\n"
    )
    known = "#HATS catalog\ndataproduct_type={}\nhats_nrows=30\nhats_col_ra=RA\nhats_col_dec=DE\n"
    (root / "stars" / "hats.properties").write_text(known.format("object"))
    (root / "stars_5arcs" / "properties").write_text(known.format("margin"))
    return root, flux


def stars_of(root):
    files = list(expand([root], rows=4))
    assert all(".parquet[" in file.name for file in files)
    found = list(read_all(files, apogee()))
    by_name = {spectrum.id: spectrum for spectrum in found}
    assert len(by_name) == len(found)
    return by_name


def test_each_star_of_a_catalogue_is_read_once(sky):
    root, flux = sky
    found = stars_of(root)
    assert found.keys() == flux.keys()
    for name, one in found.items():
        assert (one.meta["ra"], one.meta["dec"]) == (10.0, -5.0)
        np.testing.assert_array_equal(one.flux, flux[name])


@pytest.mark.slow
def test_a_catalogue_that_lsdb_wrote_is_read(tmp_path, serial):
    lsdb = pytest.importorskip("lsdb", reason="lsdb is not installed")
    import nested_pandas as npd
    import pandas as pd

    rng = np.random.default_rng(1)
    places = {"RA": rng.uniform(0, 360, N), "DE": rng.uniform(-60, 60, N)}
    stars = npd.NestedFrame({"object_id": [f"star {i}" for i in range(N)], **places})
    pixels = pd.DataFrame(
        {
            "wavelength": np.tile(np.linspace(15_200, 16_900, PIXELS), N),
            "flux": rng.normal(1, 0.1, N * PIXELS).astype("f4"),
            "ivar": np.full(N * PIXELS, 100, "f4"),
        },
        index=np.repeat(np.arange(N), PIXELS),
    )
    frame = stars.join_nested(pixels, "spectrum")
    made = lsdb.from_dataframe(
        frame, ra_column="RA", dec_column="DE", partition_rows=20, catalog_name="stars"
    )
    made.write_catalog(tmp_path / "spectra", progress_bar=False)
    found = stars_of(tmp_path / "spectra")
    assert len(found) == N
    for _, row in frame.iterrows():
        one = found[row["object_id"]]
        assert (one.meta["ra"], one.meta["dec"]) == (row["RA"], row["DE"])
        np.testing.assert_array_equal(one.flux, row["spectrum"]["flux"].to_numpy())


def test_a_catalogue_is_found_below_a_folder_and_by_its_own_name(sky):
    root, _ = sky
    assert list(expand([root.parent])) == list(expand([root])) == list(expand([root / "stars"]))
    (one, *_) = expand([root])
    assert list(expand([one])) == [one]


def test_margins_are_no_catalogues_of_spectra(sky):
    root, _ = sky
    with pytest.raises(ConfigError, match="a HATS catalogue of the type 'margin'"):
        list(expand([root / "stars_5arcs"]))


def test_tasks_of_a_catalogue(sky, tmp_path):
    """Pieces count as many files as they have rows; their identity is the file's; rows prove themselves whole."""
    root, _ = sky
    settings = SurveySettings(model="m", model_version="1", maury_version="0", files_per_task=8)
    store = Store(tmp_path)
    tasks = store.begin(settings, expand([root], rows=4))
    assert 4 <= tasks < 12
    for task in store.tasks():
        rows, files = [], []
        for name in task.files:
            path, _, rest = name.partition("[")
            start, stop = map(int, rest.rstrip("]").split(":"))
            checksum, size, mtime = identity(Path(name))
            assert (checksum, size) == (identity(Path(path))[0], Path(path).stat().st_size)
            files.append(InputFile(name, size, mtime, checksum, stop - start, 0))
            rows += [{"file": path, "row": i, "sha256": checksum} for i in range(start, stop)]
        table = pa.Table.from_pylist(rows, schema(LABELS))
        parts = {"catalogue": store.write_part("catalogue", task, table)}
        store.commit(task, Commit(task.number, tuple(files), len(rows), 0, 0, 0.0, parts))
        assert store.publish(task, store.who) is not None
    found = verify(tmp_path)
    assert found.whole, found
    assert found.rows == N
    assert store.extend(expand([root], rows=4)) == tasks


@pytest.fixture
def survey(tmp_path):
    """A folder of two tasks; two rows have no position, and most are close together."""
    store = Store(tmp_path / "survey")
    files = [Path(f"/data/{i}.fits") for i in range(N)]
    store.begin(SurveySettings(model="m", model_version="1", maury_version="0", files_per_task=20), files)
    rng = np.random.default_rng(2)
    for task in store.tasks():
        rows = []
        for file in task.files:
            number = int(file[6:-5])
            ra, dec = (
                (rng.uniform(0, 360), rng.uniform(-90, 90)) if number % 5 == 0 else (80 + number / 10, 10.0)
            )
            if number in (3, 23):
                ra = dec = np.nan
            row = {
                HEALPIX: healpix29(ra, dec),
                "ra": ra,
                "dec": dec,
                "file": file,
                "row": 0,
                "sha256": "x",
                "id": file,
            }
            rows.append(row | {f"{name}_{q}": rng.normal() for name in LABELS for q in ("p16", "p50", "p84")})
        table = pa.Table.from_pylist(rows, schema(LABELS))
        files = tuple(InputFile(file, 1, 1, "x", 1, 0) for file in task.files)
        parts = {"catalogue": store.write_part("catalogue", task, table)}
        store.commit(task, Commit(task.number, files, len(files), 0, 0, 0.0, parts))
        assert store.publish(task, store.who) is not None
    return store.folder


def test_lsdb_opens_what_is_exported(survey, tmp_path, serial):
    lsdb = pytest.importorskip("lsdb", reason="lsdb is not installed")
    output = tmp_path / "stars.hats"
    with pytest.warns(MauryWarning, match="2 rows have no position and are left out"):
        assert export(survey, output) == N - 2
    catalogue = lsdb.open_catalog(output)
    rows = catalogue.compute()
    truth = pq.read_table(survey / "catalogue").to_pandas().set_index("id")
    assert len(rows) == len(catalogue) == N - 2
    for row in rows.reset_index().to_dict("records"):
        assert row["teff_p50"] == truth.loc[row["id"], "teff_p50"]
        assert row[HEALPIX] == truth.loc[row["id"], HEALPIX]
    near = lsdb.open_catalog(output, search_filter=lsdb.ConeSearch(81, 10, 7200)).compute()
    assert set(near["id"]) == set(
        truth[(truth["ra"] - 81).abs() < 2 / np.cos(np.pi / 18)].query("9 < dec < 11").index
    )
    with pytest.raises(ConfigError, match="is there already"):
        export(survey, output)


def test_partitions_are_none_larger_than_they_may_be(survey, tmp_path):
    from hats import read_hats

    parts = sorted(map(str, (survey / "catalogue").iterdir()))
    rows, left_out = write_hats(parts, tmp_path / "c.hats", "a \\ line\nor two", most=5)
    assert (rows, left_out) == (N - 2, 2)
    found = read_hats(tmp_path / "c.hats")
    assert found.catalog_info.total_rows == N - 2
    assert found.catalog_info.obs_description == "a \\ line or two"
    files = list((tmp_path / "c.hats" / "dataset").rglob("Npix=*.parquet"))
    assert len(files) == len(found.get_healpix_pixels()) > 5
    for file in files:
        table = pq.read_table(file, partitioning=None)
        index = table[HEALPIX].to_numpy()
        assert len(index) <= 5
        assert (np.diff(index) >= 0).all()
        order, pixel = int(file.parts[-3].partition("=")[2]), int(file.stem.partition("=")[2])
        assert set(index >> 2 * (29 - order)) == {pixel}
    assert table.schema.field("teff_p50").metadata[b"unit"] == b"K"
    assert found.catalog_info.hats_max_rows <= 5
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_a_catalogue_without_positions_is_none(survey, tmp_path):
    part = tmp_path / "p.parquet"
    table = pq.read_table(sorted((survey / "catalogue").iterdir())[0])
    pq.write_table(table.set_column(0, table.schema.field(0), pa.array([-1] * table.num_rows)), part)
    with pytest.raises(ConfigError, match="no row has a position"):
        write_hats([str(part)], tmp_path / "c.hats")
