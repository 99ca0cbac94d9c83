"""Parts of a compressed grid from a server: whole, sound, and only what is missing."""

from __future__ import annotations

import json

import pytest

from archive_server import serving
from maury.download import Archive
from maury.errors import DownloadError
from maury.libraries.synthesis.parts import INDEX, fetch_parts, write_index


@pytest.fixture
def server(tmp_path):
    folder = tmp_path / "served"
    folder.mkdir()
    for i in range(3):
        (folder / f"part-{i:03d}.npz").write_bytes(bytes([i]) * 20_000)
    write_index(folder)
    with serving(folder) as archive:
        yield archive


def patient(server):
    return Archive(server.base, patience=0.01)


def test_all_parts_come_and_none_twice(server, tmp_path):
    output = tmp_path / "copy"
    assert fetch_parts(patient(server), output) == 3
    assert sorted(path.name for path in output.iterdir()) == [
        "part-000.npz", "part-001.npz", "part-002.npz", INDEX
    ]  # fmt: skip
    assert (output / "part-002.npz").read_bytes() == bytes([2]) * 20_000
    (output / "part-001.npz").write_bytes(b"something else")
    told = []
    assert fetch_parts(patient(server), output, lambda *done: told.append(done)) == 1
    assert told == [(0, 3), (1, 3), (2, 3), (3, 3)]


def test_what_comes_damaged_is_asked_for_again(server, tmp_path):
    server.faults["part-001.npz"] = ["corrupt", "drop"]
    assert fetch_parts(patient(server), tmp_path / "copy") == 3
    assert (tmp_path / "copy" / "part-001.npz").read_bytes() == bytes([1]) * 20_000


def test_a_server_without_a_list_of_parts_is_told(server, tmp_path):
    with pytest.raises(DownloadError, match="not in the archive"):
        fetch_parts(Archive(server.base + "/elsewhere", patience=0.01), tmp_path / "copy")
    (server.root / INDEX).write_text(json.dumps([{"file": "../evil", "sha256": "0" * 64}]), encoding="utf-8")
    with pytest.raises(DownloadError, match="no list of a grid's parts"):
        fetch_parts(Archive(server.base, patience=0.0, attempts=2), tmp_path / "copy")


def test_the_command_asks_for_the_address(run, server, tmp_path):
    code, _, error = run("models", "fetch", "marcs-maury", "--output", tmp_path / "copy")
    assert code == 2
    assert "--base" in error
    code, _, error = run(
        "models", "fetch", "marcs-maury", "--base", server.base, "--output", tmp_path / "copy"
    )
    assert code == 0, error
    assert "3 parts written" in error
