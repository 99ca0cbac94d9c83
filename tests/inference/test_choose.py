"""Priors of the caller's choice, spectra at rest, several models, and files of many spectra."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import maury
from maury.checks.calibration import simulated_spectra
from maury.errors import Failure, LabelError
from maury.inference.batch import labels_for
from maury.inference.choose import left_out, likeliest
from maury.inference.flow import Flow
from maury.inference.infer import infer_files
from maury.models import load_model, to_model_grid
from maury.priors import TruncatedNormal, Uniform
from maury.sampling.proposal import StudentT
from maury.spectra.formats.star_writers import write_apstar
from maury.spectra.formats.writers import write_apvisit
from maury.training.demo import TRUTH, simulate_visit


@pytest.fixture(scope="module")
def model():
    return load_model()


@pytest.fixture(scope="module")
def star(model):
    return simulate_visit(model, TRUTH, snr=80, seed=5, v_correction=0.0)


def flow_of(model, star, priors):
    context = model.estimator.context(*to_model_grid(star, model))
    labels = model.labels.with_priors(priors).select(model.forward.label_names)
    return Flow(model.estimator, context, labels), labels


@pytest.mark.parametrize(
    "priors",
    [
        {"teff": Uniform(low=4700, high=4800)},
        {"teff": Uniform(low=4740, high=4745), "v_rad": Uniform(low=0, high=60)},
        {"logg": TruncatedNormal(low=0.5, high=5.1, mean=2.5, sigma=0.1)},
    ],
)
def test_flow_under_narrower_priors(model, star, priors):
    """Draws stay inside, and the density integrates to 1."""
    flow, labels = flow_of(model, star, priors)
    u = flow.sample(4000, torch.Generator().manual_seed(0))
    theta = labels.from_normal(u)
    assert (theta >= labels.low).all()
    assert (theta <= labels.high).all()
    near = ((u - u.median(0).values).abs() < 5 * (u.quantile(0.84, 0) - u.quantile(0.16, 0))).all(1)
    proposal = StudentT(u[near].mean(0), torch.linalg.cholesky(1.3 * torch.cov(u[near].T)))
    there = proposal.sample(20_000, torch.Generator().manual_seed(1))
    mass = (flow.log_prob(there) - proposal.log_prob(there)).exp().mean()
    # Those outside are replaced by draws from the prior, of which the proposal sees some or all.
    assert 0.9 - flow.outside < float(mass) < 1.1


def test_a_flows_density_does_not_depend_on_what_was_drawn(model, star):
    priors = {"teff": Uniform(low=4740, high=4745)}
    fresh, _ = flow_of(model, star, priors)
    used, _ = flow_of(model, star, priors)
    u = torch.randn(50, 6, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    before = fresh.log_prob(u)
    used.sample(100, torch.Generator().manual_seed(1))
    used.sample(2000, torch.Generator().manual_seed(2))
    torch.testing.assert_close(used.log_prob(u), before, rtol=0, atol=0)
    assert used.outside == fresh.outside > 0.5
    # One evaluated beside another that has drawn is the same.
    beside, _ = flow_of(model, star, priors)
    both = Flow.log_probs([(used, u), (beside, u)])
    torch.testing.assert_close(both[1], before, rtol=0, atol=1e-6)


def test_flow_refuses_wider_priors(model, star):
    with pytest.raises(LabelError, match=r"prior of teff: \[3000, 4800\] reaches beyond"):
        flow_of(model, star, {"teff": Uniform(low=3000, high=4800)})


def test_posterior_under_a_prior(model, star):
    prior = TruncatedNormal(low=0.5, high=5.1, mean=2.55, sigma=0.002)
    posterior = maury.infer(star, model, priors={"logg": prior})
    assert posterior.summary()["logg"]["std"] < 0.0022
    assert posterior.khat < 0.7
    with pytest.raises(LabelError, match="mass"):
        maury.infer(star, model, priors={"mass": prior})


def test_spectrum_at_rest(model, star):
    """Its velocity is searched near 0, unless the caller says otherwise."""
    at_rest = replace(star, frame="rest")
    assert labels_for(at_rest, model, {})["v_rad"].prior == Uniform(low=-30, high=30)
    wide = Uniform(low=-100, high=100)
    assert labels_for(at_rest, model, {"v_rad": wide})["v_rad"].prior == wide
    assert labels_for(star, model, {})["v_rad"].prior == Uniform(low=-200, high=200)


def test_models_by_evidence(star):
    posterior = maury.infer(star, "auto")
    assert posterior.model == "kurucz-apogee"
    tried = {entry.model: entry for entry in posterior.diagnostics.models}
    assert set(tried) == {"btsettl-apogee", "kurucz-apogee"}
    assert tried["kurucz-apogee"].probability > 0.999
    assert tried["kurucz-apogee"].log_evidence == pytest.approx(posterior.log_evidence)


def test_m_dwarf_by_evidence():
    model = load_model("btsettl-apogee")
    truth = {"teff": 3050.0, "logg": 5.1, "m_h": 0.0, "v_rad": 12.0, "v_sini": 8.0, "jitter": 0.005}
    star = simulate_visit(model, truth, snr=80, seed=2, v_correction=None)
    posterior = maury.infer(star, "auto")
    assert posterior.model == "btsettl-apogee"
    for name, entry in posterior.summary().items():
        assert abs(entry["mean"] - truth[name]) < 4 * entry["std"], name


def test_files_of_many_spectra(model, star, tmp_path):
    coadded, _, _ = next(simulated_spectra(model, 1, "apstar", seed=1))
    coadded = replace(coadded, v_correction=3.0)
    write_apstar(tmp_path / "many.fits", [coadded, coadded])
    write_apvisit(tmp_path / "one.fits", star)
    (tmp_path / "bad.fits").write_text("no")
    files = [tmp_path / "bad.fits", tmp_path / "one.fits", tmp_path / "many.fits"]
    stages = []
    bad, *good = infer_files(files, model, draws=300, progress=stages.append)
    assert isinstance(bad, Failure)
    assert bad.flag == "unreadable"
    assert [(Path(p.spectrum.path).name, p.spectrum.index) for p in good] == [
        ("one.fits", 0),
        ("many.fits", 0),
        ("many.fits", 1),
        ("many.fits", 2),
    ]
    assert f"{files[2]} [1]: weigh" in stages


def test_missing_line_spread_function(star):
    """A library without one cannot guess the detector's."""
    model = load_model("btsettl-apogee")
    with pytest.raises(maury.MauryError, match="line-spread"):
        maury.infer(replace(star, lsf=None), model)


def test_no_signal_at_all(model, star):
    empty = replace(star, flux=np.zeros_like(star.flux))
    try:
        posterior = maury.infer(empty, model)
    except maury.MauryError:
        return
    assert posterior.flag_warn


def told(log_evidence, *flags):
    bad = tuple(flag for flag in flags if flag == "no_star")
    return SimpleNamespace(
        log_evidence=log_evidence, flag_bad=bad, flag_warn=tuple(f for f in flags if f not in bad)
    )


def test_a_star_at_the_end_of_a_library_is_the_other_librarys():
    warm, cool = told(10.0, "at_bound:teff", "at_bound:logg"), told(-500.0, "at_bound:logg")
    assert likeliest([warm, cool]) is cool
    assert likeliest([warm, told(9.0, "at_bound:teff")]) is warm
    assert likeliest([cool, told(0.0)]).log_evidence == 0.0


def test_a_library_that_sees_no_star_gives_way_to_one_that_does():
    """A late M dwarf is no star of a library that begins at 3500 K, and has more evidence as a continuum with much noise."""
    none, cool = told(10.0, "no_star"), told(-500.0, "at_bound:teff")
    assert likeliest([none, cool]) is cool
    assert likeliest([none, told(9.0, "no_star")]) is none
    assert [left_out(p) for p in (none, cool, told(0.0))] == [
        "sees no star",
        "at the end of its temperatures",
        "",
    ]
