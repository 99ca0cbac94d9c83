"""From a few starts to the modes of a density: damped Newton steps."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from maury.batching import Steps, alone
from maury.sampling.density import Density, log_likelihood, newton

# Where u stops: the prior's mass beyond is 2e-9, and a Gauss-Newton step has no business there.
_U_MAX = 6.0
# Starts closer to a bound than a thousandth of the prior feel no slope there.
U_START = 3.0
# The prior's own width is the farthest that a linear step can be believed.
FARTHEST_STEP = 1.0
# Nats below the best mode at which another no longer counts, and sigma within which two are one.
_NEGLIGIBLE, _SAME_MODE = 20.0, 2.0


@dataclass(frozen=True)
class Modes:
    """Local maxima: places ``(k, d)``, their log posterior ``(k,)`` and Cholesky factors of the Laplace covariances ``(k, d, d)``."""

    u: Tensor
    log_prob: Tensor
    factor: Tensor
    evaluations: int

    @property
    def log_mass(self) -> Tensor:
        """Laplace estimate of the log evidence of each mode up to a common constant, shape ``(k,)``."""
        return self.log_prob + self.factor.diagonal(dim1=1, dim2=2).log().sum(1)


def spread_out(u: Tensor, log_prob: Tensor, k: int) -> Tensor:
    """Choose up to ``k`` starts: the best, then the best that differ from those by a sixth of the draws' spread or more."""
    order = log_prob.argsort(descending=True)
    scale = u.std(0).clamp_min(1e-6)
    chosen = [int(order[0])]
    for i in order[1:].tolist():
        distance = ((u[chosen] - u[i]) / scale).abs().amax(1)
        if bool((distance > 1 / 6).all()):
            chosen.append(i)
        if len(chosen) == k:
            break
    return u[chosen]


def find_modes(target: Density, starts: Tensor, *, steps: int = 20, tolerance: float = 0.01) -> Modes:
    """Climb from each start ``(k, d)``; see `climb`."""
    return alone(climb(target, starts, steps=steps, tolerance=tolerance))


def climb(target: Density, starts: Tensor, *, steps: int = 20, tolerance: float = 0.01) -> Steps[Modes]:
    """Climb from each start ``(k, d)`` by Levenberg-Marquardt; return the distinct ends within 20 nats of the best.

    A climb ends when its next full step expects to gain less than ``tolerance`` nats.
    """
    ends, precision = yield from _ascend(target, starts.clamp(-U_START, U_START), steps, tolerance)
    return _distinct(ends, precision)


def climb_beside(
    target: Density, starts: Tensor, held: int, *, steps: int = 4, tolerance: float = 0.1
) -> Steps[Modes]:
    """Climb from each start ``(k, d)`` with the coordinate at the place ``held`` left where it is; return all ends.

    Their factors are of the other coordinates' covariance there, and 1 for the one that is held.
    """
    ends, _ = yield from _ascend(target, starts, steps, tolerance, held)
    return ends


def laplace_factor(precision: Tensor) -> Tensor:
    """Cholesky factors of the covariances ``(k, d, d)`` that go with precisions."""
    return torch.linalg.cholesky(torch.linalg.inv(precision))


def _ascend(
    target: Density, starts: Tensor, steps: int, tolerance: float, held: int | None = None
) -> Steps[tuple[Modes, Tensor]]:
    """Take Levenberg-Marquardt steps, one coordinate ``held`` or none; return all ends, and the precisions there ``(k, d, d)``."""

    def slopes(u: Tensor) -> Steps[tuple[Tensor, Tensor]]:
        gradient, precision = yield from newton(target, u)
        if held is not None:
            gradient[:, held] = 0.0
            precision[:, held] = precision[:, :, held] = 0.0
            precision[:, held, held] = 1.0
        return gradient, precision

    u = starts.clone()
    value = (yield from log_likelihood(target, u)) + target.log_prior(u)
    gradient, precision = yield from slopes(u)
    damping = torch.full((len(u),), 1e-3, dtype=torch.float64)
    evaluations = 2 * len(u)
    for _ in range(steps):
        gain = 0.5 * (gradient * torch.linalg.solve(precision, gradient)).sum(1)
        active = (gain > tolerance).nonzero()[:, 0]
        if not len(active):
            break
        diagonal = torch.diag_embed(precision[active].diagonal(dim1=1, dim2=2))
        step = torch.linalg.solve(
            precision[active] + damping[active, None, None] * diagonal, gradient[active]
        )
        trial = (u[active] + step.clamp(-FARTHEST_STEP, FARTHEST_STEP)).clamp(-_U_MAX, _U_MAX)
        trial_value = (yield from log_likelihood(target, trial)) + target.log_prior(trial)
        better = trial_value > value[active]
        won = active[better]
        u[won], value[won] = trial[better], trial_value[better]
        damping[active] = torch.where(better, damping[active] / 10, damping[active] * 20 + 1e-3).clamp(
            1e-8, 1e8
        )
        if len(won):
            gradient[won], precision[won] = yield from slopes(u[won])
        evaluations += len(active) + len(won)
        # A climb that no damping helps has arrived as far as rounding allows.
        gradient[damping > 1e6] = 0
    return Modes(u, value, laplace_factor(precision), evaluations), precision


def joined(modes: Modes, others: Modes) -> Modes:
    """Add those of ``others`` that lie apart from the ``modes``; the best comes first, and what is 20 nats below it is left out.

    Without any to be added, the modes are returned as they are.
    """
    precision = torch.linalg.inv(modes.factor @ modes.factor.mT)
    offset = others.u[:, None] - modes.u
    apart = ((offset[:, :, None] @ precision @ offset[..., None])[..., 0, 0] > _SAME_MODE**2).all(1)
    if not bool((apart & (others.log_prob > modes.log_prob.max() - _NEGLIGIBLE)).any()):
        return modes
    u, log_prob, factor = (
        torch.cat([getattr(modes, name), getattr(others, name)[apart]])
        for name in ("u", "log_prob", "factor")
    )
    order = log_prob.argsort(descending=True)
    order = order[log_prob[order] >= log_prob.max() - _NEGLIGIBLE]
    return Modes(u[order], log_prob[order], factor[order], modes.evaluations + others.evaluations)


def _distinct(ends: Modes, precision: Tensor) -> Modes:
    """Drop what is within 2 sigma of a better end, or 20 nats below the best."""
    keep: list[int] = []
    for i in ends.log_prob.argsort(descending=True).tolist():
        if ends.log_prob[i] < ends.log_prob.max() - _NEGLIGIBLE:
            break
        offset = ends.u[keep] - ends.u[i]
        if all(float(d @ precision[j] @ d) > _SAME_MODE**2 for d, j in zip(offset, keep, strict=True)):
            keep.append(i)
    return Modes(ends.u[keep], ends.log_prob[keep], ends.factor[keep], ends.evaluations)
