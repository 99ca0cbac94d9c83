"""The out-of-distribution score: uniform p-values where nothing is new, small ones where something is, and nothing lost on disk."""

from __future__ import annotations

import pytest
import torch
from scipy import stats

from maury.errors import ModelError
from maury.models import load_model
from maury.networks.novelty import Novelty
from maury.training.simulations import ProblemConfig, build_simulator


@pytest.fixture(scope="module")
def model():
    return load_model()


@pytest.fixture(scope="module")
def simulation():
    return build_simulator(ProblemConfig())(300, torch.Generator().manual_seed(99))


def test_p_values_of_new_simulations_are_uniform(model, simulation):
    p = model.novelty.p_value(model.estimator, simulation.flux, simulation.ivar)
    assert stats.kstest(p.numpy(), "uniform").pvalue > 0.01
    assert ((p > 0) & (p <= 1)).all()


def test_units_of_the_flux_do_not_matter(model, simulation):
    flux, ivar = simulation.flux[:20], simulation.ivar[:20]
    p = model.novelty.p_value(model.estimator, flux, ivar)
    torch.testing.assert_close(
        model.novelty.p_value(model.estimator, 50 * flux, ivar / 2500), p, atol=0.02, rtol=0
    )


def test_what_is_no_spectrum_is_new(model, simulation):
    flux = simulation.flux[:10].flip(1)
    assert (
        model.novelty.p_value(model.estimator, flux, simulation.ivar[:10].flip(1)) < 0.01
    ).float().mean() > 0.5


def test_it_survives_the_disk(model, simulation, tmp_path):
    path = tmp_path / "novelty.safetensors"
    model.novelty.save(path)
    again = Novelty.load(path)
    p, q = (n.p_value(model.estimator, simulation.flux, simulation.ivar) for n in (model.novelty, again))
    torch.testing.assert_close(p, q)
    path.write_bytes(b"nothing")
    with pytest.raises(ModelError, match="cannot be read"):
        Novelty.load(path)
