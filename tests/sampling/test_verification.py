"""Any density and any proposal: verified draws, on sbibm's tractable tasks and on densities whose integrals are known."""

import math
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import norm
from torch.distributions import Independent, MultivariateNormal, Normal, StudentT

from maury import sampling
from maury.errors import InferenceError

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
from sbibm_tasks import TASKS, c2st, rough

SHARED_COVARIANCE = torch.tensor([[1.0, 0.8], [0.8, 1.0]], dtype=torch.float64)


def task(name):
    """Return a task, its first observation, and draws of the reference posterior that sbibm ships."""
    rows = (Path(__file__).parent / "sbibm" / f"{name}.csv").read_text(encoding="utf-8").splitlines()[1:]
    observation, *draws = ([float(v) for v in row.split(",")] for row in rows)
    return TASKS[name], torch.tensor(observation, dtype=torch.float64), np.array(draws)


def wide(dim=2, sigma=3.0):
    return Independent(Normal(torch.zeros(dim).double(), sigma), 1)


def correlated(x):
    return MultivariateNormal(torch.tensor([1.0, -2.0]).double(), SHARED_COVARIANCE).log_prob(x)


def test_a_gaussian_s_integral_and_moments():
    found = sampling.verify(lambda x: correlated(x) + 3.0, wide(), seed=1)
    assert found.log_evidence == pytest.approx(3.0, abs=0.05)
    assert found.khat < 0.7
    assert found.method == "refined"
    mean = found.weights @ found.draws
    np.testing.assert_allclose(mean, [1, -2], atol=0.1)
    offset = found.draws - mean
    np.testing.assert_allclose((found.weights * offset.T) @ offset, SHARED_COVARIANCE, atol=0.15)
    assert found.sample(500).shape == (500, 2)
    assert found.evaluations >= len(found.draws)


def test_the_same_seed_gives_the_same_draws():
    a, b, c = (sampling.verify(correlated, wide(), seed=seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(a.draws, b.draws)
    assert a.log_evidence == b.log_evidence
    assert not np.array_equal(a.draws[:100], c.draws[:100])


def test_functions_of_numpy_do_without_climbs():
    found = sampling.verify(lambda x: norm.logpdf(x.numpy(), [1, -2], 0.5).sum(1), wide(), seed=1)
    assert found.log_evidence == pytest.approx(0, abs=0.05)


@pytest.mark.parametrize("name", TASKS)
def test_sbibm_s_tasks_from_a_rough_proposal(name):
    """Drawn from the prior, or from a broad mixture: the two find the same evidence, and draws that are not told from the reference."""
    one, observation, expected = task(name)
    density = one.log_density(observation)
    found = [
        sampling.verify(density, proposal, bounds=one.bounds, draws=4000, seed=1, nested=False)
        for proposal in (one.prior, rough(expected))
    ]
    assert all(f.khat < 0.7 for f in found)
    assert found[0].log_evidence == pytest.approx(found[1].log_evidence, abs=0.1)
    assert c2st(found[1].sample(len(expected), 2), expected, max_iter=30) < 0.57
    if name == "gaussian_linear_uniform":
        ends = (norm.cdf((end - observation.numpy()) / math.sqrt(0.1)) for end in (1, -1))
        exact = np.log(next(ends) - next(ends)).sum() - 10 * math.log(2)
        assert found[0].log_evidence == pytest.approx(exact, abs=0.05)


@pytest.mark.slow
@pytest.mark.parametrize("name", TASKS)
def test_sbibm_s_own_classifier_cannot_tell(name):
    one, observation, expected = task(name)
    found = sampling.verify(one.log_density(observation), one.prior, bounds=one.bounds, draws=20_000, seed=1)
    assert c2st(found.sample(len(expected), 2), expected) <= 0.55


def funnel(x):
    """Neal's funnel (2003, Annals of Statistics 31, 705): the first coordinate is the log variance of the others."""
    v = x[:, 0]
    along = -0.5 * (v / 3) ** 2 - math.log(3)
    across = -0.5 * (x[:, 1:] ** 2 * (-v).exp()[:, None] + v[:, None]).sum(1)
    return along + across - 0.5 * x.shape[1] * math.log(2 * math.pi)


def test_a_funnel():
    heavy = Independent(StudentT(2.0, torch.zeros(4).double(), 3.0), 1)
    found = sampling.verify(funnel, heavy, draws=3000, seed=3, nested=False)
    assert found.log_evidence == pytest.approx(0, abs=0.1)
    mean = float(found.weights @ found.draws[:, 0])
    std = float(found.weights @ (found.draws[:, 0] - mean) ** 2) ** 0.5
    assert mean == pytest.approx(0, abs=0.4)
    assert std == pytest.approx(3, abs=0.4)


def test_nested_sampling_takes_over_where_the_proposal_misses():
    """A needle in a box, which neither draws nor climbs find."""

    def needle(x):
        return norm.logpdf(x.numpy(), [0.7, -0.4], 2e-4).sum(1)

    box = ([-1.0, -1.0], [1.0, 1.0])
    at_zero = Independent(Normal(torch.zeros(2).double(), 0.02), 1)
    stages = []
    found = sampling.verify(needle, at_zero, bounds=box, seed=1, draws=300, progress=stages.append)
    assert found.method == "nested"
    assert "nested sampling" in stages
    assert found.log_evidence == pytest.approx(0, abs=0.3)
    assert found.khat > 0.7


def test_draws_keep_inside_bounds():
    half = sampling.verify(
        lambda x: torch.where((x > 0).all(1), correlated(x), -math.inf),
        wide(),
        bounds=([0, -9], [9, 9]),
        seed=1,
    )
    assert (half.draws[:, 0] >= 0).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"draws": 20}, "at least 100"),
        ({"log_prob": lambda x: x}, r"shape \(\d+,\), not"),
        ({"log_prob": lambda x: x.sum(1) * math.nan}, "NaN or infinite"),
        ({"bounds": ([0.0], [1.0, 2.0])}, "bounds: as many lower"),
        ({"bounds": ([2.0, 2.0], [1.0, 3.0])}, "each lower below its upper"),
        ({"proposal": object()}, "object has no sample"),
    ],
)
def test_what_cannot_be_is_refused(change, message):
    with pytest.raises(InferenceError, match=message):
        sampling.verify(**({"log_prob": correlated, "proposal": wide()} | change))
