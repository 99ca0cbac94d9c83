"""Which files are found, and that none is passed over in silence."""

from __future__ import annotations

import os

import pytest
from astropy.table import Table

from maury.errors import ConfigError
from maury.survey.inputs import Seen, expand


@pytest.fixture
def tree(tmp_path):
    names = ("a.fits", "n1/b.fits", "n1/deep/c.fits.gz", "n2/d.parquet", "n2/notes.md", "n2/.hidden.fits")
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("")
    return tmp_path


def names(root, *inputs):
    return [str(path.relative_to(root)) for path in expand([str(root / i) for i in inputs])]


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("*.fits", ["a.fits"]),
        ("**/*.fits", ["n1/b.fits", "a.fits"]),
        ("n?/*", ["n1/b.fits", "n1/deep", "n2/d.parquet", "n2/notes.md"]),
        ("n1/**", ["n1/b.fits", "n1/deep/c.fits.gz"]),
        ("*/deep/*.gz", ["n1/deep/c.fits.gz"]),
    ],
)
def test_patterns(tree, pattern, expected):
    assert names(tree, pattern) == expected


def test_folders(tree):
    assert names(tree, "") == ["a.fits", "n1/b.fits", "n1/deep/c.fits.gz", "n2/.hidden.fits", "n2/d.parquet"]


def test_patterns_of_this_folder(tree, monkeypatch):
    monkeypatch.chdir(tree)
    assert list(map(str, expand(["*.fits", "n1/*.fits"]))) == ["a.fits", "n1/b.fits"]


@pytest.mark.parametrize("given", ["", "**/*.fits"])
def test_unreadable_folders_are_told(tree, monkeypatch, given):
    real = os.scandir

    def scandir(path):
        if str(path).endswith("n1"):
            raise PermissionError(13, "Permission denied")
        return real(path)

    monkeypatch.setattr("maury.survey.inputs.os.scandir", scandir)
    with pytest.raises(ConfigError, match=r"n1: cannot be read \(Permission denied\)"):
        names(tree, given)


@pytest.mark.parametrize("name", ["allVisit-mine.fits", "mine.csv"])
def test_catalogues_are_known_by_their_names(tree, name):
    Table({"APOGEE_ID": ["x", "y"], "FILE": ["n1/b.fits", "a.fits"]}).write(tree / name)
    assert names(tree, name) == ["n1/b.fits", "a.fits"]


@pytest.mark.parametrize("name", ["c.fits", "c.parquet", "c.ecsv"])
def test_other_catalogues_are_given_by_option(tree, name):
    Table({"path": ["n1/b.fits", "a.fits"]}).write(tree / name)
    assert [p.name for p in expand([], [tree / name])] == ["b.fits", "a.fits"]


def test_seen():
    seen = Seen()
    assert [seen.add(name) for name in ("a", "b", "a", "b", "c")] == [True, True, False, False, True]
