"""Libraries against each other: stars of one, explained by another."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from maury.checks.libraries import COMMON, Compared, compare, shared, systematic, table
from maury.cli import app
from maury.errors import ModelError
from maury.libraries.emulator import Emulator
from maury.names import shipped


@pytest.fixture(scope="module")
def cool():
    return Emulator.load(shipped()["btsettl-apogee"] / "emulator.safetensors")


@pytest.fixture(scope="module")
def warm():
    return Emulator.load(shipped()["kurucz-apogee"] / "emulator.safetensors")


def test_a_library_explains_itself(warm):
    found = list(compare(warm, warm, 2))
    assert len(found) == 2
    for one in found:
        assert abs(one.offset["teff"]) < 5
        assert abs(one.offset["logg"]) < 0.02
        assert abs(one.offset["m_h"]) < 0.01
        assert max(one.rms) < 1e-3


def test_libraries_that_share_no_star_are_not_compared(cool, warm):
    assert shared(cool, warm) is None
    assert list(compare(cool, warm, 2)) == []


def made(n, by="a", of="b"):
    return [
        Compared(
            by,
            of,
            {"teff": 4000.0 + i, "logg": 2.0, "m_h": 0.0},
            {"teff": (-1) ** i * (50.0 + i), "logg": 0.1, "m_h": 0.05 * (-1) ** i},
            (0.02, 0.01),
        )
        for i in range(n)
    ]


def test_the_errors_between_libraries_are_those_of_the_offsets():
    found = systematic(made(40), "a")
    assert found.names == COMMON
    # Half of the squared difference is each library's.
    assert 35 < found.sigma[0] < 64
    assert found.sigma[1] == pytest.approx(0.1 / 2**0.5)
    assert found.teff == (4000.0, 4039.0)
    with pytest.raises(ModelError, match="shares no stars"):
        systematic(made(40), "c")
    with pytest.raises(ModelError, match="shares no stars"):
        systematic(made(40, of="phoenix-50k"), "a")


def test_the_table_has_a_line_a_range():
    lines = table(made(3) + made(2, "b", "a")).splitlines()
    assert len(lines) == 4
    assert lines[2].startswith("| a | b | 4000-4500 | 3 |")


def test_the_command_writes_its_figures(tmp_path, monkeypatch, warm):
    monkeypatch.setattr("maury.checks.libraries.libraries", lambda phoenix: {"one": warm, "other": warm})
    monkeypatch.setattr("maury.checks.libraries.compare", lambda *_: iter(made(25, "one", "other")))
    result = CliRunner().invoke(app, ["check", "libraries", "--output", str(tmp_path), "--number", "25"])
    assert result.exit_code == 0, result.output
    assert len(json.loads((tmp_path / "libraries.json").read_text(encoding="utf-8"))) == 50
    assert (tmp_path / "one" / "systematic.json").exists()
    assert not (tmp_path / "other").exists()
