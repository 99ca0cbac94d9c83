"""Proposals that cover the posterior of a spectrum whose jitter is inferred: about its modes, and along its ridge in jitter."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from maury.batching import Steps
from maury.likelihood.target import Target
from maury.likelihood.ties import Tied
from maury.sampling.density import newton
from maury.sampling.modes import Modes, climb_beside, laplace_factor
from maury.sampling.proposal import (
    Beside,
    Extended,
    Proposal,
    StudentT,
    around,
    mode_shares,
)

# A jitter well below the noise has a long lower tail, where its likelihood no longer changes: a share of the draws takes it from its
# prior, so that no weight there grows large; and as many are this much wider in jitter, for what lies between.
_WIDE_SHARE = 0.1
_WIDE = 2.5
# Of the jitter beside the flow, over the best mode's width.
_JITTER_WIDTH = 1.5
# Jitters, in u, at which the posterior's ridge is followed: steps of this size from the best one's, so many down and up.
_STEP, _DOWN, _UP, _LOWEST = 0.5, 6, 2, -3.0
# Likelihoods that following it takes at most: of each climb a start and four steps, with their slopes; and some modes.
MOST_ALONG = (_DOWN + _UP) * 10 + 20


@dataclass(frozen=True)
class Ridge:
    """Where a posterior with jitter lies beside its modes.

    Attributes
    ----------
    jitter
        Its place among the labels.
    along
        The most likely labels at jitters other than the best mode's; their factors have the breadth in jitter that each stands for.
    broad
        Factors of the modes with the emulator's error taken for known, shape ``(k, d, d)``.
    evaluations
        Likelihood evaluations spent.
    """

    jitter: int
    along: Modes
    broad: Tensor
    evaluations: int


def along_jitter(target: Target[Tied], modes: Modes, place: int) -> Steps[Ridge]:
    """Follow the posterior from its best mode to other jitters; ``place`` is the jitter's among the labels.

    A jitter below the noise is hardly told from none, nor from the emulator's error, which the other labels choose: the posterior is a
    curved ridge that no ellipsoid about its mode covers.
    """
    u, factor = modes.u[0], modes.factor[0]
    covariance = factor @ factor.T
    best = u[place]
    jitter = best + _STEP * torch.cat([-torch.arange(1.0, _DOWN + 1), torch.arange(1.0, _UP + 1)]).to(u)
    jitter = jitter[(jitter > _LOWEST) | (jitter > best)]
    moved = (jitter - best)[:, None] * covariance[place] / covariance[place, place]
    starts = u + moved.clamp(-1, 1)
    starts[:, place] = jitter
    along = yield from climb_beside(target, starts, place)
    breadth = along.factor.clone()
    breadth[:, place, place] = _STEP
    along = replace(along, factor=breadth)
    known = replace(target.likelihood.pixels, error_known=True)
    _, precision = yield from newton(target.with_pixels(known), modes.u)
    return Ridge(place, along, laplace_factor(precision), along.evaluations + len(modes.u))


def about_modes(modes: Modes, ridge: Ridge | None) -> tuple[list[StudentT], Tensor]:
    """Student-t distributions about the modes, with a ridge also along it, and their shares, which sum to 1."""
    mass = mode_shares(modes)
    parts = around(modes.u, modes.factor)
    if ridge is None:
        return parts, mass
    place = ridge.jitter
    wide = ridge.broad.clone()
    wide[:, place] *= _WIDE
    free = ridge.broad.clone()
    free[:, place] = free[:, :, place] = 0.0
    free[:, place, place] = 1.0
    anywhere = modes.u.clone()
    anywhere[:, place] = 0.0
    parts += [*around(ridge.along.u, ridge.along.factor), *around(modes.u, wide), *around(anywhere, free)]
    narrow = torch.softmax(torch.cat([modes.log_mass, ridge.along.log_mass]), 0)
    return parts, torch.cat([(1 - 2 * _WIDE_SHARE) * narrow, _WIDE_SHARE * mass, _WIDE_SHARE * mass])


def beside_flow(modes: Modes, flow: Proposal | None, jitter: int | None) -> Extended | None:
    """Return a flow with a density of the jitter, at its place among the labels, if that is none of the flow's."""
    if flow is None or jitter is None:
        return None if flow is None else Extended(flow)
    width = _JITTER_WIDTH * modes.factor[0][jitter].norm()
    return Extended(flow, Beside(jitter, StudentT(modes.u[0, jitter, None], width.view(1, 1))))
