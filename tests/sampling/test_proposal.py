"""Proposal densities: normalised, and what is drawn from them follows them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats

from maury.sampling.proposal import Mixture, StudentT, average


def student(location: list[float], scale: list[list[float]], dof: int = 5) -> StudentT:
    matrix = torch.tensor(scale, dtype=torch.float64)
    return StudentT(torch.tensor(location, dtype=torch.float64), torch.linalg.cholesky(matrix), dof)


@pytest.fixture
def wide() -> StudentT:
    return student([0.5, -1.0], [[1.0, 0.6], [0.6, 2.0]])


@pytest.fixture
def narrow() -> StudentT:
    return student([-2.0, 1.0], [[0.1, -0.05], [-0.05, 0.2]])


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def grid_mass(proposal: StudentT | Mixture, half: float = 300.0) -> float:
    """Integral over the plane, on a grid that is fine near 0 and coarse far from it."""
    t = torch.linspace(-np.arcsinh(half), np.arcsinh(half), 1201, dtype=torch.float64)
    x, dx = torch.sinh(t), torch.cosh(t) * (t[1] - t[0])
    points = torch.cartesian_prod(x, x)
    return float((proposal.log_prob(points).exp() * torch.outer(dx, dx).flatten()).sum())


def test_student_t_integrates_to_one(wide: StudentT, narrow: StudentT) -> None:
    assert grid_mass(wide) == pytest.approx(1, abs=1e-4)
    assert grid_mass(narrow) == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("dof", [1, 5, 30])
def test_student_t_is_scipy_s(dof: int) -> None:
    location, scale = [0.5, -1.0, 2.0], [[1.0, 0.6, 0.1], [0.6, 2.0, 0.0], [0.1, 0.0, 0.3]]
    proposal = student(location, scale, dof)
    points = 5 * torch.randn(50, 3, generator=generator(), dtype=torch.float64)
    expected = stats.multivariate_t(location, scale, df=dof).logpdf(points.numpy())
    np.testing.assert_allclose(proposal.log_prob(points), expected, rtol=1e-10)


def test_draws_have_the_moments_of_the_density(wide: StudentT) -> None:
    draws = wide.sample(200_000, generator())
    assert draws.shape == (200_000, 2)
    expected = wide.factor @ wide.factor.T * (5 / 3)
    torch.testing.assert_close(draws.mean(0), wide.location, atol=0.02, rtol=0)
    torch.testing.assert_close(torch.cov(draws.T), expected, atol=0.06, rtol=0.03)


def test_draws_follow_the_density(wide: StudentT) -> None:
    draws = wide.sample(20_000, generator(1))
    x = torch.linalg.solve_triangular(wide.factor, (draws - wide.location).T, upper=False)
    assert stats.kstest(x[0].numpy(), stats.t(5).cdf).pvalue > 1e-3
    # The squared radius over the dimension is F-distributed.
    assert stats.kstest(x.square().sum(0).numpy() / 2, stats.f(2, 5).cdf).pvalue > 1e-3


def test_draws_repeat_with_their_generator(wide: StudentT, narrow: StudentT) -> None:
    mixture = Mixture((wide, narrow), torch.tensor([0.3, 0.7], dtype=torch.float64))
    for proposal in (wide, mixture):
        torch.testing.assert_close(
            proposal.sample(101, generator(4)), proposal.sample(101, generator(4)), rtol=0, atol=0
        )


def test_mixture_is_the_weighted_sum(wide: StudentT, narrow: StudentT) -> None:
    mixture = Mixture((wide, narrow), torch.tensor([0.25, 0.75], dtype=torch.float64))
    points = 3 * torch.randn(40, 2, generator=generator(), dtype=torch.float64)
    expected = 0.25 * wide.log_prob(points).exp() + 0.75 * narrow.log_prob(points).exp()
    torch.testing.assert_close(mixture.log_prob(points).exp(), expected)
    assert grid_mass(mixture) == pytest.approx(1, abs=1e-3)


def test_mixture_keeps_its_tails(wide: StudentT, narrow: StudentT) -> None:
    mixture = Mixture((wide, narrow), torch.tensor([0.25, 0.75], dtype=torch.float64))
    assert torch.isfinite(mixture.log_prob(torch.full((1, 2), 1e12, dtype=torch.float64))).all()


@pytest.mark.parametrize("n", [1, 7, 10, 1001])
def test_mixture_draws_each_part_s_share(wide: StudentT, narrow: StudentT, n: int) -> None:
    far = student([1000.0, 1000.0], [[0.1, 0.0], [0.0, 0.1]])
    mixture = Mixture((wide, far), torch.tensor([0.3, 0.7], dtype=torch.float64))
    draws = mixture.sample(n, generator(5))
    assert draws.shape == (n, 2)
    assert abs(int((draws[:, 0] > 500).sum()) - 0.7 * n) <= 2


def test_a_part_without_weight_is_silent(wide: StudentT, narrow: StudentT) -> None:
    mixture = Mixture((wide, narrow), torch.tensor([1.0, 0.0], dtype=torch.float64))
    points = torch.randn(10, 2, generator=generator(), dtype=torch.float64)
    torch.testing.assert_close(mixture.log_prob(points), wide.log_prob(points))
    assert mixture.sample(10, generator()).shape == (10, 2)


def test_mixtures_of_several_rounds_average():
    """Draws of two rounds, the second with more parts, have the density of the rounds' shares."""
    wide, narrow = (
        student([0.0, 0.0], [[4.0, 0.0], [0.0, 4.0]]),
        student([1.0, 0.0], [[0.1, 0.0], [0.0, 0.1]]),
    )
    first = Mixture((wide,), torch.ones(1, dtype=torch.float64))
    second = first.plus([narrow, student([-1.0, 0.0], [[0.2, 0.0], [0.0, 0.2]])], 0.6)
    assert second.weights.tolist() == pytest.approx([0.4, 0.3, 0.3])
    u = wide.sample(50, generator(6))
    both = average([first, second], [100, 300])
    expected = torch.logsumexp(
        torch.stack([first.log_prob(u) + np.log(0.25), second.log_prob(u) + np.log(0.75)]), 0
    )
    torch.testing.assert_close(both.log_prob(u), expected)
