"""Calibration on simulated spectra, small; the figures proper come from ``make calibration``."""

import json
import math
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
from scipy import stats

from maury.checks.calibration import calibrate, information_limit, simulated_spectra
from maury.checks.calibration_report import report, write_outcomes
from maury.errors import ConfigError
from maury.likelihood.pixels import Likelihood
from maury.models import load_model
from maury.networks.conformal import Conformal

# Share of a normal density within one standard deviation.
INSIDE = 0.6827


@pytest.fixture(scope="module")
def model():
    return load_model()


@pytest.fixture(scope="module")
def outcomes(model):
    return list(calibrate(model, 4, draws=400, pixels="apstar", seed=11))


def test_figures_and_files(model, outcomes, tmp_path):
    figures = report(outcomes, model)
    write_outcomes(tmp_path, outcomes, figures, model)
    names = {"calibration.ecsv", "calibration.json", "calibration.html", "ranks.png"}
    assert {path.name for path in tmp_path.iterdir()} == names
    assert "at least 20 spectra; there are 4" in (tmp_path / "calibration.html").read_text()
    assert json.loads((tmp_path / "calibration.json").read_text())["spectra"] == 4
    assert figures["efficiency_median"] > 0.2


def test_coverage_over_all_and_in_bins(model, outcomes, tmp_path):
    """Outcomes with made-up uniform credibilities: every figure is there, and in its band."""
    rng = np.random.default_rng(0)

    def made_up(outcome):
        values = {key: rng.random() for key in ("credibility", "flow_credibility", "tarp", "flow_tarp")}
        values |= {"ranks": rng.random(7), "flow_ranks": rng.random(6), "snr": 10 * 30 ** rng.random()}
        return replace(outcome, **values, teff=rng.uniform(3600, 6900), v_sini=rng.uniform(0, 100))

    many = [made_up(outcomes[i % 4]) for i in range(600)]
    figures = report(many, model)
    write_outcomes(tmp_path, many, figures, model)
    assert (tmp_path / "coverage.png").stat().st_size > 20_000
    page = (tmp_path / "calibration.html").read_text()
    assert page.count("data:image/png;base64,") == 2
    assert "snr 10-30: joint" in page
    assert "http" not in page
    for stage, n in (("verified", 9), ("flow", 8)):
        assert len(figures["coverage"][stage]) == n
        assert all(found["error"] < 1.2 * found["band"] for found in figures["coverage"][stage].values())
        by = figures["coverage_by"][stage]
        assert set(by) == {"snr", "teff", "v_sini"}
        assert sum(found["joint"]["number"] for found in by["teff"].values()) == 600
        assert figures["local"][stage]["p_value"] > 1e-3
    # Half of the truths recalibrate the flow's regions of the other half; all of them are kept for those of real stars.
    again = figures["coverage"]["flow, conformal"]
    assert again["joint"]["number"] == 300
    assert all(found["error"] < 1.5 * found["band"] for found in again.values())
    assert len(Conformal.load(tmp_path / "conformal.json").scores["teff"]) == 600
    assert "Local coverage" in page


def test_a_run_goes_on_where_it_was_stopped(model, tmp_path, monkeypatch):
    """Two processes, a store, and a last line that was cut: the outcomes are the same, and none is computed twice."""
    from maury.checks import calibration

    monkeypatch.setattr(calibration, "_BATCH", 2)
    store = tmp_path / "outcomes.jsonl"
    settings = {"draws": 200, "pixels": "apstar", "seed": 3}
    first = list(calibrate(model, 3, store=store, **settings))
    with store.open("a") as file:
        file.write('{"key": [4, 6], "resu')
    computed = []
    batch = calibration._batch
    monkeypatch.setattr(calibration, "_batch", lambda m, key, **k: computed.append(key) or batch(m, key, **k))
    again = list(calibrate(model, 4, store=store, **settings))
    assert computed == [[2, 4]]
    whole = list(calibrate(model, 4, **settings))
    for a, b in zip(again, [*first[:2], *whole[2:]], strict=True):
        for (key, x), y in zip(asdict(a).items(), asdict(b).values(), strict=True):
            if key != "seconds":
                np.testing.assert_array_equal(x, y, err_msg=key)
    # A batch of another size rounds differently; by that other draws of the surrogate are taken, of the same posterior.
    alone, beside = first[2], again[2]
    assert alone.method == beside.method
    assert max(alone.khat, beside.khat) < 0.7
    for key, x in asdict(alone).items():
        if key in ("ranks", "credibility", "tarp"):
            np.testing.assert_allclose(x, getattr(beside, key), atol=0.2, err_msg=key)
        elif key not in ("method", "seconds", "evaluations", "khat", "efficiency", "ess"):
            np.testing.assert_allclose(x, getattr(beside, key), rtol=0.1, atol=0.05, err_msg=key)
    with pytest.raises(ConfigError, match="other settings"):
        list(calibrate(model, 4, store=store, **(settings | {"seed": 4})))


@pytest.mark.slow
def test_processes_give_the_same_outcomes(model):
    one, two = (list(calibrate(model, 50, draws=200, pixels="apstar", seed=3, jobs=jobs)) for jobs in (1, 2))
    np.testing.assert_allclose([o.ranks for o in one], [o.ranks for o in two], atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["marcs-apogee", "kurucz-apogee", "btsettl-apogee"])
def test_intervals_that_hold_a_little_less_would_be_noticed(name):
    """Of 300 spectra, nuisances drawn: intervals of 68 % that hold 64 or 65 % fail, by all labels together."""
    outcomes = list(calibrate(load_model(name), 300, draws=400, seed=7, jobs=2))
    ranks = np.array([outcome.ranks for outcome in outcomes])
    inside = np.abs(ranks - 0.5) < 0.5 * INSIDE
    # Labels of one spectrum go together: the error is that of the spectra's means.
    band = 2.6 * inside.mean(1).std(ddof=1) / math.sqrt(len(outcomes))
    assert band < 0.035
    assert inside.mean() == pytest.approx(INSIDE, abs=band)
    for values in ([o.credibility for o in outcomes], [o.tarp for o in outcomes]):
        assert stats.kstest(values, "uniform").pvalue > 0.01
    assert min(stats.kstest(r, "uniform").pvalue for r in ranks.T) > 0.01 / ranks.shape[1]


def test_ranks_that_are_not_finite_are_told(model, outcomes):
    bad = replace(outcomes[0], ranks=np.full(7, np.nan))
    with pytest.raises(ConfigError, match="ranks of 1 of 5 spectra are not finite"):
        report([*outcomes, bad], model)


def test_ranks_are_shares_of_the_posterior(outcomes):
    ranks = np.array([outcome.ranks for outcome in outcomes])
    assert (ranks >= 0).all()
    assert (ranks <= 1).all()
    # Four spectra and seven labels, all of them beyond 0.2 % of their posterior, would be a miracle.
    assert np.mean((ranks > 0.002) & (ranks < 0.998)) > 0.7


def test_flow_stays_below_the_information_limit(outcomes):
    for outcome in outcomes:
        assert outcome.log_density < outcome.limit_prior + 10
        assert outcome.limit <= outcome.limit_prior


def test_limit_grows_by_the_log_of_the_noise(model):
    """Six labels: halving all errors, jitter included, gains 6 ln 2."""
    spectrum, theta, _ = next(simulated_spectra(model, 1, "apvisit", seed=2))
    theta[-2], theta[-1] = 20.0, 1e-2
    limits = []
    for factor in (1.0, 2.0):
        likelihood = Likelihood.of(
            spectrum.__class__(spectrum.grid, spectrum.flux, spectrum.ivar * factor**2),
            model.forward,
            model.labels,
        )
        at = theta.clone()
        at[-1] /= factor
        limits.append(information_limit(likelihood, at, model.labels)[0])
    assert limits[1] - limits[0] == pytest.approx(6 * math.log(2), abs=0.05)


def test_simulations_depend_on_the_seed_alone(model):
    first, second = (next(simulated_spectra(model, 1, "apvisit", seed=9)) for _ in range(2))
    assert np.array_equal(first[0].flux, second[0].flux)
    assert torch.equal(first[1], second[1])


def test_unknown_pixels(model):
    with pytest.raises(ConfigError, match="apvisit"):
        next(calibrate(model, 1, pixels="ccd"))
