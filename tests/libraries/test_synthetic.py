"""An emulator of a synthetic grid: right where it was not trained, on the instrument's pixels, in vacuum."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.interpolate import CubicSpline

from maury.errors import ConfigError
from maury.libraries.build import build_from_file
from maury.libraries.emulator import Emulator
from maury.libraries.synthesis.compress import CompressedGrid, compress
from maury.libraries.synthesis.design import LABELS, Design
from maury.libraries.synthesis.grid import Chunk
from maury.libraries.synthetic import components_of, spectra_of
from maury.spectra.air import to_vacuum

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
    head = f'name = "toy"\nlibrary = "synthetic"\nsource = "{parts}"\nreference = "a test"\ncomponents = 12\nwidth = 64\ndepth = 2\n'
    path.write_text(
        head + "held_out = 50\nsteps = 1500\nbatch = 128\n[range]\n" + "\n".join(lines), encoding="utf-8"
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
