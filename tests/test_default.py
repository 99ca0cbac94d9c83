"""The default model as a user meets it: a process of its own, the demonstration, and real standards."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import maury
from maury.errors import LabelError
from maury.models import load_model
from maury.training.demo import TRUTH, simulate_visit, write_demo

SHARED = Path(os.environ.get("MAURY_SHARED", "../shared"))
# Literature, and how far the medians may be: of the Sun, IAU 2015; of Arcturus, Ramirez & Allende Prieto 2011.
STANDARDS = {
    "Sun_R22500_snr200.ecsv": {"teff": (5772, 150), "logg": (4.44, 0.15), "m_h": (0.0, 0.12)},
    "Arcturus_R22500_snr200.ecsv": {"teff": (4286, 150), "logg": (1.66, 0.25), "m_h": (-0.52, 0.1)},
}


def infer(*arguments: object) -> dict:
    """Run ``maury infer --json`` in a process of its own."""
    command = [sys.executable, "-m", "maury.cli", "infer", *map(str, arguments), "--json", "--seed", "1"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, encoding="utf-8")
    return json.loads(done.stdout.splitlines()[0])


def test_the_demonstration_is_explained(tmp_path):
    write_demo(tmp_path / "demo.fits", load_model("marcs-apogee"))
    row = infer(tmp_path / "demo.fits")
    assert row["model"] == "marcs-apogee"
    assert row["khat"] < 0.7
    for name, entry in row["labels"].items():
        if name != "jitter":
            assert abs(entry["p50"] - TRUTH[name]) < 4 * entry["std"], name


def test_the_first_command_of_the_readme(tmp_path):
    command = [sys.executable, "-m", "maury.cli", "demo", "--output", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, encoding="utf-8")
    assert done.returncode == 0, done.stderr
    assert "marcs-apogee" in done.stdout
    assert {path.suffix for path in tmp_path.iterdir()} >= {".fits", ".png"}


def test_a_prior_of_what_follows_others_is_refused():
    model = load_model("marcs-apogee")
    star = simulate_visit(model, TRUTH, snr=80, seed=1, v_correction=None)
    with pytest.raises(LabelError, match="prior of mg_m: marcs-apogee does not infer it; it follows alpha_m"):
        maury.infer(star, model, priors={"mg_m": (0.0, 0.1)})


@pytest.mark.skipif(not SHARED.exists(), reason="needs the data of MAURY_SHARED")
@pytest.mark.parametrize("file", STANDARDS)
def test_standards_through_a_fibre(file):
    row = infer(SHARED / "data/real/atlas" / file, "--draws", 300)
    for name, (value, margin) in STANDARDS[file].items():
        assert abs(row["labels"][name]["p50"] - value) < margin, (name, row["labels"][name])
    assert row["labels"]["v_sini"]["p50"] < 4
