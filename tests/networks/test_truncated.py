"""Coordinates of a Gaussian that bounds cut off: exact bijections, in which it is N(0, I)."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats

from maury.networks.truncated import TruncatedFrame

N, D = 24, 4


@pytest.fixture(scope="module")
def gaussians():
    """Means inside, at and beyond the bounds; widths from a thousandth to a half of the prior."""
    generator = torch.Generator().manual_seed(0)
    mean = 1.4 * torch.rand(N, D, generator=generator, dtype=torch.float64) - 0.2
    size = 10 ** (-3 + 2.7 * torch.rand(N, D, generator=generator, dtype=torch.float64))
    mix = torch.eye(D) + 0.5 * torch.randn(N, D, D, generator=generator, dtype=torch.float64)
    covariance = size[:, :, None] * (mix @ mix.mT) * size[:, None]
    return mean, torch.linalg.inv(covariance)


@pytest.mark.parametrize("square", [None, 0, D - 1])
def test_there_and_back_and_the_determinant(gaussians, square):
    frame = TruncatedFrame.of(*gaussians, square)
    u = torch.randn(N, D, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    z, log_det = frame.to_flow(u)
    torch.testing.assert_close(frame.from_flow(z), u, atol=2e-5, rtol=1e-5)
    for i in range(N):
        one = frame.take(torch.tensor([i]))
        jacobian = torch.autograd.functional.jacobian(lambda x, f=one: f.to_flow(x[None])[0][0], u[i])
        sign, expected = torch.linalg.slogdet(jacobian)
        assert sign > 0
        torch.testing.assert_close(log_det[i], expected, atol=1e-8, rtol=1e-8)


@pytest.mark.parametrize("square", [None, D - 1])
def test_every_z_is_a_label_inside_the_prior(gaussians, square):
    frame = TruncatedFrame.of(*gaussians, square)
    for size in (1.0, 3.0, 6.0):
        z = size * torch.randn(N, D, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
        u = frame.from_flow(z)
        assert u.isfinite().all()
        assert (u.abs() < 9).all()


def test_a_squared_label_at_the_bound_is_half_a_gaussian_of_its_square():
    """The posterior of v_sini of a star that does not rotate: flat to where its square is felt."""
    mean = torch.tensor([[0.5, 0.0]], dtype=torch.float64)
    precision = torch.diag(torch.tensor([1e4, 1e6], dtype=torch.float64))[None]
    frame = TruncatedFrame.of(mean, precision, 1)
    z = torch.randn(4000, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    t = torch.special.ndtr(frame.take(torch.zeros(4000, dtype=torch.long)).from_flow(z))
    fine = torch.linspace(0, 1, 20001, dtype=torch.float64)
    cumulative = torch.exp(-0.5 * (fine.square() * 1e3).square()).cumsum(0)
    cumulative = 0.998 * cumulative / cumulative[-1] + 0.002 * fine
    at = np.interp(t[:, 1].numpy(), fine.numpy(), cumulative.numpy())
    assert stats.kstest(at, "uniform").pvalue > 1e-3
    assert stats.kstest(((t[:, 0] - 0.5) / 0.01).numpy(), "norm").pvalue > 1e-3
