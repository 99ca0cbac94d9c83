"""Preparation, flow and estimator: exact changes of variables, and no draw outside the prior."""

import json
from copy import deepcopy

import pytest
import torch

from maury.errors import ModelError
from maury.models import load_model
from maury.networks.context import AlignedFrame, Context
from maury.networks.estimator import Estimator
from maury.priors import Uniform
from maury.spectra.instrument import apstar_grid
from maury.training.simulations import Observing, Simulator


@pytest.fixture(scope="module")
def model():
    return load_model()


@pytest.fixture(scope="module")
def simulation(model):
    simulator = Simulator(model.problem, apstar_grid(), Observing())
    return simulator(64, torch.Generator().manual_seed(0))


def test_aligned_velocity_is_a_bijection_onto_the_prior():
    prior = Uniform(low=-200, high=200)
    for centre in (-200.0, -37.5, 0.0, 199.0):
        z = torch.linspace(-6, 6, 401, dtype=torch.float64)
        velocity = AlignedFrame(prior, 0, torch.full_like(z, centre), 1.0)
        v = velocity.velocity_from_normal(z)
        assert (v >= -200).all()
        assert (v <= 200).all()
        inner = z.abs() < 4
        back, log_det = velocity.velocity_to_normal(v)
        torch.testing.assert_close(back[inner], z[inner], atol=1e-6, rtol=0)
        step = 1e-5
        slope = (velocity.velocity_from_normal(z + step) - velocity.velocity_from_normal(z - step)) / (
            2 * step
        )
        torch.testing.assert_close(-log_det[inner], slope.log()[inner], atol=1e-4, rtol=0)


def test_no_draw_leaves_the_prior(model, simulation):
    estimator = model.estimator
    context = estimator.context(simulation.flux, simulation.ivar)
    generator = torch.Generator().manual_seed(1)
    for i in range(8):
        u = estimator.sample(20_000, context[i], generator)
        theta = estimator.labels.from_normal(u)
        assert torch.isfinite(theta).all()
        assert (theta >= estimator.labels.low).all()
        assert (theta <= estimator.labels.high).all()


def test_samples_and_density_agree(model, simulation):
    """The mean of p/q over draws of q is 1 for a density p that q covers: here p is q of a neighbouring context."""
    estimator = model.estimator
    context = estimator.context(simulation.flux, simulation.ivar)[0]
    u = estimator.sample(4000, context, torch.Generator().manual_seed(2))
    shape = context.features.shape
    near = context.features + 0.02 * torch.randn(shape, generator=torch.Generator().manual_seed(3))
    q = estimator.log_prob(u, context.repeat(len(u)))
    p = estimator.log_prob(u, Context(near, context.frame).repeat(len(u)))
    ratio = (p - q).exp()
    assert abs(float(ratio.mean()) - 1) < 5 * float(ratio.std()) / len(u) ** 0.5 + 0.02


def test_alignment_finds_the_velocity(model, simulation):
    context = model.estimator.context(simulation.flux, simulation.ivar)
    error = (context.frame.v_align - simulation.labels[:, 4]).abs()
    assert float(error.median()) < 3
    assert float((error > 20).double().mean()) < 0.05


def test_preparation_ignores_masked_flux_and_unit(model, simulation):
    preparation = model.estimator.featurizer.preparation
    junk = torch.where(simulation.ivar > 0, simulation.flux, 1e4)
    first, second = preparation(simulation.flux, simulation.ivar), preparation(junk, simulation.ivar)
    torch.testing.assert_close(first.pixels, second.pixels, atol=1e-4, rtol=0)
    third = preparation(simulation.flux * 50, simulation.ivar / 2500)
    torch.testing.assert_close(first.pixels, third.pixels, atol=5e-3, rtol=0)


def test_better_data_give_narrower_flows(model):
    estimator = model.estimator
    labels = model.labels.sample(24, torch.Generator().manual_seed(5))
    labels[:, -1] = 1e-3
    widths = []
    for snr in (15.0, 250.0):
        observing = Observing(snr=(snr, snr * 1.001))
        simulation = Simulator(model.problem, apstar_grid(), observing).observe(
            labels, torch.Generator().manual_seed(6)
        )
        context = estimator.context(simulation.flux, simulation.ivar)
        draws = (
            estimator.sample(400, context[i], torch.Generator().manual_seed(i)) for i in range(len(labels))
        )
        widths.append(torch.stack([d.std(0) for d in draws])[:, :4].median(0).values)
    assert (widths[1] < 0.5 * widths[0]).all()


def test_round_trip_on_disk(model, simulation, tmp_path):
    path = tmp_path / "estimator.safetensors"
    model.estimator.save(path)
    again = Estimator.load(path, model.problem)
    first, second = (
        estimator.context(simulation.flux[:4], simulation.ivar[:4]) for estimator in (model.estimator, again)
    )
    torch.testing.assert_close(first.features, second.features)
    torch.testing.assert_close(first.frame.v_align, second.frame.v_align)


def test_files_that_do_not_fit_are_refused(model, tmp_path):
    path = tmp_path / "estimator.safetensors"
    model.estimator.save(path)
    card = json.loads(path.with_suffix(".json").read_text())
    for changes, match in (
        ({"format": 1}, "is of format 1, this version of maury reads 2"),
        ({"labels": card["labels"][:-1]}, "infers .*, the model"),
        ({"network": {"featurizer": {"kind": "alined"}}}, "do not fit together"),
        ({"network": {}, "labels": card["labels"], "n_pixels": "x"}, "n_pixels must be a whole number"),
    ):
        path.with_suffix(".json").write_text(json.dumps(card | changes))
        with pytest.raises(ModelError, match=match):
            Estimator.load(path, model.problem)
    path.with_suffix(".json").write_text("{}")
    with pytest.raises(ModelError, match="estimator"):
        Estimator.load(path, model.problem)


def test_half_precision_costs_next_to_nothing(model, simulation, tmp_path):
    estimator = deepcopy(model.estimator)
    with torch.no_grad():
        for parameter in estimator.parameters():
            # The shipped weights are rounded already.
            parameter += (
                1e-4
                * parameter.abs()
                * torch.rand(parameter.shape, generator=torch.Generator().manual_seed(1))
            )
    paths = [tmp_path / "whole.safetensors", tmp_path / "half.safetensors"]
    estimator.save(paths[0])
    estimator.save(paths[1], half=True)
    whole, half = (Estimator.load(path, model.problem) for path in paths)
    assert "precision" in half.card
    assert "precision" not in whole.card
    assert paths[1].stat().st_size < 0.6 * paths[0].stat().st_size
    changed = {k for k, v in half.state_dict().items() if not torch.equal(v, whole.state_dict()[k])}
    assert changed
    assert all(name.startswith("featurizer.") and name.endswith(".weight") for name in changed)
    assert {v.dtype for v in half.state_dict().values() if v.is_floating_point()} == {torch.float32}
    u = model.problem.stellar.to_normal(simulation.labels[:, model.problem.columns(model.problem.stellar)])
    a, b = (e.log_prob(u, e.context(simulation.flux, simulation.ivar)) for e in (whole, half))
    assert (a - b).abs().mean() < 0.01
