"""Rotational broadening against scipy's Bessel functions and the profile itself."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy import integrate, special

from maury.forward.rotation import rotation_transform, rotation_transform_derivative

E = [0.0, 0.3, 0.6, 1.0]
each_e = pytest.mark.parametrize("e", E)
# Where the implementation passes from a series to the closed form.
SWITCH = 0.8


def reference(s: NDArray[np.float64], e: float) -> NDArray[np.float64]:
    """The transform without cancellation: J1(s)/s as (J0 + J2)/2, j1(s)/s as (j0 + j2)/3."""
    disc = (special.jv(0, s) + special.jv(2, s)) / 2
    ball = (special.spherical_jn(0, s) + special.spherical_jn(2, s)) / 3
    return (2 * (1 - e) * disc + 2 * e * ball) / (1 - e / 3)


def slope(s: NDArray[np.float64], e: float) -> NDArray[np.float64]:
    disc = (special.jv(1, s) + special.jv(3, s)) / 4
    ball = (special.spherical_jn(1, s) + special.spherical_jn(3, s)) / 5
    return -(2 * (1 - e) * disc + 2 * e * ball) / (1 - e / 3)


@pytest.fixture(scope="module")
def s() -> NDArray[np.float64]:
    return np.unique(np.concatenate([np.geomspace(1e-6, 80, 4000), np.linspace(0.5, 1.1, 601)]))


@each_e
def test_is_one_at_rest(e: float) -> None:
    for dtype in (torch.float32, torch.float64):
        zero = torch.zeros(1, dtype=dtype)
        assert float(rotation_transform(zero, e)) == pytest.approx(1, abs=torch.finfo(dtype).eps)
        assert float(rotation_transform_derivative(zero, e)) == 0


# In double precision torch's own J0 and J1 are off by 4e-7 between 3.5 and 10.8; the rest is the series.
@each_e
@pytest.mark.parametrize(("dtype", "atol"), [(torch.float64, 5e-7), (torch.float32, 1e-5)])
def test_agrees_with_scipy(s: NDArray[np.float64], e: float, dtype: torch.dtype, atol: float) -> None:
    found = rotation_transform(torch.from_numpy(s).to(dtype), e)
    assert found.dtype == dtype
    np.testing.assert_allclose(found.double(), reference(s, e), rtol=0, atol=atol)


@each_e
@pytest.mark.parametrize(("dtype", "atol"), [(torch.float64, 2e-7), (torch.float32, 1e-5)])
def test_derivative_agrees_with_scipy(
    s: NDArray[np.float64], e: float, dtype: torch.dtype, atol: float
) -> None:
    found = rotation_transform_derivative(torch.from_numpy(s).to(dtype), e)
    np.testing.assert_allclose(found.double(), slope(s, e), rtol=0, atol=atol)


@each_e
def test_series_and_closed_form_are_exact_where_torch_is(s: NDArray[np.float64], e: float) -> None:
    low = s[s < 3.5]
    near, closed = low < SWITCH, low >= SWITCH
    error = np.abs(rotation_transform(torch.from_numpy(low), e).numpy() - reference(low, e))
    assert error[near].max() < 2e-9
    assert error[closed].max() < 1e-10


@each_e
def test_is_continuous_where_the_series_ends(e: float) -> None:
    s = torch.tensor([SWITCH - 1e-12, SWITCH + 1e-12], dtype=torch.float64)
    for function in (rotation_transform, rotation_transform_derivative):
        below, above = function(s, e)
        assert float(above - below) == pytest.approx(0, abs=3e-8)


@each_e
def test_gradient_is_the_derivative(e: float) -> None:
    s = torch.tensor([0.0, 1e-3, 0.3, 0.79, 0.81, 2.0, 9.0, 50.0], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda s: rotation_transform(s, e), (s.detach()[1:].requires_grad_(),))
    (gradient,) = torch.autograd.grad(rotation_transform(s, e).sum(), s)
    torch.testing.assert_close(gradient, rotation_transform_derivative(s.detach(), e))


@each_e
def test_is_the_transform_of_gray_s_profile(e: float) -> None:
    def profile(x: float) -> float:
        return (2 * (1 - e) / np.pi * np.sqrt(1 - x**2) + e / 2 * (1 - x**2)) / (1 - e / 3)

    for s in (0.0, 0.5, 3.0, 20.0):
        expected, _ = integrate.quad(lambda x, s=s: profile(x) * np.cos(s * x), -1, 1, limit=200)
        assert float(rotation_transform(torch.tensor(s, dtype=torch.float64), e)) == pytest.approx(
            expected, abs=1e-7
        )


@each_e
def test_second_moment_is_the_profile_s(e: float) -> None:
    # Variance of the profile over v sin i squared: 1/4 and 1/5 are those of its two terms.
    expected = ((1 - e) / 4 + 2 * e / 15) / (1 - e / 3)
    h = 1e-3
    curvature = 2 * (1 - float(rotation_transform(torch.tensor(h, dtype=torch.float64), e))) / h**2
    assert curvature == pytest.approx(expected, rel=1e-6)


def test_stays_within_bounds_and_falls_at_first(s: NDArray[np.float64]) -> None:
    for e in E:
        value = rotation_transform(torch.from_numpy(s), e)
        assert float(value.abs().max()) <= 1
        assert (value[torch.from_numpy(s) < 3].diff() < 1e-12).all()
