"""Pareto-smoothed importance sampling against ArviZ, and weights that are no weights."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from maury.errors import InferenceError
from maury.sampling.importance import fit_pareto, pareto_smooth

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    arviz = pytest.importorskip("arviz")

WEIGHTS = {
    "normal": lambda rng, n: rng.normal(size=n),
    "narrow": lambda rng, n: 1e-3 * rng.normal(size=n),
    "wide": lambda rng, n: 8 * rng.normal(size=n),
    "far from zero": lambda rng, n: -50_000 + rng.normal(size=n),
    "heavy tail": lambda rng, n: np.log(rng.pareto(0.8, size=n)),
    "very heavy tail": lambda rng, n: np.log(rng.pareto(0.3, size=n)),
    "bounded": lambda rng, n: np.log(rng.uniform(0.5, 1, size=n)),
    "cauchy": lambda rng, n: rng.standard_cauchy(size=n),
}


def reference(log_weights: NDArray[np.float64]) -> tuple[NDArray[np.float64], float]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        smoothed, khat = arviz.psislw(log_weights)
    return np.asarray(smoothed), float(khat)


@pytest.mark.parametrize("kind", WEIGHTS)
@pytest.mark.parametrize("n", [40, 1000, 5000])
def test_agrees_with_arviz(kind: str, n: int) -> None:
    for seed in range(3):
        log_weights = WEIGHTS[kind](np.random.default_rng(seed), n)
        smoothed, khat = pareto_smooth(log_weights)
        expected, expected_khat = reference(log_weights)
        assert khat == pytest.approx(expected_khat, rel=1e-9, abs=1e-9)
        np.testing.assert_allclose(smoothed, expected, rtol=1e-9, atol=1e-9)


@settings(deadline=None, max_examples=60)
@given(seed=st.integers(0, 10_000), n=st.integers(1, 300), spread=st.sampled_from([1e-6, 0.1, 3, 300]))
def test_weights_are_normalised_and_keep_their_order(seed: int, n: int, spread: float) -> None:
    log_weights = spread * np.random.default_rng(seed).normal(size=n)
    before = log_weights.copy()
    smoothed, khat = pareto_smooth(log_weights)
    np.testing.assert_array_equal(log_weights, before)
    assert np.exp(smoothed).sum() == pytest.approx(1)
    assert not math.isnan(khat)
    assert (np.diff(smoothed[np.argsort(log_weights)]) >= -1e-9).all()


def test_heavier_tails_have_larger_khat() -> None:
    rng = np.random.default_rng(0)
    shapes = (0.2, 0.5, 0.9)
    found = [pareto_smooth(np.log(rng.pareto(1 / k, size=20_000)))[1] for k in shapes]
    np.testing.assert_allclose(found, shapes, atol=0.15)


def test_fit_recovers_a_pareto_distribution() -> None:
    rng = np.random.default_rng(1)
    for shape, scale in ((0.5, 2.0), (0.2, 0.1), (-0.2, 1.0)):
        excess = np.sort(scale * (rng.uniform(size=20_000) ** -shape - 1) / shape)
        khat, sigma = fit_pareto(excess)
        assert khat == pytest.approx(shape, abs=0.03)
        assert sigma == pytest.approx(scale, rel=0.05)


@pytest.mark.parametrize("n", [1, 2, 100])
@pytest.mark.parametrize("value", [0.0, -1e5, 700.0])
def test_equal_weights_need_no_smoothing(n: int, value: float) -> None:
    smoothed, khat = pareto_smooth(np.full(n, value))
    assert khat == -math.inf
    np.testing.assert_allclose(smoothed, -math.log(n))


def test_weights_of_zero_stay_zero() -> None:
    log_weights = np.random.default_rng(2).normal(size=1000)
    log_weights[::4] = -np.inf
    smoothed, khat = pareto_smooth(log_weights)
    assert (smoothed[::4] == -np.inf).all()
    assert np.isfinite(np.delete(smoothed, np.s_[::4])).all()
    assert math.isfinite(khat)
    assert np.exp(smoothed).sum() == pytest.approx(1)


@pytest.mark.parametrize("finite", [1, 3])
def test_too_few_weights_to_tell(finite: int) -> None:
    log_weights = np.full(1000, -np.inf)
    log_weights[:finite] = np.arange(finite)
    smoothed, khat = pareto_smooth(log_weights)
    assert khat == math.inf
    assert np.exp(smoothed).sum() == pytest.approx(1)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_weights_that_are_no_numbers_are_refused(bad: float) -> None:
    log_weights = np.random.default_rng(3).normal(size=100)
    log_weights[7] = bad
    with pytest.raises(InferenceError, match="not a number"):
        pareto_smooth(log_weights)


def test_no_weight_at_all_is_refused() -> None:
    with pytest.raises(InferenceError, match="missed the posterior"):
        pareto_smooth(np.full(100, -np.inf))
