"""Which labels a likelihood is a function of: those inferred, held at a value, or tied to others; and products over several spectra."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, is_dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

from maury.likelihood.fit import Fit
from maury.likelihood.nuisances import Nuisance
from maury.likelihood.pixels import Likelihood
from maury.likelihood.solution import Curvature


class LogLikelihood(Protocol):
    """What a posterior needs of a likelihood: of one spectrum (`Tied`), or of several (`Product`)."""

    @property
    def parts(self) -> Sequence[Tied]:
        """The spectra's likelihoods, of which it is the product."""

    def log_prob(self, labels: Tensor) -> Tensor:
        """Log likelihood, shape ``(n,)``, of labels ``(n, n_labels)``."""

    def log_prob_with_gradient(self, labels: Tensor) -> Tensor:
        """Return the same, differentiable in the labels."""

    def curvature(self, labels: Tensor) -> Curvature:
        """Gradient and information."""


@dataclass(frozen=True)
class Tied:
    """The likelihood of one spectrum as a function of the labels that are inferred.

    The forward model's labels are an affine map of those, ``scale * labels[places] + offset``: a label is inferred (scale 1, offset 0),
    held (scale 0), or tied to another, as the velocity of a visit is to the star's at the barycentre.

    Attributes
    ----------
    pixels
        The likelihood of all labels of the forward model, and jitter.
    places
        Of each of those, the inferred label that it depends on, shape ``(n_all,)``.
    scale, offset
        Shape ``(n_all,)``; the offset also ``(n, n_all)``, where each row of labels has held values of its own.
    """

    pixels: Likelihood
    places: Tensor
    scale: Tensor
    offset: Tensor

    @classmethod
    def free(cls, pixels: Likelihood, n_labels: int) -> Tied:
        """Infer all ``n_labels``."""
        return cls(
            pixels,
            torch.arange(n_labels),
            torch.ones(n_labels, dtype=torch.float64),
            torch.zeros(n_labels, dtype=torch.float64),
        )

    @classmethod
    def holding(cls, pixels: Likelihood, values: Tensor, free: Sequence[int]) -> Tied:
        """Infer the labels at the places ``free``, in this order, and hold the others at ``values``, ``(n_all,)`` or ``(n, n_all)``."""
        n_all, inferred = values.shape[-1], torch.tensor(list(free), dtype=torch.long)
        places, scale = torch.zeros(n_all, dtype=torch.long), torch.zeros(n_all, dtype=torch.float64)
        places[inferred] = torch.arange(len(inferred))
        scale[inferred] = 1.0
        return cls(pixels, places, scale, torch.where(scale > 0, 0.0, values.double()))

    def tied(self, places: Tensor, scale: Tensor, offset: Tensor) -> Tied:
        """Tie what is inferred to other labels in turn: ``scale * labels[places] + offset``, each ``(n_labels,)``."""
        return replace(
            self,
            places=places[self.places],
            scale=self.scale * scale[self.places],
            offset=self.scale * offset[self.places] + self.offset,
        )

    @property
    def parts(self) -> Sequence[Tied]:
        """Return this one spectrum."""
        return (self,)

    @property
    def n_pixels(self) -> int:
        """Number of pixels used."""
        return self.pixels.n_pixels

    def complete(self, labels: Tensor) -> Tensor:
        """All labels of the forward model, ``(..., n_all)``, from the inferred ones, ``(..., n_labels)``."""
        return self.scale * labels[..., self.places] + self.offset

    def log_prob(self, labels: Tensor) -> Tensor:
        """Log likelihood, shape ``(n,)``, of inferred labels ``(n, n_labels)``."""
        return self.pixels.log_prob(self.complete(labels))

    def log_prob_with_gradient(self, labels: Tensor) -> Tensor:
        """As `Likelihood.log_prob_with_gradient`."""
        return self.pixels.log_prob_with_gradient(self.complete(labels))

    def prior_beside(self, labels: Tensor) -> Tensor:
        """As `Likelihood.prior_beside`."""
        return self.pixels.prior_beside(self.complete(labels))

    def curvature(self, labels: Tensor) -> Curvature:
        """Gradient and information of the inferred labels."""
        return self.pulled_back(self.pixels.curvature(self.complete(labels)), labels.shape[-1])

    def pulled_back(self, curvature: Curvature, n_labels: int) -> Curvature:
        """Gradient and information of the ``n_labels`` inferred labels, from those of all labels."""
        inferred = self.scale.nonzero()[:, 0]
        places, scale = self.places[inferred], self.scale[inferred]
        gradient = curvature.gradient[:, inferred] * scale
        fisher = curvature.fisher[:, inferred][:, :, inferred] * scale[:, None] * scale
        n = len(gradient)
        rows = fisher.new_zeros(n, n_labels, len(inferred)).index_add(1, places, fisher)
        return Curvature(
            gradient.new_zeros(n, n_labels).index_add(1, places, gradient),
            fisher.new_zeros(n, n_labels, n_labels).index_add(2, places, rows),
        )

    def with_reference_continuum(self, labels: Tensor) -> Tied:
        """As `Likelihood.with_reference_continuum`."""
        return replace(self, pixels=self.pixels.with_reference_continuum(self.complete(labels)))

    def linearised(self, labels: Tensor) -> Tied:
        """As `Likelihood.linearised`."""
        return replace(self, pixels=self.pixels.linearised(self.complete(labels)))

    def excess_scatter(self, labels: Tensor) -> Tensor:
        """As `Likelihood.excess_scatter`."""
        return self.pixels.excess_scatter(self.complete(labels))

    def fit(self, labels: Tensor) -> Fit:
        """As `Likelihood.fit`."""
        return self.pixels.fit(self.complete(labels))


@dataclass(frozen=True)
class Product:
    """The likelihood of several independent spectra of one star, each tied to the labels of all."""

    parts: Sequence[Tied]

    @property
    def n_pixels(self) -> int:
        """Number of pixels used, of all spectra."""
        return sum(part.n_pixels for part in self.parts)

    def log_prob(self, labels: Tensor) -> Tensor:
        """Log likelihood, shape ``(n,)``, of labels ``(n, n_labels)``."""
        return torch.stack([part.log_prob(labels) for part in self.parts]).sum(0)

    def log_prob_with_gradient(self, labels: Tensor) -> Tensor:
        """As `Likelihood.log_prob_with_gradient`."""
        return torch.stack([part.log_prob_with_gradient(labels) for part in self.parts]).sum(0)

    def curvature(self, labels: Tensor) -> Curvature:
        """Gradient and information of the labels."""
        return sum_of([part.curvature(labels) for part in self.parts])

    def fits(self, labels: Tensor) -> list[Fit]:
        """Model and residual of each spectrum at the labels ``(n_labels,)``."""
        return [part.fit(labels) for part in self.parts]


def sum_of(curvatures: Sequence[Curvature]) -> Curvature:
    """Gradient and information of a product of likelihoods."""
    first, *others = curvatures
    gradient, fisher = first.gradient, first.fisher
    for other in others:
        gradient, fisher = gradient + other.gradient, fisher + other.fisher
    return Curvature(gradient, fisher)


def for_several(nuisances: Sequence[Nuisance], n: int) -> tuple[Nuisance, ...]:
    """Return the nuisances of one of ``n`` spectra of a star, whose likelihoods are multiplied.

    What is of the star is the same in all of them. With a width ``sqrt(n)`` times larger in each, and independent, it leaves the labels the
    same information as one amplitude for all: for spectra that tell alike, with A of the amplitudes, F of the labels and C between them,
    ``n F - n C (n A + 1)^-1 n C^T = n (F - C (A + 1 / n)^-1 C^T)``.
    """
    return tuple(
        replace(nuisance, width=nuisance.width * math.sqrt(n))
        if is_dataclass(nuisance) and not getattr(nuisance, "of_visit", True)
        else nuisance
        for nuisance in nuisances
    )
