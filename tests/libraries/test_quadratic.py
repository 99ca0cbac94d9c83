"""Quadratic models of pixels: the flux that the files say, in vacuum, and clear words where they say none."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from maury.errors import ModelError
from maury.libraries.quadratic import RANGES, read_quadratic
from maury.spectra.air import to_vacuum


@pytest.fixture
def files(tmp_path):
    air = np.linspace(15200, 15400, 2000)
    line = np.exp(-0.5 * ((air[:, None] - np.linspace(15210, 15390, 10)) / 0.6) ** 2)
    coefficients = -0.02 * line
    coefficients[:, 0] += 1
    for part, values in {
        "coeffs": coefficients, "wl": air, "pivots": np.array([3000, 4.5, 0]), "scales": np.array([250, 0.5, 0.5])
    }.items():  # fmt: skip
        np.save(tmp_path / f"23k_{part}.npy", values)
    return tmp_path, air, coefficients


def test_it_is_the_quadratic_of_its_files(files):
    folder, air, coefficients = files
    emulator = read_quadratic(folder, "23k")
    labels = torch.tensor([[3250.0, 4.0, 0.5], [2600.0, 5.4, -0.9]], dtype=torch.float64)
    x = (labels.numpy() - [3000, 4.5, 0]) / [250, 0.5, 0.5]
    terms = np.stack([np.r_[1, v, [v[i] * v[j] for i in range(3) for j in range(i, 3)]] for v in x])
    start, stop = emulator.covered[0]
    at = emulator.grid.wavelength[start:stop].numpy()
    expected = np.stack([np.interp(at, to_vacuum(air), row) for row in terms @ coefficients.T])
    assert np.abs(emulator(labels)[:, start:stop].numpy() - expected)[:, 20:-20].max() < 2e-3
    assert emulator.card["name"] == "phoenix-23k"


def test_what_is_no_quadratic_is_refused(files):
    folder, air, _ = files
    with pytest.raises(ModelError, match="the range of '24k' is not known"):
        read_quadratic(folder, "24k")
    with pytest.raises(ModelError, match="no quadratic model 50k"):
        read_quadratic(folder, "50k")
    np.save(folder / "23k_wl.npy", air[:-1])
    with pytest.raises(ModelError, match="do not fit together"):
        read_quadratic(folder, "23k")
    assert set(RANGES) == {"23k", "50k"}
