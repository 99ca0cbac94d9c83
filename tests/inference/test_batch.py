"""Spectra inferred side by side: the same answers as one by one, and none stops the others."""

import numpy as np
import pytest

from maury.checks.calibration import simulated_spectra
from maury.errors import InferenceError
from maury.inference.batch import infer_batch
from maury.inference.infer import infer
from maury.models import load_model

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
