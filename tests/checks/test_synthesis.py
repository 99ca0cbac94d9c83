"""Draws that a program makes anew: weights near 1 where it is the emulator, shifts where it is another."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from maury.checks.synthesis import synthesised
from maury.errors import ConfigError
from maury.inference.infer import infer
from maury.libraries.process import on_grid
from maury.libraries.synthesis.design import ELEMENTS
from maury.libraries.synthesis.engine import Synthesis
from maury.models import load_model
from maury.spectra.air import to_vacuum
from maury.training.demo import TRUTH, simulate_visit

AIR = np.arange(15100.0, 17000.05, 0.05)
# A collection that gives no atmosphere: the engine below needs none.
ATMOSPHERES = SimpleNamespace(axes=(None, None, np.array([-2.5, 1.0])), at=lambda *_: None)


@dataclass
class Emulated:
    """The emulator itself as a program, its stars hotter by some degrees than they are said to be."""

    emulator: object
    hotter: float = 0.0
    made: int = 0
    name: str = "emulated"

    def synthesise(self, star, atmosphere):
        self.made += 1
        values = {"teff": star.teff + self.hotter, "logg": star.logg, "m_h": star.m_h, "v_micro": star.v_micro,
                  "c12_c13": star.c12_c13} | {f"{s.lower()}_m": star.abundances[s] for s in ELEMENTS}  # fmt: skip
        emulator, grid = self.emulator, self.emulator.grid
        row = torch.tensor([[values[name] for name in emulator.library.names]])
        with torch.no_grad():
            flux = (
                emulator.mean
                + (emulator.network(emulator.scaled(row)) * emulator.scale) @ emulator.components
            )
        wavelength = 10 ** (grid.start + grid.step * np.arange(grid.n_pixels))
        flux = np.interp(to_vacuum(AIR), wavelength, flux[0].double().numpy())
        return Synthesis(AIR, flux, np.ones_like(AIR))


@pytest.fixture(scope="module")
def posterior():
    model = load_model("marcs-apogee")
    spectrum = simulate_visit(model, TRUTH, snr=100, seed=3, v_correction=0.0)
    return infer(spectrum, model, draws=200)


def test_a_program_that_is_the_emulator_changes_nothing(posterior, tmp_path):
    engine = Emulated(load_model("marcs-apogee").forward.emulator)
    found = synthesised(posterior, engine, ATMOSPHERES, tmp_path, number=30)
    assert found.ess > 20
    assert abs(found.largest[1]) < 0.3
    assert found.nats < 0.7
    # What was made is kept.
    made = engine.made
    assert synthesised(posterior, engine, ATMOSPHERES, tmp_path, number=30, jobs=2) == found
    assert engine.made == made


def test_a_program_whose_stars_are_hotter_moves_them_down(posterior, tmp_path):
    std = posterior.summary()["teff"]["std"]
    engine = Emulated(load_model("marcs-apogee").forward.emulator, hotter=std)
    found = synthesised(posterior, engine, ATMOSPHERES, tmp_path, number=60)
    assert found.shifts["teff"] < -0.35


def test_what_cannot_be_compared_is_told(posterior, tmp_path):
    with pytest.raises(ConfigError, match="20 at least"):
        synthesised(posterior, None, ATMOSPHERES, tmp_path, number=5)
    other = infer(simulate_visit(load_model(), TRUTH, snr=60, seed=5, v_correction=0.0), draws=200)
    with pytest.raises(ConfigError, match="other labels"):
        synthesised(other, None, ATMOSPHERES, tmp_path)


def test_a_spectrum_is_one_beyond_its_ends():
    grid = load_model("marcs-apogee").forward.emulator.grid
    wavelength = np.linspace(15500.0, 16500.0, 20001)
    flux = on_grid(wavelength, np.full(len(wavelength), 0.5), grid)
    own = 10 ** (grid.start + grid.step * np.arange(grid.n_pixels))
    assert torch.allclose(flux[(own > 15600) & (own < 16400)], torch.tensor(0.5), atol=1e-3)
    assert torch.allclose(flux[own < 15400], torch.tensor(1.0), atol=1e-2)
