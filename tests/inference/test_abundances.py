"""Elements beside the other labels: found where the spectrum tells of them, their prior where it does not."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from maury.errors import InferenceError, LabelError
from maury.inference.abundances import tied_labels
from maury.inference.infer import infer
from maury.inference.options import Options
from maury.models import load_model
from maury.training.demo import TRUTH, simulate_visit

ASKED = ("mg_m", "si_m", "ce_m")


@pytest.fixture(scope="module")
def model():
    return load_model("marcs-apogee")


@pytest.fixture(scope="module")
def found(model):
    everything = replace(model, problem=model.problem.inferring(ASKED))
    truth = TRUTH | {"alpha_m": 0.1, "mg_m": 0.35, "si_m": -0.1, "ce_m": 0.05}
    spectrum = simulate_visit(everything, truth, snr=120, seed=4, v_correction=0.0)
    return truth, infer(spectrum, model, labels="mg_fe,si_fe,ce_fe", seed=2)


def test_abundances_are_found_about_what_they_follow_elsewhere(found):
    truth, posterior = found
    assert posterior.labels.names[:10] == (
        "teff", "logg", "m_h", "alpha_m", "c_m", "n_m", "v_micro", "mg_m", "si_m", "ce_m",
    )  # fmt: skip
    summary = posterior.summary()
    for name in ("teff", "m_h", "mg_m", "si_m", "ce_m"):
        assert abs(summary[name]["p50"] - truth[name]) < 4 * summary[name]["std"], name
    assert summary["mg_m"]["std"] < 0.05
    assert posterior.khat < 0.7
    assert posterior.ess > 100
    # Both are far from what they follow.
    assert summary["mg_m"]["p50"] - summary["si_m"]["p50"] > 0.3


def test_elements_are_told_over_iron_and_over_hydrogen(found):
    _, posterior = found
    told = {entry.element: entry for entry in posterior.diagnostics.abundances}
    assert list(told) == ["C", "N", "Mg", "Si", "Ce"]
    mg, m_h = told["Mg"], posterior.labels.index("m_h")
    x = posterior.draws[:, posterior.labels.index("mg_m")] + posterior.draws[:, m_h]
    mean = posterior.weights @ x
    assert mg.h_std == pytest.approx(np.sqrt(posterior.weights @ (x - mean) ** 2))
    assert mg.measured
    assert mg.share < 0.2
    assert mg.fe_ul95 > mg.fe_p84
    assert posterior.to_json()["abundances"][2]["element"] == "Mg"


def test_the_density_is_the_exact_one(found):
    """Log densities of draws, computed anew for all labels at once, are those they were weighed with."""
    _, posterior = found
    some = posterior.draws[:20]
    again = posterior.log_prob(some)
    assert np.allclose(again, (posterior.log_likelihood + posterior.log_prior)[:20], atol=0.02)


def test_evidence_agrees_with_the_weights_of_another_proposal(found):
    """Importance sampling from a normal distribution about the draws, of all labels at once, has the same integral."""
    _, posterior = found
    target, w = posterior.target, torch.from_numpy(posterior.weights)
    u = target.labels.to_normal(torch.from_numpy(posterior.draws))
    mean = w @ u
    covariance = ((u - mean).T * w) @ (u - mean)
    wide = torch.distributions.MultivariateNormal(mean, 1.3 * covariance + 1e-8 * torch.eye(len(mean)))
    torch.manual_seed(3)
    draws = wide.sample((1500,))
    log_weights = target.log_prob(draws) - wide.log_prob(draws)
    evidence = float(torch.logsumexp(log_weights, 0)) - np.log(len(draws))
    assert evidence == pytest.approx(posterior.log_evidence, abs=0.35)


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        ("basic", ()),
        ("mg_fe, teff", ("mg_m",)),
        ("cno", ("o_m", "c12_c13")),
        (["fe_h", "si_m"], ("si_m",)),
        ("basic,ni_fe,na_fe", ("na_m", "ni_m")),
    ],
)
def test_names_that_are_understood(model, choice, expected):
    assert tied_labels(choice, model.problem) == expected


def test_all_elements(model):
    assert len(tied_labels("elements", model.problem)) == 19
    # Where every alpha element is inferred, their mean still has a label: what they scatter about.
    every = model.problem.inferring(tied_labels("elements", model.problem))
    assert len(every.inferred) == 7 + 19 + 3
    assert every.forward.emulator.ties.ties == {}


def test_what_the_library_lacks(model):
    with pytest.raises(LabelError, match="no 'eu_m'"):
        tied_labels("eu_fe", model.problem)
    with pytest.raises(LabelError, match="no elements"):
        tied_labels("elements", load_model("kurucz-apogee").problem)
    with pytest.raises(LabelError, match="teff is not tied"):
        model.problem.inferring(["teff"])
    with pytest.raises(InferenceError, match="needs names"):
        Options(labels=3)
