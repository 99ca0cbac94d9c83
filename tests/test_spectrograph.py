"""A spectrograph of one's own, from its TOML file and a library to verified posteriors, by the command line alone."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from maury.checks import gap
from maury.checks.calibration import calibrate, simulated_spectra
from maury.cli import app
from maury.errors import ConfigError, InferenceError, MauryError
from maury.inference.flow import amortised
from maury.inference.infer import infer
from maury.libraries.gridfile import write_grid
from maury.models import load_model, shipped
from maury.spectra import write_table
from maury.training.store import Simulations

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


def test_checks_are_of_the_instrument(small: Path) -> None:
    model = load_model(small)
    for pixels in ("native", "network"):
        (outcome,) = calibrate(model, 1, draws=200, pixels=pixels, seed=3)
        assert outcome.khat < 0.7
    (result,) = gap.spoil(model, [(gap.FAULTS["lsf"], 0.1)], 1, options=["auto"], draws=200)
    assert result.fault == "lsf"
    assert gap.impostor("flat", instrument=model.instrument).grid.n_pixels == 1400
    (first,) = amortised([next(simulated_spectra(model, 1, "native", seed=6))[0]], model)
    assert set(first.summary()) == {"teff", "m_h", "v_rad", "v_sini"}


def test_simulations_in_a_file_are_of_the_instrument(small: Path, tmp_path: Path) -> None:
    run("simulate", "--model", small, "--number", 30, "--output", tmp_path / "s.h5")
    file = Simulations.open(tmp_path / "s.h5")
    assert file.config["observing"]["snr"] == [30.0, 150.0]
    assert len(file.wavelength) == load_model(small).estimator.n_pixels


def test_what_does_not_fit_is_told(small: Path, tmp_path: Path) -> None:
    folder = small.parent
    with pytest.raises(
        ConfigError, match=r"covers 5060-5320 Angstrom, but of igrins-like not H \(14900-18000\), K"
    ):
        run("models", "build", folder / "emulator.toml", "--instrument", "igrins-like", "--output", tmp_path)
    kurucz = shipped()["kurucz-apogee"] / "emulator.toml"
    with pytest.raises(ConfigError, match="as APOGEE sees them"):
        run("models", "build", kurucz, "--instrument", "igrins-like", "--output", tmp_path)
    with pytest.raises(MauryError, match="is of two-windows, but the demonstration is an APOGEE visit"):
        run("demo", "--model", small, "--output", tmp_path)
    with pytest.raises(InferenceError, match="none of it on the chips of two-windows"):
        infer(next(simulated_spectra(load_model(), 1, "network", seed=1))[0], small)
    fast = (
        TRAINING.format(model=small)
        + "[problem.priors.v_rad]\nkind = 'uniform'\nlow = -900.0\nhigh = 900.0\n"
    )
    (tmp_path / "fast.toml").write_text(fast)
    with pytest.raises(ConfigError, match=r"priors\.v_rad: -900 to 900 km/s"):
        run("train", tmp_path / "fast.toml", "--output", tmp_path / "fast")


def test_instruments_are_listed_and_shown(small: Path) -> None:
    assert "igrins-like" in run("instruments", "list")
    assert "two-windows" in run("instruments", "show", small.parent / "instrument.toml", "--toml")
    shown = run("instruments", "show", small.parent / "instrument.toml")
    assert "5220.00" in shown
    assert "BAD, COSMIC" in shown


BAND = """
name = "h-window"
medium = "vacuum"
unit = "Angstrom"
resolution = 45_000.0

[[chips]]
name = "H"
log10 = { start = 4.1732, step = 3e-6, number = 27_360 }
pixels = [3200, 5200]

[[chips]]
name = "K"
log10 = { start = 4.292201, step = 3e-6, number = 32_900 }

[training]
snr = [30.0, 200.0]
v_rad = [-100.0, 100.0]
v_sini = [0.0, 50.0]
"""

BTSETTL = """
name = "h-window"
library = "grid"
source = "{source}"
reference = "BT-Settl 2008"
components = 60

[range]
teff = [2600.0, 3500.0]
logg = [4.5, 5.5]
m_h = [-0.5, 0.5]
"""

MINUTES = """
name = "h-window"
batch = 256
epochs = 1000
epoch = 50
minutes = 1.3
validation = 512
novelty = 3000

[network.featurizer]
kind = "aligned"
width = 256

[problem]
model = "{model}"
"""


@pytest.mark.slow
def test_a_window_of_the_h_band_with_real_spectra(shared: Path, tmp_path: Path) -> None:
    source = shared / "data/grids/btsettl08_apogee.h5"
    if not source.exists():
        pytest.skip(f"{source} is absent")
    texts = BAND, BTSETTL.format(source=source), MINUTES.format(model=tmp_path / "model")
    folder = build_and_train(tmp_path, *texts, "--restrict")
    instrument = load_model(folder).instrument
    assert instrument is not None
    # The library has no K band.
    assert [chip.name for chip in instrument.chips] == ["H"]
    check_recovery(folder, tmp_path, 5)
