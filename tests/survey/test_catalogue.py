"""The catalogue in others' hands: astropy, pandas, DuckDB, hats-import and LSDB, units intact."""

from __future__ import annotations

from pathlib import Path

import duckdb
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from astropy import units as u
from astropy.table import QTable, Table

from maury.errors import ConfigError
from maury.survey.catalogue import HEALPIX, healpix29, schema
from maury.survey.export import export, read_catalogue
from maury.survey.store import Commit, InputFile, Store, SurveySettings

LABELS = ("teff", "logg", "m_h", "alpha_m", "v_rad", "v_sini")
N = 40


@pytest.fixture(scope="module")
def survey(tmp_path_factory):
    """A folder of two tasks with twenty rows each; two of them have no position."""
    root = tmp_path_factory.mktemp("survey")
    files = [Path(f"/data/{i}.fits") for i in range(N)]
    store = Store(root)
    settings = SurveySettings(model="m", model_version="1", maury_version="0", files_per_task=N // 2)
    assert store.begin(settings, files) == 2
    rng = np.random.default_rng(0)
    for task in store.tasks():
        rows = []
        for file in task.files:
            ra, dec = float(rng.uniform(0, 360)), float(rng.uniform(-90, 90))
            if file in ("/data/3.fits", "/data/33.fits"):
                ra = dec = np.nan
            row = {HEALPIX: healpix29(ra, dec), "ra": ra, "dec": dec, "file": file, "row": 0, "sha256": "x"}
            row |= {f"{name}_{q}": rng.normal() for name in LABELS for q in ("p16", "p50", "p84")}
            words = dict.fromkeys(
                ("method", "flag_warn", "flag_bad", "model", "model_version", "maury_version"), ""
            )
            rows.append(row | words | {"id": file[6:-5], "snr": 50.0})
        put(store, task, pa.Table.from_pylist(rows, schema(LABELS)))
    return root


def put(store, task, table):
    parts = {"catalogue": store.write_part("catalogue", task, table)}
    files = tuple(InputFile(file, 1, 1, "x", 1, 0) for file in task.files)
    store.commit(task, Commit(task.number, files, len(files), 0, 0, 0.0, parts))
    assert store.publish(task, store.who) is not None


def check_units(table):
    assert table["teff_p50"].unit == u.K
    assert table["v_rad_p16"].unit == u.km / u.s
    assert table["ra"].unit == u.deg


@pytest.mark.filterwarnings("ignore:No table..len")
def test_astropy(survey, tmp_path):
    check_units(read_catalogue(survey))
    for name in ("c.fits", "c.vot"):
        assert export(survey, tmp_path / name) == N
        found = Table.read(tmp_path / name)
        check_units(found)
        assert len(found) == N
    (part, _) = sorted((survey / "catalogue").iterdir())
    found = Table.read(part, format="parquet")
    check_units(found)
    assert len(found) == N // 2
    # What astropy makes of units when it computes.
    assert QTable(read_catalogue(survey)["ra", "teff_p50"])["teff_p50"].to_value("kK").shape == (N,)


def test_pandas(survey):
    found = pd.read_parquet(survey / "catalogue")
    assert len(found) == N
    assert found["teff_p50"].dtype == np.float64
    assert (
        pq.read_schema(survey / "catalogue" / "0000000.parquet").field("teff_p50").metadata[b"unit"] == b"K"
    )


def test_duckdb(survey):
    pattern = survey / "catalogue" / "*.parquet"
    ((count, far),) = duckdb.sql(
        f"select count(*), count(*) filter ({HEALPIX} < 0) from '{pattern}'"
    ).fetchall()
    assert (count, far) == (N, 2)


def test_parquet_for_hats(survey, tmp_path):
    assert export(survey, tmp_path / "all.parquet") == N
    assert export(survey, tmp_path / "c.parquet", positioned=True) == N - 2
    found = pq.read_table(tmp_path / "c.parquet")
    assert found.schema.field("v_rad_p50").metadata[b"unit"] == b"km/s"
    assert min(found[HEALPIX].to_pylist()) >= 0
    assert len(read_catalogue(survey, positioned=True)) == N - 2


def test_nothing_to_export(tmp_path):
    Store(tmp_path).begin(SurveySettings(model="m", model_version="1", maury_version="0"), [Path("/a.fits")])
    with pytest.raises(ConfigError, match="no task is done yet"):
        export(tmp_path, tmp_path / "c.parquet")
    assert not list(tmp_path.glob("*c.parquet"))


def test_hats_and_lsdb(survey, tmp_path):
    """Imported by the index as it is, opened by LSDB: rows, index and units are those of the survey."""
    hats_import = pytest.importorskip("hats_import", reason="hats-import is not installed")
    lsdb = pytest.importorskip("lsdb", reason="lsdb is not installed")
    from distributed import Client, LocalCluster
    from hats_import.pipeline import pipeline_with_client

    source = tmp_path / "c.parquet"
    export(survey, source, positioned=True)
    arguments = hats_import.ImportArguments(
        output_path=tmp_path,
        output_artifact_name="hats",
        input_file_list=[source],
        file_reader="parquet",
        use_healpix_29=True,
        add_healpix_29=False,
        use_schema_file=source,
        highest_healpix_order=4,
        pixel_threshold=10,
        progress_bar=False,
    )
    with (
        LocalCluster(n_workers=1, processes=False, dashboard_address=None) as local,
        Client(local) as client,
    ):
        pipeline_with_client(arguments, client)
        catalogue = lsdb.open_catalog(tmp_path / "hats")
        rows = catalogue.compute()
    truth = pq.read_table(source).to_pandas().set_index("id")
    assert len(rows) == N - 2
    assert len(catalogue.get_healpix_pixels()) > 1
    for row in rows.reset_index().to_dict("records"):
        assert row["teff_p50"] == truth.loc[row["id"], "teff_p50"]
        assert row[HEALPIX] == truth.loc[row["id"], HEALPIX]
    (part, *_) = (tmp_path / "hats" / "dataset").rglob("Npix=*.parquet")
    assert pq.read_schema(part).field("teff_p50").metadata[b"unit"] == b"K"
