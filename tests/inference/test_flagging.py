"""Each flag on a spectrum that deserves it, and none on one that does not."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from maury.checks.gap import FAULTS, IMPOSTORS, Bed, impostor
from maury.constants import C_KMS
from maury.inference.flagging import chip_velocities, disagreement
from maury.inference.infer import infer
from maury.models import load_model
from maury.priors import Uniform
from maury.spectra.spectrum import PixelGrid
from maury.training.demo import TRUTH, simulate_visit


@pytest.fixture(scope="module")
def model():
    return load_model()


@pytest.fixture(scope="module")
def spectrum(model):
    return simulate_visit(model, TRUTH, snr=80, seed=5, v_correction=0.0)


@pytest.fixture(scope="module")
def posterior(spectrum, model):
    return infer(spectrum, model)


def flags(posterior):
    return {*posterior.flag_warn, *posterior.flag_bad}


def test_a_good_spectrum_has_none(posterior):
    assert flags(posterior) <= {"average_lsf"}
    found = posterior.diagnostics.misfit
    assert found.p_predictive > 0.01
    assert 0.01 < found.p_novelty <= 1
    assert {"chip 1", "chip 2", "chip 3", "Fe I"} <= {check.name for check in found.checks}
    residuals = posterior.diagnostics.residuals
    assert residuals is None or not residuals.used


@pytest.mark.parametrize("kind", IMPOSTORS)
def test_what_is_no_star_is_flagged_bad(kind, model):
    found = infer(impostor(kind), model)
    expected = {"galaxy": "no_star", "flat": "no_star", "emission": "emission", "noise": "no_star"}
    assert expected[kind] in found.flag_bad
    assert "novel" in found.flag_warn
    if "no_star" in found.flag_bad:
        # However narrow its maximum: the labels are as little known as before.
        summary = found.summary()
        for label in found.stellar.labels:
            width = summary[label.name]["p84"] - summary[label.name]["p16"]
            assert width == pytest.approx(0.6827 * (label.prior.high - label.prior.low), rel=0.05)


def shifted(spectrum, chips, v):
    """The same fluxes at wavelengths that are wrong by ``v`` km/s on some chips."""
    wavelength = spectrum.grid.wavelength.copy()
    for i in chips:
        start, stop = spectrum.grid.chips[i]
        wavelength[start:stop] *= np.exp(v / C_KMS)
    return replace(spectrum, grid=PixelGrid(wavelength, spectrum.grid.chips))


def test_a_chip_out_of_step_is_a_wrong_frame(spectrum, posterior, model):
    wrong = infer(shifted(spectrum, [1], 8.0), model)
    assert "wrong_frame" in wrong.flag_bad
    theta = torch.from_numpy(posterior.draws[np.argmax(posterior.log_likelihood)])
    fit = posterior.target.likelihood.fit(theta)
    velocity, error = chip_velocities(posterior.target, theta, fit)
    assert (np.abs(velocity) < 4 * error).all()
    assert error.max() < 1


def test_a_star_far_outside_the_prior_is_a_wrong_frame(spectrum, model):
    assert "wrong_frame" in infer(shifted(spectrum, [0, 1, 2], 900.0), model).flag_bad


def test_few_pixels_and_much_noise_are_told(spectrum, model):
    lost = spectrum.ivar.copy()
    lost[np.arange(len(lost)) % 2 == 0] = 0.0
    assert "rejected_pixels" in infer(replace(spectrum, ivar=lost), model).flag_warn
    noisy = simulate_visit(model, TRUTH, snr=7, seed=5, v_correction=0.0)
    assert "low_snr" in infer(noisy, model).flag_warn


def test_a_bound_is_told(spectrum, model):
    low = TRUTH["teff"] + 100
    found = infer(spectrum, model, priors={"teff": Uniform(low=low, high=low + 500)})
    assert "at_bound:teff" in found.flag_warn


def test_libraries_that_disagree_are_told(posterior):
    other = replace(posterior, model="other", log_evidence=posterior.log_evidence - 5)
    assert disagreement([posterior, other]) == []
    moved = posterior.draws + np.array([100.0] + [0.0] * (posterior.draws.shape[1] - 1))
    assert disagreement([posterior, replace(other, draws=moved)]) == ["library_disagreement"]
    far = replace(other, draws=moved, log_evidence=posterior.log_evidence - 50)
    assert disagreement([posterior, far]) == []


def faulty(model, name, strength, seed=3):
    return Bed(model, (150.0, 151.0)).spectrum(FAULTS[name], strength, 0, seed)


def test_fringes_are_taken_into_the_errors(model):
    spectrum, _ = faulty(model, "fringes", 0.03)
    plain, robust = (infer(spectrum, model, noise=noise) for noise in ("independent", "auto"))
    assert plain.diagnostics.misfit.grade != "none"
    assert robust.diagnostics.residuals.used
    # The errors account for it, and so it is no flag.
    assert robust.verdict == "verified"
    assert robust.log_evidence > plain.log_evidence + 100
    assert 0.005 < robust.diagnostics.residuals.amplitude < 0.04


def test_the_rate_of_false_alarms_decides(model):
    spectrum, _ = faulty(model, "lsf", 0.1)
    found = infer(spectrum, model, false_alarm=0.999)
    assert "novel" in found.flag_warn or found.diagnostics.misfit.grade != "none"


@pytest.mark.parametrize("name", FAULTS)
def test_faults_change_spectra_by_their_strength(model, name):
    bed, fault = Bed(model), FAULTS[name]
    labels = bed.labels(3, fault, torch.Generator().manual_seed(0))

    def made(strength):
        with torch.no_grad():
            return fault.apply(bed, labels, strength, torch.Generator().manual_seed(1))

    clean = made(0.0)
    small, large = ((made(s) - clean).abs().mean() for s in (fault.strengths[0], fault.strengths[-1]))
    assert clean.shape == (3, bed.grid.n_pixels)
    assert 0 < small < large


def test_impostors_are_not_stars(model):
    assert impostor("noise").flux.mean() == pytest.approx(0, abs=0.01)
    assert impostor("emission").flux.max() > 1
    assert impostor("flat").flux.std() == pytest.approx(0.02, rel=0.05)
