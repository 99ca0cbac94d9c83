"""Windows that tell most of the labels."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

import maury
from maury.models import load_model
from maury.posterior.windows import HALF, MOST, informative
from maury.training.demo import TRUTH, simulate_visit


@pytest.fixture(scope="module")
def posterior():
    return maury.infer(
        simulate_visit(load_model(), TRUTH, snr=100, seed=4, v_correction=None), draws=200, seed=1
    )


def line(wavelength, at, height=1.0):
    return height * np.exp(-0.5 * (wavelength - at) ** 2)


def test_no_label_goes_without_a_window():
    wavelength = np.linspace(15_200.0, 15_800.0, 6001)
    chips = (wavelength > 15_500).astype(np.int64)
    # One label has four strong lines, the other a single faint one.
    told = {
        "teff": sum(line(wavelength, at, 100.0) for at in (15_250, 15_330, 15_400, 15_600)),
        "logg": line(wavelength, 15_700, 1e-3),
    }
    found = informative(told, wavelength, chips, most=2)
    assert [window.told[0][0] for window in found] == ["teff", "logg"]
    assert found[1].low < 15_700 < found[1].high
    assert found[1].told[0][1] == pytest.approx(1.0, abs=0.01)
    half = (found[1].high - found[1].low) / 2
    assert half == pytest.approx(15_700 * HALF / 299_792.458, rel=1e-3)
    assert informative({"teff": np.zeros_like(wavelength)}, wavelength, chips) == ()


def test_windows_of_a_posterior_are_kept_with_it(posterior, tmp_path):
    windows = posterior.windows
    assert 4 <= len(windows) <= MOST
    assert all(a.high <= b.low + 12 for a, b in pairwise(windows))
    told = {name for window in windows for name, share in window.told if 0 < share < 1}
    assert told & {"teff", "logg", "m_h", "alpha_m", "v_sini"}
    assert not told & {"v_rad", "jitter"}
    posterior.save(tmp_path / "star.nc")
    again = maury.load(tmp_path / "star.nc")
    assert again.windows == windows
    # Of a file that says nothing of them, and of what is no star, they are where the model has its lines.
    for other in (
        replace(again, diagnostics=replace(again.diagnostics, windows=())),
        replace(posterior, flag_bad=("no_star",)),
    ):
        assert len(other.windows) == MOST
        assert all(window.told == () for window in other.windows)
