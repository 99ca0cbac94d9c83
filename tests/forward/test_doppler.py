"""Doppler shifts: relativistic, antisymmetric, and composed as velocities are."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from maury.constants import C_KMS
from maury.forward.doppler import add_velocities, log_shift, log_shift_derivative

velocities = st.floats(-1000, 1000)


def shift(v: float) -> float:
    return float(log_shift(torch.tensor(v, dtype=torch.float64)))


@given(v=velocities)
def test_is_relativistic_and_antisymmetric(v: float) -> None:
    b = v / C_KMS
    assert shift(v) == pytest.approx(0.5 * (math.log1p(b) - math.log1p(-b)), rel=1e-12, abs=1e-18)
    assert shift(-v) == -shift(v)


def test_receding_light_is_redder() -> None:
    assert shift(0.0) == 0
    assert shift(30.0) > 0


def test_differs_from_the_classical_form_by_67_m_per_s() -> None:
    classical = math.log1p(200 / C_KMS)
    assert (shift(200) - classical) * C_KMS * 1000 == pytest.approx(66.7, abs=0.1)


@given(v=velocities, w=velocities)
def test_shifts_add_up_as_velocities_do(v: float, w: float) -> None:
    # v + w + v w / c is the first-order form: exact to b^3.
    composed = (v + w) / (1 + v * w / C_KMS**2)
    assert shift(composed) == pytest.approx(shift(v) + shift(w), abs=1e-15)


def test_barycentric_correction_multiplies_redshifts() -> None:
    v, correction = -67.472, -14.580788
    expected = C_KMS * ((1 + v / C_KMS) * (1 + correction / C_KMS) - 1)
    assert add_velocities(v, correction) == pytest.approx(expected, abs=1e-9)
    assert add_velocities(v, 0.0) == v
    # The survey's own sum leaves out the product: 3 m/s here.
    assert add_velocities(v, correction) - (v + correction) == pytest.approx(0.0033, abs=1e-4)


@given(v=velocities)
def test_derivative(v: float) -> None:
    x = torch.tensor(v, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(log_shift(x), x)
    assert float(log_shift_derivative(x.detach())) == pytest.approx(float(gradient), rel=1e-12)
