"""Fetching the PHOENIX archive from a server that drops connections, truncates, garbles and answers 503."""

import errno
import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager

import numpy as np
import pytest
from phoenix_tree import NODES, WAVELENGTH, truth, write_tree

from archive_server import serving
from maury.download import Archive
from maury.errors import DownloadError, MauryError, ModelError
from maury.libraries import fetch as fetching
from maury.libraries.fetch import fetch
from maury.libraries.open import open_grid
from maury.libraries.phoenix import WAVELENGTH_FILE, Node

BAND = (14995.0, 15050.0)
INSIDE = (BAND[0] <= WAVELENGTH) & (BAND[1] >= WAVELENGTH)


@pytest.fixture
def server(tmp_path):
    with serving(write_tree(tmp_path / "HiResFITS")) as archive:
        yield archive


def patient(server, **options):
    return Archive(server.base, **({"patience": 0.01, "timeout": 5.0} | options))


def check(path, nodes=NODES):
    grid = open_grid(path)
    np.testing.assert_array_equal(grid.wavelength, WAVELENGTH[INSIDE])
    assert grid.n_nodes == len(nodes)
    for row, flux in zip(grid.nodes, grid.flux(range(len(nodes))), strict=True):
        np.testing.assert_allclose(flux, truth(Node(*row))[INSIDE], rtol=1e-6)


def test_fetch(server, tmp_path):
    told = []
    output = tmp_path / "grid.h5"
    fetch(output, NODES, BAND, archive=patient(server), progress=lambda *done: told.append(done))
    check(output)
    assert told[0] == (0, len(NODES))
    assert told[-1] == (len(NODES), len(NODES))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["HiResFITS", "grid.h5"]
    before = sum(server.requests.values())
    fetch(output, NODES, BAND, archive=patient(server))
    assert sum(server.requests.values()) == before
    with pytest.raises(MauryError, match="something else"):
        fetch(output, NODES[:2], BAND, archive=patient(server))


@pytest.mark.parametrize("fault", ["drop", "truncate", "503", "429", "corrupt", "html"])
def test_faults_are_overcome(server, tmp_path, fault):
    for node in NODES[::2]:
        server.faults[node.file] = [fault, fault]
    server.faults[WAVELENGTH_FILE] = [fault]
    fetch(tmp_path / "grid.h5", NODES, BAND, archive=patient(server), jobs=4)
    check(tmp_path / "grid.h5")
    for node in NODES[::2]:
        assert server.requests[node.file] == 3
    assert bool(server.ranges) == (fault in ("drop", "truncate"))


def test_server_without_ranges(server, tmp_path):
    server.faults[NODES[0].file] = ["drop", "no-range"]
    fetch(tmp_path / "grid.h5", NODES, BAND, archive=patient(server))
    check(tmp_path / "grid.h5")


def test_missing_nodes_are_holes(server, tmp_path):
    for node in NODES[:2]:
        (server.root / node.path).unlink()
    fetch(tmp_path / "grid.h5", NODES, BAND, archive=patient(server))
    check(tmp_path / "grid.h5", NODES[2:])
    holes = open_grid(tmp_path / "grid.h5").nodes
    assert tuple(holes[0]) != (NODES[0].teff, NODES[0].logg, NODES[0].m_h)
    assert server.requests[NODES[0].file] == 1


def test_all_missing(server, tmp_path):
    wanted = [Node(9000, 4, 0), Node(9200, 4, 0)]
    with pytest.raises(ModelError, match=r"none of the 2 spectra .*http://.*lte09000"):
        fetch(tmp_path / "grid.h5", wanted, BAND, archive=patient(server))
    assert not (tmp_path / "grid.h5").exists()


def test_wrong_base(server, tmp_path):
    archive = Archive(server.base + "/elsewhere", patience=0.01)
    with pytest.raises(ModelError, match="folder HiResFITS"):
        fetch(tmp_path / "grid.h5", NODES, BAND, archive=archive)
    with pytest.raises(DownloadError, match="http://"):
        Archive("phoenix.example.org")


def test_band_outside(server, tmp_path):
    with pytest.raises(ModelError, match="reaches from 14990"):
        fetch(tmp_path / "grid.h5", NODES, (4000, 5000), archive=patient(server))


def test_unreachable(tmp_path):
    with pytest.raises(DownloadError, match="given up after 2 attempts"):
        fetch(tmp_path / "grid.h5", NODES, BAND, archive=Archive("http://127.0.0.1:9", 2, 0.01))


def test_one_file_damaged_for_good(server, tmp_path):
    """The others are kept, and the next run asks for the one alone."""
    bad = NODES[3]
    server.faults[bad.file] = ["corrupt"] * 3
    output = tmp_path / "grid.h5"
    with pytest.raises(DownloadError, match=r"1 of \d+ spectra .*checksum differs"):
        fetch(output, NODES, BAND, archive=patient(server, attempts=3))
    assert not output.exists()
    server.requests.clear()
    fetch(output, NODES, BAND, archive=patient(server))
    assert dict(server.requests) == {bad.file: 1}
    check(output)


def test_ill_archive_is_left_soon(server, tmp_path):
    fetch(tmp_path / "wave.h5", NODES[:1], BAND, archive=patient(server))
    server.always = "503"
    server.faults[WAVELENGTH_FILE] = ["fine"]
    with pytest.raises(DownloadError, match="503"):
        fetch(tmp_path / "grid.h5", NODES, BAND, archive=patient(server, attempts=2), jobs=2)


def test_forbidden_is_not_tried_again(server, tmp_path):
    server.faults[WAVELENGTH_FILE] = ["403"]
    with pytest.raises(DownloadError, match="403"):
        fetch(tmp_path / "grid.h5", NODES, BAND, archive=patient(server))
    assert server.requests[WAVELENGTH_FILE] == 1


def test_parts_of_another_band(server, tmp_path):
    server.faults[NODES[0].file] = ["403"]
    with pytest.raises(DownloadError):
        fetch(tmp_path / "grid.h5", NODES, BAND, archive=patient(server))
    with pytest.raises(MauryError, match="another request"):
        fetch(tmp_path / "grid.h5", NODES, (15000, 15020), archive=patient(server))


def test_disk_full(server, tmp_path, monkeypatch):
    """One error, nothing half-written, and the finished parts are used later."""
    saved, real = [], fetching.writing

    @contextmanager
    def full(path):
        with real(path) as temporary:
            yield temporary
            if path.suffix == ".f32":
                if len(saved) == 4:
                    raise OSError(errno.ENOSPC, "No space left on device")
                saved.append(path)

    monkeypatch.setattr(fetching, "writing", full)
    output = tmp_path / "grid.h5"
    with pytest.raises(MauryError, match="disk is full; finished spectra are kept"):
        fetch(output, NODES, BAND, archive=patient(server), jobs=1)
    monkeypatch.undo()
    assert not output.exists()
    server.requests.clear()
    fetch(output, NODES, BAND, archive=patient(server))
    assert sum(server.requests.values()) == len(NODES) - 4
    check(output)


def test_damaged_part_is_fetched_anew(server, tmp_path):
    server.faults[NODES[-1].file] = ["403"]
    output = tmp_path / "grid.h5"
    with pytest.raises(DownloadError, match="403"):
        fetch(output, NODES, BAND, archive=patient(server))
    part = tmp_path / "grid.h5.parts" / f"{NODES[0].file}.f32"
    part.write_bytes(part.read_bytes()[:50])
    with pytest.raises(ModelError, match="fetch it anew"):
        fetch(output, NODES, BAND, archive=patient(server))
    fetch(output, NODES, BAND, archive=patient(server))
    check(output)


def test_killed_and_resumed(server, tmp_path):
    """SIGKILL midway: finished spectra are not asked for again, and no stale lock is left."""
    output = tmp_path / "grid.h5"
    script = (
        "import sys, time; sys.path.insert(0, sys.argv[3])\n"
        "from phoenix_tree import NODES\n"
        "from maury.download import Archive\n"
        "from maury.libraries.fetch import fetch\n"
        "def progress(done, total):\n"
        "    if done >= 5: print('five', flush=True); time.sleep(60)\n"
        f"fetch(sys.argv[1], NODES, {BAND}, archive=Archive(sys.argv[2]), jobs=1, progress=progress)\n"
    )
    folder = os.path.dirname(__file__)
    process = subprocess.Popen(
        [sys.executable, "-c", script, str(output), server.base, folder], stdout=subprocess.PIPE
    )
    assert process.stdout.readline() == b"five\n"
    with pytest.raises(MauryError, match="another process"):
        fetch(output, NODES, BAND, archive=patient(server))
    # The single worker may be some files ahead of the one who watches; let it come to rest.
    while len(list((tmp_path / "grid.h5.parts").glob("*.f32"))) < 7:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    kept = {path.name.removesuffix(".f32") for path in (tmp_path / "grid.h5.parts").glob("lte*.f32")}
    server.requests.clear()
    fetch(output, NODES, BAND, archive=patient(server))
    assert not kept & set(server.requests)
    assert len(kept) >= 7
    check(output)
