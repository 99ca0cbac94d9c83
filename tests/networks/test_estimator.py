"""Preparation, flow and estimator: exact changes of variables, and no draw outside the prior."""

import pytest
import torch

from maury.errors import ModelError
from maury.labels import Uniform
from maury.models import load_model
from maury.networks.estimator import AlignedVelocity, Estimator
from maury.networks.flows import LocatedSplineFlow
from maury.spectra.spectrum import apstar_grid
from maury.training.simulations import Observing, Simulator


@pytest.fixture(scope="module")
def model():
    return load_model()


@pytest.fixture(scope="module")
def simulation(model):
    simulator = Simulator(model.forward, model.labels, apstar_grid(), Observing())
    return simulator(64, torch.Generator().manual_seed(0))


def test_aligned_velocity_is_a_bijection_onto_the_prior():
    prior = Uniform(low=-200, high=200)
    for centre in (-200.0, -37.5, 0.0, 199.0):
        velocity = AlignedVelocity(prior, torch.tensor(centre, dtype=torch.float64), 1.0)
        z = torch.linspace(-6, 6, 401, dtype=torch.float64)
        v = velocity.from_normal(z)
        assert (v >= -200).all()
        assert (v <= 200).all()
        inner = z.abs() < 4
        back, log_det = velocity.to_normal(v)
        torch.testing.assert_close(back[inner], z[inner], atol=1e-6, rtol=0)
        step = 1e-5
        slope = (velocity.from_normal(z + step) - velocity.from_normal(z - step)) / (2 * step)
        torch.testing.assert_close(-log_det[inner], slope.log()[inner], atol=1e-4, rtol=0)


def test_flow_integrates_to_one_in_two_dimensions():
    torch.manual_seed(0)
    flow = LocatedSplineFlow(2, 3, transforms=2, bins=6, hidden=(16,))
    context = torch.randn(3)
    axis = torch.linspace(-12, 12, 601)
    grid = torch.cartesian_prod(axis, axis)
    with torch.no_grad():
        location, log_scale = flow._locate(context)
        points = location + grid * log_scale.exp()
        density = flow.log_prob(points, context.expand(len(points), -1)).exp()
    total = density.sum() * (axis[1] - axis[0]) ** 2 * log_scale.exp().prod()
    assert float(total) == pytest.approx(1, abs=5e-3)


def test_no_draw_leaves_the_prior(model, simulation):
    estimator = model.estimator
    context, v_align = estimator.context(simulation.flux, simulation.ivar)
    generator = torch.Generator().manual_seed(1)
    for i in range(8):
        u = estimator.sample(20_000, context[i], v_align[i], generator)
        theta = estimator.labels.from_normal(u)
        assert torch.isfinite(theta).all()
        assert (theta >= estimator.labels.low).all()
        assert (theta <= estimator.labels.high).all()


def test_samples_and_density_agree(model, simulation):
    """The mean of p/q over draws of q is 1 for a density p that q covers: here p is q of a neighbouring context."""
    estimator = model.estimator
    context, v_align = estimator.context(simulation.flux, simulation.ivar)
    u = estimator.sample(4000, context[0], v_align[0], torch.Generator().manual_seed(2))
    near = context[:1] + 0.02 * torch.randn(context.shape[1], generator=torch.Generator().manual_seed(3))
    q = estimator.log_prob(u, context[:1].expand(len(u), -1), v_align[:1].expand(len(u)))
    p = estimator.log_prob(u, near.expand(len(u), -1), v_align[:1].expand(len(u)))
    ratio = (p - q).exp()
    assert abs(float(ratio.mean()) - 1) < 5 * float(ratio.std()) / len(u) ** 0.5 + 0.02


def test_alignment_finds_the_velocity(model, simulation):
    _, v_align = model.estimator.context(simulation.flux, simulation.ivar)
    error = (v_align - simulation.labels[:, 4]).abs()
    assert float(error.median()) < 3
    assert float((error > 20).double().mean()) < 0.05


def test_preparation_ignores_masked_flux_and_unit(model, simulation):
    preparation = model.estimator.preparation
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
        simulation = Simulator(model.forward, model.labels, apstar_grid(), observing).observe(
            labels, torch.Generator().manual_seed(6)
        )
        context, v_align = estimator.context(simulation.flux, simulation.ivar)
        draws = (estimator.sample(400, c, v) for c, v in zip(context, v_align, strict=True))
        widths.append(torch.stack([d.std(0) for d in draws])[:, :4].median(0).values)
    assert (widths[1] < 0.5 * widths[0]).all()


def test_round_trip_on_disk(model, simulation, tmp_path):
    path = tmp_path / "estimator.safetensors"
    model.estimator.save(path)
    again = Estimator.load(path, model.forward)
    for a, b in zip(
        model.estimator.context(simulation.flux[:4], simulation.ivar[:4]),
        again.context(simulation.flux[:4], simulation.ivar[:4]),
        strict=True,
    ):
        torch.testing.assert_close(a, b)
    path.with_suffix(".json").write_text("{}")
    with pytest.raises(ModelError, match="estimator"):
        Estimator.load(path, model.forward)
