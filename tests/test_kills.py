"""Commands that are killed at random as they write, and run again: what they leave is what they leave undisturbed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.dataset as ds
import pytest
from astropy.table import Table

import maury
from maury.models import load_model
from maury.posterior.store import load
from maury.spectra import read_spectrum, write_apvisit
from maury.survey.verify import verify
from maury.training.demo import write_demo

pytestmark = pytest.mark.skipif(
    not hasattr(os, "fork"), reason="processes are forked and killed as Unix does"
)

QUICK = ("--draws", "100", "--noise", "independent", "--model", "kurucz-apogee")


@pytest.fixture(scope="module")
def visits(tmp_path_factory):
    """Two visits."""
    folder = tmp_path_factory.mktemp("visits")
    write_demo(folder / "one.fits", load_model())
    one = read_spectrum(folder / "one.fits")
    write_apvisit(folder / "two.fits", replace(one, flux=one.flux * 1.5, ivar=one.ivar / 1.5**2))
    return folder


def kill(seed, folder, kills, *arguments):
    """Run a command undisturbed and killed; return what both left."""
    script = Path(__file__).with_name("killed.py")
    done = subprocess.run(
        [sys.executable, script, str(seed), folder, str(kills), *map(str, arguments), "--output", "OUTPUT"],
        env=os.environ | {"PYTHONPATH": str(Path(maury.__file__).parents[1]), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(json.loads(done.stdout)) == kills, done.stdout
    return folder / "calm", sorted(folder.glob("killed-*"))


def same_columns(one, other):
    assert one.colnames == other.colnames
    for name in set(one.colnames) - {"seconds"}:
        np.testing.assert_array_equal(one[name], other[name], err_msg=name)


def test_a_verified_survey(visits, tmp_path):
    calm, killed = kill(5, tmp_path, 3, "survey", visits, "--files-per-task", "1", *QUICK)
    for output in (calm, *killed):
        found = verify(output)
        assert found.whole
        assert (found.tasks, found.rows, found.errors) == (2, 2, 0)
        assert not list((output / "staged").iterdir())
    first, *others = (
        Table.from_pandas(ds.dataset(output / "catalogue").to_table().sort_by("file").to_pandas())
        for output in (calm, *killed)
    )
    for other in others:
        same_columns(first, other)


def test_infer_with_an_output_folder(visits, tmp_path):
    calm, killed = kill(1, tmp_path, 3, "infer", visits / "one.fits", visits / "two.fits", *QUICK)
    names = sorted(path.name for path in calm.iterdir())
    assert names == ["one.nc", "summary.ecsv", "two.nc"]
    for output in killed:
        assert sorted(path.name for path in output.iterdir()) == names
        same_columns(Table.read(calm / "summary.ecsv"), Table.read(output / "summary.ecsv"))
        for name in ("one.nc", "two.nc"):
            one, other = load(calm / name), load(output / name)
            np.testing.assert_array_equal(one.draws, other.draws)
            np.testing.assert_array_equal(one.log_weights, other.log_weights)
