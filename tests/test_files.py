"""Files: whole or not at all, none over another, none left of killed processes, and UTF-8 whatever the user's language."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from astropy.table import Table

from maury.errors import ConfigError, MauryError
from maury.files import alone, distinct, open_table, output_name, sweep, write_ecsv, writing


@pytest.mark.parametrize(
    ("names", "found"),
    [
        (["star", "star"], ["star", "star_2"]),
        (["star", "star", "star_2"], ["star", "star_3", "star_2"]),
        (["star_2", "star", "star", "star"], ["star_2", "star", "star_3", "star_4"]),
        # One name on disks that do not tell letter case, or that write accents in two parts.
        (["Star", "star"], ["Star", "star_2"]),
        (["\u00e9", "e\u0301"], ["\u00e9", "e\u0301_2"]),
        ([], []),
    ],
)
def test_no_two_names_are_alike(names, found):
    assert distinct(names) == found


def test_a_name_that_is_taken_is_given_to_nobody():
    assert distinct(["index", "a"], ["index"]) == ["index_2", "a"]


@pytest.mark.parametrize(
    ("file", "name"),
    [("a/b.fits.gz", "b"), ("b.ecsv", "b.ecsv"), (".fits", ".fits"), ("a\nb.fits", "a b")],
)
def test_name_of_an_output(file, name):
    assert output_name(Path(file)) == name


def test_a_long_name_leaves_room_for_endings(tmp_path):
    name = output_name(Path("ä" * 120 + ".fits"))
    (tmp_path / f".123456-1234567890123456-{name}_corner.png").touch()


def test_a_table_in_any_language(tmp_path):
    write_ecsv(tmp_path / "t.ecsv", Table({"id": ["β Cep", "[/HD] 1"]}))
    assert "β Cep" in (tmp_path / "t.ecsv").read_text(encoding="utf-8")
    assert list(open_table(tmp_path / "t.ecsv", ConfigError)["id"]) == ["β Cep", "[/HD] 1"]


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
