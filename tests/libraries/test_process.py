"""Emulators of grids with holes."""

import math

import numpy as np
import pytest
import torch

from maury.errors import ConfigError, ModelError
from maury.forward.model import ForwardModel
from maury.labels import LabelSet, label
from maury.libraries.coefficients import GaussianProcess, quadratics
from maury.libraries.emulator import Emulator
from maury.libraries.grid import write_grid
from maury.libraries.process import GridConfig, build_from_grid, fast_length, low_pass, smooth
from maury.likelihood.pixels import Likelihood
from maury.priors import LogUniform, Uniform


def spectra(nodes, wavelength):
    """Lines whose depths follow the labels, not quite smoothly."""
    teff, logg = (nodes[:, 0] - 3000) / 500, nodes[:, 1] - 4.5
    depth = 0.3 * np.exp(-0.4 * teff)[:, None] * (1 + 0.2 * np.sin(logg))[:, None]
    depth *= 1 + 0.02 * np.sin(40 * teff + 9 * logg)[:, None]
    centres = np.arange(15_010, 15_190, 7.3)
    lines = np.exp(-0.5 * ((wavelength[:, None] - centres) / 0.25) ** 2).sum(1)
    return 1e8 * (1 - depth * lines) * (1 + 0.1 * teff[:, None] * (wavelength - 15_100) / 100)


@pytest.fixture(scope="module")
def grid_file(tmp_path_factory):
    teff, logg = np.meshgrid(np.arange(2500, 3501, 100.0), np.arange(3.5, 5.6, 0.5))
    nodes = np.stack([teff.ravel(), logg.ravel()], axis=1)
    nodes = np.delete(nodes, [7, 20, 21], axis=0)
    wavelength = np.arange(15_000, 15_200, 0.1)
    path = tmp_path_factory.mktemp("grid") / "grid.h5"
    write_grid(path, ("teff", "logg"), nodes, wavelength, spectra(nodes, wavelength), reference="made up")
    return path


@pytest.fixture(scope="module")
def emulator(grid_file):
    return build_from_grid(
        GridConfig(
            name="small",
            library="grid",
            source=grid_file,
            reference="made up",
            range={"teff": (2500, 3500), "logg": (3.5, 5.5)},
            components=6,
        )
    )


def test_leave_one_out_error_is_stated_and_small(emulator):
    card = emulator.card["leave_one_out"]
    assert card["spectra"] == 52
    assert card["median_rms"] < 3e-3
    assert card["rms_of_component_truncation"] < 1e-4


def test_leave_one_out_is_what_leaving_out_gives(emulator):
    process = emulator.network
    matrix, _ = process.leave_one_out()
    y = torch.sin(process.nodes.double() @ torch.tensor([2.0, 1.0], dtype=torch.float64))
    others = torch.arange(1, len(y))
    part = GaussianProcess(2, 1, len(others))
    part.nodes.copy_(process.nodes[others])
    part.log_length.copy_(process.log_length)
    part.log_nugget.copy_(process.log_nugget)
    part.double().fit(y[others, None], torch.ones(len(others)))
    predicted = part(process.nodes[:1].double())[0, 0]
    assert float(matrix[0] @ y) == pytest.approx(float(y[0] - predicted), abs=1e-6)


def test_error_is_larger_in_a_hole_than_at_a_node(emulator):
    labels = torch.tensor([[3000.0, 4.5], [3200.0, 3.5], [2700.0, 5.5]])
    at_node, in_hole = emulator.error(labels[:1]), emulator.error(torch.tensor([[3200.0, 3.5]]))
    assert float(in_hole) > float(at_node) > 0


def test_saved_and_loaded(emulator, tmp_path):
    emulator.save(tmp_path / "emulator.safetensors")
    back = Emulator.load(tmp_path / "emulator.safetensors")
    labels = torch.tensor([[2987.0, 4.61], [3402.0, 3.7]])
    assert float((back(labels) - emulator(labels)).abs().max()) < 1e-3
    torch.testing.assert_close(back.error(labels), emulator.error(labels), rtol=1e-3, atol=0)
    assert back.contained is None


def test_unknown_coefficients_are_refused(emulator, tmp_path):
    path = tmp_path / "emulator.safetensors"
    emulator.save(path)
    card = path.with_suffix(".json")
    card.write_text(card.read_text().replace("gaussian-process", "tea-leaves"))
    with pytest.raises(ModelError, match="tea-leaves"):
        Emulator.load(path)


def test_labels_of_the_range_must_be_the_grid_s(grid_file):
    config = GridConfig(
        name="x", library="grid", source=grid_file, reference="", range={"teff": (2500, 3500)}
    )
    with pytest.raises(ConfigError, match="teff, logg"):
        build_from_grid(config)


def test_quadratics_hold_every_product():
    x = torch.tensor([[2.0, 3.0]])
    assert quadratics(x).tolist() == [[1, 2, 3, 4, 6, 9]]


def test_gradient_is_finite_at_a_node(emulator):
    x = emulator.network.nodes[:1].clone().requires_grad_(True)
    emulator.network(x).sum().backward()
    assert x.grad.isfinite().all()


@pytest.mark.parametrize("n", [1, 2, 97, 8641, 13_973])
def test_fast_lengths(n):
    found = fast_length(n)
    assert found >= n
    assert found % 2 == 0
    rest = found
    for prime in (2, 3, 5):
        while rest % prime == 0:
            rest //= prime
    assert rest == 1


def test_filters_leave_what_is_slow():
    x = torch.linspace(0, 1, 4000, dtype=torch.float64)
    slow = torch.cos(2 * math.pi * 3 * x)[None]
    assert float((low_pass(slow, 0.5) - slow).abs().max()) < 1e-6
    fast = torch.cos(math.pi * 0.8 * torch.arange(4000, dtype=torch.float64))[None]
    assert float(low_pass(fast, 0.5)[:, 100:-100].abs().max()) < 1e-2
    assert float(smooth(torch.ones(1, 50, dtype=torch.float64), 3.0).sub(1).abs().max()) < 1e-12


def test_model_error_widens_the_likelihood(emulator):
    from maury.spectra import PixelGrid, Spectrum
    from maury.spectra.linespread import Gaussian

    forward = ForwardModel(emulator).eval().requires_grad_(False)
    labels = emulator.labels + LabelSet(
        (
            label("v_rad", Uniform(low=-50, high=50)),
            label("v_sini", Uniform(low=0, high=20)),
            label("jitter", LogUniform(low=1e-4, high=0.1)),
        )
    )
    grid = PixelGrid(np.arange(15_020, 15_180, 0.2), ((0, 800),))
    truth = torch.tensor([[3040.0, 4.6, 3.0, 5.0, 1e-3]], dtype=torch.float64)
    lsf = Gaussian(22_500)
    flux = forward.sampler(grid, lsf)(forward(truth[:, :-1]))[0].double().numpy()
    spectrum = Spectrum(grid, flux, np.full(800, 1e4), lsf=lsf)
    likelihood = Likelihood.of(spectrum, forward, labels)
    exact = likelihood.log_prob(truth)
    emulator.network.error_weights[-1] += 3
    try:
        assert float(likelihood.log_prob(truth)) < float(exact)
    finally:
        emulator.network.error_weights[-1] -= 3
