"""From a proposal to verified draws of a density: draw, weigh exactly, adapt while the weights are uneven, tell how far to trust them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from maury.batching import Steps, alone
from maury.errors import InferenceError, LabelError
from maury.priors import Uniform, log_standard_normal
from maury.sampling.adapters import Sampler, as_proposal
from maury.sampling.density import Density, log_likelihood
from maury.sampling.importance import Weighted
from maury.sampling.modes import climb, spread_out
from maury.sampling.nested import nested_sampling
from maury.sampling.proposal import (
    Extended,
    Mixture,
    Proposal,
    adapted,
    around,
    average,
    draw,
    log_density,
    mode_shares,
    with_given,
)

KHAT_LIMIT = 0.7
# The first draws, whose weighted covariance corrects the Laplace approximation for the rest.
_PILOT = 0.3
# Effective draws a draw below which the proposal is adapted; enough of them end the rounds.
_GOOD = 0.65
ROUNDS = 8
_ENOUGH = 0.3
# Of what is missing by the efficiency so far, what a round takes; and the efficiency of a pilot below which a proposal is poor.
_MORE, _POOR = 1.1, 0.4
# A round is no smaller than this.
_LEAST = 30
# Of any density: draws of the proposal that are ranked, climbs that start from them, and the share that stays with the proposal.
_RANKED, _STARTS, _GIVEN = 512, 12, 0.5
# Fewer weights do not tell what their tail is like.
_FEWEST = 100
# Standard deviations of the proposal's draws in a unit of u, where no bounds are known.
_WIDE = 2.0
# A precision is nowhere less than this, so that a step is finite where a density is flat.
_FLAT = 1e-2


@dataclass(frozen=True)
class Weighed:
    """Weighted draws, their smoothed and normalised log weights ``(n,)``, and the shape of the raw ones' tail."""

    draws: Weighted
    log_weights: Tensor
    khat: float

    @property
    def log_posterior(self) -> Tensor:
        """Log posterior of each draw but for the evidence, shape ``(n,)``."""
        return self.draws.log_likelihood + self.draws.log_prior


class _Rounds:
    """How many draws each round takes: a pilot and its rest, rounds of as many, and, where a limit allows more, rounds that double all.

    Where the weights are to be trusted and only their number is short, a round is as large as what is missing.
    """

    def __init__(self, draws: int, limit: float, enough: float) -> None:
        self.draws, self.limit, self.enough = draws, limit, enough
        self.total, self.rounds = 0, 0

    def next(self, ess: float, trusted: bool) -> int:
        """Return how many draws to take; 0 if there are no more."""
        pilot = int(_PILOT * self.draws)
        if self.total < self.draws:
            size = self.draws - self.total if self.total else pilot
        elif trusted and self.enough > _ENOUGH * self.draws:
            missing = _MORE * (self.enough / ess - 1) * self.total
            size = int(min(max(missing, _LEAST), self.limit - self.total))
        elif self.rounds < ROUNDS or self.limit < math.inf:
            size = int(min(self.draws if self.rounds < ROUNDS else self.total, self.limit - self.total))
            self.rounds += 1
        else:
            size = 0
        self.total += max(size, 0)
        return max(size, 0)


def weigh(
    target: Density,
    proposal: Mixture,
    draws: int,
    generator: torch.Generator,
    progress: Callable[[], None] = lambda: None,
    *,
    enough: float | None = None,
    patience: float | None = None,
    limit: float = math.inf,
    ceiling: float = math.inf,
    otherwise: Callable[[Mixture], Steps[Mixture]] | None = None,
) -> Steps[Weighed]:
    """Draw from a proposal and weigh with the exact density; adapt the proposal, and draw more, while the weights are uneven.

    Weights are against the mixture of all proposals used so far (Veach & Guibas' balance heuristic).

    Parameters
    ----------
    target
        The density.
    proposal
        To begin with.
    draws
        A round.
    generator
        Source of randomness.
    progress
        Called before every round; what it raises ends the weighing.
    enough
        Effective draws that end it, three tenths of ``draws`` if None. They are counted, not foretold: rounds go on until they are there.
    patience
        Draws in all that end it even if fewer are effective, as long as the weights can be trusted; eight rounds if None.
    limit
        Draws in all, beyond the first ``draws``: where it is finite, rounds go on up to it; eight are added at most where it is not.
    ceiling
        A log posterior that no draw should exceed: one that does ends the weighing.
    otherwise
        Adds to a proposal that the pilot shows to be poor, in place of what the pilot's draws alone would add.
    """
    proposals: list[Mixture] = []
    counts: list[int] = []
    given = proposal.given
    u = torch.empty(0, target.dim, dtype=torch.float64)
    log_l = log_given = torch.empty(0, dtype=torch.float64)
    wanted = _ENOUGH * draws if enough is None else enough
    patience = ROUNDS * draws if patience is None else patience
    rounds = _Rounds(draws, limit, wanted)
    size = rounds.next(0.0, False)
    while size:
        progress()
        number = proposal.counts(size, generator)
        of_given = None
        if given is not None and number[-1]:
            of_given = yield from draw(given.proposal, int(number[-1]), generator)
        new = proposal.gather(number, of_given, generator)
        u = torch.cat([u, new])
        log_l = torch.cat([log_l, (yield from log_likelihood(target, new))])
        if given is not None:
            log_given = torch.cat([log_given, (yield from log_density(given.proposal, given.seen(new)))])
        proposals.append(proposal)
        counts.append(len(new))
        log_proposal = average(proposals, counts).log_prob(u, log_given)
        weighted = Weighted(u, log_l, target.log_prior(u), log_proposal)
        log_weights, khat = weighted.smoothed()
        found = Weighed(weighted, log_weights, khat)
        if float(found.log_posterior.max()) > ceiling:
            break
        trusted = len(u) >= draws and khat <= KHAT_LIMIT
        if trusted and (weighted.ess >= wanted or len(u) > patience):
            break
        if otherwise is not None and weighted.ess < _POOR * len(u):
            proposal, otherwise = (yield from otherwise(proposal)), None
        elif weighted.ess < _GOOD * len(u) or (len(u) >= draws and khat > KHAT_LIMIT):
            proposal = adapted(weighted, log_weights, proposal, generator, closely=len(u) >= draws)
        size = rounds.next(weighted.ess, trusted)
    return found


@dataclass(frozen=True)
class Refined:
    """Verified draws of a density.

    Attributes
    ----------
    draws
        In the density's own parameters, shape ``(n, dim)``; weighted by ``weights``.
    log_weights
        Pareto-smoothed, normalised, shape ``(n,)``.
    khat
        Pareto shape of the raw weights; above 0.7 importance sampling is not to be trusted, and nested sampling took over if it might.
    ess
        Effective sample size of the raw weights.
    log_evidence
        ln of the density's integral.
    method
        ``"refined"`` or ``"nested"``.
    evaluations
        Of the log density.
    """

    draws: NDArray[np.float64]
    log_weights: NDArray[np.float64]
    khat: float
    ess: float
    log_evidence: float
    method: str
    evaluations: int

    @property
    def weights(self) -> NDArray[np.float64]:
        """Normalised weights, shape ``(n,)``."""
        return np.asarray(np.exp(self.log_weights - np.logaddexp.reduce(self.log_weights)))

    def sample(self, n: int, seed: int = 0) -> NDArray[np.float64]:
        """Equally weighted draws, shape ``(n, dim)``, taken with replacement."""
        return self.draws[np.random.default_rng(seed).choice(len(self.draws), n, p=self.weights)]


def verify(
    log_prob: Callable[[Tensor], Any],
    proposal: Sampler | Proposal,
    *,
    draws: int = 2000,
    seed: int = 0,
    bounds: tuple[Sequence[float], Sequence[float]] | None = None,
    climb_modes: bool = True,
    nested: bool = True,
    progress: Callable[[str], None] = lambda _: None,
) -> Refined:
    """Correct the draws of any proposal to any density.

    The best of the proposal's draws are climbed from by Newton steps where the density is differentiable. The proposal and Student-t
    distributions about the modes are drawn from and weighed exactly, by rounds that adapt to what the weights show; where those are not
    to be trusted, nested sampling takes over.

    Parameters
    ----------
    log_prob
        Log of the density, not normalised: takes float64 ``(n, dim)`` and returns ``(n,)``, ``-inf`` where it is 0. A log likelihood plus
        a log prior makes ``log_evidence`` the evidence.
    proposal
        Anything with ``sample`` and ``log_prob``, the latter normalised: a torch distribution, a posterior of sbi or LAMPE at an
        observation; of BayesFlow by `maury.sampling.adapters.from_bayesflow`.
    draws
        Importance draws a round; at least 100.
    seed
        The same seed gives the same draws.
    bounds
        Lower and upper bounds of the parameters, ``(dim,)`` each, beyond which the density is 0; None if there are none. To be told
        wherever a prior is a box: no draw is then lost outside.
    climb_modes
        Whether to climb to the modes.
    nested
        Whether nested sampling may take over.
    progress
        Told what stage begins; what it raises ends the run.

    Raises
    ------
    InferenceError
        If there are fewer than 100 draws, the density returns something else than ``(n,)`` numbers, or no draw has any density.

    Examples
    --------
    >>> import torch
    >>> from torch.distributions import Independent, Normal
    >>> rough = Independent(Normal(torch.zeros(2).double(), 2.0), 1)
    >>> found = verify(lambda x: -0.5 * (x - 1).square().sum(1), rough)
    >>> round(found.log_evidence, 1)
    1.8
    """
    if draws < _FEWEST:
        raise InferenceError(f"draws must be at least {_FEWEST} for the weights to be judged, not {draws}")
    generator = torch.Generator().manual_seed(seed)
    outer = as_proposal(proposal)
    first = outer.sample(max(_RANKED, draws // 4), generator)
    space: _Space = _Scaled(first.mean(0), _WIDE * first.std(0).clamp_min(1e-12))
    if bounds is not None:
        space = _Box.of(*bounds)
    target = _Function(log_prob, space)
    return alone(
        _verify(
            target, _Moved(outer, space), space.to_u(first), draws, generator, climb_modes, nested, progress
        )
    )


def _verify(
    target: _Function, proposal: Proposal, first: Tensor, draws: int, generator: torch.Generator, climb_modes: bool, nested: bool,
    progress: Callable[[str], None],
) -> Steps[Refined]:  # fmt: skip
    given = Extended(proposal)
    mixture = Mixture([], torch.ones(1, dtype=torch.float64), given)
    spent = 0
    if climb_modes and target.differentiable(first[:1]):
        progress("climb")
        value = (yield from log_likelihood(target, first)) + target.log_prior(first)
        known = value.isfinite()
        if known.any():
            modes = yield from climb(target, spread_out(first[known], value[known], _STARTS))
            mixture = with_given(around(modes.u, modes.factor), mode_shares(modes), given, _GIVEN)
            spent = len(first) + modes.evaluations
    weighed = yield from weigh(target, mixture, draws, generator, partial(progress, "weigh"))
    found, log_weights, evidence, method = (
        weighed.draws,
        weighed.log_weights,
        weighed.draws.log_evidence,
        "refined",
    )
    spent += len(found.u)
    if weighed.khat > KHAT_LIMIT and nested:
        progress("nested sampling")
        sampled = nested_sampling(target, generator, progress=partial(progress, "nested sampling"))
        found, log_weights, evidence, method = (
            sampled.draws,
            sampled.log_weights,
            sampled.log_evidence,
            "nested",
        )
        spent += sampled.evaluations
    return Refined(
        target.space.from_u(found.u).numpy(),
        log_weights.numpy(),
        weighed.khat,
        found.ess,
        evidence,
        method,
        spent,
    )


class _Space(Protocol):
    """Parameters x, ``(n, dim)``, as functions of u."""

    @property
    def dim(self) -> int: ...

    def from_u(self, u: Tensor) -> Tensor: ...

    def to_u(self, x: Tensor) -> Tensor: ...

    def log_abs_det(self, u: Tensor) -> Tensor:
        """``ln |dx/du|``, shape ``(n,)``."""

    def inside(self, x: Tensor) -> Tensor:
        """Whether each row is a point of this space, shape ``(n,)``."""


@dataclass(frozen=True)
class _Scaled:
    """``centre + scale u``."""

    centre: Tensor
    scale: Tensor

    @property
    def dim(self) -> int:
        return len(self.centre)

    def from_u(self, u: Tensor) -> Tensor:
        return self.centre + self.scale * u

    def to_u(self, x: Tensor) -> Tensor:
        return (x - self.centre) / self.scale

    def log_abs_det(self, u: Tensor) -> Tensor:
        return self.scale.log().sum().expand(len(u))

    def inside(self, x: Tensor) -> Tensor:
        return x.isfinite().all(1)


@dataclass(frozen=True)
class _Box:
    """Inside bounds, by the cumulative distribution of a uniform density: all of u lies inside."""

    sides: tuple[Uniform, ...]

    @classmethod
    def of(cls, low: Sequence[float], high: Sequence[float]) -> _Box:
        try:
            return cls(tuple(Uniform(low=float(a), high=float(b)) for a, b in zip(low, high, strict=True)))
        except (ValueError, LabelError):
            raise InferenceError(
                f"bounds: as many lower as upper ones, finite, each lower below its upper, not {low} and {high}"
            ) from None

    @property
    def dim(self) -> int:
        return len(self.sides)

    def _each(self, method: str, values: Tensor) -> Tensor:
        return torch.stack([getattr(s, method)(values[..., i]) for i, s in enumerate(self.sides)], dim=-1)

    def from_u(self, u: Tensor) -> Tensor:
        return self._each("from_normal", u)

    def to_u(self, x: Tensor) -> Tensor:
        return self._each("to_normal", x)

    def log_abs_det(self, u: Tensor) -> Tensor:
        return self._each("log_abs_det", u).sum(-1)

    def inside(self, x: Tensor) -> Tensor:
        low, high = (torch.tensor([getattr(s, end) for s in self.sides]).to(x) for end in ("low", "high"))
        return ((x > low) & (x < high)).all(1)


@dataclass(frozen=True)
class _Function(Density):
    """A log density of x as one of u: divided by N(u; 0, I), which stands for the prior here."""

    function: Callable[[Tensor], Any]
    space: _Space

    @property
    def dim(self) -> int:
        return self.space.dim

    def _value(self, u: Tensor) -> Tensor:
        """Log density over u, shape ``(n,)``."""
        value = self.function(self.space.from_u(u))
        value = value if isinstance(value, Tensor) else torch.as_tensor(np.asarray(value))
        if value.shape != (len(u),):
            raise InferenceError(
                f"the log density of {len(u)} points must have the shape ({len(u)},), not {tuple(value.shape)}"
            )
        return value.double() + self.space.log_abs_det(u)

    @torch.no_grad()
    def log_likelihood(self, u: Tensor) -> Tensor:
        value = self._value(u)
        if value.isnan().any() or value.isposinf().any():
            raise InferenceError(
                "the log density is NaN or infinite at some point; -inf says that there is none"
            )
        return value - log_standard_normal(u).sum(-1)

    def parameters(self, u: Tensor) -> Tensor:
        return self.space.from_u(u)

    def differentiable(self, u: Tensor) -> bool:
        """Tell whether gradients pass through the function."""
        try:
            return bool(self._value(u.clone().requires_grad_()).requires_grad)
        except (RuntimeError, TypeError):
            return False

    def newton(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """Gradient, and the Hessian with its eigenvalues made positive (Dauphin et al. 2014, arXiv:1406.2572)."""
        at = u.detach().clone().requires_grad_()
        (gradient,) = torch.autograd.grad(self._value(at).sum(), at, create_graph=True)
        rows = [
            torch.autograd.grad(gradient[:, i].sum(), at, retain_graph=True, allow_unused=True)[0]
            if gradient.requires_grad
            else None
            for i in range(self.dim)
        ]
        hessian = torch.stack([torch.zeros_like(u) if row is None else row for row in rows], dim=1)
        gradient, hessian = gradient.detach().nan_to_num(0, 0, 0), hessian.nan_to_num(0, 0, 0)
        values, vectors = torch.linalg.eigh(-0.5 * (hessian + hessian.mT))
        precision = (vectors * values.abs().clamp_min(_FLAT)[:, None]) @ vectors.mT
        return gradient, precision


@dataclass(frozen=True)
class _Moved(Proposal):
    """A proposal over x as one over u.

    Draws outside the bounds are replaced by draws of N(0, I), of which a hundredth belongs to it in any case.
    """

    outer: Proposal
    space: _Space
    share: float = 0.01

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        x = self.outer.sample(n, generator)
        u = self.space.to_u(x)
        prior = torch.randn(u.shape, generator=generator, dtype=torch.float64)
        other = torch.rand(n, generator=generator) < self.share
        return torch.where((self.space.inside(x) & u.isfinite().all(1) & ~other)[:, None], u, prior)

    def log_prob(self, u: Tensor) -> Tensor:
        x = self.space.from_u(u)
        moved = self.outer.log_prob(x) + self.space.log_abs_det(u) + math.log1p(-self.share)
        return torch.logaddexp(moved, log_standard_normal(u).sum(-1) + math.log(self.share))
