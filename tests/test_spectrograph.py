"""A spectrograph of one's own, from its TOML file and a library to verified posteriors, by the command line alone."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from maury.checks.calibration import simulated_spectra
from maury.cli import app
from maury.libraries.gridfile import write_grid
from maury.models import load_model
from maury.spectra import write_table

INSTRUMENT = """
name = "two-windows"
medium = "vacuum"
unit = "nm"

[[chips]]
name = "blue"
linear = { start = 510.0, step = 0.008, number = 700 }
resolution = 19_000.0

[[chips]]
name = "red"
linear = { start = 522.0, step = 0.008, number = 700 }
resolution = 21_000.0

[mask]
bits = { BAD = 0, COSMIC = 1, GHOST = 2 }
reject = ["BAD", "COSMIC"]

[training]
snr = [30.0, 150.0]
v_rad = [-60.0, 60.0]
v_sini = [0.0, 30.0]
continuum_degree = 2
"""

EMULATOR = """
name = "two-windows"
library = "grid"
source = "{source}"
reference = "made up"
components = 12

[range]
teff = [4000.0, 6000.0]
m_h = [-1.0, 0.5]
"""

TRAINING = """
name = "two-windows"
batch = 128
epochs = 4
epoch = 15
validation = 256
novelty = 3000

[network.featurizer]
kind = "aligned"
components = 12
width = 128
blocks = 2
features = 32

[problem]
model = "{model}"
"""


def run(*arguments: object) -> str:
    result = CliRunner().invoke(app, [str(a) for a in arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


def library(path: Path, low: float, high: float) -> Path:
    """Write a small library: 300 lines, some of them stronger in cool stars, some in hot ones."""
    teff, m_h = (x.ravel() for x in np.meshgrid(np.linspace(4000, 6000, 6), np.linspace(-1, 0.5, 5)))
    wavelength = np.arange(low, high, 0.04)
    rng = np.random.default_rng(5)
    centres, strength = rng.uniform(low, high, 300), rng.uniform(0.1, 1.2, 300)
    slope = rng.uniform(-1.5, 0.8, 300)
    profiles = np.exp(-0.5 * ((wavelength[:, None] - centres) / 0.09) ** 2)
    depth = strength * 10 ** (0.5 * m_h[:, None]) * np.exp(slope * (teff[:, None] - 5000) / 1000)
    flux = np.exp(-depth @ profiles.T) * 1e6 * (wavelength / 5200) ** (1 - teff[:, None] / 4000)
    write_grid(path, ("teff", "m_h"), np.stack([teff, m_h], axis=1), wavelength, flux, reference="made up")
    return path


def build_and_train(folder: Path, instrument: str, emulator: str, training: str, *options: str) -> Path:
    """Run the two commands on files with these texts; return the model's folder."""
    for name, text in (("instrument", instrument), ("emulator", emulator), ("train", training)):
        (folder / f"{name}.toml").write_text(text)
    model = folder / "model"
    chosen = ("--instrument", folder / "instrument.toml", *options)
    run("models", "build", folder / "emulator.toml", *chosen, "--output", model)
    run("train", folder / "train.toml", "--output", model)
    return model


def check_recovery(folder: Path, tmp_path: Path, number: int) -> None:
    """Infer tables of simulated spectra; truths lie within errors and weights can be trusted."""
    model, offsets = load_model(folder), []
    for i, (spectrum, theta, _) in enumerate(simulated_spectra(model, number, "native", seed=4)):
        path = tmp_path / f"{i}.ecsv"
        write_table(path, spectrum)
        found = json.loads(run("infer", path, "--model", folder, "--json"))
        assert found["khat"] < 0.7
        assert found["flag_bad"] == []
        for name, true in zip(model.labels.names, theta.tolist(), strict=True):
            if name in found["labels"] and name != "jitter":
                entry = found["labels"][name]
                offsets.append((entry["p50"] - true) / entry["std"])
    assert np.abs(offsets).max() < 4
    assert np.sqrt(np.mean(np.square(offsets))) < 1.7


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("spectrograph")
    source = library(folder / "grid.h5", 5060.0, 5320.0)
    training = TRAINING.format(model=folder / "model")
    return build_and_train(folder, INSTRUMENT, EMULATOR.format(source=source), training)


def test_a_model_knows_its_instrument(small: Path) -> None:
    model = load_model(small)
    assert model.instrument is not None
    assert model.instrument.name == "two-windows"
    assert model.labels["v_rad"].prior.high == 60
    assert model.problem.degree == 2
    assert len(model.forward.emulator.covered) == 2
    assert model.estimator.n_pixels == model.instrument.grid.n_pixels


def test_tables_of_the_instrument_are_inferred(small: Path, tmp_path: Path) -> None:
    check_recovery(small, tmp_path, 3)
