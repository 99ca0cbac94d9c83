"""Posteriors of several spectra evaluated side by side: the model once for all of them, each detector for itself."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from maury.forward.held import Held
from maury.forward.likelihood import Likelihood
from maury.forward.target import Target, whole

Pair = tuple[Target[Any], Tensor]


@torch.no_grad()
def log_likelihoods(pairs: Sequence[Pair]) -> list[Tensor]:
    """Log likelihoods ``(n_i,)`` of posteriors and their points ``u (n_i, n_labels)``."""
    found: list[list[Tensor]] = [[] for _ in pairs]
    for likelihood, numbers, labels, owner in _by_model(pairs):
        for rows, members in _pieces(owner, likelihood.chunk):
            flux = likelihood.model(labels[rows, :-1])
            for member, piece in members:
                i = numbers[member]
                own, all_labels = _whole(pairs[i][0]), labels[rows][piece]
                found[i].append(own.log_prob(all_labels, own.see(flux[piece])))
    return [
        torch.cat(parts) if parts else t.log_likelihood(u) for parts, (t, u) in zip(found, pairs, strict=True)
    ]


@torch.no_grad()
def newtons(pairs: Sequence[Pair]) -> list[tuple[Tensor, Tensor]]:
    """`Target.newton` of posteriors at their points ``u (n_i, n_labels)``."""
    found: list[list[tuple[Tensor, Tensor]]] = [[] for _ in pairs]
    for likelihood, numbers, labels, owner in _by_model(pairs):
        done = [0] * len(pairs)
        for rows, members in _pieces(owner, likelihood.chunk):
            flux, slopes = likelihood.model.jacobian(labels[rows, :-1])
            for member, piece in members:
                i = numbers[member]
                target, n = pairs[i][0], piece.stop - piece.start
                u = pairs[i][1][done[i] : done[i] + n]
                done[i] += n
                curvature = target.likelihood.curvature(
                    target.labels.from_normal(u), (flux[piece], slopes[piece])
                )
                found[i].append(target.newton_from(u, curvature))
    return [
        (torch.cat([g for g, _ in parts]), torch.cat([p for _, p in parts])) if parts else target.newton(u)
        for parts, (target, u) in zip(found, pairs, strict=True)
    ]


def _whole(target: Target[Any]) -> Likelihood:
    likelihood = target.likelihood
    return likelihood.likelihood if isinstance(likelihood, Held) else likelihood


def _by_model(pairs: Sequence[Pair]) -> Iterator[tuple[Likelihood, list[int], Tensor, list[int]]]:
    """Group posteriors of one forward model: one of their likelihoods, their numbers, all labels, and each row's place among the numbers.

    Posteriors of several spectra at once have no one model, and are left out.
    """
    groups: dict[int, list[int]] = {}
    for i, (target, u) in enumerate(pairs):
        if isinstance(target.likelihood, Likelihood | Held) and len(u):
            groups.setdefault(id(_whole(target).model), []).append(i)
    for numbers in groups.values():
        first = _whole(pairs[numbers[0]][0])
        labels = torch.cat([whole(t, t.labels.from_normal(u))[1] for t, u in (pairs[i] for i in numbers)])
        owner = [k for k, i in enumerate(numbers) for _ in range(len(pairs[i][1]))]
        yield first, numbers, labels.to(first.flux.device), owner


def _pieces(owner: list[int], chunk: int) -> Iterator[tuple[slice, list[tuple[int, slice]]]]:
    """Chunks of rows, and in each the stretches of one owner, counted from the chunk's start."""
    for start in range(0, len(owner), chunk):
        part = owner[start : start + chunk]
        ends = [k for k in range(1, len(part)) if part[k] != part[k - 1]]
        stretches = zip([0, *ends], [*ends, len(part)], strict=True)
        yield slice(start, start + len(part)), [(part[a], slice(a, b)) for a, b in stretches]
