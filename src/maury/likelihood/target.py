"""The exact posterior of one spectrum, of several of one star, or of many stars side by side: the model once for all of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

from maury.labels import LabelSet
from maury.likelihood.pixels import Likelihood
from maury.likelihood.solution import Curvature
from maury.likelihood.ties import LogLikelihood, Tied, sum_of
from maury.sampling.density import Density

L_co = TypeVar("L_co", bound=LogLikelihood, covariant=True)
# Labels whose square the spectrum depends on, and the smallest value that its slope is divided by.
SQUARED, _AT_LEAST = {"v_sini", "v_sini_2"}, 1e-3


@dataclass(frozen=True)
class Target(Density, Generic[L_co]):
    """The exact posterior over ``u = labels.to_normal(theta)``, not normalised.

    Its prior is N(0, I), so that ``log_prob(u) = log L(theta(u)) + log N(u; 0, I)``.
    """

    likelihood: L_co
    labels: LabelSet

    @property
    def dim(self) -> int:
        """Number of labels."""
        return len(self.labels)

    def parameters(self, u: Tensor) -> Tensor:
        """Return the labels at ``u (..., n_labels)``."""
        return self.labels.from_normal(u)

    def log_likelihood(self, u: Tensor) -> Tensor:
        """Log likelihood, shape ``(n,)``, of ``u (n, n_labels)``."""
        return self.likelihood.log_prob(self.labels.from_normal(u))

    def log_prob_with_gradient(self, u: Tensor) -> Tensor:
        """Return `log_prob`, differentiable in u by automatic differentiation."""
        theta = self.labels.from_normal(u)
        return self.likelihood.log_prob_with_gradient(theta) + self.log_prior(u)

    def newton(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """Gradient ``(n, d)`` and precision ``(n, d, d)`` at ``u``: Fisher information, the prior's 1, and the map's own curvature.

        The last, ``-g x''``, is what shapes a posterior that leans on a bound; it is kept where it is positive, as at every mode.
        """
        return self.newton_from(u, self.likelihood.curvature(self.labels.from_normal(u)))

    def newton_from(self, u: Tensor, curvature: Curvature) -> tuple[Tensor, Tensor]:
        """As `newton`, from the likelihood's curvature at ``u``."""
        theta = self.labels.from_normal(u)
        fisher = curvature.fisher.clone()
        for name in SQUARED.intersection(self.labels.names):
            i = self.labels.index(name)
            # Near 0 the slope by such a label vanishes, and the curvature is the slope over the label.
            fisher[:, i, i] += (-curvature.gradient[:, i] / theta[:, i].clamp_min(_AT_LEAST)).clamp_min(0)
        scale = self.labels.scale(u)
        gradient = curvature.gradient * scale
        diagonal = 1 + (-gradient * self.labels.log_jacobian_slope(u)).clamp_min(0)
        precision = fisher * scale[:, :, None] * scale[:, None, :] + torch.diag_embed(diagonal)
        return gradient - u, precision

    def with_pixels(self: Target[Tied], pixels: Likelihood) -> Target[Tied]:
        """Return the posterior of one spectrum with another likelihood of all labels; what is held or tied stays so."""
        return replace(self, likelihood=replace(self.likelihood, pixels=pixels))

    def with_reference_continuum(self: Target[Tied], theta: Tensor) -> Target[Tied]:
        """Return the posterior of one spectrum with the reference continuum that fits best with labels ``(n_labels,)``."""
        return replace(self, likelihood=self.likelihood.with_reference_continuum(theta))

    def linearised(self: Target[Tied], u: Tensor) -> Target[Tied]:
        """Return the posterior of one spectrum with its nuisances linear about ``u (n_labels,)``; itself if it has none."""
        if not self.likelihood.pixels.nuisances:
            return self
        return replace(self, likelihood=self.likelihood.linearised(self.labels.from_normal(u)))

    @classmethod
    @torch.no_grad()
    def log_likelihoods(cls, pairs: Sequence[tuple[Target[Any], Tensor]]) -> list[Tensor]:
        """Log likelihoods ``(n_i,)`` of posteriors at their points ``u (n_i, n_labels)``."""
        found: dict[tuple[int, int], list[Tensor]] = {}
        for group in _by_model(pairs):
            for rows, members in _pieces(group.owner, group.parts[0].pixels.chunk):
                labels = group.labels[rows]
                pixels = group.parts[0].pixels
                flux = pixels.model(labels[:, : pixels.jitter])
                for member, piece in members:
                    pixels = group.parts[member].pixels
                    value = pixels.log_prob(labels[piece], pixels.to_pixels(flux[piece]))
                    found.setdefault(group.places[member], []).append(value)
        return [
            torch.stack([torch.cat(found[i, k]) for k in range(len(target.likelihood.parts))]).sum(0)
            if len(u)
            else u.new_zeros(0)
            for i, (target, u) in enumerate(pairs)
        ]

    @classmethod
    @torch.no_grad()
    def newtons(cls, pairs: Sequence[tuple[Target[Any], Tensor]]) -> list[tuple[Tensor, Tensor]]:
        """`newton` of posteriors at their points ``u (n_i, n_labels)``."""
        found: dict[tuple[int, int], list[Curvature]] = {}
        for group in _by_model(pairs):
            for rows, members in _pieces(group.owner, group.parts[0].pixels.chunk):
                labels = group.labels[rows]
                pixels = group.parts[0].pixels
                flux, slopes = pixels.model.jacobian(labels[:, : pixels.jitter])
                for member, piece in members:
                    part, (i, _) = group.parts[member], group.places[member]
                    whole = part.pixels.curvature(labels[piece], (flux[piece], slopes[piece]))
                    found.setdefault(group.places[member], []).append(
                        part.pulled_back(whole, pairs[i][1].shape[-1])
                    )
        return [
            target.newton_from(u, sum_of([_joined(found[i, k]) for k in range(len(target.likelihood.parts))]))
            if len(u)
            else target.newton(u)
            for i, (target, u) in enumerate(pairs)
        ]


def _joined(pieces: Sequence[Curvature]) -> Curvature:
    return Curvature(torch.cat([p.gradient for p in pieces]), torch.cat([p.fisher for p in pieces]))


@dataclass(frozen=True)
class _Group:
    """Spectra of one forward model.

    Attributes
    ----------
    places
        Of each spectrum, its posterior's place among all, and its own place in that.
    parts
        Their likelihoods.
    labels
        All labels of all rows, shape ``(n, n_all)``.
    owner
        Place of each row's spectrum in the group.
    """

    places: list[tuple[int, int]]
    parts: list[Tied]
    labels: Tensor
    owner: list[int]


def _by_model(pairs: Sequence[tuple[Target[Any], Tensor]]) -> Iterator[_Group]:
    """Group the spectra of posteriors by their forward model."""
    groups: dict[int, list[tuple[tuple[int, int], Tied, Tensor]]] = {}
    for i, (target, u) in enumerate(pairs):
        if len(u):
            theta = target.labels.from_normal(u)
            for k, part in enumerate(target.likelihood.parts):
                entry = ((i, k), part, part.complete(theta))
                groups.setdefault(id(part.pixels.model), []).append(entry)
    for members in groups.values():
        parts = [part for _, part, _ in members]
        labels = torch.cat([rows for _, _, rows in members]).to(parts[0].pixels.flux.device)
        owner = [k for k, (_, _, rows) in enumerate(members) for _ in range(len(rows))]
        yield _Group([place for place, _, _ in members], parts, labels, owner)


def _pieces(owner: list[int], chunk: int) -> Iterator[tuple[slice, list[tuple[int, slice]]]]:
    """Chunks of rows, and in each the stretches of one owner, counted from the chunk's start."""
    for start in range(0, len(owner), chunk):
        part = owner[start : start + chunk]
        ends = [k for k in range(1, len(part)) if part[k] != part[k - 1]]
        stretches = zip([0, *ends], [*ends, len(part)], strict=True)
        yield slice(start, start + len(part)), [(part[a], slice(a, b)) for a, b in stretches]
