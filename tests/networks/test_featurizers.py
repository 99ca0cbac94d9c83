"""Featurizers: each takes spectra with errors and masks, and gives features of the size it promises."""

import json

import pytest
import torch

from maury.errors import ConfigError, ModelError
from maury.likelihood.problem import Problem
from maury.networks.config import Module, NetworkConfig, ResNet, Setting, Transformer
from maury.networks.estimator import Estimator
from maury.networks.newton import Newton
from maury.networks.prepare import network_ranges, preparation_of
from maury.networks.transformer import SpectrumTransformer, rotate
from maury.spectra.instrument import apstar_grid
from maury.spectra.linespread import Gaussian
from maury.spectra.seen import profile
from maury.training.fit import take_weights
from maury.training.simulations import Observing, Simulator

HELD = {"alpha_m": 0.0, "jitter": 0.0}
KNOWN = Observing(
    masked=(0.0, 0.1), gap_probability=0, chip_loss_probability=0, continuum_spread=0, emulator_error=False
)
SMALL = {
    "aligned": {"components": 8, "width": 16, "blocks": 1, "features": 8},
    "paper": {"features": 8, "depth": 4, "width": 4, "most": 8},
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
    return Estimator(problem.stellar, config, Setting(problem, apstar_grid().n_pixels, trust_code=True))


def small(kind):
    if kind == "score":
        return {"kind": kind, "aligned": SMALL["aligned"], "width": 16, "blocks": 1, "features": 8}
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
    again = Estimator.load(path, problem, trust_code=kind == "module")
    for one in (estimator, again):
        one.requires_grad_(False)
    first = estimator.context(simulation.flux[:3], simulation.ivar[:3])
    second = again.context(simulation.flux[:3], simulation.ivar[:3])
    assert first.features.shape == (3, estimator.featurizer.n_features)
    torch.testing.assert_close(first.features, second.features)
    theta = problem.stellar.from_normal(again.sample(500, second[1], torch.Generator().manual_seed(0)))
    assert ((theta >= problem.stellar.low) & (theta <= problem.stellar.high)).all()


@pytest.mark.parametrize("kind", [*SMALL, "score"])
def test_templates_are_found_wherever_they_are(problem, kind):
    """The check of stars far from the prior's velocities needs them."""
    found = preparation_of(estimator_of(problem, small(kind)).featurizer)
    assert (found is not None) == (kind in ("aligned", "score"))


@pytest.mark.parametrize("kind", ["paper", "resnet-gru", "transformer", "module", "aligned", "score"])
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
    with pytest.raises(ModelError, match=r"do not fit|tells of"):
        Estimator.load(tmp_path / "e.safetensors", problem)
    other = PlainFeaturizer(FluxOnly(normalise.n_pixels, 5), 5, "flux", normalise)
    Estimator.load(tmp_path / "e.safetensors", problem, other)


@pytest.mark.parametrize(
    ("path", "options", "match"),
    [
        ("no_such_package.Thing", {}, "cannot be imported"),
        ("user_modules.Pooled", {"stretchs": 3}, "cannot be made"),
        ("collections.OrderedDict", {}, "no subclass of torch.nn.Module"),
        ("Pooled", {}, "cannot be imported"),
    ],
)
def test_a_module_that_cannot_be_had(problem, path, options, match):
    with pytest.raises(ConfigError, match=match):
        Module(path=path, options=options).build(Setting(problem, apstar_grid().n_pixels, trust_code=True))


def test_a_loaded_card_runs_nothing(problem, tmp_path, monkeypatch):
    """What a card names is neither imported nor called, unless the caller trusts it."""
    from user_modules import Pooled

    path = tmp_path / "estimator.safetensors"
    estimator_of(problem, small("module")).save(path)
    monkeypatch.setattr("importlib.import_module", lambda name: pytest.fail(f"{name} was imported"))
    with pytest.raises(ModelError, match=r"user_modules.Pooled.*--trust-code"):
        Estimator.load(path, problem)
    Estimator.load(path, problem, module=Pooled)
    with pytest.raises(ModelError, match="no subclass"):
        Estimator.load(path, problem, module=print)


def test_what_is_no_network_is_not_called(problem, tmp_path, monkeypatch):
    """``torch.hub.load`` runs what lies beside it: as a name it is code, and no network."""
    called = []
    monkeypatch.setattr("torch.hub.load", lambda **options: called.append(options))
    path = tmp_path / "estimator.safetensors"
    estimator_of(problem, small("module")).save(path)
    card = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
    card["network"]["featurizer"] |= {"path": "torch.hub.load", "options": {"repo_or_dir": str(tmp_path)}}
    path.with_suffix(".json").write_text(json.dumps(card), encoding="utf-8")
    for trust in (False, True):
        with pytest.raises(ModelError):
            Estimator.load(path, problem, trust_code=trust)
    assert not called


def test_a_module_of_the_wrong_size_is_told_which_is_right(problem, simulation):
    estimator = estimator_of(
        problem, {"kind": "module", "path": "user_modules.WrongSize", "features": 8, "inputs": "flux"}
    )
    with pytest.raises(ModelError, match=r"WrongSize: returned \(24, 9\) .* shape \(n, 8\)"):
        estimator.context(simulation.flux, simulation.ivar)


def test_sizes_of_resnet_gru():
    network = ResNet()._network(7500)
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
    """From a guess a few sigma off, steps land within a sigma or so, for almost all spectra."""
    newton = Newton(problem, network_ranges(problem.forward.emulator, problem.spectrograph), "none")
    truth = problem.stellar.to_normal(simulation.labels[:, problem.columns(problem.stellar)])
    instrument = problem.spectrograph
    seen = torch.from_numpy(profile(Gaussian(22_500.0, integrate=False), instrument.grid, instrument))
    data = (simulation.flux, simulation.ivar, seen.expand(len(truth), -1, -1, -1, -1))
    exact = newton(truth, *data, 1)
    sigma = torch.linalg.inv(exact.precision).diagonal(dim1=1, dim2=2).sqrt().clamp_max(0.1)
    t = torch.special.ndtr(truth) + 2 * sigma * torch.randn(
        truth.shape, generator=torch.Generator().manual_seed(1)
    )
    found = newton(torch.special.ndtri(t.clamp(1e-3, 1 - 1e-3)), *data, 3)
    off = newton.coordinates(truth) - found.mean
    chi2 = (off[:, None] @ found.precision @ off[..., None])[:, 0, 0] / truth.shape[1]
    assert 0.3 < float(chi2.median()) < 1.6
    assert float((chi2 < 4).double().mean()) > 0.85
    assert not found.jitter.any()


def test_score_takes_its_guess_from_an_aligned_estimator(problem, tmp_path):
    aligned = estimator_of(problem, small("aligned"))
    aligned.featurizer.preparation.components.neg_()
    aligned.featurizer.preparation._derive()
    aligned.save(tmp_path / "aligned.safetensors")
    score = estimator_of(problem, small("score"))
    before = {name: value.clone() for name, value in score.flow.state_dict().items()}
    taken = take_weights(score, tmp_path / "aligned.safetensors")
    assert "featurizer.guess.0.weight" in taken
    # With templates and components comes what follows from them: training sees what a saved estimator will.
    own, other = score.featurizer.aligned.preparation, aligned.featurizer.preparation
    for name in ("design", "products", "shifted", "precision"):
        torch.testing.assert_close(getattr(own, name), getattr(other, name))
    torch.testing.assert_close(score.featurizer.guess[2].weight, aligned.flow.head[2].weight)
    # The flows work in other coordinates.
    assert not any(name.startswith("flow.") for name in taken)
    for name, value in score.flow.state_dict().items():
        torch.testing.assert_close(value, before[name])


def test_one_spectrum_that_is_no_number_takes_no_other_with_it(problem, simulation):
    estimator = estimator_of(problem, small("score")).eval().requires_grad_(False)
    flux = simulation.flux.clone()
    flux[1] = torch.nan
    alone = estimator.context(simulation.flux[:1], simulation.ivar[:1])
    both = estimator.context(flux[:2], simulation.ivar[:2])
    torch.testing.assert_close(both.frame.mean[0], alone.frame.mean[0], atol=1e-4, rtol=1e-4)
    assert both.frame.mean.isfinite().all()
    assert both.frame.factor.isfinite().all()
