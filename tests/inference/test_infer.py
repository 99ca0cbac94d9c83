"""The verified posterior, end to end."""

from dataclasses import replace

import numpy as np
import pytest
import torch

import maury
from maury.errors import InferenceError
from maury.likelihood.target import Target
from maury.models import load_model, to_model_grid
from maury.sampling.modes import find_modes
from maury.sampling.nested import nested_sampling
from maury.spectra import PixelGrid
from maury.spectra.instrument import apstar_grid
from maury.spectra.spectrum import Spectrum
from maury.training.demo import TRUTH, simulate_visit


@pytest.fixture(scope="module")
def model():
    return load_model()


@pytest.fixture(scope="module")
def star(model):
    return simulate_visit(model, TRUTH, snr=60, seed=3, v_correction=None)


@pytest.fixture(scope="module")
def posterior(model, star):
    return maury.infer(star, model)


def test_truth_lies_inside(posterior):
    for name, entry in posterior.summary().items():
        assert abs(entry["mean"] - TRUTH[name]) < 4 * entry["std"], name
    assert posterior.khat < 0.7
    assert posterior.efficiency > 0.2
    assert posterior.v_bary is None
    assert posterior.flag_bad == ()


def test_every_draw_is_inside_the_prior(posterior):
    low, high = posterior.labels.low.numpy(), posterior.labels.high.numpy()
    assert (posterior.draws >= low).all()
    assert (posterior.draws <= high).all()
    assert (posterior.flow_draws >= low[:-1]).all()
    assert (posterior.flow_draws <= high[:-1]).all()


def test_what_else_the_model_is_unsure_of(model, star, posterior):
    told = posterior.to_json()["nuisances"]
    assert {one["name"] for one in told} == {
        "chip_velocity",
        "line_width",
        "limb_darkening",
        "dilution",
        "library_by_chip",
    }
    assert all(abs(one["mean"]) < 5 * one["width"] for one in told)
    # Three chips, each good to 0.3 km/s.
    assert posterior.summary()["v_rad"]["std"] > 0.9 * 0.3 / 3**0.5
    alone = maury.infer(star, model, draws=300, nuisances="none")
    assert alone.summary()["v_rad"]["std"] < 0.15
    assert "nuisances" not in alone.to_json()
    assert not alone.systematic or alone.systematic["teff"].sigma != pytest.approx(40 / 3**0.5)


def test_flux_unit_does_not_matter(model, star, posterior):
    scaled = replace(star, flux=star.flux * 1e-17, ivar=star.ivar * 1e34)
    other = maury.infer(scaled, model).summary()
    for name, entry in posterior.summary().items():
        assert other[name]["p50"] == pytest.approx(entry["p50"], abs=0.2 * entry["std"])


def test_velocity_moves_with_the_wavelengths(model, star, posterior):
    factor = np.sqrt((1 + 30 / 299792.458) / (1 - 30 / 299792.458))
    moved = replace(star, grid=PixelGrid(star.grid.wavelength * factor, star.grid.chips))
    change = maury.infer(moved, model).summary()["v_rad"]["p50"] - posterior.summary()["v_rad"]["p50"]
    assert change == pytest.approx(30, abs=0.05)


def test_star_beyond_the_range_is_flagged(model):
    hot = simulate_visit(model, TRUTH | {"teff": 6899.9, "logg": 4.0}, snr=150, seed=4, v_correction=None)
    assert "at_bound:teff" in maury.infer(hot, model).flag_warn


def test_spectrum_of_another_band(model, star):
    optical = replace(star, grid=PixelGrid(star.grid.wavelength / 3, star.grid.chips))
    with pytest.raises(InferenceError, match="Angstrom"):
        maury.infer(optical, model)


def test_too_few_draws(model, star):
    with pytest.raises(InferenceError, match="at least 100"):
        maury.infer(star, model, draws=10)


def test_pictures(posterior):
    assert len(posterior.plot_corner().axes) >= 36
    assert len(posterior.plot_fit().axes) == 18


def test_modes_agree_from_different_starts(model, star):
    target = Target(model.problem.likelihood(star), model.labels)
    truth = model.labels.to_normal(
        torch.tensor([[TRUTH[n] for n in model.labels.names]], dtype=torch.float64)
    )
    starts = truth + 0.01 * torch.randn(3, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    starts[:, 4] = truth[:, 4]
    assert len(find_modes(target, starts).u) == 1


@pytest.mark.slow
def test_evidence_agrees_with_nested_sampling(model, star, posterior):
    target = Target(model.problem.likelihood(star), model.labels)
    theta = torch.from_numpy(posterior.draws[posterior.log_likelihood.argmax()])
    target = replace(target, likelihood=target.likelihood.with_reference_continuum(theta))
    nested = nested_sampling(target, torch.Generator().manual_seed(1))
    assert nested.log_evidence == pytest.approx(posterior.log_evidence, abs=0.3)


@pytest.mark.parametrize(("limit", "stage"), [(0.7, "weigh"), (-9.0, "nested sampling")])
def test_progress_can_end_a_stage_midway(model, star, monkeypatch, limit, stage):
    class Enough(Exception):
        pass

    told = []

    def progress(name):
        told.append(name)
        if told.count(stage) == 3:
            raise Enough

    monkeypatch.setattr("maury.sampling.verification.KHAT_LIMIT", limit)
    # Never are draws enough, so that more rounds follow.
    with pytest.raises(Enough):
        maury.infer(
            star, model, draws=200, ess=10_000, noise="independent", budget=100_000, progress=progress
        )
    assert told[-1] == stage


def test_a_hit_by_a_cosmic_ray_changes_nothing(model, star, posterior):
    """Two pixels of fifty times the continuum took minutes, and every label with them."""
    flux = star.flux.copy()
    first = np.flatnonzero(star.good)[3000]
    flux[first : first + 2] *= 50
    found = maury.infer(replace(star, flux=flux), model)
    assert "hits" in found.flag_warn
    assert found.flag_bad == ()
    assert found.evaluations < 5000
    summary = found.summary()
    for name, entry in posterior.summary().items():
        assert summary[name]["p50"] == pytest.approx(entry["p50"], abs=0.3 * entry["std"]), name


def test_as_many_effective_draws_as_are_asked_for(model, star):
    found = maury.infer(star, model, draws=100, ess=300, noise="independent")
    assert 300 <= found.ess <= len(found.draws) < 450
    assert found.flag_bad == ()
    short = maury.infer(star, model, draws=100, ess=3000, noise="independent", budget=500)
    assert short.flag_bad == ("not_converged",)
    assert short.evaluations <= 500
    with pytest.raises(InferenceError, match="ess"):
        maury.infer(star, model, ess=0)


def test_the_certificate_is_of_every_label(posterior):
    told = posterior.certificate
    assert tuple(told) == posterior.labels.names
    line = posterior.to_json()
    for name, entry in line["labels"].items():
        assert entry["khat"] == told[name].khat
        assert 0 < entry["mcse"]["mean"] < 0.2 * entry["std"]
        assert entry["ess"]["p50"] > 100


def test_a_budget_ends_what_does_not_converge(model, star, monkeypatch):
    monkeypatch.setattr("maury.sampling.verification.KHAT_LIMIT", -9.0)
    found = maury.infer(star, model, draws=200, noise="independent", budget=1500)
    assert found.flag_bad == ("not_converged",)
    assert found.method == "refined"
    assert 1000 < found.evaluations <= 1500
    assert found.row()["flag_bad"] == "not_converged"
    with pytest.raises(InferenceError, match="budget must lie between 1 and"):
        maury.infer(star, model, budget=0)


@pytest.mark.slow
def test_modes_that_the_flow_does_not_know_are_found(shared):
    """An M dwarf whose correlated residuals make three modes: 226 s by nested sampling, whose evidence was -23449.9."""
    path = shared / "data/real/apogee_dr13/apStar-r6-2M13564148+4342587.fits"
    found = maury.infer(path, load_model("btsettl-apogee"))
    assert found.method == "refined"
    assert found.khat < 0.7
    assert found.evaluations < 10_000
    assert found.log_evidence == pytest.approx(-23449.9, abs=0.5)
    assert "second_mode" in found.flag_warn


def test_real_visit(model, shared):
    posterior = maury.infer(shared / "data/real/apVisit-r13-9518-57729-104.fits", model)
    summary = posterior.summary()
    assert summary["v_rad"]["p50"] == pytest.approx(-67.47, abs=0.15)
    assert posterior.v_bary["p50"] == pytest.approx(-82.05, abs=0.15)
    assert 4350 < summary["teff"]["p50"] < 4800
    assert 2.1 < summary["logg"]["p50"] < 3.0
    assert -0.3 < summary["m_h"]["p50"] < 0.2
    assert posterior.quantile("v_sini", 0.95) < 10
    assert posterior.khat < 0.7


def test_a_known_continuum_keeps_its_level(model):
    """Where the continuum is 1 by knowledge, dividing by the median flux would make lines of a continuum."""
    grid = apstar_grid()
    flux = np.full(grid.n_pixels, 0.8)
    spectrum = Spectrum(grid, flux, np.full(grid.n_pixels, 1e4))
    known = replace(model, problem=replace(model.problem, degree=None))
    assert float(to_model_grid(spectrum, known)[0].median()) == pytest.approx(0.8, rel=1e-6)
    assert float(to_model_grid(spectrum, model)[0].median()) == pytest.approx(1.0, rel=1e-6)
