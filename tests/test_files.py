"""Files: whole or not at all, none over another, and UTF-8 whatever the user's language."""

from pathlib import Path

import pytest
from astropy.table import Table

from maury.errors import ConfigError
from maury.files import distinct, open_table, output_name, write_ecsv


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
