"""An emulator of a synthetic grid: right where it was not trained, on the instrument's pixels, in vacuum."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.interpolate import CubicSpline

from maury.errors import ConfigError, LabelError
from maury.forward.binary import Pair
from maury.forward.model import ForwardModel
from maury.labels import LabelSet, label
from maury.libraries.build import build_from_file, residuals_of
from maury.libraries.emulator import Emulator
from maury.libraries.synthesis.compress import CompressedGrid, compress
from maury.libraries.synthesis.design import LABELS, Design
from maury.libraries.synthesis.grid import Chunk
from maury.libraries.synthesis.residual_modes import write_residual_modes
from maury.libraries.synthetic import components_of, spectra_of
from maury.libraries.ties import Tie, Ties
from maury.likelihood.nuisances import Departures, EmulatorModes, LibraryModes, Point, chosen
from maury.likelihood.problem import Problem
from maury.priors import LogUniform, Uniform
from maury.spectra.air import to_vacuum
from maury.spectra.instrument import apogee
from maury.spectra.spectrum import Spectrum

STEP, LOW, HIGH = 0.2, 15100.0, 17000.0
WAVELENGTH = LOW + STEP * np.arange(round((HIGH - LOW) / STEP) + 1)
CENTRES = np.linspace(15120, 16980, 60)


def flux(labels):
    """Lines whose depths are smooth in a few labels; one of them in the logarithm of the isotopes' ratio."""
    named = dict(zip(LABELS, labels.T, strict=True))
    out = np.ones((len(labels), len(WAVELENGTH)))
    for i, centre in enumerate(CENTRES):
        by = (
            (named["teff"] - 5000) / 5000,
            named["m_h"] / 4,
            np.log(named["c12_c13"] / 16) / 8,
            named["mg_m"] / 6,
        )
        depth = 0.3 * np.exp(by[i % 4] - by[(i + 1) % 4] ** 2)
        out -= depth[:, None] * np.exp(-0.5 * ((WAVELENGTH - centre) / 0.5) ** 2)
    return out


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    folder = tmp_path_factory.mktemp("grid")
    labels = Design().labels(512)
    n = len(labels)
    values = np.round(flux(labels) / 2e-5).astype(np.uint16)
    chunk = Chunk(np.arange(n), labels, values, np.zeros((n, 20), np.float32), np.array([""] * n))
    chunk.write(folder / "spectra-000000.npz")
    compress(folder, folder / "parts", (LOW, STEP))
    return folder / "parts"


@pytest.fixture(scope="module")
def config(parts, tmp_path_factory):
    ranges = {name: (-1.0, 1.0) for name in LABELS} | {
        "teff": (3500.0, 8000.0), "logg": (-0.5, 5.5), "m_h": (-2.5, 0.7), "v_micro": (0.3, 4.0), "c12_c13": (3.0, 90.0)
    }  # fmt: skip
    lines = [f"{name} = [{low}, {high}]" for name, (low, high) in ranges.items()]
    path = tmp_path_factory.mktemp("config") / "emulator.toml"
    head = f'name = "toy"\nlibrary = "synthetic"\nsource = "{parts}"\nreference = "a test"\ncomponents = 12\n'
    path.write_text(
        head + "held_out = 50\nsteps = 15\nkernel_spectra = 200\nmodes = 3\n[range]\n" + "\n".join(lines),
        encoding="utf-8",
    )
    return path


@pytest.fixture(scope="module")
def emulator(config):
    return build_from_file(config)


def test_spectra_are_on_the_instruments_pixels_in_vacuum(parts):
    spectra = spectra_of(CompressedGrid.read(parts), "apogee")
    held = torch.cat([spectra.grid.wavelength[a:b] for a, b in spectra.covered])
    truth = CubicSpline(to_vacuum(WAVELENGTH), flux(CompressedGrid.read(parts).labels[:1])[0])(held.numpy())
    made = spectra.mean + spectra.coefficients[0] @ spectra.vectors
    inside = (held > 15200) & (held < 16900)
    assert (made - torch.from_numpy(truth))[inside].abs().max() < 1e-3


def test_components_give_the_spectra_as_emitted_and_as_seen(parts):
    spectra = spectra_of(CompressedGrid.read(parts), "apogee")
    coefficients, components, seen = components_of(spectra, 40)
    for made, vectors in ((components, spectra.vectors), (seen, spectra.seen)):
        error = coefficients @ made - spectra.coefficients @ vectors
        assert error.square().mean().sqrt() < 2e-4


def test_it_is_right_on_spectra_left_out(emulator):
    figures = emulator.card["held_out"]
    assert figures["spectra"] == 50
    assert figures["rms"] < 4e-3
    assert figures["median_rms"] <= figures["p90_rms"] <= figures["worst_spectrum_rms"]


def test_it_survives_its_file(emulator, tmp_path):
    emulator.save(tmp_path / "emulator.safetensors")
    again = Emulator.load(tmp_path / "emulator.safetensors")
    labels = torch.from_numpy(Design(seed=5).labels(4))
    torch.testing.assert_close(again(labels), emulator(labels), atol=2e-4, rtol=0)
    assert again.contained is None
    assert again.labels.names == LABELS


def test_a_ratio_is_scaled_by_its_logarithm(emulator):
    labels = emulator.labels.low.clone()[None].repeat(3, 1)
    labels[:, -1] = torch.tensor([3.0, np.sqrt(3.0 * 90.0), 90.0])
    assert emulator.scaled(labels)[:, -1].tolist() == pytest.approx([-1.0, 0.0, 1.0], abs=1e-6)
    assert emulator.scaled(labels)[:, 0].tolist() == pytest.approx([-1.0] * 3)


def test_it_tells_its_error_and_what_of_it_is_common(emulator):
    one_by_one = emulator.card["left_out_one_by_one"]
    labels = torch.from_numpy(Design(seed=5).labels(64))
    assert 0.2 < emulator.error(labels).square().mean().sqrt() / one_by_one["rms"] < 5
    assert emulator.modes.shape == (3, emulator.grid.n_pixels)
    assert 0 < emulator.card["modes"]["share_of_variance"] <= 1


@pytest.fixture(scope="module")
def tied(config):
    text = config.read_text(encoding="utf-8")
    others = [name for name in LABELS if name not in ("teff", "logg", "m_h")]
    text += "\n[labels]\nteff = [3500.0, 8000.0]\nlogg = [-0.5, 5.5]\nm_h = [-2.5, 0.7]\nalpha_m = [-0.4, 0.7]\n[ties]\n"
    slopes = {
        "mg_m": "{follows = {alpha_m = 1.0}}",
        "c12_c13": "{at = 3.0, scatter = 0.5}",
        "v_micro": "{at = 0.4}",
    }
    text += "\n".join(f"{name} = {slopes.get(name, '{}')}" for name in others)
    text += "\n[region]\nteff = [3500.0, 8000.0]\nlow = [0.0, 3.0]\nhigh = [5.5, 5.0]\n"
    path = config.with_name("tied.toml")
    path.write_text(text, encoding="utf-8")
    return build_from_file(path)


def test_few_labels_stand_for_many(emulator, tied, tmp_path):
    assert tied.labels.names == ("teff", "logg", "m_h", "alpha_m")
    labels = torch.tensor([[5000.0, 2.5, -0.3, 0.2]], dtype=torch.float64)
    whole = dict(zip(LABELS, tied.complete(labels)[0].tolist(), strict=True))
    assert whole["mg_m"] == pytest.approx(0.2)
    assert whole["c12_c13"] == pytest.approx(np.exp(3.0), rel=1e-5)
    assert whole["v_micro"] == pytest.approx(np.exp(0.4), rel=1e-5)
    torch.testing.assert_close(tied(labels), emulator(tied.complete(labels)), atol=1e-4, rtol=0)
    tied.save(tmp_path / "emulator.safetensors")
    again = Emulator.load(tmp_path / "emulator.safetensors")
    assert (again.ties, again.region) == (tied.ties, tied.region)
    torch.testing.assert_close(again(labels), tied(labels), atol=2e-4, rtol=0)


def test_what_follows_ends_where_the_library_does(tied):
    labels = torch.tensor([[5000.0, 2.5, -0.3, 0.2]], dtype=torch.float64)
    far = torch.zeros(1, len(LABELS), dtype=torch.float64)
    far[0, LABELS.index("c12_c13")], far[0, LABELS.index("mg_m")] = 5.0, 3.0
    whole = dict(zip(LABELS, tied.complete(labels, far)[0].tolist(), strict=True))
    assert (whole["c12_c13"], whole["mg_m"]) == pytest.approx((90.0, 1.0))


def test_derivatives_pass_through_ties(tied):
    model = ForwardModel(tied)
    labels = torch.tensor([[5000.0, 2.5, -0.3, 0.2, 3.0, 8.0]], dtype=torch.float64)
    _, slopes = model.jacobian(labels)
    assert slopes.isfinite().all()
    step = torch.tensor([20.0, 0.05, 0.05, 0.05], dtype=torch.float64)
    for i in range(4):
        move = torch.zeros(1, 6, dtype=torch.float64)
        move[0, i] = step[i]
        numeric = (model(labels + move) - model(labels - move)) / (2 * step[i])
        assert (numeric - slopes[:, i]).abs().max() < 0.03 * slopes[:, i].abs().max() + 1e-5


def test_stars_that_there_are_not_are_excluded(tied):
    model = ForwardModel(tied)
    labels = tied.labels + LabelSet(
        (
            label("v_rad", Uniform(-50.0, 50.0)),
            label("v_sini", Uniform(0.0, 50.0)),
            label("jitter", LogUniform(1e-3, 0.1)),
        )
    )
    problem = Problem(model, labels)
    drawn = problem.sample(300, torch.Generator().manual_seed(0))
    assert model.inside(drawn[:, :-1]).all()
    assert not model.inside(labels.sample(300, torch.Generator().manual_seed(0))[:, :-1]).all()
    spectrum = Spectrum(
        apogee().pixels,
        np.ones(apogee().pixels.n_pixels),
        np.full(apogee().pixels.n_pixels, 1e4),
        lsf=apogee().lsf,
    )
    likelihood = problem.likelihood(spectrum)
    star = torch.tensor(
        [[5000.0, 2.5, -0.3, 0.2, 0.0, 8.0, 0.01], [7900.0, 0.5, -0.3, 0.2, 0.0, 8.0, 0.01]],
        dtype=torch.float64,
    )
    value = likelihood.log_prob(star)
    assert value[0].isfinite()
    assert value[1] == -np.inf
    with pytest.raises(LabelError, match="the prior holds hardly any star"):
        Problem(
            model, labels.with_priors({"teff": Uniform(7800.0, 8000.0), "logg": Uniform(0.0, 1.0)})
        ).sample(4, torch.Generator())


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("logg = ", "log_g = ", "the labels of a synthetic grid are"),
        ("held_out = 50", "held_out = 400", "too few to leave 400 out"),
        ('source = "', 'source = "/nowhere', "no parts of a compressed grid"),
    ],
)
def test_an_impossible_recipe_is_told(config, tmp_path, old, new, message):
    text = config.read_text(encoding="utf-8")
    (tmp_path / "emulator.toml").write_text(text.replace(old, new), encoding="utf-8")
    with pytest.raises(ConfigError, match=message):
        build_from_file(tmp_path / "emulator.toml")


@pytest.fixture(scope="module")
def point(tied):
    model, n = ForwardModel(tied), tied.grid.n_pixels
    labels = torch.tensor([[5000.0, 2.5, -0.3, 0.2, 3.0, 8.0]], dtype=torch.float64)
    return Point(model, labels, lambda flux: flux.double(), np.zeros(n, int), np.full(n, 2e-5))


def test_what_follows_others_is_a_nuisance(point, tied):
    slopes = Departures().derivative(point)
    assert Departures().each(point) == tuple(tied.ties.ties)
    for i, name in enumerate(tied.ties.ties):
        # One standard deviation of draw i, spread over what follows together.
        move = 0.5 * tied.ties.spread()[None, :, tied.ties.places[i]]
        numeric = (point.model(point.labels, move) - point.model(point.labels, -move))[0]
        assert (slopes[i] - numeric).abs().max() < 0.05 * slopes[i].abs().max() + 2e-5, name


def test_what_errors_have_in_common_is_a_nuisance(point, tied):
    found = EmulatorModes().derivative(point)
    assert found.shape == (3, tied.grid.n_pixels)
    still = point.model.carried(tied.modes, point.labels)[0] * tied.error(point.labels[:, :4])
    torch.testing.assert_close(found, still.double(), rtol=1e-4, atol=1e-9)
    assert (tied.error_left <= tied.error_shape + 1e-7).all()
    names = [nuisance.name for nuisance in chosen("default", point.model, ("teff", "v_rad"))]
    assert {"departures", "emulator", "macroturbulence"} <= set(names)


@pytest.fixture(scope="module")
def related(tied):
    ties = Ties(
        tied.library, tied.labels, tied.ties.ties, {"m_h": Tie(at=-1.0, follows={"logg": 0.2}, scatter=0.1)}
    )
    extra = {"v_rad": Uniform(-50.0, 50.0), "v_sini": Uniform(0.0, 50.0), "jitter": LogUniform(1e-3, 0.1)}
    labels = tied.labels + LabelSet(tuple(label(name, prior) for name, prior in extra.items()))
    return Problem(ForwardModel(tied.tied(ties)), labels)


def test_a_relation_is_a_part_of_the_prior(related):
    drawn = related.sample(200, torch.Generator().manual_seed(0))
    z = (drawn[:, 2] - (-1.0 + 0.2 * drawn[:, 1])) / 0.1
    assert 0.8 < z.std() < 1.2
    pixels = apogee().pixels
    ones = np.ones(pixels.n_pixels)
    spectrum = Spectrum(pixels, ones, 1e4 * ones, lsf=apogee().lsf)
    star = torch.tensor([[5000.0, 2.5, -0.3, 0.2, 0.0, 8.0, 0.01]], dtype=torch.float64)
    likelihood = related.likelihood(spectrum)
    own = replace(related, labels=related.labels.with_priors({"m_h": Uniform(-2.0, 0.5)})).likelihood(
        spectrum
    )
    assert likelihood.pixels.related == ("m_h",)
    assert own.pixels.related == ()
    distance = (-0.3 - (-1.0 + 0.5)) / 0.1
    expected = -0.5 * distance**2 - 0.5 * np.log(2 * np.pi)
    assert float(likelihood.log_prob(star) - own.log_prob(star)) == pytest.approx(expected, rel=1e-4)
    mine, other = likelihood.curvature(star), own.curvature(star)
    slopes = torch.tensor([0.0, -2.0, 10.0, 0, 0, 0, 0], dtype=torch.float64)
    torch.testing.assert_close((mine.gradient - other.gradient)[0], -distance * slopes, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(
        (mine.fisher - other.fisher)[0], slopes[:, None] * slopes, rtol=1e-3, atol=1e-2
    )


def test_two_stars_each_follow(related):
    pair = Pair(related.forward)
    labels = torch.zeros(2, pair.n_labels, dtype=torch.float64)
    names = pair.label_names
    labels[:, names.index("logg")], labels[:, names.index("logg_2")] = 2.5, 4.5
    z = pair.standardised(labels, ("m_h",))
    assert z[0].tolist() == pytest.approx([5.0, 1.0])


def test_residuals_of_the_calibration_are_modes_of_the_library(emulator, config, tmp_path):
    air = np.arange(15145.0, 16950.0, 0.2)
    sun = np.where((air // 20) % 2 == 0, 0.01, -0.01)
    kept = {"wavelength": air, "error": 0 * air, "sun": sun, "arcturus": 2 * sun, "masked": air < 15200}
    np.savez(tmp_path / "x-error.npz", **kept)
    write_residual_modes(tmp_path / "x-error.npz", emulator, tmp_path)
    modes = LibraryModes.read(tmp_path / "modes.safetensors", emulator).vectors
    assert modes.shape == (6, emulator.grid.n_pixels)
    np.testing.assert_allclose(modes[3:], 2 * modes[:3], rtol=1e-4, atol=1e-6)
    assert ((modes[:3] != 0).sum(0) <= 1).all()
    assert modes[0, emulator.grid.wavelength < to_vacuum(np.array([15198.0]))[0]].abs().max() < 1e-3
    np.savez(tmp_path / "y-error.npz", **{name: values for name, values in kept.items() if name != "sun"})
    with pytest.raises(ConfigError, match="no residuals of a calibration"):
        write_residual_modes(tmp_path / "y-error.npz", emulator, tmp_path)
    text = config.read_text(encoding="utf-8").replace(
        "[range]", f'residuals = "{tmp_path / "x-error.npz"}"\n[range]', 1
    )
    (tmp_path / "emulator.toml").write_text(text, encoding="utf-8")
    assert residuals_of(tmp_path / "emulator.toml") == tmp_path / "x-error.npz"
