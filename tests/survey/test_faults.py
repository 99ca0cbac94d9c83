"""A small survey whose workers, scheduler and client are killed and whose disk runs full: equal to an undisturbed one."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import maury

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.mark.parametrize("name", ["kills", "noise", "survey_faults", "survey_files"])
def test_long_runs_can_be_begun(name, monkeypatch):
    """What they import is still there."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    importlib.import_module(name)


@pytest.mark.slow
def test_everything_that_may_happen(tmp_path):
    output = tmp_path / "faults.json"
    arguments = ["--spectra", "60", "--per-file", "2", "--files-per-task", "2", "--kills", "3"]
    source = str(Path(maury.__file__).parents[1])
    done = subprocess.run(
        [
            sys.executable,
            str(BENCHMARKS / "survey_faults.py"),
            *arguments,
            "--work",
            str(tmp_path),
            "--output",
            str(output),
        ],
        env=os.environ | {"PYTHONPATH": source},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(output.read_text())
    assert found["inputs_exactly_once"]
    assert found["differing_columns"] == {"catalogue": [], "errors": []}
    assert found["kills"] == {"worker": 3, "scheduler": 1, "client": 1}
    assert found["made"]["damaged"] == found["rows"]["errors"] > 0
    if found["disk"] == "tmpfs":
        assert "the disk is full" in found["disk_full"]
