"""APOGEE's archive, played by a server with its layout that drops, truncates and refuses."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import numpy as np
import pytest
from astropy.table import Table
from typer.testing import CliRunner

from archive_server import serving
from maury.archive import catalogue as catalogues
from maury.archive.catalogue import query, read_catalogue
from maury.archive.fetch import MANIFEST, fetch_products
from maury.archive.products import PRODUCTS, product
from maury.cli import app
from maury.download import Archive
from maury.errors import DownloadError, MauryError
from maury.files import sha256
from maury.models import load_model
from maury.spectra.formats.registry import read_spectrum
from maury.spectra.formats.writers import write_apvisit
from maury.training.demo import TRUTH, simulate_visit

VISITS = [
    {"telescope": "apo25m", "field": "150-08", "plate": "9518", "mjd": 57729, "fiber": n}
    for n in (7, 104, 300)
]
VISIT = product("dr17", "apVisit")


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A folder with three visits where the archive has them."""
    root = tmp_path_factory.mktemp("sas")
    spectrum = simulate_visit(load_model(), TRUTH, snr=50, seed=1, v_correction=None)
    for row in VISITS:
        file = root / VISIT.path(row)
        file.parent.mkdir(parents=True, exist_ok=True)
        write_apvisit(file, spectrum, release="dr17")
    return root


@pytest.fixture
def server(root):
    with serving(root) as server:
        yield server


def patient(server, **options):
    return Archive(server.base, **({"patience": 0.01, "timeout": 5.0} | options))


REDUX17 = "dr17/apogee/spectro/redux/dr17"
PATHS = [
    (
        "dr17",
        "apVisit",
        VISITS[1],
        REDUX17 + "/visit/apo25m/150-08/9518/57729/apVisit-dr17-9518-57729-104.fits",
    ),
    (
        "dr17",
        "apVisit",
        VISITS[0] | {"telescope": "lco25m"},
        REDUX17 + "/visit/lco25m/150-08/9518/57729/asVisit-dr17-9518-57729-007.fits",
    ),
    (
        "dr17",
        "apStar",
        {"telescope": "apo25m", "field": "150-08", "apogee_id": "2M00242666+5341178"},
        REDUX17 + "/stars/apo25m/150-08/apStar-dr17-2M00242666+5341178.fits",
    ),
    (
        "dr17",
        "aspcapStar",
        {"telescope": "lco25m", "field": "N", "apogee_id": "2M1"},
        "dr17/apogee/spectro/aspcap/dr17/synspec_rev1/lco25m/N/aspcapStar-dr17-2M1.fits",
    ),
    (
        "dr19",
        "apStar",
        {"telescope": "apo25m", "healpix": 12345, "apogee_id": "2M1"},
        "dr19/spectro/apogee/redux/1.3/stars/apo25m/12/12345/apStar-1.3-apo25m-2M1.fits",
    ),
    (
        "dr19",
        "mwmStar",
        {"sdss_id": "54392544"},
        "dr19/spectro/astra/0.6.0/spectra/star/25/44/mwmStar-0.6.0-54392544.fits",
    ),
]


@pytest.mark.parametrize(("release", "kind", "row", "path"), PATHS)
def test_paths_are_those_of_the_data_model(release, kind, row, path):
    assert str(product(release, kind).path(row)) == path


@pytest.mark.parametrize("wrong", ["../../etc", ".ssh", "a/b", "a b", ""])
def test_names_that_lead_out_of_the_archive_are_refused(wrong):
    with pytest.raises(DownloadError, match="field"):
        VISIT.path(VISITS[0] | {"field": wrong})


def test_unknown_products_are_named():
    with pytest.raises(DownloadError, match="mwmStar of dr17: not known; known are apVisit of dr17"):
        product("dr17", "mwmStar")
    assert len(PRODUCTS) >= 7


def test_files_come_whole_past_every_fault(server, tmp_path):
    names = [VISIT.path(row).name for row in VISITS]
    server.faults[names[0]] = ["drop", "503"]
    server.faults[names[1]] = ["corrupt", "truncate"]
    server.faults[names[2]] = ["html"]
    found = fetch_products(tmp_path, VISIT, VISITS, patient(server))
    assert [f.name for f in found.files] == names
    assert not found.errors
    assert read_spectrum(found.files[0]).snr > 10
    entries = [json.loads(line) for line in (tmp_path / MANIFEST).read_text().splitlines()]
    assert {e["sha256"] for e in entries} == {sha256(f) for f in found.files}
    assert not list(tmp_path.rglob("*.download"))


def test_what_is_there_is_not_asked_for_again(server, tmp_path):
    fetch_products(tmp_path, VISIT, VISITS, patient(server))
    changed = tmp_path / VISIT.path(VISITS[1])
    data = bytearray(changed.read_bytes())
    data[-100] ^= 1
    changed.write_bytes(data)
    server.requests.clear()
    fetch_products(tmp_path, VISIT, VISITS, patient(server))
    assert dict(server.requests) == {changed.name: 1}


def test_missing_and_failing_files_do_not_stop_the_others(server, tmp_path):
    rows = [VISITS[0] | {"fiber": 299}, *VISITS]
    server.faults[VISIT.path(VISITS[2]).name] = ["403"]
    found = fetch_products(tmp_path, VISIT, rows, patient(server))
    assert [path.name for path in found.missing] == ["apVisit-dr17-9518-57729-299.fits"]
    assert len(found.files) == 2
    assert "403" in str(found.errors[0])


def test_requests_keep_to_the_rate(server, tmp_path):
    fetch_products(tmp_path, VISIT, VISITS, patient(server, rate=5.0), jobs=3)
    assert np.diff(sorted(server.times)).min() > 0.15


def test_killed_and_resumed(server, tmp_path):
    script = (
        "import sys, json, time; from pathlib import Path\n"
        "from maury.archive.fetch import fetch_products\n"
        "from maury.archive.products import product\n"
        "from maury.download import Archive\n"
        "def progress(done, total):\n"
        "    if done == 2: print('two', flush=True); time.sleep(60)\n"
        "rows = json.loads(sys.argv[3])\n"
        "fetch_products(Path(sys.argv[1]), product('dr17', 'apVisit'), rows, Archive(sys.argv[2]), jobs=1, progress=progress)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path), server.base, json.dumps(VISITS)],
        stdout=subprocess.PIPE,
        env=os.environ,
    )
    assert process.stdout.readline().strip() == b"two"
    process.kill()
    process.wait()
    done = len((tmp_path / MANIFEST).read_text().splitlines())
    assert done >= 2
    server.requests.clear()
    assert len(fetch_products(tmp_path, VISIT, VISITS, patient(server)).files) == 3
    # Files, not requests: what the killed process asked for last may be counted only now.
    assert len(server.requests) == 3 - done


def test_catalogues_by_any_of_their_names(tmp_path):
    table = Table(
        {"TELESCOPE": ["apo25m"], "FIELD": ["150-08"], "PLATE": ["9518"], "MJD": [57729], "FIBERID": [104]}
    )
    for name in ("allVisit.fits", "visits.csv", "visits.ecsv"):
        table.write(tmp_path / name)
        (row,) = read_catalogue(tmp_path / name, VISIT)
        assert VISIT.path(row).name == "apVisit-dr17-9518-57729-104.fits"
    with pytest.raises(DownloadError, match="has no column apogee_id"):
        list(read_catalogue(tmp_path / "visits.csv", product("dr17", "apStar")))
    with pytest.raises(DownloadError, match="cannot be read as a table"):
        list(read_catalogue(tmp_path / "absent.csv", VISIT))


def test_stars_are_looked_up_in_the_database(server):
    asked = []

    def answer(text):
        asked.append(text)
        rows = [{"telescope": "apo25m", "field": "150-08", "apogee_id": "2M1"}] if "2M1" in text else []
        return json.dumps([{"TableName": "Table1", "Rows": rows}]).encode()

    server.answers["/dr17/sql"] = answer
    address = server.base + "/{release}/sql"
    wanted = product("dr17", "apStar")
    (row,) = query(wanted, ["2M1"], [], address=address)
    assert row["field"] == "150-08"
    assert "from apogeeStar where apogee_id = '2M1'" in asked[0]
    with pytest.raises(DownloadError, match="2M2: dr17 has no apStar of it"):
        list(query(wanted, ["2M2"], [], address=address))
    with pytest.raises(DownloadError, match="no name of a star"):
        list(query(wanted, ["2M1'; drop table"], [], address=address))
    server.answers["/dr17/sql"] = lambda text: b"<html>"
    with pytest.raises(DownloadError, match="something else than rows"):
        list(query(wanted, ["2M1"], [], address=address))
    with pytest.raises(DownloadError, match="does not answer"):
        list(query(wanted, ["2M1"], [], address="http://127.0.0.1:9/{release}", timeout=2))
    assert list(query(product("dr19", "mwmStar"), ["123"], [])) == [{"sdss_id": "123"}]
    assert catalogues.QUERIES.startswith("https://")


def test_nothing_asked_for_is_an_error(tmp_path, server):
    with pytest.raises(DownloadError, match="nothing to download"):
        fetch_products(tmp_path, VISIT, [], patient(server))
    result = CliRunner().invoke(app, ["fetch", "apogee", "--output", str(tmp_path)])
    assert isinstance(result.exception, MauryError)
    assert "--id, --field or --from" in str(result.exception)


def test_from_the_command_line(tmp_path, server):
    Table(rows=VISITS).write(tmp_path / "visits.csv")
    arguments = ["--kind", "apVisit", "--from", tmp_path / "visits.csv", "--output", tmp_path / "out"]

    result = CliRunner().invoke(
        app, ["fetch", "apogee", *map(str, arguments), "--base", server.base, "--rate", "0"]
    )
    assert result.exit_code == 0, result.output
    assert "3 files are in" in result.output
