"""Lines of an element: where they are, and that together they say what the posterior says."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch

from maury.inference.infer import infer
from maury.likelihood.influence import Influence
from maury.models import load_model
from maury.posterior.abundances import agreement
from maury.posterior.diagnostics import ElementLine
from maury.training.demo import TRUTH, simulate_visit


@pytest.fixture(scope="module")
def posterior():
    model = load_model("marcs-apogee")
    everything = replace(model, problem=model.problem.inferring(["al_m"]))
    spectrum = simulate_visit(everything, TRUTH | {"al_m": 0.3}, snr=150, seed=4, v_correction=0.0)
    return infer(spectrum, model, labels="al_fe", draws=200)


def test_lines_of_aluminium(posterior):
    lines = [line for line in posterior.diagnostics.lines if line.label == "al_m"]
    found = np.array([line.wavelength for line in lines])
    # The strong ones of the H band, vacuum.
    for known in (16723.5, 16755.1):
        assert np.abs(found - known).min() < 1.5
    assert all(a.wavelength < b.wavelength for a, b in itertools.pairwise(lines))
    assert sum(line.share for line in lines) <= 1.01
    number, p = agreement(lines, "al_m")
    assert number == len(lines) > 1
    assert p > 1e-3


def test_all_pixels_together_say_what_the_posterior_says(posterior):
    target = posterior.target
    best = posterior.draws[(posterior.log_likelihood + posterior.log_prior).argmax()]
    u = target.labels.to_normal(torch.from_numpy(best))
    place = target.labels.index("al_m")
    information, _ = Influence.at(target, u).alone(place)
    scale = float(target.labels.scale(u[None])[0, place])
    # The prior tells too.
    told = scale / np.sqrt(information.sum() + 1)
    assert told == pytest.approx(posterior.summary()["al_m"]["std"], rel=0.25)


def test_lines_that_disagree():
    lines = [ElementLine("ca_m", 16000.0 + i, 0.2, v, 0.05) for i, v in enumerate((0.0, 0.02, -0.4, 0.01))]
    assert agreement(lines, "ca_m")[1] < 1e-6
    assert agreement(lines[:1], "ca_m") == (1, 1.0)
    assert agreement(lines, "mg_m") == (0, 1.0)
