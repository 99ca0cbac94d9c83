"""What a library gets wrong on stars that are known is looked for in others."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from typer.testing import CliRunner

from maury.checks.gap import NONE, Bed
from maury.cli import app
from maury.errors import LabelError, ModelError
from maury.inference.infer import infer
from maury.inference.standards import Standard, library_modes, residual_of, save_modes
from maury.models import load_model

# Lines that the library lacks, Angstrom in vacuum at rest, and their depths.
LINES = {15750.0: 0.3, 15900.0: 0.2, 16150.0: 0.25, 16600.0: 0.15}


@pytest.fixture(scope="module")
def model():
    return load_model()


def star(model, i):
    """A simulated star with lines that its library lacks, and its labels."""
    bed = Bed(model, (100.0, 101.0))
    spectrum, labels = bed.spectrum(NONE, 0.0, i, 1)
    known = dict(zip(model.problem.labels.names, labels.tolist(), strict=True))
    at = spectrum.grid.wavelength / (1 + known["v_rad"] / 299_792.458)
    depth = sum(d * np.exp(-0.5 * ((at - line) / 0.4) ** 2) for line, d in LINES.items())
    return replace(spectrum, flux=spectrum.flux * (1 - depth), path=f"star{i}.fits"), known


@pytest.fixture(scope="module")
def residuals(model):
    known = ("teff", "logg", "m_h", "alpha_m")
    standards = [
        (spectrum, {n: labels[n] for n in known}) for spectrum, labels in (star(model, i) for i in range(3))
    ]
    return [residual_of(Standard(*one), model, draws=100) for one in standards]


def test_residuals_are_at_rest_where_the_lines_are(model, residuals):
    at = model.forward.emulator.grid.wavelength.numpy()
    mean = np.mean([one.values for one in residuals], 0)
    for line, depth in LINES.items():
        near = np.abs(at - line) < 0.5
        # Fast rotators wash them out, and what a star has there itself is taken as lacking less.
        assert -2 * depth < mean[near].min() < -0.1 * depth
    far = np.min([np.abs(at - line) for line in LINES], 0) > 10
    assert np.sqrt(np.mean(mean[far] ** 2)) < 0.01


def test_labels_that_are_known_are_held(residuals, model):
    for i, one in enumerate(residuals):
        assert one.name == f"star{i}.fits [0]"
        _, labels = star(model, i)
        assert one.labels["teff"] == pytest.approx(labels["teff"], abs=20)
        assert one.labels["logg"] == pytest.approx(labels["logg"], abs=0.02)


def test_the_modes_have_the_residuals_second_moments(model, residuals):
    vectors = library_modes(residuals, model)
    assert len(vectors) == 9
    values = np.array([one.values for one in residuals])
    np.testing.assert_allclose((vectors**2).sum(0), (values**2).mean(0), atol=1e-12)
    with pytest.raises(ModelError, match="at least 2"):
        library_modes(residuals[:1], model)


def test_another_star_of_the_kind_is_explained(model, residuals, tmp_path):
    save_modes(residuals, model, tmp_path / "known")
    again = load_model(tmp_path / "known")
    assert "star2.fits" in again.problem.modes.source
    spectrum, labels = star(model, 3)
    plain, better = (infer(spectrum, m, noise="independent", draws=200) for m in (model, again))
    assert better.log_evidence > plain.log_evidence + 50
    off = [abs(p.quantile("logg", 0.5) - labels["logg"]) for p in (plain, better)]
    assert off[1] < max(off[0], 0.1)


def test_a_label_outside_the_model_names_the_spectrum(model):
    spectrum, _ = star(model, 0)
    with pytest.raises(LabelError, match=r"star0.fits \[0\]: teff 1000 is outside"):
        residual_of(Standard(spectrum, {"teff": 1000.0}), model)


def test_the_command_names_what_is_missing(tmp_path):
    (tmp_path / "stars.csv").write_text("file,teff\nnone.fits,4000\n", encoding="utf-8")
    found = CliRunner().invoke(
        app, ["models", "standards", str(tmp_path / "stars.csv"), "--output", str(tmp_path / "out")]
    )
    assert "line 2: no file 'none.fits'" in str(found.exception)
