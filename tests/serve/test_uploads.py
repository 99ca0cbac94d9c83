"""What is taken, what is refused, and that nothing of what is refused stays."""

import gzip
import resource

import numpy as np
import pytest
from astropy.io import fits
from forged import FORGED

from maury.serve.reading import to_plot
from maury.serve.uploads import shown_name
from maury.spectra import write_mwm, write_table
from maury.spectra.spectrum import PixelGrid, Spectrum


def left(desk):
    return sorted(desk.root.rglob("*"))


def test_a_visit_is_listed(desk, demo_bytes):
    desk = desk()
    answer = desk.send(demo_bytes, "apVisit-demo.fits")
    assert answer.status_code == 201
    file = answer.json()
    assert file["name"] == "apVisit-demo.fits"
    assert file["trouble"] == ""
    (listed,) = file["spectra"]
    assert listed["id"] == "maury-demo"
    assert 60 < listed["snr"] < 100
    assert 15100 < listed["low"] < listed["high"] < 17000
    plot = desk.client.get(f"/api/files/{file['id']}/spectra/0").json()
    assert len(plot["chips"]) == 3
    assert sum(map(sum, (chip["good"] for chip in plot["chips"]))) == listed["used"]
    assert np.median([f for chip in plot["chips"] for f in chip["flux"]]) == pytest.approx(1, abs=0.1)


def test_a_file_may_hold_many(desk, tmp_path, visit):
    from maury.spectra.instrument import apogee, apstar_grid
    from maury.spectra.regrid import on_network_grid

    flux, ivar = on_network_grid(visit, apogee())
    path = tmp_path / "mwmVisit.fits"
    rest = Spectrum(apstar_grid(), flux, ivar, id="sdss", frame="rest", v_correction=10.0)
    write_mwm(path, apo=[rest, rest, rest])
    desk = desk()
    file = desk.send(path.read_bytes(), "mwmVisit.fits").json()
    assert [s["index"] for s in file["spectra"]] == [0, 1, 2]
    assert desk.run(file["id"], index=2).status_code == 201
    assert desk.run(file["id"], index=3).status_code == 422


def test_a_table_bears_the_browser_s_name(desk, tmp_path, visit):
    path = tmp_path / "t.ecsv"
    write_table(path, Spectrum(visit.grid, visit.flux, visit.ivar))
    desk = desk()
    file = desk.send(path.read_bytes(), "my star.ecsv").json()
    assert file["spectra"][0]["id"] == "my star"


def test_200_mb_are_refused_before_they_are_sent(desk):
    desk = desk()
    answer = desk.client.post(
        "/api/files", params={"name": "big.fits"}, content=b"", headers={"Content-Length": str(200 * 2**20)}
    )
    assert answer.status_code == 413
    assert "64 MB" in answer.json()["error"]
    assert left(desk) == []


def test_200_mb_of_unknown_length_are_cut_off(desk):
    desk = desk(max_upload=2**20)
    sent = 0

    def stream():
        nonlocal sent
        for _ in range(200):
            sent += 2**20
            yield bytes(2**20)

    answer = desk.client.post("/api/files", params={"name": "big.fits"}, content=stream())
    assert answer.status_code == 413
    assert left(desk) == []
    assert desk.client.get("/api/files").json()["files"] == []


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"This is a letter, not a spectrum.\n" * 100, "looks like text"),
        (b"<html><script>alert(1)</script></html>", "HTML or XML"),
        (b"", "empty"),
        (bytes(range(256)) * 20, "not a FITS file"),
        (gzip.compress(b"still a letter" * 300), "looks like text"),
        (b"PAR1 and nothing more", "damaged"),
        (b"# %ECSV 1.0\n# ---\n# !!python/object:os.system\nx\n1\n", "cannot be read as a table"),
    ],
)
def test_what_is_no_spectrum_is_refused(desk, content, message):
    desk = desk()
    answer = desk.send(content, "star.fits")
    assert answer.status_code == 422
    assert message in answer.json()["error"]
    # The browser's name for it, and no path of ours.
    assert str(desk.root) not in answer.text
    assert left(desk) == []


@pytest.mark.parametrize("name", FORGED)
def test_forged_headers_are_refused_without_taking_memory(desk, name):
    desk = desk()
    desk.send(FORGED["80 GB image"])
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    answer = desk.send(FORGED[name])
    assert answer.status_code == 422
    assert answer.json()["error"]
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # kB
    assert left(desk) == []


def test_a_compressed_image_that_announces_too_much(desk, demo_bytes, tmp_path):
    path = tmp_path / "z.fits"
    hdu = fits.CompImageHDU(np.zeros((8, 64), np.float32))
    fits.HDUList([fits.PrimaryHDU(), hdu]).writeto(path)
    content = path.read_bytes()
    for axis, n in ((1, 64), (2, 8)):
        card = f"ZNAXIS{axis} ="
        at = content.index(card.encode())
        content = content[: at + 10] + f"{n * 10**6:>20}".encode() + content[at + 30 :]
    desk = desk()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert desk.send(content).status_code == 422
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000


def test_a_table_of_a_thousand_million_equal_rows(desk, tmp_path):
    pa = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    path = tmp_path / "bomb.parquet"
    batch = pa.table({"wavelength": pa.DictionaryArray.from_arrays(np.zeros(2_000_000, np.int8), [1.0])})
    parquet.write_table(batch, path)
    assert path.stat().st_size < 10_000
    answer = desk().send(path.read_bytes(), "bomb.parquet")
    assert answer.status_code == 422
    assert "2000000 rows" in answer.json()["error"]


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("../../etc/passwd", "passwd"),
        ("..\\..\\boot.ini", "boot.ini"),
        ("a\0b\r\nSet-Cookie: x.fits", "a\N{REPLACEMENT CHARACTER}b  Set-Cookie: x.fits"),
        ("", "unnamed"),
        ("x" * 500, "x" * 120),
        ("..", ".."),
        ("<img src=x onerror=alert(1)>.fits", "<img src=x onerror=alert(1)>.fits"),
    ],
)
def test_names_are_shown_and_never_used(desk, demo_bytes, name, shown):
    assert shown_name(name) == shown
    desk = desk()
    file = desk.send(demo_bytes, name).json()
    assert file["name"] == shown
    (folder,) = desk.root.iterdir()
    assert folder.name == file["id"]
    assert [path.name for path in folder.iterdir()] == ["spectrum"]


@pytest.mark.parametrize(
    "path",
    [
        "/static/../app.py",
        "/static/..%2fapp.py",
        "/static/%2e%2e/%2e%2e/app.py",
        "/static//etc/passwd",
        "/api/files/..%2f..%2fetc",
        "/api/files/../../etc/passwd",
        "/api/runs/../report",
        "/api/runs/..%2f..%2fspectrum/report",
        "/api/runs/%00/draws",
        "/openapi.json",
        "/docs",
    ],
)
def test_paths_lead_nowhere(desk, path):
    desk = desk()
    answer = desk.client.get(path)
    assert answer.status_code in (404, 405)
    assert "error" in answer.json()


def test_all_sessions_have_one_disk(desk, demo_bytes):
    desk = desk(all_files=2, all_bytes=3 * len(demo_bytes) // 2)
    assert desk.send(demo_bytes).status_code == 201
    answer = desk.send(demo_bytes, client=desk.browser())
    assert answer.status_code == 429
    assert "wait" in answer.json()["error"]


def test_a_full_disk_is_told(desk, demo_bytes, monkeypatch):
    def full(self, *arguments, **more):
        raise OSError(28, "No space left on device")

    desk = desk()
    monkeypatch.setattr("pathlib.Path.mkdir", full)
    answer = desk.send(demo_bytes)
    assert answer.status_code == 507
    assert "room" in answer.json()["error"]
    assert left(desk) == []


def test_a_time_that_is_no_number_is_left_out(desk, visit):
    from dataclasses import replace

    from maury.serve.reading import _listed

    assert _listed(replace(visit, meta={"mjd": float("nan")}), 0).mjd is None


def test_too_many_files(desk, demo_bytes):
    desk = desk(most_files=1)
    file = desk.send(demo_bytes).json()
    assert desk.send(demo_bytes).status_code == 429
    assert desk.client.delete(f"/api/files/{file['id']}").status_code == 204
    assert left(desk) == []
    assert desk.send(demo_bytes).status_code == 201


def test_files_are_deleted_after_their_time(desk, demo_bytes):
    import time

    desk = desk(keep=0.4)
    desk.work.gate.set()
    file = desk.send(demo_bytes).json()
    run = desk.run(file["id"]).json()
    end = time.time() + 10
    while left(desk) and time.time() < end:
        time.sleep(0.1)
    assert left(desk) == []
    assert desk.client.get(f"/api/files/{file['id']}").status_code == 404
    assert desk.client.get(f"/api/runs/{run['id']}").status_code == 404
    assert desk.run(file["id"]).status_code == 404


def test_long_spectra_are_thinned_for_the_plot():
    n = 100_000
    grid = PixelGrid(np.linspace(15000, 17000, n), ((0, n // 2), (n // 2, n)))
    plot = to_plot(Spectrum(grid, np.full(n, 3.0), np.ones(n)), most=1000)
    assert [len(chip["flux"]) for chip in plot["chips"]] == [500, 500]
    assert plot["chips"][0]["flux"][7] == 1
    assert plot["chips"][0]["wavelength"][0] == pytest.approx(15001, abs=0.2)
