"""Proposals of other packages keep their densities, and follow the seed."""

import numpy as np
import pytest
import torch
from torch.distributions import Independent, Normal

from maury import sampling
from maury.errors import InferenceError
from maury.sampling.adapters import as_proposal, from_bayesflow


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def check(proposal, density, dim=2):
    """Draws repeat with their generator, leave the global state alone, and have the density that is told."""
    state = torch.random.get_rng_state()
    x = proposal.sample(50, generator())
    assert torch.equal(state, torch.random.get_rng_state())
    assert x.dtype == torch.float64
    assert x.shape == (50, dim)
    assert torch.equal(x, proposal.sample(50, generator()))
    assert not torch.equal(x, proposal.sample(50, generator(1)))
    torch.testing.assert_close(proposal.log_prob(x), density(x).double(), rtol=1e-5, atol=1e-5)
    assert proposal.sample(0, generator()).shape[0] == 0


def test_torch_distributions():
    source = Independent(Normal(torch.tensor([1.0, 2.0]), 0.5), 1)
    check(as_proposal(source), lambda x: source.log_prob(x.float()))


def test_lampe_s_flows():
    inference = pytest.importorskip("lampe.inference")
    torch.manual_seed(0)
    flow = inference.NPE(2, 3).flow(torch.zeros(3))
    check(as_proposal(flow), lambda x: flow.log_prob(x.float()).detach())


class LikeSbi:
    """A posterior of sbi's: draws with a progress bar, a density that may be left unnormalised."""

    inner = Independent(Normal(torch.tensor([1.0, 2.0]), 0.5), 1)

    def sample(self, sample_shape, show_progress_bars=True):
        assert not show_progress_bars
        return self.inner.sample(sample_shape)

    def log_prob(self, theta, norm_posterior=False):
        return self.inner.log_prob(theta) - (0 if norm_posterior else 7)


def test_sbi_s_posteriors_are_quiet_and_normalised():
    check(as_proposal(LikeSbi()), lambda x: LikeSbi.inner.log_prob(x.float()))


class LikeBayesFlow:
    """A workflow of BayesFlow 2: named arrays, one row an observation."""

    def sample(self, conditions, num_samples):
        assert conditions["x"].shape == (1, 3)
        rng = np.random.normal(size=(1, num_samples, 3))  # noqa: NPY002
        return {"a": rng[..., :1], "b": 2 * rng[..., 1:]}

    def log_prob(self, data):
        assert data["x"].shape == (len(data["a"]), 3)
        z = np.concatenate([data["a"], data["b"] / 2], axis=1)
        return -0.5 * (z**2).sum(1) - 1.5 * np.log(2 * np.pi) - 2 * np.log(2)


def test_bayesflow_s_workflows():
    proposal = from_bayesflow(LikeBayesFlow(), {"x": np.zeros((1, 3))}, ["a", "b"])
    scale = torch.tensor([1.0, 2.0, 2.0]).double()
    check(proposal, Independent(Normal(torch.zeros(3).double(), scale), 1).log_prob, dim=3)
    found = sampling.verify(lambda x: -0.5 * ((x - 1) ** 2).sum(1), proposal, seed=1)
    assert found.log_evidence == pytest.approx(1.5 * np.log(2 * np.pi), abs=0.1)


def test_what_has_no_density_is_told():
    class Draws:
        def sample(self, shape):
            return torch.zeros(*shape, 2)

    with pytest.raises(InferenceError, match="Draws has no log_prob"):
        as_proposal(Draws())
