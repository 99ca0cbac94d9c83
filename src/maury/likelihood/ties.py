"""The likelihood of several spectra of one star: a product, in which some labels are shared and others are each spectrum's own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from maury.forward.fit import Fit
from maury.forward.held import Held
from maury.forward.likelihood import Curvature, Likelihood


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
