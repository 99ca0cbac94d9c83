"""A library's error is learned where it is, and kept with the model."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from maury.checks.gap import NONE, Bed
from maury.errors import Failure, ModelError
from maury.inference.infer import infer
from maury.inference.tune import FEWEST, save_tuned, tune
from maury.models import load_model
from maury.spectra.spectrum import Spectrum

# A line that the library lacks, Angstrom in vacuum at rest, and its depth.
LINE, DEPTH = 15900.0, 0.3


@pytest.fixture(scope="module")
def model():
    return load_model()


def stars(model, n, seed):
    """Simulated stars with a line of their own that no library has."""
    bed = Bed(model, (100.0, 101.0))
    for i in range(n):
        spectrum, labels = bed.spectrum(NONE, 0.0, i, seed)
        at = spectrum.grid.wavelength / (1 + float(labels[-3]) / 299_792.458)
        flux = spectrum.flux * (1 - DEPTH * np.exp(-0.5 * ((at - LINE) / 0.5) ** 2))
        yield replace(spectrum, flux=flux)


@pytest.fixture(scope="module")
def tuned(model):
    lost = Failure(Path("lost.fits"), 0, "unreadable", "is empty")
    return tune([lost, *stars(model, FEWEST, 1)], model)


def test_the_error_is_where_the_library_is_wrong(model, tuned):
    grid = model.forward.emulator.grid
    wavelength = 10 ** (grid.start + grid.step * np.arange(grid.n_pixels))
    near = np.abs(wavelength - LINE) < 0.3
    far = (np.abs(wavelength - LINE) > 5) & (tuned.seen > FEWEST // 2)
    assert 0.1 < tuned.error[near].min() < DEPTH
    assert np.median(tuned.error[far]) < 0.01
    assert [f.flag for f in tuned.failures] == ["unreadable"]
    assert tuned.number == FEWEST


def test_a_tuned_model_weighs_the_line_down(model, tuned, tmp_path):
    save_tuned(tuned, model, tmp_path / "tuned")
    again = load_model(tmp_path / "tuned")
    spectrum = next(stars(model, 1, 2))
    plain, better = infer(spectrum, model, noise="independent"), infer(spectrum, again, noise="independent")
    assert better.log_evidence > plain.log_evidence + 20
    assert better.summary()["jitter"]["p50"] < plain.summary()["jitter"]["p50"]


def test_too_few_spectra_are_refused(model):
    empty = Spectrum(Bed(model).grid, *np.zeros((2, Bed(model).grid.n_pixels)))
    with pytest.raises(ModelError, match=rf"only 0 spectra .*at least {FEWEST}"):
        tune([empty], model)


def test_a_table_of_another_emulator_is_refused(model, tuned, tmp_path):
    save_tuned(replace(tuned, error=tuned.error[:-1], seen=tuned.seen[:-1]), model, tmp_path / "cut")
    with pytest.raises(ModelError, match="no error table of this model's emulator"):
        load_model(tmp_path / "cut")
