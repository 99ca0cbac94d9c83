"""Priors, their bijection with the real line, and sets of labels."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate, stats

from maury.errors import LabelError
from maury.labels import Label, LabelSet, label
from maury.priors import LogUniform, Prior, TruncatedNormal, Uniform
from maury.quantities import Role, quantity

PRIORS: dict[str, Prior] = {
    "uniform": Uniform(low=3600, high=6900),
    "uniform-negative": Uniform(low=-200, high=200),
    "log-uniform": LogUniform(low=5e-4, high=0.1),
    "log-uniform-wide": LogUniform(low=1e-8, high=1e8),
    "normal": TruncatedNormal(low=-1, high=2, mean=0.3, sigma=0.5),
    "normal-flat": TruncatedNormal(low=0, high=1, mean=0.5, sigma=40),
    "normal-off-centre": TruncatedNormal(low=-1, high=2, mean=-3, sigma=0.7),
}
each_prior = pytest.mark.parametrize("prior", PRIORS.values(), ids=PRIORS)


def column(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def bounded(kind: str, low: float, span: float, place: float, width: float) -> Prior:
    if kind == "uniform":
        return Uniform(low=low, high=low + span)
    if kind == "log-uniform":
        return LogUniform(low=abs(low) + 1e-6, high=abs(low) + 1e-6 + span)
    return TruncatedNormal(low=low, high=low + span, mean=low + place * span, sigma=width * span)


priors = st.builds(
    bounded,
    st.sampled_from(["uniform", "log-uniform", "truncated-normal"]),
    st.floats(-1e4, 1e4),
    st.floats(1e-2, 1e4),
    st.floats(-1, 2),
    st.floats(0.2, 10),
)


@settings(deadline=None)
@given(prior=priors, u=st.one_of(st.floats(-8, 8), st.sampled_from([-60.0, -38.0, 38.0, 60.0])))
def test_every_real_number_is_a_point_of_the_prior(prior: Prior, u: float) -> None:
    x = prior.from_normal(column(u))
    assert prior.low <= float(x) <= prior.high
    assert torch.isfinite(prior.log_prob(x)).all()
    assert torch.isfinite(prior.log_abs_det(column(u))).all()
    assert torch.isfinite(prior.to_normal(x)).all()


@settings(deadline=None)
@given(prior=priors, u=st.floats(-8, 8))
def test_round_trip(prior: Prior, u: float) -> None:
    x = prior.from_normal(column(u))
    back = prior.to_normal(x)
    again = prior.from_normal(back)
    # To the resolution of doubles at x, and of x in u: dx/du falls steeply towards the bounds.
    scale = max(abs(prior.low), abs(prior.high))
    assert float(again) == pytest.approx(float(x), abs=1e-14 * scale)
    slope = float(prior.log_abs_det(column(u)).exp())
    if slope > 1e-9 * scale:
        assert float(back) == pytest.approx(u, abs=max(1e-8, 1e-14 * scale / slope))


@each_prior
def test_bijection_rises(prior: Prior) -> None:
    x = prior.from_normal(torch.linspace(-9, 9, 2001, dtype=torch.float64))
    assert (x.diff() >= 0).all()
    assert (x[800:1200].diff() > 0).all()


@each_prior
def test_bounds_belong_to_the_support(prior: Prior) -> None:
    bounds = column(prior.low, prior.high)
    assert torch.isfinite(prior.log_prob(bounds)).all()
    assert torch.isfinite(prior.to_normal(bounds)).all()
    span = prior.high - prior.low
    outside = column(prior.low - 1e-9 * span, prior.high + 1e-9 * span, math.inf, -math.inf)
    assert (prior.log_prob(outside) == -math.inf).all()


@each_prior
def test_log_abs_det_is_the_derivative(prior: Prior) -> None:
    u = torch.linspace(-4, 4, 81, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(prior.from_normal(u).sum(), u)
    torch.testing.assert_close(prior.log_abs_det(u.detach()), slope.log(), atol=1e-6, rtol=0)


@each_prior
def test_density_integrates_to_one(prior: Prior) -> None:
    def by_log(t: float) -> float:
        return math.exp(float(prior.log_prob(column(math.exp(t)))) + t)

    def plain(x: float) -> float:
        return math.exp(float(prior.log_prob(column(x))))

    if isinstance(prior, LogUniform):
        mass, _ = integrate.quad(by_log, math.log(prior.low) + 1e-12, math.log(prior.high) - 1e-12)
    else:
        mass, _ = integrate.quad(plain, prior.low, prior.high)
    assert mass == pytest.approx(1, abs=1e-9)


def test_densities_are_scipy_s() -> None:
    x = np.linspace(-0.9, 1.9, 20)
    prior = PRIORS["normal"]
    expected = stats.truncnorm(-1.3 / 0.5, 1.7 / 0.5, 0.3, 0.5).logpdf(x)
    np.testing.assert_allclose(prior.log_prob(torch.from_numpy(x)), expected, rtol=1e-12)
    x = np.geomspace(6e-4, 0.09, 20)
    expected = stats.loguniform(5e-4, 0.1).logpdf(x)
    np.testing.assert_allclose(PRIORS["log-uniform"].log_prob(torch.from_numpy(x)), expected, rtol=1e-12)


@each_prior
def test_prior_is_standard_normal_in_u(prior: Prior) -> None:
    p = (np.arange(2000) + 0.5) / 2000
    if isinstance(prior, Uniform):
        x = stats.uniform(prior.low, prior.high - prior.low).ppf(p)
    elif isinstance(prior, LogUniform):
        x = stats.loguniform(prior.low, prior.high).ppf(p)
    else:
        low, high = (prior.low - prior.mean) / prior.sigma, (prior.high - prior.mean) / prior.sigma
        x = stats.truncnorm(low, high, prior.mean, prior.sigma).ppf(p)
    u = prior.to_normal(torch.from_numpy(x))
    np.testing.assert_allclose(u, stats.norm.ppf(p), atol=1e-8)


@each_prior
def test_std_is_that_of_the_draws(prior: Prior) -> None:
    draws = LabelSet((label("x", prior),)).sample(200_000, torch.Generator().manual_seed(1))
    if prior is not PRIORS["log-uniform-wide"]:
        assert float(draws.std()) == pytest.approx(prior.std, rel=0.02)


@pytest.mark.parametrize(("low", "high"), [(10, 12), (-12, -10), (7, 30), (20, 21)])
def test_tail_of_a_normal_is_a_prior_too(low: float, high: float) -> None:
    prior = TruncatedNormal(low=low, high=high, mean=0, sigma=1)
    p = np.linspace(0.01, 0.99, 25)
    expected = stats.truncnorm(low, high)
    x = prior.from_normal(torch.from_numpy(stats.norm.ppf(p)))
    np.testing.assert_allclose(x, expected.ppf(p), rtol=1e-9)
    np.testing.assert_allclose(prior.to_normal(x), stats.norm.ppf(p), atol=1e-6)
    np.testing.assert_allclose(prior.log_prob(x), expected.logpdf(x.numpy()), rtol=1e-9)


@pytest.mark.parametrize("u", [-6.0, -8.0, -10.0, -20.0, -35.0])
def test_nothing_is_lost_beside_a_bound_at_zero(u: float) -> None:
    prior = Uniform(low=0, high=1)
    assert float(prior.from_normal(column(u))) == pytest.approx(stats.norm.cdf(u), rel=1e-9, abs=0)
    assert float(prior.to_normal(prior.from_normal(column(u)))) == pytest.approx(u, abs=1e-9)


def test_a_million_draws_stay_inside() -> None:
    labels = LabelSet(tuple(label(name, prior) for name, prior in PRIORS.items()))
    draws = labels.sample(1_000_000 // len(labels), torch.Generator().manual_seed(0))
    assert ((draws >= labels.low) & (draws <= labels.high)).all()
    assert torch.isfinite(labels.log_prob(draws)).all()


# Sets of labels


@pytest.fixture
def three() -> LabelSet:
    return LabelSet(
        (
            label("teff", PRIORS["uniform"]),
            label("jitter", PRIORS["log-uniform"]),
            label("m_h", PRIORS["normal"]),
        )
    )


def test_list_survives_json(three: LabelSet) -> None:
    back = LabelSet.from_list(json.loads(json.dumps(three.to_list())))
    assert back == three
    assert (back["teff"].unit, back["teff"].symbol) == ("K", r"$T_{\rm eff}$")


def test_a_visits_number_survives_json() -> None:
    second = LabelSet((Label(quantity("v_rad").of(visit=2), PRIORS["uniform-negative"]),))
    assert LabelSet.from_list(json.loads(json.dumps(second.to_list()))) == second
    assert "visit" not in label("v_rad_2", PRIORS["uniform-negative"]).to_dict()
    for wrong in (3, "2", {}):
        with pytest.raises(LabelError, match="label v_rad_2: is not of visit"):
            LabelSet.from_list([second.to_list()[0] | {"visit": wrong}])


def test_set_adds_up_its_labels(three: LabelSet) -> None:
    u = torch.randn(5, 2, 3, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    x = three.from_normal(u)
    assert x.shape == u.shape
    torch.testing.assert_close(three.to_normal(x), u)
    parts = [entry.prior.log_abs_det(u[..., i]) for i, entry in enumerate(three)]
    torch.testing.assert_close(three.log_abs_det(u), sum(parts))
    torch.testing.assert_close(three.scale(u).log().sum(-1), three.log_abs_det(u))
    standard = -0.5 * u.square().sum(-1) - 1.5 * math.log(2 * math.pi)
    torch.testing.assert_close(three.log_prob(x) + three.log_abs_det(u), standard)


def test_log_jacobian_slope_is_the_derivative_of_log_abs_det(three: LabelSet) -> None:
    u = torch.tensor([[0.5, -1.0, 2.0]], dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(three.log_abs_det(u).sum(), u)
    torch.testing.assert_close(three.log_jacobian_slope(u.detach()), slope, atol=1e-6, rtol=1e-6)


def test_place_of_a_role(three: LabelSet) -> None:
    assert three.place(Role.nuisance) == 1
    assert three.place(Role.velocity) is None
    with pytest.raises(LabelError, match="several labels are stellar: teff, m_h"):
        three.place(Role.stellar)


def test_one_label_outside_makes_the_point_impossible(three: LabelSet) -> None:
    x = torch.tensor([[5000.0, 0.01, 0.0], [5000.0, 0.2, 0.0]], dtype=torch.float64)
    assert torch.isfinite(three.log_prob(x)).tolist() == [True, False]


def test_select_and_replace(three: LabelSet) -> None:
    assert three.select(["m_h", "teff"]).names == ("m_h", "teff")
    other = Uniform(low=4000, high=5000)
    changed = three.with_priors({"teff": other})
    assert changed["teff"].prior == other
    assert changed.names == three.names
    assert three["teff"].prior != other
    assert (changed + LabelSet((label("v_rad", other),))).names[-1] == "v_rad"
    torch.testing.assert_close(changed.low, column(4000, 5e-4, -1))


def test_names_must_be_known_and_differ(three: LabelSet) -> None:
    with pytest.raises(LabelError, match="share a name"):
        three + three.select(["teff"])
    for use in (three.index, lambda name: three.with_priors({name: PRIORS["uniform"]})):
        with pytest.raises(LabelError, match="no label 'vsini': the labels are teff, jitter, m_h"):
            use("vsini")


@pytest.mark.parametrize("method", ["from_normal", "to_normal", "log_prob", "log_abs_det", "scale"])
def test_number_of_columns_must_fit(three: LabelSet, method: str) -> None:
    with pytest.raises(LabelError, match=r"expected 3 labels .* not 2"):
        getattr(three, method)(torch.zeros(4, 2, dtype=torch.float64))


@pytest.mark.parametrize(
    ("prior", "message"),
    [
        ({"kind": "uniform", "low": 1, "high": 1}, "low < high"),
        ({"kind": "uniform", "low": 2, "high": 1}, "low < high"),
        ({"kind": "uniform", "low": 0, "high": math.inf}, "finite"),
        ({"kind": "uniform", "low": math.nan, "high": 1}, "finite"),
        ({"kind": "log-uniform", "low": 0, "high": 1}, "low > 0"),
        ({"kind": "log-uniform", "low": -1, "high": 1}, "low > 0"),
        ({"kind": "truncated-normal", "low": 0, "high": 1, "mean": 99, "sigma": 0.1}, "no mass"),
        ({"kind": "truncated-normal", "low": 0, "high": 1, "mean": 0, "sigma": 0}, "greater than 0"),
        ({"kind": "uniform", "low": 0, "high": 1, "width": 3}, "Extra inputs|no such key"),
        ({"kind": "uniform", "low": 0}, "Field required"),
        ({"kind": "beta", "low": 0, "high": 1}, "does not match"),
    ],
)
def test_impossible_priors(prior: dict[str, float], message: str) -> None:
    with pytest.raises(LabelError, match=f"label x: .*({message})"):
        LabelSet.from_list([{"name": "x", "prior": prior}])
    classes = {"uniform": Uniform, "log-uniform": LogUniform, "truncated-normal": TruncatedNormal}
    kind = classes.get(str(prior["kind"]))
    if kind:
        with pytest.raises(LabelError, match=message):
            kind(**prior)


def test_a_label_without_a_prior() -> None:
    with pytest.raises(LabelError, match="label x: it has no prior"):
        LabelSet.from_list([{"name": "x"}])
