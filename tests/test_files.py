"""Files that appear whole or not at all, and what killed processes leave of them."""

import os
import socket
import subprocess
import sys

import pytest

from maury.errors import MauryError
from maury.files import alone, sweep, writing


def test_a_killed_process_leaves_nothing_that_is_not_swept(tmp_path):
    """Its half-written file goes with the next run; that of a process that lives, here or on another host, stays."""
    code = "import os, sys; from maury.files import writing\nwith writing(sys.argv[1]) as f: f.write_text('half'); os._exit(9)"
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "table.ecsv")], env=os.environ, check=False)
    (left,) = tmp_path.iterdir()
    assert left.name.endswith("-table.ecsv")
    elsewhere = tmp_path / f".another-host-{left.name.split('-')[-3]}-1-table.ecsv"
    elsewhere.write_text("theirs")
    with writing(tmp_path / "other.ecsv") as mine:
        mine.write_text("mine")
        assert sweep(tmp_path) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == [elsewhere.name, "other.ecsv"]


def test_a_process_of_another_user_counts_as_alive(tmp_path, monkeypatch):
    (tmp_path / f".{socket.gethostname()}-123-1-x.nc").write_text("")

    def refuses(*_):
        raise PermissionError

    monkeypatch.setattr("maury.files.os.kill", refuses)
    assert sweep(tmp_path) == 0


def test_a_folder_that_cannot_be_locked_is_told(tmp_path, monkeypatch):
    def refuses(*_, **__):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr("maury.files.FileLock.acquire", refuses)
    with pytest.raises(MauryError, match=r"x: cannot be written.*Read-only"), alone("x", tmp_path / "lock"):
        pass
