"""Draws of a cheap density by rejection: they follow it, and its density is normalised as it is told."""

from __future__ import annotations

import math

import pytest
import torch
from scipy import stats
from torch import Tensor

from maury.batching import alone
from maury.sampling.density import Density
from maury.sampling.proposal import Mixture, StudentT, with_given
from maury.sampling.rejection import Rejected, rejected
from maury.sampling.verification import weigh

LOG_MASS = 7.3


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def banana(u: Tensor) -> Tensor:
    """A bent Gaussian of a known integral, cut off at ``u_1 < 2``, where nothing is."""
    x, y = u[:, 0], u[:, 1]
    value = (
        -0.5 * (x.square() + ((y - 0.5 * x.square()) / 0.3).square()) + LOG_MASS - math.log(2 * math.pi * 0.3)
    )
    return value.masked_fill(x >= 2, -math.inf)


# Of x < 2 alone.
INTEGRAL = LOG_MASS + math.log(stats.norm.cdf(2))


def about(width: float = 0.7) -> Mixture:
    part = StudentT(torch.zeros(2, dtype=torch.float64), width * torch.eye(2, dtype=torch.float64), 5)
    return Mixture([part], torch.ones(1, dtype=torch.float64))


@pytest.fixture(scope="module")
def found() -> Rejected:
    made = rejected(banana, about(), generator())
    assert made is not None
    return made


def test_the_integral_is_right_to_its_error(found: Rejected) -> None:
    assert found.relative_error < 0.02
    # What lies above the ceiling is left out.
    assert found.log_integral == pytest.approx(INTEGRAL, abs=4 * found.relative_error + 0.01)


def test_draws_follow_the_density(found: Rejected) -> None:
    u = found.sample(4000, generator(1))
    assert u.shape == (4000, 2)
    x, bent = u[:, 0].numpy(), ((u[:, 1] - 0.5 * u[:, 0].square()) / 0.3).numpy()
    assert stats.kstest(x, stats.truncnorm(-10, 2).cdf).pvalue > 1e-3
    assert stats.kstest(bent, stats.norm.cdf).pvalue > 1e-3


def test_the_density_is_that_of_the_draws(found: Rejected) -> None:
    side = torch.linspace(-6, 6, 1201, dtype=torch.float64)
    grid = torch.cartesian_prod(side, torch.linspace(-3, 20, 1201, dtype=torch.float64))
    mass = found.log_prob(grid).exp().sum() * (12 / 1200) * (23 / 1200)
    assert float(mass) == pytest.approx(1, abs=4 * found.relative_error + 1e-3)
    assert float(found.log_prob(torch.tensor([[3.0, 4.0]], dtype=torch.float64))) == -math.inf


def test_a_density_that_the_mixture_does_not_meet_is_none() -> None:
    assert (
        rejected(lambda u: torch.full((len(u),), -math.inf, dtype=torch.float64), about(), generator())
        is None
    )
    tiny = StudentT(torch.tensor([50.0, 0.0], dtype=torch.float64), 1e-3 * torch.eye(2, dtype=torch.float64))
    assert rejected(banana, Mixture([tiny], torch.ones(1, dtype=torch.float64)), generator()) is None


class Banana(Density):
    """The exact density of which the cheap one is off by a wave; `asked` counts."""

    dim = 2
    asked = 0

    def log_likelihood(self, u: Tensor) -> Tensor:
        self.asked += len(u)
        return banana(u) + 0.1 * torch.sin(3 * u[:, 0]) - self.log_prior(u)

    def newton(self, u: Tensor) -> tuple[Tensor, Tensor]:
        raise NotImplementedError


def proposal(found: Rejected) -> Mixture:
    wide = StudentT(torch.zeros(2, dtype=torch.float64), 3 * torch.eye(2, dtype=torch.float64), 5)
    return with_given([found, wide], torch.tensor([0.95, 0.05], dtype=torch.float64), None)


def test_weights_correct_a_cheap_density_that_is_off(found: Rejected) -> None:
    exact = Banana()
    weighed = alone(weigh(exact, proposal(found), 1000, generator(2)))
    assert len(weighed.draws.u) == 1000
    assert weighed.draws.ess > 930
    assert weighed.khat < 0.7
    truth = stats.truncnorm(-10, 2).expect(lambda x: math.exp(0.1 * math.sin(3 * x)))
    assert weighed.draws.log_evidence == pytest.approx(INTEGRAL + math.log(truth), abs=0.03)


def test_effective_draws_are_counted_not_foretold(found: Rejected) -> None:
    exact = Banana()
    weighed = alone(weigh(exact, proposal(found), 200, generator(2), enough=700))
    assert 700 <= weighed.draws.ess <= len(weighed.draws.u) == exact.asked < 900
    few = alone(weigh(Banana(), proposal(found), 200, generator(2), enough=700, limit=300))
    assert len(few.draws.u) == 300


def test_a_poor_proposal_is_replaced_after_its_pilot(found: Rejected) -> None:
    narrow = StudentT(
        torch.tensor([1.5, 1.0], dtype=torch.float64), 0.05 * torch.eye(2, dtype=torch.float64), 5
    )
    poor = Mixture([narrow], torch.ones(1, dtype=torch.float64))
    asked = []

    def otherwise(mixture: Mixture):  # type: ignore[no-untyped-def]
        asked.append(mixture)
        yield from ()
        return mixture.plus([found], 0.9, torch.ones(1, dtype=torch.float64))

    weighed = alone(weigh(Banana(), poor, 500, generator(4), enough=400, otherwise=otherwise))
    assert asked == [poor]
    assert weighed.khat < 0.7
    assert weighed.draws.ess >= 400
