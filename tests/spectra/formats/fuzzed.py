"""Damaged files: a spectrum or a `MauryError`, never anything else. Run by test_damaged.py, in a process of its own.

The long run is ``benchmarks/fuzz_readers.py``.
"""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[3] / "benchmarks"))

import fuzz_readers
from fuzz_readers import PLANTS, fuzz, is_failure, planted, summary

pytestmark = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="limits are those of Linux")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("fuzz")


def test_damaged_files(folder):
    results = list(fuzz(range(200), folder, seed=1))
    assert [r for r in results if is_failure(r)] == []
    assert {r["found"] for r in results} == {"read", "MauryError"}
    assert summary(results)["slowest_s"] < 5


@pytest.mark.parametrize("fault", PLANTS)
def test_faults_that_are_planted_are_found(folder, monkeypatch, fault):
    monkeypatch.setattr(fuzz_readers, "SECONDS", 0.5)
    (result,) = fuzz([0], folder, read=planted(fault), keep=folder / "failures")
    assert is_failure(result)
    assert result["found"].startswith(
        {"hang": "hang", "memory": "MemoryError", "crash": "the process", "exception": "ValueError"}[fault]
    )
    assert list((folder / "failures").iterdir())


def test_a_run_goes_on_where_it_stopped(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["fuzz_readers.py", "--number", "3", "--output", str(tmp_path)])
    for _ in range(2):
        with pytest.raises(SystemExit) as ended:
            fuzz_readers.main()
        assert not ended.value.code
    record = tmp_path / "seed-0.jsonl"
    assert len(record.read_text(encoding="utf-8").splitlines()) == 3
    record.write_text(record.read_text(encoding="utf-8")[:-20], encoding="utf-8")
    assert len(fuzz_readers.done_before(record)) == 2
    assert '"files": 3' in capsys.readouterr().out
