"""Adapters, with the real packages: sbi trains on maury's simulator, and sbi's and LAMPE's checks run on maury's estimator."""

import warnings

import pytest
import torch

from maury.errors import InferenceError
from maury.interop.adapters import EstimatorPosterior, LabelPrior, join, sbi_pair
from maury.models import load_model
from maury.spectra.instrument import apstar_grid
from maury.training.simulations import Observing, Simulator


@pytest.fixture(scope="module")
def model():
    return load_model()


@pytest.fixture(scope="module")
def simulator(model):
    return Simulator(model.problem, apstar_grid(), Observing())


@pytest.fixture(scope="module")
def pairs(model, simulator):
    """Labels and data of 60 spectra from the prior."""
    simulation = simulator(60, torch.Generator().manual_seed(11))
    columns = model.problem.columns(model.problem.stellar)
    return simulation.labels[:, columns].float(), join(simulation.flux, simulation.ivar)


def test_sbi_accepts_prior_and_simulator(simulator):
    from sbi.utils import process_prior, process_simulator
    from sbi.utils.user_input_checks import check_sbi_inputs

    simulate, prior = sbi_pair(simulator)
    prior, n, numpy = process_prior(prior)
    assert n == 6
    simulate = process_simulator(simulate, prior, numpy)
    check_sbi_inputs(simulate, prior)
    theta = prior.sample((5,))
    x = simulate(theta)
    assert x.shape == (5, 2 * apstar_grid().n_pixels)
    assert torch.isfinite(prior.log_prob(theta)).all()


def test_sbi_trains_on_them(simulator, tmp_path, monkeypatch):
    """A few steps on a few pixels: what counts is that the pair goes through sbi's own machinery and comes back within the prior."""
    from sbi.inference import NPE

    # It logs to the working directory.
    monkeypatch.chdir(tmp_path)
    simulate, prior = sbi_pair(simulator)
    torch.manual_seed(0)
    theta = prior.sample((60,))
    x = simulate(theta)[:, 3000:3020]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        inference = NPE(prior=prior, density_estimator="maf", show_progress_bars=False)
        network = inference.append_simulations(theta, x).train(max_num_epochs=2, training_batch_size=20)
        posterior = inference.build_posterior(network)
        draws = posterior.sample((20,), x=x[0], show_progress_bars=False)
    assert ((draws >= simulator.problem.stellar.low) & (draws <= simulator.problem.stellar.high)).all()


def test_prior_is_a_distribution(model):
    prior = LabelPrior(model.problem.stellar)
    draws = prior.sample((4000,))
    assert ((draws.mean(0) - prior.mean).abs() < 0.1 * prior.stddev).all()
    torch.testing.assert_close(draws.std(0), prior.stddev, rtol=0.05, atol=0)
    assert prior.support.check(draws).all()
    assert prior.sample().shape == (6,)
    assert float(prior.log_prob(draws[:1] * 100)[0]) == -torch.inf


def test_sbis_checks_find_the_estimator_calibrated(model, pairs):
    from sbi.diagnostics import check_sbc, check_tarp, run_sbc, run_tarp

    posterior = EstimatorPosterior(model.estimator)
    theta, x = pairs
    torch.manual_seed(1)
    ranks, averaged = run_sbc(theta, x, posterior, num_posterior_samples=200, show_progress_bar=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        checks = check_sbc(ranks, theta, averaged, num_posterior_samples=200)
    assert (checks["ks_pvals"] > 1e-3).all()
    coverage = run_tarp(theta, x, posterior, num_posterior_samples=200, show_progress_bar=False, num_bins=10)
    assert abs(check_tarp(*coverage)[0]) < 1.5


def test_sbis_expected_coverage_uses_the_density(model, pairs):
    from sbi.diagnostics import run_sbc

    posterior = EstimatorPosterior(model.estimator)
    theta, x = pairs[0][:20], pairs[1][:20]
    torch.manual_seed(2)
    ranks, _ = run_sbc(
        theta,
        x,
        posterior,
        reduce_fns=posterior.log_prob,
        num_posterior_samples=100,
        show_progress_bar=False,
    )
    assert 15 < float(ranks.mean()) < 85


def test_lampes_coverage(model, pairs):
    from lampe.diagnostics import expected_coverage_mc

    levels, coverages = expected_coverage_mc(
        EstimatorPosterior(model.estimator), zip(*pairs, strict=True), n=200
    )
    assert float((levels - coverages).abs().max()) < 0.25


def test_density_is_that_of_the_labels(model, pairs):
    """Importance-weighted prior draws integrate the density to 1: no factor of the change of variables is lost."""
    posterior = EstimatorPosterior(model.estimator).set_default_x(pairs[1][0])
    draws = posterior.sample((2000,))
    assert torch.isfinite(posterior.log_prob(draws)).all()
    labels = model.problem.stellar
    u = labels.to_normal(draws.double())
    context = posterior.flow(pairs[1][0]).context
    expected = model.estimator.log_prob(u, context.repeat(len(u))) - labels.log_abs_det(u)
    torch.testing.assert_close(posterior.log_prob(draws), expected.float(), atol=2e-2, rtol=1e-3)


def test_wrong_data_are_refused(model, pairs):
    posterior = EstimatorPosterior(model.estimator)
    with pytest.raises(InferenceError, match="no spectrum"):
        posterior.sample((3,))
    with pytest.raises(InferenceError, match="expected one spectrum of 8575"):
        posterior.sample((3,), x=pairs[1][0, :100])
