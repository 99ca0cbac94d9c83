"""Damaged files, in a process that has no threads: the harness forks, and what other tests have loaded may hold locks then."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path


def test_damaged_files_and_planted_faults():
    tests = Path(__file__).with_name("fuzzed.py")
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", str(tests)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, encoding="utf-8", timeout=900)
    assert done.returncode == 0, done.stdout[-4000:]
