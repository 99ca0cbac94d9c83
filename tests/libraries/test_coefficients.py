"""Coefficients of spectra over their labels: what a Gaussian process makes of a regular grid."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from maury.libraries.coefficients import GaussianProcess, _widest_gaps


def spectra(x: np.ndarray) -> np.ndarray:
    """Ten lines that the last label changes eleven-fold, and the others little."""
    rng = np.random.default_rng(3)
    depth, a, b = rng.uniform(0.1, 0.6, 10), rng.normal(0, 0.5, 10), rng.normal(0, 0.15, 10)
    strength = depth * np.exp(np.outer(x[:, 0], a) + np.outer(x[:, 1], b) + 1.2 * x[:, 2:] - 0.4)
    return np.exp(-strength)


def test_a_regular_grid_is_interpolated_along_its_coarsest_label():
    """Each node is predicted well from those with the same last label, even if nothing is known between the values."""
    axes = [np.linspace(-1, 1, n) for n in (4, 4, 4)]
    nodes = np.array(list(itertools.product(*axes)))
    known = spectra(nodes)
    values = torch.from_numpy(known - known.mean(0))
    process = GaussianProcess(3, 10, len(nodes))
    process.fit_scales(torch.from_numpy(nodes).float(), values @ values.T, steps=30)
    assert process.log_length.exp()[2] >= 2 * (2 / 3)
    rms = (process.leave_one_out()[0] @ values).square().mean(1).sqrt()
    process.fit(values, rms)
    between = np.array([[0.1, -0.2, z] for z in (-0.7, 0.0, 0.7)])
    x = torch.from_numpy(between).float()
    error = np.sqrt(np.mean((process(x).numpy() + known.mean(0) - spectra(between)) ** 2, axis=1))
    # Before, 0.03.
    assert error.max() < 0.006
    assert (process.error(x) > 2 * process.error(torch.from_numpy(nodes).float()).max()).all()


def test_gaps_are_of_grids_alone():
    grid = torch.tensor([[x, y] for x in (-1.0, 0.0, 1.0) for y in (-1.0, -0.5, 1.0)])
    assert _widest_gaps(grid).tolist() == pytest.approx([1.0, 1.5])
    assert _widest_gaps(torch.rand(50, 2)).tolist() == [0.0, 0.0]
    assert _widest_gaps(torch.ones(4, 1)).tolist() == [0.0]
