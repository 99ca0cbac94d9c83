"""Spectra inferred side by side: the same answers as one by one, and none stops the others."""

import numpy as np
import pytest
import torch

from maury.batching import Densities, LogLikelihoods, alone, together
from maury.checks.calibration import simulated_spectra
from maury.errors import InferenceError
from maury.inference.infer import infer, infer_batch
from maury.likelihood.batch import log_likelihoods, newtons
from maury.likelihood.target import Target
from maury.models import load_model
from maury.sampling.modes import find_modes

# Of a posterior: about a thousand effective ones.
DRAWS = 2000


@pytest.fixture(scope="module")
def model():
    return load_model("kurucz-apogee")


@pytest.fixture(scope="module")
def spectra(model):
    return [spectrum for spectrum, _, _ in simulated_spectra(model, 3, "apvisit", 5)]


@pytest.fixture(scope="module")
def batch(model, spectra):
    blank = spectra[0].masked(np.ones_like(spectra[0].good))
    return infer_batch([spectra[0], blank, *spectra[1:]], model, draws=DRAWS, seeds=[1, 2, 3, 4])


def test_one_that_cannot_be_inferred_does_not_stop_the_others(batch):
    assert isinstance(batch[1], InferenceError)
    assert batch[1].flag == "all_masked"
    assert [p.method for p in (batch[0], *batch[2:])] == ["refined"] * 3


@pytest.mark.parametrize(("i", "j", "seed"), [(0, 0, 1), (2, 3, 4)])
def test_posteriors_are_those_of_single_spectra(model, spectra, batch, i, j, seed):
    one, other = infer(spectra[i], model, draws=DRAWS, seed=seed), batch[j]
    # Batches round differently, and a climb may then end elsewhere within its tolerance, so that other draws are taken: two sets of
    # these differ by 0.04 in log evidence, 0.05 sigma in a median and a thirtieth in a width (one standard deviation).
    assert one.log_evidence == pytest.approx(other.log_evidence, abs=0.15)
    for name, entry in one.summary().items():
        assert other.summary()[name]["p50"] == pytest.approx(entry["p50"], abs=0.2 * entry["std"])
        assert other.summary()[name]["std"] == pytest.approx(entry["std"], rel=0.2)
    assert np.all(np.abs(one.flow_draws - other.flow_draws) < 1e-3 * np.ptp(one.flow_draws, axis=0))


def test_side_by_side_evaluations_are_the_same(model, spectra):
    targets = [Target(model.problem.likelihood(s), model.labels) for s in spectra]
    generator = torch.Generator().manual_seed(1)
    # More rows than a chunk holds, so that it is cut within a spectrum.
    pairs = [
        (t, 0.5 * torch.randn(n, len(t.labels), generator=generator, dtype=torch.float64))
        for t, n in zip(targets, (20, 30, 1), strict=True)
    ]
    for (target, u), found in zip(pairs, log_likelihoods(pairs), strict=True):
        torch.testing.assert_close(found, target.log_likelihood(u), rtol=1e-6, atol=1e-3)
    for (target, u), (gradient, precision) in zip(pairs, newtons(pairs), strict=True):
        expected = target.newton(u)
        torch.testing.assert_close(
            gradient, expected[0], rtol=1e-3, atol=1e-3 * float(expected[0].abs().max())
        )
        torch.testing.assert_close(
            precision, expected[1], rtol=1e-3, atol=1e-3 * float(expected[1].abs().max())
        )


class Parabola:
    """A likelihood that fails left of its end."""

    def __init__(self, end):
        self.end = end

    def log_prob(self, labels):
        if bool((labels < self.end).any()):
            raise InferenceError("left of the end")
        return -labels.square().sum(1)


class Plain:
    """Labels that are their own u."""

    def from_normal(self, u):
        return u


def ask(end):
    target = Target(Parabola(end), Plain())
    first = yield LogLikelihoods(target, torch.zeros(2, 1))
    second = yield LogLikelihoods(target, torch.full((1, 1), -2.0))
    return float(first.sum() + second.sum())


def test_only_the_one_at_fault_is_told():
    found = together([ask(-5.0), ask(-1.0), ask(-3.0)])
    assert found[0] == found[2] == -4.0
    assert isinstance(found[1], InferenceError)
    with pytest.raises(InferenceError, match="left of the end"):
        alone(ask(-1.0))


def test_an_inference_may_catch_what_goes_wrong():
    def careful():
        try:
            yield from ask(-1.0)
        except InferenceError:
            return "caught"

    assert alone(careful()) == "caught"


def test_a_flow_that_fails_is_told():
    def steps():
        yield Densities(None, torch.zeros(1, 1))

    (found,) = together([steps()])
    assert isinstance(found, AttributeError)


def test_find_modes_is_one_climb(model, spectra):
    target = Target(model.problem.likelihood(spectra[0]), model.labels)
    modes = find_modes(target, torch.zeros(1, len(model.labels), dtype=torch.float64))
    assert modes.u.shape == (1, len(model.labels))
