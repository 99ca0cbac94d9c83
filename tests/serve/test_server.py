"""``maury serve`` as a command: its address, its port, and what it leaves behind."""

import os
import re
import signal
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from maury import cli
from maury.errors import MauryError
from maury.serve.server import listen, working_folder


@pytest.fixture
def run(monkeypatch, capsys):
    def call(*arguments):
        monkeypatch.setattr("sys.argv", ["maury", "serve", "--no-browser", *map(str, arguments)])
        with pytest.raises(SystemExit) as stop:
            cli.main()
        return stop.value.code, capsys.readouterr().err

    return call


def test_a_port_in_use_is_told_in_one_line(run):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        code, err = run("--port", port)
    assert code == 2
    assert err.startswith(f"error: port {port} is in use")
    assert "--port" in err
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model", "kurucz-apogeee"], "did you mean 'kurucz-apogee'"),
        (["--host", "no.such.host.invalid"], "no address of this machine"),
        (["--host", "203.0.113.7"], "cannot listen on"),
        (["--max-upload", "0"], "--max-upload must be positive"),
        (["--keep", "-1"], "--keep must be positive"),
    ],
)
def test_what_cannot_be_served(run, arguments, message):
    code, err = run("--port", 0, *arguments)
    assert code == 2
    assert message in err


def test_without_the_extra_it_says_what_to_install(run, monkeypatch):
    monkeypatch.delitem(sys.modules, "maury.serve.server")
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    code, err = run()
    assert code == 2
    assert "pip install 'maury[serve]'" in err


def test_help_does_not_load_the_server():
    code = "import sys, maury.cli; assert not {'starlette', 'uvicorn', 'torch'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_folders_of_killed_servers_are_deleted(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr("maury.serve.server._YOUNG", 0.0)
    stale = tmp_path / "maury-serve-old"
    (stale / "file").mkdir(parents=True)
    with working_folder() as one, working_folder() as two:
        assert not stale.exists()
        # One that is in use stays.
        assert one.exists()
        assert two.exists()
    assert list(tmp_path.iterdir()) == []


def test_two_cannot_listen_on_one_port():
    with listen("127.0.0.1", 0) as first, pytest.raises(MauryError, match="in use"):
        listen("127.0.0.1", first.getsockname()[1])


def test_it_serves_and_leaves_nothing_behind(tmp_path):
    command = [sys.executable, "-m", "maury.cli", "serve", "--port", "0", "--no-browser"]
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"TMPDIR": str(tmp_path), "COLUMNS": "200"},
    )
    try:
        line = process.stdout.readline()
        address = re.search(r"http://127\.0\.0\.1:\d+", line)[0]
        with urllib.request.urlopen(address) as page:
            assert b"Drop spectra here" in page.read()
        assert [p.name[:12] for p in Path(tmp_path).iterdir() if p.name.startswith("maury-serve-")]
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
    finally:
        process.kill()
        process.stdout.close()
    assert not [p for p in Path(tmp_path).iterdir() if p.name.startswith("maury-serve-")]
