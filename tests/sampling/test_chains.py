"""Markov chains: right on a density that is known, resumable, and honest about convergence."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch

from maury.errors import ConfigError, InferenceError
from maury.labels import LabelSet, label
from maury.likelihood.pixels import Likelihood
from maury.likelihood.target import Target
from maury.likelihood.ties import Tied
from maury.priors import Uniform
from maury.sampling.chains import ChainConfig, emcee_chains, nuts_chains, split_rhat

LABELS = LabelSet((label("teff", Uniform(low=4000, high=5000)), label("logg", Uniform(low=0, high=5))))
MEAN = torch.tensor([0.3, -0.2], dtype=torch.float64)
COVARIANCE = torch.tensor([[0.01, 0.012], [0.012, 0.04]], dtype=torch.float64)


@dataclass
class Gaussian:
    """A posterior that is a Gaussian over u."""

    labels: LabelSet = LABELS

    @property
    def dim(self):
        return len(self.labels)

    def parameters(self, u):
        return self.labels.from_normal(u)

    def log_prob(self, u):
        offset = u - MEAN
        return -0.5 * (offset @ torch.linalg.inv(COVARIANCE) * offset).sum(1)

    log_prob_with_gradient = log_prob


@pytest.fixture
def start():
    factor = torch.linalg.cholesky(COVARIANCE)
    return (
        MEAN + torch.randn(100, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64) @ factor.T
    )


def check(chains):
    u = chains.u.reshape(-1, 2)
    sigma = COVARIANCE.diagonal().sqrt().numpy()
    assert (np.abs(u.mean(0) - MEAN.numpy()) < 0.08 * sigma).all()
    expected = COVARIANCE.numpy() / sigma / sigma[:, None]
    np.testing.assert_allclose(np.cov(u.T) / sigma / sigma[:, None], expected, atol=0.1)
    np.testing.assert_allclose(chains.theta, LABELS.from_normal(torch.from_numpy(chains.u)))


@pytest.mark.parametrize("moves", [{"stretch": 1.0}, {"de": 0.8, "stretch": 0.2}, {"walk": 0.5, "kde": 0.5}])
def test_emcee_samples_the_posterior_and_stops(start, moves):
    chains = emcee_chains(Gaussian(), start, ChainConfig(walkers=32, moves=moves, tolerance=0.1), seed=1)
    assert chains.converged
    assert chains.evaluations < 5000 * 32
    assert (chains.rhat < 1.01).all()
    check(chains)


class Wide:
    """A unit Gaussian of seven labels."""

    dim = 7

    def parameters(self, u):
        return u

    def log_prob(self, u):
        return -0.5 * u.square().sum(1)


def test_widths_are_right_in_seven_dimensions():
    """A few percent matter: emcee's snooker move, which lacks half of its Jacobian, draws this a fifth too narrow."""
    start = torch.randn(500, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    chains = emcee_chains(Wide(), start, ChainConfig(steps=8000, look=2000, taus=200), seed=1)
    np.testing.assert_allclose(chains.u.reshape(-1, 7).std(0), 1.0, atol=0.025)


def test_nuts_samples_the_posterior(start):
    chains = nuts_chains(Gaussian(), start, draws=600, warmup=100, chains=2)
    assert chains.converged
    check(chains)


def test_same_seed_same_chain(start):
    config = ChainConfig(walkers=16, steps=50, look=50)
    first, second, other = (emcee_chains(Gaussian(), start, config, seed=seed) for seed in (3, 3, 4))
    np.testing.assert_array_equal(first.u, second.u)
    assert not np.array_equal(first.u, other.u)


def test_a_chain_that_was_stopped_goes_on(start, tmp_path):
    path = tmp_path / "chains.h5"
    emcee_chains(Gaussian(), start, ChainConfig(walkers=16, steps=100, look=50), backend=path)
    chains = emcee_chains(Gaussian(), start, ChainConfig(walkers=16, steps=300, look=50), backend=path)
    assert chains.evaluations == 300 * 16
    whole = emcee_chains(Gaussian(), start, ChainConfig(walkers=16, steps=300, look=50))
    np.testing.assert_array_equal(chains.u[-1], whole.u[-1])


def test_what_cannot_be_run_is_refused(start, tmp_path):
    with pytest.raises(ConfigError, match="no move 'strech'; there are stretch"):
        emcee_chains(Gaussian(), start, ChainConfig(walkers=16, moves={"strech": 1.0}))
    with pytest.raises(ConfigError, match="need at least 6, not 4"):
        emcee_chains(Gaussian(), start, ChainConfig(walkers=4))
    path = tmp_path / "chains.h5"
    emcee_chains(Gaussian(), start, ChainConfig(walkers=16, steps=10), backend=path)
    with pytest.raises(ConfigError, match="holds 16 walkers of 2 labels, not 20 of 2"):
        emcee_chains(Gaussian(), start, ChainConfig(walkers=20, steps=10), backend=path)
    path.write_bytes(b"junk")
    with pytest.raises(ConfigError, match="no file of emcee's chains"):
        emcee_chains(Gaussian(), start, ChainConfig(walkers=16, steps=10), backend=path)

    class Nowhere(Gaussian):
        def log_prob(self, u):
            return torch.full((len(u),), -torch.inf, dtype=torch.float64)

    with pytest.raises(InferenceError, match="no walker starts"):
        emcee_chains(Nowhere(), start, ChainConfig(walkers=16))


def test_split_rhat_sees_what_it_should():
    rng = np.random.default_rng(0)
    good = rng.normal(size=(1000, 4, 2))
    assert (split_rhat(good) < 1.01).all()
    assert (split_rhat(good + np.arange(4)[None, :, None]) > 1.3).all()
    assert (split_rhat(good + np.linspace(0, 6, 1000)[:, None, None]) > 1.3).all()
    assert np.isinf(split_rhat(good[:3])).all()


def test_gradient_of_the_exact_posterior(visit, forward, labels, truth):
    """Automatic derivatives agree with differences, with and without labels held."""
    whole = Likelihood.of(visit, forward, labels)
    theta = torch.cat([truth, torch.tensor([[0.01]], dtype=torch.float64)], dim=1)[0]
    free = [0, 4, 5]
    held = LabelSet(tuple(labels.labels[i] for i in free))
    for target, start in (
        (Target(Tied.free(whole, len(labels)), labels), theta),
        (Target(Tied.holding(whole, theta, free), held), theta[free]),
    ):
        u = target.labels.to_normal(start[None] * 1.001)
        x = u.clone().requires_grad_(True)
        value = target.log_prob_with_gradient(x)
        (gradient,) = torch.autograd.grad(value.sum(), x)
        torch.testing.assert_close(value.detach(), target.log_prob(u))
        for i in range(len(start)):
            step = torch.zeros_like(u)
            step[0, i] = 1e-3
            slope = (target.log_prob(u + step) - target.log_prob(u - step)) / 2e-3
            assert float(gradient[0, i]) == pytest.approx(float(slope), rel=0.03, abs=4.0)
