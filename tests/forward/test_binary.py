"""Two stars in one spectrum."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from maury.forward.binary import Pair, pair_labels
from maury.forward.model import ForwardModel
from maury.labels import LabelSet
from maury.likelihood.pixels import Likelihood
from maury.spectra.spectrum import Spectrum

NAMES = (
    "teff", "logg", "m_h", "alpha_m", "v_rad", "v_sini", "teff_2", "logg_2", "v_rad_2", "v_sini_2", "flux_ratio",
)  # fmt: skip
STARS = (4800.0, 2.6, -0.1, 0.05, 37.0, 8.0, 5600.0, 4.4, -20.0, 5.0, 0.3)


@pytest.fixture(scope="module")
def pair(forward: ForwardModel) -> Pair:
    return Pair(forward)


@pytest.fixture
def stars() -> Tensor:
    return torch.tensor([STARS], dtype=torch.float64)


def second(stars: Tensor) -> Tensor:
    return stars[:, [6, 7, 2, 3, 8, 9]]


def at(stars: Tensor, name: str, value: float) -> Tensor:
    out = stars.clone()
    out[:, NAMES.index(name)] = value
    return out


def test_labels_share_the_composition(pair: Pair, labels: LabelSet) -> None:
    both = pair_labels(labels)
    assert pair.label_names == NAMES
    assert both.names == (*NAMES, "jitter")
    assert both["teff_2"].prior == labels["teff"].prior
    assert both["v_rad_2"].unit == "km/s"


@settings(max_examples=10, deadline=None)
@given(ratio=st.floats(0, 1))
def test_light_adds_up(forward: ForwardModel, ratio: float) -> None:
    stars = at(torch.tensor([STARS], dtype=torch.float64), "flux_ratio", ratio)
    first, other = forward(stars[:, :6]), forward(second(stars))
    torch.testing.assert_close(Pair(forward)(stars), (first + ratio * other) / (1 + ratio), atol=2e-6, rtol=0)


def test_a_twin_at_the_same_velocity_is_no_second_star(pair: Pair, forward: ForwardModel) -> None:
    twin = torch.tensor([[*STARS[:6], *STARS[:2], *STARS[4:6], 0.7]], dtype=torch.float64)
    torch.testing.assert_close(pair(twin), forward(twin[:, :6]), atol=2e-6, rtol=0)
    torch.testing.assert_close(pair.error(twin)[0], forward.error(twin[:, :6])[0] * (1 + 0.49) ** 0.5 / 1.7)


def test_the_stars_may_be_exchanged(pair: Pair, stars: Tensor) -> None:
    even = at(stars, "flux_ratio", 1.0)
    exchanged = even[:, [6, 7, 2, 3, 8, 9, 0, 1, 4, 5, 10]]
    torch.testing.assert_close(pair(even), pair(exchanged), atol=2e-6, rtol=0)
    torch.testing.assert_close(pair.error(even), pair.error(exchanged))


def test_jacobian_is_the_slope_of_the_flux(pair: Pair, stars: Tensor) -> None:
    flux, slopes = pair.jacobian(stars)
    torch.testing.assert_close(flux, pair(stars), atol=2e-6, rtol=0)
    steps = {"teff": 20.0, "logg": 0.02, "m_h": 0.01, "alpha_m": 0.01, "v_rad": 0.5, "v_sini": 0.5}
    for i, name in enumerate(NAMES):
        step = steps.get(name.removesuffix("_2"), 0.02)
        value = float(stars[0, i])
        difference = pair(at(stars, name, value + step)) - pair(at(stars, name, value - step))
        slope = slopes[0, i]
        assert float((difference[0] / (2 * step) - slope).abs().max()) < 0.03 * float(slope.abs().max()), name


def test_its_likelihood_is_the_single_star_s_where_there_is_no_second(
    pair: Pair, forward: ForwardModel, labels: LabelSet, visit: Spectrum
) -> None:
    alone = Likelihood.of(visit, forward, labels)
    both = Likelihood.of(visit, pair, pair_labels(labels))
    star = torch.tensor([[*STARS[:6], 0.01]], dtype=torch.float64)
    none = torch.tensor([[*STARS[:10], 0.0, 0.01]], dtype=torch.float64)
    torch.testing.assert_close(both.log_prob(none), alone.log_prob(star), rtol=1e-7, atol=0.02)


def test_curvature_is_the_slope_of_the_likelihood(pair: Pair, labels: LabelSet, visit: Spectrum) -> None:
    likelihood = Likelihood.of(visit, pair, pair_labels(labels))
    theta = torch.tensor([*STARS, 0.02], dtype=torch.float64)
    likelihood = likelihood.with_reference_continuum(theta)
    curvature = likelihood.curvature(theta[None])
    scale = curvature.fisher[0].diagonal().sqrt()
    steps = torch.diag(0.05 / scale)
    up, down = (likelihood.log_prob(theta + sign * steps) for sign in (1, -1))
    numeric = (up - down) / 0.1
    analytic = curvature.gradient[0] / scale
    assert float((analytic - numeric).abs().max()) < 0.03 * float(numeric.abs().max())
