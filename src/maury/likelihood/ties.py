"""Likelihoods of labels that are held or shared: of one spectrum, and of several spectra of one star as their product."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from maury.likelihood.fit import Fit
from maury.likelihood.pixels import Curvature, Likelihood


@dataclass(frozen=True)
class Held:
    """A `Likelihood` of which some labels are held.

    Attributes
    ----------
    likelihood
        Of all labels.
    values
        Of all labels, shape ``(n_all,)``, or ``(n, n_all)`` where each row of labels has its own; those of the free ones do not matter.
    free
        Places of the free labels, shape ``(n_labels,)``.
    """

    likelihood: Likelihood
    values: Tensor
    free: Tensor

    @property
    def n_pixels(self) -> int:
        """Number of pixels used."""
        return self.likelihood.n_pixels

    def complete(self, labels: Tensor) -> Tensor:
        """Put the held values beside free labels ``(..., n_labels)``: ``(..., n_all)``."""
        out = self.values.to(labels).expand(*labels.shape[:-1], self.values.shape[-1])
        return out.index_copy(-1, self.free, labels)

    def log_prob(self, labels: Tensor) -> Tensor:
        """Log likelihood, shape ``(n,)``, of free labels ``(n, n_labels)``."""
        return self.likelihood.log_prob(self.complete(labels))

    def log_prob_with_gradient(self, labels: Tensor) -> Tensor:
        """As `Likelihood.log_prob_with_gradient`."""
        return self.likelihood.log_prob_with_gradient(self.complete(labels))

    def curvature(self, labels: Tensor, on_grid: tuple[Tensor, Tensor] | None = None) -> Curvature:
        """Gradient and information of the free labels; ``on_grid`` as of `Likelihood.curvature`, at all labels."""
        whole = self.likelihood.curvature(self.complete(labels), on_grid)
        return Curvature(whole.gradient[:, self.free], whole.fisher[:, self.free][:, :, self.free])

    def refer(self, labels: Tensor) -> Held:
        """As `Likelihood.refer`."""
        return replace(self, likelihood=self.likelihood.refer(self.complete(labels)))

    def excess_scatter(self, labels: Tensor) -> Tensor:
        """As `Likelihood.excess_scatter`."""
        return self.likelihood.excess_scatter(self.complete(labels))

    def fit(self, labels: Tensor) -> Fit:
        """As `Likelihood.fit`."""
        return self.likelihood.fit(self.complete(labels))


@dataclass(frozen=True)
class Part:
    """One spectrum of several.

    Its labels are ``scale * joint[:, places] + offset``: the velocity of a visit is a linear function of the star's at the barycentre.

    Attributes
    ----------
    likelihood
        Of this spectrum.
    places
        Column of the joint labels that each of its labels comes from, shape ``(n_labels,)``.
    scale, offset
        Shape ``(n_labels,)``.
    """

    likelihood: Likelihood | Held
    places: Tensor
    scale: Tensor
    offset: Tensor

    def labels(self, joint: Tensor) -> Tensor:
        """Labels of this spectrum, ``(n, n_labels)``, from joint ones ``(n, n_joint)``."""
        return self.scale * joint[..., self.places] + self.offset


@dataclass(frozen=True)
class Joint:
    """Product of the likelihoods of independent spectra."""

    parts: Sequence[Part]

    @property
    def n_pixels(self) -> int:
        """Number of pixels used, of all spectra."""
        return sum(part.likelihood.n_pixels for part in self.parts)

    def log_prob(self, labels: Tensor) -> Tensor:
        """Log likelihood, shape ``(n,)``, of joint labels ``(n, n_joint)``."""
        return torch.stack([part.likelihood.log_prob(part.labels(labels)) for part in self.parts]).sum(0)

    def log_prob_with_gradient(self, labels: Tensor) -> Tensor:
        """As `Likelihood.log_prob_with_gradient`."""
        values = [part.likelihood.log_prob_with_gradient(part.labels(labels)) for part in self.parts]
        return torch.stack(values).sum(0)

    def curvature(self, labels: Tensor) -> Curvature:
        """Gradient and information of the joint labels."""
        n, d = labels.shape
        gradient = torch.zeros(n, d, dtype=torch.float64)
        fisher = torch.zeros(n, d, d, dtype=torch.float64)
        for part in self.parts:
            found = part.likelihood.curvature(part.labels(labels))
            gradient[:, part.places] += found.gradient * part.scale
            block = found.fisher * part.scale[:, None] * part.scale
            fisher[:, part.places[:, None], part.places] += block
        return Curvature(gradient, fisher)

    def fits(self, labels: Tensor) -> list[Fit]:
        """Model and residual of each spectrum at joint labels ``(n_joint,)``."""
        return [part.likelihood.fit(part.labels(labels)) for part in self.parts]
