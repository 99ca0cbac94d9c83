"""Weighing: within a budget, and ended by a draw that lies above every mode; modes from several climbs put together."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from maury.batching import alone
from maury.constants import BUDGET
from maury.sampling.density import Density
from maury.sampling.modes import Modes, joined
from maury.sampling.nested import nested_sampling
from maury.sampling.proposal import Mixture, StudentT
from maury.sampling.verification import weigh


class Spike(Density):
    """A normal likelihood over the unit square's normal scores: of this width about its middle."""

    dim = 2

    def __init__(self, width: float = 0.02) -> None:
        self.width, self.asked = width, 0

    def log_likelihood(self, u: Tensor) -> Tensor:
        self.asked += len(u)
        return -0.5 * ((torch.special.ndtr(u) - 0.5) / self.width).square().sum(1)

    def newton(self, u: Tensor) -> tuple[Tensor, Tensor]:
        raise NotImplementedError


def proposal(place: float = 0.0, width: float = 0.1) -> Mixture:
    part = StudentT(torch.full((2,), place, dtype=torch.float64), width * torch.eye(2, dtype=torch.float64))
    return Mixture([part], torch.ones(1, dtype=torch.float64))


def weighed(likelihood: Spike, start: Mixture, **options: float) -> tuple[int, float]:
    found = alone(weigh(likelihood, start, 200, torch.Generator().manual_seed(0), **options))
    assert len(found.draws.u) == likelihood.asked
    return len(found.draws.u), found.khat


def test_good_weights_need_one_round() -> None:
    assert weighed(Spike(), proposal(0.0, 0.06))[0] == 200


def test_bad_weights_get_eight_rounds_more_or_what_the_budget_allows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("maury.sampling.verification.KHAT_LIMIT", -9.0)
    assert weighed(Spike(), proposal())[0] == 9 * 200
    assert weighed(Spike(), proposal(), limit=700)[0] == 700
    # Beyond the eight rounds, all draws are doubled.
    assert weighed(Spike(), proposal(), limit=5000)[0] == 5000
    assert weighed(Spike(), proposal(), limit=10)[0] == 200


def test_a_draw_above_the_ceiling_ends_it() -> None:
    assert weighed(Spike(), proposal(1.0, 0.5), ceiling=-1e9)[0] == 60


def test_nested_sampling_within_a_budget() -> None:
    target = Spike(0.05)
    cut = nested_sampling(target, torch.Generator().manual_seed(0), live=200, budget=300)
    assert not cut.converged
    assert cut.evaluations <= 400
    whole = nested_sampling(target, torch.Generator().manual_seed(0), live=200, ess=300, budget=BUDGET)
    assert whole.converged
    assert whole.log_evidence == pytest.approx(math.log(2 * math.pi * 0.05**2), abs=0.15)


def modes(*places: tuple[float, float]) -> Modes:
    """Modes at (place, log posterior), of width 0.1."""
    u = torch.tensor([[place, 0.0] for place, _ in places], dtype=torch.float64)
    log_prob = torch.tensor([value for _, value in places], dtype=torch.float64)
    return Modes(u, log_prob, 0.1 * torch.eye(2, dtype=torch.float64).repeat(len(places), 1, 1), 7)


def test_modes_that_are_known_stay_as_they_are() -> None:
    known = modes((0.0, 5.0))
    assert joined(known, modes((0.05, 5.01))) is known
    # Too low to matter.
    assert joined(known, modes((1.0, -30.0))) is known


def test_new_modes_are_added_and_what_is_then_too_low_goes() -> None:
    both = joined(modes((0.0, 5.0)), modes((1.0, 3.0), (0.1, 5.0)))
    assert both.u[:, 0].tolist() == [0.0, 1.0]
    assert both.evaluations == 14
    higher = joined(modes((0.0, 5.0)), modes((1.0, 40.0)))
    assert higher.u[:, 0].tolist() == [1.0]
    assert higher.log_prob.tolist() == [40.0]
