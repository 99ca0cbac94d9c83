"""Damaged files: a spectrum or a `MauryError`, never anything else. The long run is ``benchmarks/fuzz_readers.py``."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[3] / "benchmarks"))

from fuzz_readers import fuzz


def test_damaged_files(tmp_path):
    counts, slowest = fuzz(240, tmp_path, seed=1)
    assert set(counts) == {"MauryError", "read"}
    assert slowest < 5
