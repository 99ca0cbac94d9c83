"""Independent draws of a cheap density, by rejection from a mixture that nearly covers it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from maury.sampling.importance import Weighted, effective_sample_size, pareto_smooth
from maury.sampling.proposal import Mixture, Proposal, adapted

# Draws of a round by which the mixture is fitted, rounds at most, and the share of effective ones that ends them.
_FITTING, _ROUNDS, _GOOD = 3000, 5, 0.5
# Draws that measure the density's integral: it is right to a hundredth where a third of them are effective.
_MEASURING = 15_000
# Share of the density's mass that may lie above the ceiling.
_ABOVE = 2e-3
# Draws of the mixture in one go, and goes until draws must be there.
_AT_ONCE, _GOES = 2048, 400


@dataclass(frozen=True)
class Rejected(Proposal):
    """The normalised density ``min(p, c q) / Z``: of a cheap density p where a mixture q, raised by c, covers it, and c q elsewhere.

    Its draws are independent, and its density is known as well as Z, by thousands of draws of q: the error is `relative_error`.

    Attributes
    ----------
    log_density
        Log of p, not normalised, of ``u (n, dim)``; ``-inf`` where it is 0.
    base
        The mixture q.
    log_ceiling
        ln c.
    log_integral
        ln Z.
    relative_error
        Of Z, one standard deviation.
    acceptance
        Share of q's draws that are kept.
    """

    log_density: Callable[[Tensor], Tensor]
    base: Mixture
    log_ceiling: float
    log_integral: float
    relative_error: float

    @property
    def acceptance(self) -> float:
        """Share of the mixture's draws that are kept."""
        return math.exp(self.log_integral - self.log_ceiling)

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        """Draw ``(n, dim)``."""
        kept, number = [self.base.sample(1, generator)[:0]], 0
        for _ in range(_GOES):
            if number >= n:
                break
            u = self.base.sample(_AT_ONCE, generator)
            uniform = torch.rand(len(u), generator=generator, dtype=torch.float64)
            over = self.log_density(u) - self.base.log_prob(u) - self.log_ceiling
            kept.append(u[uniform.log() < over])
            number += len(kept[-1])
        return torch.cat(kept)[:n]

    def log_prob(self, u: Tensor) -> Tensor:
        """Log density, shape ``(n,)``."""
        return (
            torch.minimum(self.log_density(u), self.base.log_prob(u) + self.log_ceiling) - self.log_integral
        )


def rejected(
    log_density: Callable[[Tensor], Tensor],
    base: Mixture,
    generator: torch.Generator,
    *,
    least_acceptance: float = 0.001,
) -> Rejected | None:
    """Fit a mixture to a cheap density, and measure the density's integral.

    Parameters
    ----------
    log_density
        Not normalised; of tens of thousands of points.
    base
        Student-t distributions to begin with; more are added while they cover the density badly.
    generator
        Source of randomness.
    least_acceptance
        Fewer draws kept than this, and the density is not worth its name.

    Returns
    -------
    Rejected or None
        None if the mixture finds no density to speak of.
    """
    for round_ in range(_ROUNDS):
        u = base.sample(_FITTING, generator)
        value, log_base = log_density(u), base.log_prob(u)
        if int(value.isfinite().sum()) < u.shape[1] + 2:
            return None
        if effective_sample_size(value - log_base) >= _GOOD * len(u) or round_ == _ROUNDS - 1:
            break
        smooth = torch.from_numpy(pareto_smooth((value - log_base).numpy())[0])
        draws = Weighted(u, value, torch.zeros_like(value), log_base)
        base = adapted(draws, smooth, base, generator, closely=round_ > 0)
    log_ceiling = _ceiling(value - log_base)
    u = base.sample(_MEASURING, generator)
    ratio = torch.minimum(log_density(u) - base.log_prob(u), torch.tensor(log_ceiling, dtype=torch.float64))
    log_integral = float(torch.logsumexp(ratio, 0)) - math.log(len(u))
    error = math.sqrt(max(1 / effective_sample_size(ratio) - 1 / len(u), 0.0))
    found = Rejected(log_density, base, log_ceiling, log_integral, error)
    return found if found.acceptance >= least_acceptance else None


def _ceiling(log_weights: Tensor) -> float:
    """Return the log weight above which little of the mass lies."""
    w = (log_weights - log_weights.max()).exp().sort(descending=True).values
    # Mass above the k-th largest weight: what the larger ones exceed it by.
    number = torch.arange(1, len(w) + 1, dtype=torch.float64)
    above = w.cumsum(0) - number * w
    k = int((above <= _ABOVE * w.sum()).sum()) - 1
    return float(w[max(k, 0)].log() + log_weights.max())
