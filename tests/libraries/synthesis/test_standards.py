"""A calibration finds strengths and missing lines, goes on where it was stopped, and writes a card."""

from __future__ import annotations

import json
from importlib import resources
from pathlib import Path

import numpy as np
import pytest
from marcs_files import write_collection

from maury.errors import ConfigError
from maury.libraries.synthesis.calibration import Window
from maury.libraries.synthesis.engine import Star, Synthesis
from maury.libraries.synthesis.grid import SynthesisConfig
from maury.libraries.synthesis.lines import LineList, read_lines
from maury.libraries.synthesis.standards import (
    AddedLine,
    Calibration,
    CalibrationConfig,
    added,
    agreement,
    strength,
)
from maury.toml import read_config

GRID = np.arange(15100.0, 17000.0, 0.1)
N = 25


def true_lines():
    return LineList(
        np.array(["26.000"] * N),
        np.ones(N, np.int64),
        np.linspace(15210.0, 15330.0, N),
        np.full(N, 5.5),
        np.random.default_rng(1).uniform(-1.2, -0.4, N),
        np.full(N, 2.5),
        np.full(N, 9.0),
        np.zeros(N),
    )


# Weak lines of CO over the range; what the list has of them is a tenth of a dex too weak.
MOLECULE = LineList(
    np.array(["0608.012016"] * 40),
    np.ones(40, np.int64),
    np.linspace(15212.0, 15328.0, 40),
    np.full(40, 1.0),
    np.full(40, -1.1),
    np.zeros(40),
    np.full(40, 9.0),
    np.zeros(40),
)


def flux(lines, star, wavelength=GRID):
    absorption = np.zeros(len(wavelength))
    for x, gf in zip(lines.wavelength, lines.log_gf, strict=True):
        absorption += 10**gf * np.exp(-0.5 * ((wavelength - x) / 0.25) ** 2) * (5000 / star.teff) ** 2
    return np.exp(-0.8 * absorption)


class ToyEngine:
    """Lines that saturate a little."""

    name = "toy"

    def __init__(self, path, intensity):
        self.lines = read_lines(path)

    def synthesise(self, star, atmosphere):
        return Synthesis(GRID, flux(self.lines, star), np.ones(len(GRID)))


@pytest.fixture
def config(tmp_path):
    write_collection(tmp_path / "marcs")
    true = true_lines()
    # One line is not in the list, the others are wrong.
    listed = true.select(np.arange(N) != 12)
    listed.adjusted(listed.log_gf + np.random.default_rng(2).normal(0, 0.15, N - 1)).write(tmp_path / "atoms")
    MOLECULE.adjusted(MOLECULE.log_gf - 0.1).write(tmp_path / "molecules")
    standards = []
    for name, teff in (("hot", 4500.0), ("cool", 4000.0)):
        path = tmp_path / f"{name}.txt"
        np.savetxt(path, np.c_[GRID, flux(true + MOLECULE, Star(teff, 2.2))])
        standards.append(
            f'[[standards]]\nname = "{name}"\nspectrum = "{path}"\nteff = {teff}\nlogg = 2.2\nmacro = 0.0\nsigma = 0.004\n'
            "temperature = 5000.0\nelectron_pressure = 10.0\n"
        )
    head = (
        f'name = "toy"\nsource = "{tmp_path}"\natoms = "{tmp_path / "atoms"}"\natmospheres = "{tmp_path / "marcs"}"\n'
        f'molecules = ["{tmp_path / "molecules"}"]\n'
        'reference = "a test"\niterations = [1, 3]\n'
    )
    (tmp_path / "toy.toml").write_text(head + "".join(standards), encoding="utf-8")
    return read_config(tmp_path / "toy.toml", CalibrationConfig)


def calibration(config, folder):
    return Calibration(config, folder, engine=ToyEngine, window=Window(15200.0, 15340.0))


def test_strengths_and_the_missing_line_are_found(config, tmp_path):
    made = calibration(config, tmp_path / "out").run()
    card = json.loads((tmp_path / "out" / "toy.json").read_text(encoding="utf-8"))
    assert card["standards"]["hot"]["rms"] < 2e-3
    assert card["shifts"]["0608"] == pytest.approx(0.1, abs=0.04)
    assert len(made) == card["lines"] == N
    new = made.wavelength[-1]
    assert new == pytest.approx(15270.0, abs=0.1)
    listed = made.log_gf[:-1]
    true = true_lines()
    error = listed - true.log_gf[np.arange(N) != 12]
    assert np.median(np.abs(error - np.median(error))) < 0.08
    assert read_lines(tmp_path / "out" / "toy.lines").wavelength.tolist() == made.wavelength.tolist()
    with np.load(tmp_path / "out" / "toy-residuals.npz") as file:
        assert set(file) == {"hot_wavelength", "hot_residual", "cool_wavelength", "cool_residual"}


def test_it_goes_on_where_it_was_stopped(config, tmp_path):
    whole = calibration(config, tmp_path / "out").run()
    (tmp_path / "out" / "whole-2.json").unlink()
    again = calibration(config, tmp_path / "out").run()
    np.testing.assert_allclose(again.log_gf, whole.log_gf, atol=0.02)
    (tmp_path / "out" / "whole-2.json").write_text("{", encoding="utf-8")
    with pytest.raises(ConfigError, match="damaged state"):
        calibration(config, tmp_path / "out").run()


def test_a_spectrum_that_is_no_table_is_told(config, tmp_path):
    config.standards[0].spectrum.write_text("wavelength flux\n", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"hot.txt: not a table of wavelengths"):
        calibration(config, tmp_path / "out")


def test_a_list_to_start_from_must_be_the_same(config, tmp_path):
    true_lines().write(tmp_path / "other")
    with pytest.raises(ConfigError, match="not the same lines"):
        calibration(config.model_copy(update={"start": tmp_path / "other"}), tmp_path / "out").run()


def test_lines_of_low_energy_and_abundant_elements_are_strong():
    star = Star(5000.0, 2.5)
    rows = [
        AddedLine(element=e, wavelength=16000.0, excitation=x, log_gf=-1.0)
        for e, x in (("Fe", 5.0), ("Fe", 6.0), ("V", 5.0))
    ]
    low, high, rare = strength(added(rows), star, 5000.0, 10.0)
    assert low - high == pytest.approx(5040 / 5000)
    assert low - rare > 2.5


def test_agreement_takes_out_velocity_and_continuum(config, tmp_path):
    standard = calibration(config, tmp_path / "out").standards[0]
    model = flux(true_lines() + MOLECULE, Star(4500.0, 2.2))
    found = agreement(standard, GRID * (1 - 0.3 / 299792.458), model * (1 + 1e-5 * (GRID - 16000)))
    assert found.velocity == pytest.approx(0.3, abs=0.11)
    assert found.rms < 1e-3
    assert found.robust < 1e-3


def test_the_shipped_list_and_its_recipe_are_whole():
    folder = Path(str(resources.files("maury") / "assets" / "lines"))
    recipe = read_config(folder / "marcs-maury.toml", CalibrationConfig)
    card = json.loads((folder / "marcs-maury.json").read_text(encoding="utf-8"))
    lines = read_lines(folder / "marcs-maury.lines")
    assert len(lines) == card["lines"]
    assert [standard.name for standard in recipe.standards] == ["Sun", "Arcturus"]
    assert card["standards"]["Sun"]["rms"] < 0.0065
    assert card["standards"]["Arcturus"]["rms"] < 0.011
    assert card["sun_alone"]["Arcturus, not fitted"]["rms"] < 0.014
    for line in added(recipe.lines).wavelength:
        assert np.abs(lines.wavelength - line).min() < 2e-3
    with np.load(folder / "marcs-maury-error.npz") as file:
        assert file["masked"].mean() == pytest.approx(card["masked_share"], abs=1e-6)


def test_the_shipped_grid_is_of_the_shipped_list():
    folder = Path(str(resources.files("maury") / "assets" / "lines"))
    recipe = read_config(folder / "marcs-maury-grid.toml", SynthesisConfig)
    card = json.loads((folder / "marcs-maury.json").read_text(encoding="utf-8"))
    assert recipe.shifts == card["shifts"]
    assert recipe.lines[0].name == "marcs-maury.lines"
