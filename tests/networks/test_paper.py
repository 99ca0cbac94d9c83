"""The network of Gupta et al. 2024 is nbi's: of its size, and, where nbi is installed (``make peers``), with its numbers."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from maury.errors import ConfigError
from maury.likelihood.problem import Problem
from maury.networks.config import NetworkConfig, PaperNetwork, Setting
from maury.networks.flows import MixtureMAF
from maury.networks.paper import MixtureFlow, PaperFeaturizer
from maury.spectra.instrument import apstar_grid
from maury.training.simulations import Observing, Simulator

# Counted in nbi 0.4.1: n_dims 5 and 3, flow_hidden 256, num_blocks 15, n_mog 4; resnet-gru of dim_out 256, dim_conv_max 512, depth 8, n_rnn
# 2.
WEIGHTS = {5: 18_625_064, 3: 18_596_824}
LABELS, CONTEXT = 3, 6
# Clamps and permutations matter, and no label is alone.
SMALL = {"transforms": 5, "hidden": (12, 12), "components": 3}


def size(module):
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize("n_labels", WEIGHTS)
def test_it_has_as_many_weights_as_nbi(n_labels):
    featurizer = PaperNetwork().build(Setting(None, 7514))
    flow = MixtureMAF().build(n_labels, featurizer.n_features)
    assert size(featurizer) + size(flow) == WEIGHTS[n_labels]
    assert NetworkConfig(featurizer=PaperNetwork(), flow=MixtureMAF()).fewest_weights < WEIGHTS[n_labels]


def test_what_a_card_may_ask_for_is_counted_before_it_is_made():
    vast = NetworkConfig(featurizer=PaperNetwork(), flow=MixtureMAF(hidden=(16_384,), components=16_384))
    assert vast.fewest_weights > 8e8


def test_blocks_begin_at_full_resolution():
    network = PaperFeaturizer(n_features=8, width=2, most=8)
    seen = []
    for module in network.stages:
        module.register_forward_hook(lambda m, _, out: seen.append((type(m).__name__, out.shape[1:])))
    assert network(torch.ones(2, 1024)).shape == (2, 8)
    blocks = [tuple(shape) for name, shape in seen if name == "_Block"]
    assert len(blocks) == 16
    assert blocks[:4] == [(2, 1024), (2, 1024), (4, 512), (4, 512)]
    assert blocks[-1] == (8, 8)
    assert sum(name == "MaxPool1d" for name, _ in seen) == 7


def moved(flow):
    """Weights far enough from their start that clamps are reached."""
    for parameter in flow.parameters():
        parameter.data += 0.3 * torch.randn_like(parameter)
    return flow.eval().requires_grad_(False)


@pytest.fixture(scope="module")
def flow():
    torch.manual_seed(3)
    return moved(MixtureMAF(**SMALL).build(LABELS, CONTEXT))


def test_scales_are_clamped_and_labels_do_not_see_those_after_them(flow):
    context = torch.randn(1, CONTEXT)
    for made in (*flow.affine, flow.mixture):
        slopes = torch.func.jacrev(made)(torch.randn(1, LABELS), context)[0, ..., 0, :]
        for label in range(LABELS):
            assert not slopes[:, label, label:].any()
    far = flow._mixture(torch.full((1, LABELS), 1e3), context)[1]
    assert float(far.abs().max()) == 1


def test_one_label_is_refused():
    with pytest.raises(ConfigError, match="two labels or more"):
        MixtureMAF().build(1, 4)


def test_draws_follow_the_density(flow):
    """Fractions of draws in the cells of a coarse mesh are the integrals of the density there."""
    torch.manual_seed(5)
    two = moved(MixtureMAF(**SMALL).build(2, CONTEXT))
    context = torch.randn(CONTEXT)
    draws = two.sample(40_000, context)
    edges = [torch.linspace(*x.quantile(torch.tensor([0.02, 0.98])).tolist(), 5) for x in draws.T]
    steps = 60
    middles = (torch.arange(steps) + 0.5) / steps
    for i in range(4):
        for j in range(4):
            (a, b), (c, d) = edges[0][i : i + 2].tolist(), edges[1][j : j + 2].tolist()
            cell = torch.cartesian_prod(a + (b - a) * middles, c + (d - c) * middles)
            density = two.log_prob(cell, context.expand(len(cell), -1)).exp().mean() * (b - a) * (d - c)
            low, high = torch.tensor([a, c]), torch.tensor([b, d])
            inside = ((draws >= low) & (draws < high)).all(1).double().mean()
            error = math.sqrt(float(inside) * (1 - float(inside)) / len(draws))
            assert float(density) == pytest.approx(float(inside), abs=5 * error + 2e-3)


def test_its_input_is_scaled_as_nbis(forward, labels):
    """By the mean of the average spectrum, and by its scatter along wavelength."""
    problem = Problem(forward, labels, {"alpha_m": 0.0, "jitter": 0.0}, None, False)
    small = PaperNetwork(features=4, depth=4, width=2, most=4)
    network = small.build(Setting(problem, apstar_grid().n_pixels)).network
    observing = Observing(
        masked=(0, 0),
        gap_probability=0,
        chip_loss_probability=0,
        continuum_spread=0,
        emulator_error=False,
        noise={"kind": "paper"},
    )
    simulator = Simulator(problem, apstar_grid(), observing)
    simulated = simulator(600, torch.Generator().manual_seed(1))
    average = simulated.flux[:, simulator.usable].double().mean(0)
    assert float(network.scales[0]) == pytest.approx(float(average.mean()), abs=2e-3)
    assert float(network.scales[1]) == pytest.approx(float(average.std()), rel=0.1)


# Beside nbi.


@pytest.fixture(scope="module")
def nbi_model():
    return pytest.importorskip("nbi.model", reason="nbi is not installed; make peers installs it")


def copy(to, value):
    assert to.shape == value.shape
    to.data.copy_(value.data)


def copy_norm(convolution, theirs):
    """Weight-normalised: length and direction."""
    copy(convolution.parametrizations.weight.original0, theirs.weight_g)
    copy(convolution.parametrizations.weight.original1, theirs.weight_v)
    copy(convolution.bias, theirs.bias)


def copy_featurizer(ours, theirs):
    blocks = [module for module in theirs.conv.conv if hasattr(module, "conv0")]
    own = [module for module in ours.stages if hasattr(module, "skip")]
    for block, other in zip(own, blocks, strict=True):
        copy_norm(block.first, other.conv.net[0])
        copy_norm(block.second, other.conv.net[2])
        if other.conv0 is not None:
            copy(block.skip.weight, other.conv0.weight)
            copy(block.skip.bias, other.conv0.bias)
    copy_recurrent(ours, theirs.rnn, theirs.linear)


def copy_recurrent(ours, gru, linear):
    ours.gru.load_state_dict(gru.state_dict())
    ours.out.load_state_dict(linear.state_dict())


def copy_flow(ours, theirs):
    modules = list(theirs)
    shuffles, mades = modules[::2], modules[1::2]
    for place, shuffle in enumerate(shuffles):
        np.testing.assert_array_equal(ours.order[place], shuffle.perm)
    for made, other in zip([*ours.affine, ours.mixture], mades, strict=True):
        first = other.joiner if hasattr(other, "joiner") else other.net_input
        rest = other.trunk if hasattr(other, "trunk") else other.net
        layers = [first, *(module for module in rest if hasattr(module, "mask"))]
        for layer, one in zip(made.layers, layers, strict=True):
            torch.testing.assert_close(layer.mask, one.mask)
            copy(layer.linear.weight, one.linear.weight)
            copy(layer.linear.bias, one.linear.bias)
            if layer.of_context is not None:
                copy(layer.of_context.weight, one.cond_linear.weight)


@pytest.fixture(scope="module")
def both(nbi_model):
    """Ours and nbi's of full size, with the same weights, away from where a training starts."""
    torch.manual_seed(0)
    featurizer = nbi_model.get_featurizer(
        "resnet-gru", {"norm": "weight_norm", "dim_in": 1, "dim_out": 256, "dim_conv_max": 512, "depth": 8}
    )
    theirs = nbi_model.get_flow(
        featurizer, n_dims=5, flow_hidden=256, num_cond_inputs=256, num_blocks=15, n_mog=4, perm_seed=3
    )
    for parameter in theirs.flow.parameters():
        parameter.data += 0.05 * torch.randn_like(parameter)
    theirs.eval().requires_grad_(False)
    ours = PaperFeaturizer(), MixtureFlow(5, 256)
    for module in ours:
        module.eval().requires_grad_(False)
    copy_featurizer(ours[0], theirs.featurizer)
    copy_flow(ours[1], theirs.flow)
    assert size(theirs) == WEIGHTS[5]
    return ours, theirs


def test_features_are_nbis(both):
    (featurizer, _), theirs = both
    flux = torch.randn(3, 7514, generator=torch.Generator().manual_seed(1))
    expected = theirs.featurizer(flux[:, None])
    assert float(expected.std()) > 0.01
    torch.testing.assert_close(featurizer(flux), expected, atol=1e-5, rtol=1e-5)


def test_densities_are_nbis(both):
    (_, flow), theirs = both
    generator = torch.Generator().manual_seed(2)
    z, context = torch.randn(40, 5, generator=generator), torch.randn(40, 256, generator=generator)
    expected = theirs.flow.log_probs(z, context).sum(-1)
    torch.testing.assert_close(flow.log_prob(z, context), expected, atol=1e-5, rtol=1e-5)


def test_draws_are_nbis(both, monkeypatch):
    """Of the same normal numbers, and with the components that the same numbers choose."""
    (_, flow), theirs = both
    generator = torch.Generator().manual_seed(4)
    context, base = torch.randn(2, 256, generator=generator), torch.randn(2, 9, 10, generator=generator)
    normal, choice = base.split(5, dim=-1)
    columns = iter(torch.special.ndtr(choice).permute(2, 1, 0))

    def choose(distribution):
        chosen = next(columns)[..., None]
        return (distribution.probs.cumsum(-1) < chosen).sum(-1)

    monkeypatch.setattr(torch.distributions.Categorical, "sample", choose)
    noise = normal.transpose(0, 1)[:, :, None].expand(9, 2, 4, 5)
    expected = theirs.flow.sample(noise=noise, cond_inputs=context)
    torch.testing.assert_close(flow.push(base, context), expected, atol=1e-5, rtol=1e-5)


def test_a_series_goes_to_the_gru_as_nbis(nbi_model):
    torch.manual_seed(0)
    theirs = nbi_model.get_featurizer("gru", {"dim_in": 1, "dim_hidden": 24, "depth": 2, "dim_out": 8}).eval()
    ours = PaperFeaturizer(8, depth=0, most=24, layers=2).eval()
    copy_recurrent(ours, theirs.encoder, theirs.linear)
    series = torch.randn(4, 50)
    torch.testing.assert_close(ours(series), theirs(series[:, None]), atol=1e-5, rtol=1e-5)
