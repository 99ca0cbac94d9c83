"""Posteriors of several spectra evaluated side by side: the model once for all of them, each detector for itself."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from maury.likelihood.pixels import Likelihood
from maury.likelihood.target import Target, whole
from maury.likelihood.ties import Held

Pair = tuple[Target[Any], Tensor]


@torch.no_grad()
def log_likelihoods(pairs: Sequence[Pair]) -> list[Tensor]:
    """Log likelihoods ``(n_i,)`` of posteriors and their points ``u (n_i, n_labels)``."""
    found: list[list[Tensor]] = [[] for _ in pairs]
    for group in _by_model(pairs):
        for rows, members in _pieces(group.owner, group.likelihoods[0].chunk):
            labels = group.labels[rows]
            flux = group.likelihoods[0].model(labels[:, :-1])
            for member, piece in members:
                likelihood = group.likelihoods[member]
                found[group.numbers[member]].append(
                    likelihood.log_prob(labels[piece], likelihood.see(flux[piece]))
                )
    return [
        torch.cat(parts) if parts else t.log_likelihood(u) for parts, (t, u) in zip(found, pairs, strict=True)
    ]


@torch.no_grad()
def newtons(pairs: Sequence[Pair]) -> list[tuple[Tensor, Tensor]]:
    """`Target.newton` of posteriors at their points ``u (n_i, n_labels)``."""
    found: list[list[tuple[Tensor, Tensor]]] = [[] for _ in pairs]
    for group in _by_model(pairs):
        u = torch.cat([pairs[i][1] for i in group.numbers])
        for rows, members in _pieces(group.owner, group.likelihoods[0].chunk):
            flux, slopes = group.likelihoods[0].model.jacobian(group.labels[rows, :-1])
            for member, piece in members:
                i = group.numbers[member]
                target, own = pairs[i][0], u[rows][piece]
                curvature = target.likelihood.curvature(
                    target.labels.from_normal(own), (flux[piece], slopes[piece])
                )
                found[i].append(target.newton_from(own, curvature))
    return [
        (torch.cat([g for g, _ in parts]), torch.cat([p for _, p in parts])) if parts else target.newton(u)
        for parts, (target, u) in zip(found, pairs, strict=True)
    ]


@dataclass(frozen=True)
class _Group:
    """Posteriors of one forward model.

    Attributes
    ----------
    numbers
        Their places among all.
    likelihoods
        Of all labels, one a posterior.
    labels
        All labels of all rows, shape ``(n, n_all)``.
    owner
        Place of each row's posterior in the group.
    """

    numbers: list[int]
    likelihoods: list[Likelihood]
    labels: Tensor
    owner: list[int]


def _by_model(pairs: Sequence[Pair]) -> Iterator[_Group]:
    """Group posteriors by their forward model; those of several spectra at once have no one model, and are left out."""
    groups: dict[int, list[tuple[int, Likelihood, Tensor]]] = {}
    for i, (target, u) in enumerate(pairs):
        if isinstance(target.likelihood, Likelihood | Held) and len(u):
            likelihood, rows = whole(target, target.labels.from_normal(u))
            groups.setdefault(id(likelihood.model), []).append((i, likelihood, rows))
    for members in groups.values():
        likelihoods = [likelihood for _, likelihood, _ in members]
        labels = torch.cat([rows for _, _, rows in members]).to(likelihoods[0].flux.device)
        owner = [k for k, (_, _, rows) in enumerate(members) for _ in range(len(rows))]
        yield _Group([i for i, _, _ in members], likelihoods, labels, owner)


def _pieces(owner: list[int], chunk: int) -> Iterator[tuple[slice, list[tuple[int, slice]]]]:
    """Chunks of rows, and in each the stretches of one owner, counted from the chunk's start."""
    for start in range(0, len(owner), chunk):
        part = owner[start : start + chunk]
        ends = [k for k in range(1, len(part)) if part[k] != part[k - 1]]
        stretches = zip([0, *ends], [*ends, len(part)], strict=True)
        yield slice(start, start + len(part)), [(part[a], slice(a, b)) for a, b in stretches]
