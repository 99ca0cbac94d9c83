"""Errors between libraries."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from maury.checks.gap import FAULTS, Bed, spoil
from maury.errors import ModelError
from maury.inference.infer import infer
from maury.libraries.systematic import FILE, Systematic
from maury.models import load_model, shipped

NAMES = ("teff", "logg")


@pytest.fixture
def offsets() -> np.ndarray:
    rng = np.random.default_rng(0)
    common = rng.normal(size=2000)
    return np.column_stack([100 * common, 0.3 * (0.8 * common + 0.6 * rng.normal(size=2000))])


def test_sigma_and_correlation_are_those_of_the_offsets(offsets: np.ndarray) -> None:
    found = Systematic.of(NAMES, offsets, (3600.0, 4200.0))
    assert found.sigma == pytest.approx((100, 0.3), rel=0.08)
    assert found.correlation[0][1] == pytest.approx(0.8, abs=0.05)


def test_a_bias_is_an_error_to_either_side(offsets: np.ndarray) -> None:
    biased = Systematic.of(NAMES, offsets * 0.1 + np.array([200.0, 0.0]), (3600.0, 4200.0))
    assert biased.sigma[0] == pytest.approx(205, rel=0.03)


def test_draws_are_scattered_inside_the_prior(offsets: np.ndarray) -> None:
    systematic = Systematic.of(NAMES, offsets, (3600.0, 4200.0))
    low, high = np.array([3600.0, 0.5, -200.0]), np.array([6900.0, 5.1, 200.0])
    rng = np.random.default_rng(1)
    draws = np.column_stack([np.full(5000, 5000.0), np.full(5000, 0.6), rng.normal(size=5000)])
    wide = systematic.scattered(("teff", "logg", "v_rad"), draws, low, high)
    assert wide[:, 0].std() == pytest.approx(systematic.sigma[0], rel=0.05)
    assert wide[:, 1].min() >= 0.5
    np.testing.assert_array_equal(wide[:, 2], draws[:, 2])
    assert np.corrcoef(wide[:, 0], draws[:, 2])[0, 1] == pytest.approx(0, abs=0.05)


def test_it_applies_where_it_was_measured(offsets: np.ndarray) -> None:
    systematic = Systematic.of(NAMES, offsets, (3600.0, 4200.0))
    assert [systematic.applies(t) for t in (3520, 4000, 4290, 4400)] == [True, True, True, False]


def test_files(offsets: np.ndarray, tmp_path: Path) -> None:
    systematic = Systematic.of(NAMES, offsets, (3600.0, 4200.0), {"spectra": 2000})
    systematic.save(tmp_path)
    assert Systematic.load(tmp_path / FILE) == systematic
    for text in ("{", '{"names": ["teff"], "sigma": [1], "correlation": [[-1]], "teff": [1, 2], "card": {}}'):
        (tmp_path / FILE).write_text(text)
        with pytest.raises(ModelError, match="run maury check libraries again"):
            Systematic.load(tmp_path / FILE)


def test_too_few_spectra_are_refused(offsets: np.ndarray) -> None:
    with pytest.raises(ModelError, match="at least 20 spectra; there are 5"):
        Systematic.of(NAMES, offsets[:5], (3600.0, 4200.0))


def test_errors_of_their_own_are_added_to_what_is_known(offsets: np.ndarray) -> None:
    known = Systematic.of(NAMES, offsets, (3600.0, 4200.0))
    assert Systematic.joined(known, {}) is known
    assert Systematic.joined(None, {}) is None
    both = Systematic.joined(known, {"logg": 0.4, "m_h": 0.06})
    assert both is not None
    assert both.names == ("teff", "logg", "m_h")
    np.testing.assert_allclose(both.sigma, [known.sigma[0], np.hypot(known.sigma[1], 0.4), 0.06])
    covariance = both.correlation[0][1] * both.sigma[0] * both.sigma[1]
    assert covariance == pytest.approx(known.correlation[0][1] * known.sigma[0] * known.sigma[1])
    assert both.correlation[0][2] == 0
    assert both.applies(12_000.0)


@pytest.mark.parametrize("name", shipped(estimators=True))
def test_shipped_models_know_theirs(name: str) -> None:
    systematic = load_model(name).systematic
    assert systematic is not None
    assert {"teff", "logg", "m_h"} <= set(systematic.names) <= set(load_model(name).problem.stellar.names)
    assert 20 < systematic.sigma[0] < 500


def test_cool_stars_are_told_the_error_and_hot_ones_are_not() -> None:
    model = load_model()
    assert model.systematic is not None
    bed, fault = Bed(model), FAULTS["library"]
    cool, _ = bed.spectrum(fault, 1.0, 0, 2)
    told = infer(cool, model, draws=300)
    for name, entry in told.systematic.items():
        assert entry.std > 0.5 * entry.sigma or name == "v_sini", name
        assert entry.p16 <= entry.p50 <= entry.p84
    cold = replace(model, systematic=replace(model.systematic, teff=(1000.0, 1100.0)))
    silent = infer(cool, cold, draws=300)
    # What chips of real stars disagree by is left.
    assert silent.systematic["teff"].sigma == pytest.approx(40 / 3**0.5)
    assert told.systematic["teff"].sigma > silent.systematic["teff"].sigma
    assert not infer(cool, cold, draws=300, nuisances="none").systematic
    np.testing.assert_array_equal(silent.draws, told.draws)


def test_the_robust_options_use_it() -> None:
    fault = FAULTS["library"]
    single, robust = spoil(load_model(), [(fault, 1.0)], 1, options=["auto", "robust"], draws=300, seed=2)
    assert robust.error["teff"] > single.error["teff"] + 20
