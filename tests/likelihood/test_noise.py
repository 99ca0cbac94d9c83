"""Covariances of pixels against dense linear algebra."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from maury.constants import C_KMS
from maury.likelihood.continuum import chip_basis
from maury.likelihood.noise import Columns, Correlated, Correlation, Independent, innovations, sum_of_logs
from maury.likelihood.pixels import Likelihood

N = 60
CHIPS = [(0, 25), (25, 60)]


def dense(variance, correlation, wavelength, chip):
    x = np.log(wavelength) * C_KMS / correlation.scale
    a = correlation.amplitude + correlation.in_lines * np.clip(correlation.depth, 0, None)
    kernel = a[:, None] * a * np.exp(-np.abs(x[:, None] - x)) * (chip[:, None] == chip)
    return torch.from_numpy(kernel) + torch.diag_embed(variance)


@settings(max_examples=25, deadline=None)
@given(
    amplitude=st.floats(1e-3, 1.0),
    scale=st.floats(2.0, 500.0),
    seed=st.integers(0, 100),
    missing=st.floats(0, 0.5),
)
def test_correlated_pixels_are_those_of_dense_matrices(amplitude, scale, seed, missing):
    rng = np.random.default_rng(seed)
    good = rng.random(N) > missing
    good[[0, 30]] = True
    wavelength = (15000 * np.exp(np.arange(N) * 4 / C_KMS))[good]
    chip = (np.arange(N) >= 25)[good].astype(np.int64)
    variance = torch.from_numpy(rng.uniform(1e-4, 1e-2, (3, good.sum())))
    m = torch.from_numpy(rng.uniform(0.5, 1, variance.shape))
    correlation = Correlation(amplitude, 0.2, scale, 1 - m[0].numpy())
    matrix = dense(variance, correlation, wavelength, chip)
    found = Correlated(variance, correlation.deviation, correlation.decay(wavelength, chip))
    torch.testing.assert_close(found.log_det, torch.linalg.slogdet(matrix)[1], rtol=1e-8, atol=1e-8)
    x = torch.from_numpy(rng.normal(size=(3, 2, good.sum())))
    inverse = torch.linalg.inv(matrix)
    torch.testing.assert_close(found.solve(x), x @ inverse, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(
        found.inverse_diagonal(), inverse.diagonal(dim1=1, dim2=2), rtol=1e-5, atol=1e-6
    )
    bases = chip_basis(N, CHIPS, 2, good)
    beside = Columns(torch.from_numpy(rng.normal(size=(2, good.sum()))), bases)
    for (place, basis), (normal, cross) in zip(bases, found.continuum_normals(m, bases, beside), strict=True):
        columns = torch.zeros(3, 3, good.sum(), dtype=torch.float64)
        columns[..., place] = basis[:, :3].T * m[:, None, place]
        torch.testing.assert_close(normal, columns @ inverse @ columns.mT, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(cross, beside.values @ inverse @ columns.mT, rtol=1e-5, atol=1e-6)


def test_without_amplitude_pixels_are_independent():
    variance = torch.rand(2, N, dtype=torch.float64) + 0.1
    m = torch.rand(2, N, dtype=torch.float64)
    faint = Correlation(1e-7, 0.0, 20.0, np.zeros(N))
    decay = faint.decay(15000 + np.arange(N) * 0.2, np.zeros(N, dtype=np.int64))
    found, plain = Correlated(variance, faint.deviation, decay), Independent(variance)
    torch.testing.assert_close(found.log_det, plain.log_det)
    x = torch.randn(2, 3, N, dtype=torch.float64)
    torch.testing.assert_close(found.solve(x), plain.solve(x))
    torch.testing.assert_close(found.inverse_diagonal(), plain.inverse_diagonal())
    bases = chip_basis(N, CHIPS, 4)
    beside = Columns(torch.randn(2, N, dtype=torch.float64), bases)
    for a, b in zip(
        found.continuum_normals(m, bases, beside), plain.continuum_normals(m, bases, beside), strict=True
    ):
        torch.testing.assert_close(a, b)


@pytest.fixture(scope="module")
def likelihood(visit, forward, labels):
    return Likelihood.of(visit, forward, labels)


@pytest.mark.parametrize("correlated", [False, True])
def test_slopes_are_those_of_the_log_likelihood(likelihood, truth, correlated):
    """Central differences; the variance's own slopes included."""
    point = torch.cat([truth[0], torch.tensor([0.02], dtype=torch.float64)])
    depth = 1 - likelihood.spectra(point[None])[0].numpy()
    correlation = Correlation(0.01, 0.1, 15.0, depth) if correlated else None
    one = replace(likelihood.with_reference_continuum(point), correlation=correlation)
    gradient = one.curvature(point[None]).gradient[0]
    step = torch.tensor([2.0, 0.01, 0.01, 0.01, 0.05, 0.05, 1e-4], dtype=torch.float64)
    for i in range(len(point)):
        ends = point.repeat(2, 1)
        ends[0, i] -= step[i]
        ends[1, i] += step[i]
        low, high = one.log_prob(ends)
        assert float(gradient[i] * step[i]) == pytest.approx(float(high - low) / 2, rel=0.03, abs=0.03)


def test_innovations_are_white_where_the_covariance_is_right():
    rng = np.random.default_rng(0)
    wavelength = 15000 * np.exp(np.arange(N) * 4 / C_KMS)
    chip = (np.arange(N) >= 25).astype(np.int64)
    variance = rng.uniform(0.5, 1, N)
    correlation = Correlation(1.0, 1.0, 20.0, rng.uniform(0, 1, N))
    matrix = dense(torch.from_numpy(variance), correlation, wavelength, chip).numpy()
    decay = correlation.decay(wavelength, chip)
    residual = rng.multivariate_normal(np.zeros(N), matrix)
    whitened, predicted = innovations(residual, variance, correlation.deviation, decay)
    np.testing.assert_allclose(whitened, np.linalg.solve(np.linalg.cholesky(matrix), residual), rtol=1e-8)
    assert predicted[0] == 0
    assert predicted[25] == 0


@pytest.mark.parametrize("n", [1, 7, 8, 100])
def test_sum_of_logs(n):
    x = 10 ** torch.linspace(-30, 30, 3 * n, dtype=torch.float64).view(3, n)
    torch.testing.assert_close(sum_of_logs(x), x.log().sum(1))
