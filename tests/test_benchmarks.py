"""Benchmarks are run now and then: that each can be imported is seen every time."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
# Programs beside which maury is measured, in environments of their own.
PEERS = {"nbi_peer.py": "nbi", "sbi_peer.py": "sbi", "lampe_peer.py": "lampe"}
FILES = sorted(BENCHMARKS.rglob("*.py"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_it_can_be_imported(path, monkeypatch):
    if path.name in PEERS and importlib.util.find_spec(PEERS[path.name]) is None:
        pytest.skip(f"{PEERS[path.name]} is not installed")
    monkeypatch.setattr(sys, "path", [str(path.parent), str(BENCHMARKS), *sys.path])
    name = f"benchmark_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, name, module)
    spec.loader.exec_module(module)


def test_same_numbers_tells_what_moved(tmp_path):
    before, after = tmp_path / "a.jsonl", tmp_path / "b.jsonl"
    before.write_text('{"teff": {"p50": 4800.0}, "flag": ["x"], "seconds": 1.0}\n', encoding="utf-8")
    after.write_text(
        '{"teff": {"p50": 4800.1}, "flag": ["x"], "seconds": 2.0, "more": 1}\n', encoding="utf-8"
    )
    command = [sys.executable, BENCHMARKS / "same_numbers.py", "compare", before, after]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    assert found.returncode == 1
    assert found.stdout == "0: teff.p50 4800.0 -> 4800.1\n"
    assert subprocess.run([*command[:-1], before], check=False, capture_output=True).returncode == 0
