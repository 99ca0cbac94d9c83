"""Monte-Carlo errors by label, against what repeated draws scatter by, and tails that are not known."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from maury.labels import LabelSet, label
from maury.posterior.certificate import certify
from maury.posterior.summary import QUANTILES, weighted_quantile
from maury.priors import Uniform

LABELS = LabelSet(
    (label("teff", Uniform(low=-50.0, high=50.0)), label("logg", Uniform(low=-50.0, high=50.0)))
)
N = 400


def drawn(seed: int, width: float = 1.4) -> tuple[np.ndarray, np.ndarray]:
    """Draws of a wider normal distribution, weighed to N(0, 1)."""
    x = width * np.random.default_rng(seed).normal(size=(N, 2))
    raw = (stats.norm.logpdf(x) - stats.norm.logpdf(x, scale=width)).sum(1)
    return x, raw


def test_errors_are_what_repeated_draws_scatter_by() -> None:
    found: dict[str, list[float]] = {"mean": [], **{name: [] for name in QUANTILES}}
    told: dict[str, list[float]] = {name: [] for name in found}
    for seed in range(200):
        x, raw = drawn(seed)
        weights = np.exp(raw) / np.exp(raw).sum()
        certificate = certify(LABELS, x, raw, raw)["teff"]
        found["mean"].append(weights @ x[:, 0])
        for name, q in QUANTILES.items():
            found[name].append(weighted_quantile(x[:, 0], weights, q))
        for name in found:
            told[name].append(certificate.mcse[name])
    for name, values in found.items():
        assert np.mean(told[name]) == pytest.approx(np.std(values), rel=0.2)


def test_equal_weights_are_worth_their_number() -> None:
    x = np.random.default_rng(0).normal(size=(N, 2))
    certificate = certify(LABELS, x, np.zeros(N), np.zeros(N))["logg"]
    assert certificate.mcse["mean"] == pytest.approx(x[:, 1].std() / np.sqrt(N))
    for ess in certificate.ess.values():
        assert ess == pytest.approx(N, rel=0.02)
    assert certify(LABELS, x, np.zeros(N))["logg"].khat is None


def test_a_tail_that_is_not_known_is_told_of_its_label() -> None:
    rng = np.random.default_rng(1)
    # The proposal is much too narrow for one label: far out in it the weights are large; of the other, all is known.
    x = np.column_stack([0.45 * rng.normal(size=4000), rng.normal(size=4000)])
    raw = stats.norm.logpdf(x[:, 0]) - stats.norm.logpdf(x[:, 0], scale=0.45)
    told = certify(LABELS, x, raw, raw)
    assert told["teff"].khat is not None
    assert told["logg"].khat is not None
    assert told["teff"].khat > 0.7
    assert told["teff"].khat >= told["logg"].khat
    assert set(told["teff"].to_json()) == {"khat", "mcse", "ess"}


def test_a_constant_label_has_no_error() -> None:
    x, raw = drawn(0)
    x[:, 1] = 3.0
    told = certify(LABELS, x, raw, raw)["logg"]
    assert told.mcse["mean"] == pytest.approx(0, abs=1e-12)
    assert told.mcse["p50"] == 0
