"""Featurizers: each takes spectra with errors and masks, and gives features of the size it promises."""

import pytest
import torch

from maury.errors import ConfigError, ModelError
from maury.likelihood.problem import Problem
from maury.networks.config import Module, NetworkConfig, PaperNetwork, Score, Setting, Transformer
from maury.networks.estimator import Estimator
from maury.networks.transformer import SpectrumTransformer, rotate
from maury.spectra.instrument import apstar_grid
from maury.training.simulations import Observing, Simulator

HELD = {"alpha_m": 0.0, "jitter": 0.0}
KNOWN = Observing(
    masked=(0.0, 0.1), gap_probability=0, chip_loss_probability=0, continuum_spread=0, emulator_error=False
)
SMALL = {
    "aligned": {"components": 8, "width": 16, "blocks": 1, "features": 8},
    "resnet-gru": {"features": 8, "depth": 4, "width": 4, "most": 8},
    "transformer": {"features": 8, "width": 16, "layers": 1, "patch": 256},
    "module": {"features": 8, "path": "user_modules.Pooled", "options": {"stretches": 16}},
}


@pytest.fixture(scope="module")
def problem(forward, labels):
    return Problem(forward, labels, HELD, None, False)


@pytest.fixture(scope="module")
def simulation(problem):
    return Simulator(problem, apstar_grid(), KNOWN)(24, torch.Generator().manual_seed(3))


def estimator_of(problem, featurizer, flow=None):
    flow = flow or {"kind": "nsf", "transforms": 1, "hidden": [8]}
    config = NetworkConfig.model_validate({"featurizer": featurizer, "flow": flow})
    return Estimator(problem.stellar, config, Setting(problem, apstar_grid().n_pixels))


def small(kind):
    if kind == "score":
        return {"kind": kind, "aligned": SMALL["aligned"]}
    return {"kind": kind, **SMALL[kind]}


@pytest.mark.parametrize("kind", [*SMALL, "score"])
def test_each_featurizer_trains_saves_loads_and_infers(problem, simulation, tmp_path, kind):
    torch.manual_seed(0)
    estimator = estimator_of(problem, small(kind))
    u = problem.stellar.to_normal(simulation.labels[:, problem.columns(problem.stellar)])
    loss = estimator.loss(u, estimator.context(simulation.flux, simulation.ivar)).mean()
    loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in estimator.featurizer.parameters())
    path = tmp_path / "estimator.safetensors"
    estimator.eval().save(path)
    again = Estimator.load(path, problem)
    for one in (estimator, again):
        one.requires_grad_(False)
    first = estimator.context(simulation.flux[:3], simulation.ivar[:3])
    second = again.context(simulation.flux[:3], simulation.ivar[:3])
    assert first.features.shape == (3, estimator.featurizer.n_features)
    torch.testing.assert_close(first.features, second.features)
    theta = problem.stellar.from_normal(again.sample(500, second[1], torch.Generator().manual_seed(0)))
    assert ((theta >= problem.stellar.low) & (theta <= problem.stellar.high)).all()


@pytest.mark.parametrize("kind", ["resnet-gru", "transformer", "module", "aligned", "score"])
def test_what_is_masked_does_not_matter(problem, simulation, kind):
    estimator = estimator_of(problem, small(kind)).eval().requires_grad_(False)
    junk = torch.where(simulation.ivar > 0, simulation.flux, 1e4)
    first = estimator.context(simulation.flux, simulation.ivar)
    second = estimator.context(junk, simulation.ivar)
    torch.testing.assert_close(first.features, second.features, atol=2e-3, rtol=1e-3)


def test_a_module_made_by_hand(problem, simulation, tmp_path):
    from user_modules import FluxOnly

    from maury.networks.plain import PlainFeaturizer

    setting = Setting(problem, apstar_grid().n_pixels)
    normalise = setting.normalise()
    featurizer = PlainFeaturizer(FluxOnly(normalise.n_pixels, 5), 5, "flux", normalise)
    config = NetworkConfig.model_validate({"flow": {"kind": "maf", "transforms": 2, "hidden": [8]}})
    estimator = Estimator(problem.stellar, config, setting, featurizer=featurizer)
    assert estimator.context(simulation.flux, simulation.ivar).features.shape == (24, 5)
    estimator.save(tmp_path / "e.safetensors")
    with pytest.raises(ModelError, match="do not fit"):
        Estimator.load(tmp_path / "e.safetensors", problem)
    other = PlainFeaturizer(FluxOnly(normalise.n_pixels, 5), 5, "flux", normalise)
    Estimator.load(tmp_path / "e.safetensors", problem, other)


@pytest.mark.parametrize(
    ("path", "options", "match"),
    [
        ("no_such_package.Thing", {}, "cannot be imported"),
        ("user_modules.Pooled", {"stretchs": 3}, "cannot be made"),
        ("collections.OrderedDict", {}, "made no torch"),
        ("Pooled", {}, "cannot be imported"),
    ],
)
def test_a_module_that_cannot_be_had(problem, path, options, match):
    with pytest.raises(ConfigError, match=match):
        Module(path=path, options=options).build(Setting(problem, apstar_grid().n_pixels))


def test_a_module_of_the_wrong_size_is_told_which_is_right(problem, simulation):
    estimator = estimator_of(
        problem, {"kind": "module", "path": "user_modules.WrongSize", "features": 8, "inputs": "flux"}
    )
    with pytest.raises(ModelError, match=r"WrongSize: returned \(24, 9\) .* shape \(n, 8\)"):
        estimator.context(simulation.flux, simulation.ivar)


def test_the_papers_sizes():
    network = PaperNetwork()._network(7500)
    channels = [block.first.out_channels for block in network.blocks]
    assert channels == [32, 64, 128, 256, 512, 512, 512, 512]
    assert network.gru.num_layers == 2
    assert network(torch.ones(2, 7500)).shape == (2, 256)


def test_heads_must_divide_the_width():
    with pytest.raises(ConfigError, match="must be even"):
        Transformer(width=20, heads=4)._network(100)


def test_rotary_attention_depends_on_distance_alone():
    generator = torch.Generator().manual_seed(0)
    q, k = torch.randn(2, 8, generator=generator)
    q, k = (rotate(x.expand(1, 1, 12, 8)) for x in (q, k))
    scores = (q @ k.mT)[0, 0]
    for offset in range(-5, 6):
        diagonal = scores.diagonal(offset)
        torch.testing.assert_close(diagonal, diagonal[:1].expand_as(diagonal), atol=1e-4, rtol=1e-4)


def test_learned_positions_see_order():
    torch.manual_seed(0)
    network = SpectrumTransformer(64, 1, 4, patch=8, width=16, layers=1, positions="learned").eval()
    x = torch.rand(2, 64)
    assert not torch.allclose(network(x), network(x.flip(1)), atol=1e-4)


def test_score_is_near_the_truth_and_its_information(problem, simulation):
    """From a guess a few sigma off, one step lands within a sigma or so, for almost all spectra."""
    torch.manual_seed(0)
    featurizer = Score.model_validate({"aligned": SMALL["aligned"]}).build(
        Setting(problem, apstar_grid().n_pixels)
    )
    truth = problem.stellar.to_normal(simulation.labels[:, problem.columns(problem.stellar)])
    with torch.no_grad():
        _, exact, _ = featurizer._newton(truth, simulation.flux, simulation.ivar)
        sigma = torch.linalg.inv(exact @ exact.mT).diagonal(dim1=1, dim2=2).sqrt()
        start = truth + 2 * sigma * torch.randn(truth.shape, generator=torch.Generator().manual_seed(1))
        centre, factor, jitter = featurizer._newton(start, simulation.flux, simulation.ivar)
    z = ((truth - centre)[:, None] @ factor)[:, 0]
    assert float(z.square().mean(1).median()) < 1.6
    assert float((z.square().mean(1) < 4).double().mean()) > 0.9
    assert not jitter.any()
