"""What a flow is told of a spectrum, and the coordinates in which it works.

Densities are over ``u``, in which the prior is N(0, I). A posterior is thousands of times narrower; a featurizer that knows where it
lies hands the flow coordinates z that are centred there, by an exact bijection of each spectrum's own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from maury.priors import Uniform, log_standard_normal


class Frame(Protocol):
    """Bijections from u to z, one a spectrum."""

    def to_flow(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """Coordinates z ``(n, n_labels)`` and ``log |det dz/du|`` ``(n,)`` of ``u (n, n_labels)``, row by row."""

    def from_flow(self, z: Tensor) -> Tensor:
        """Inverse of `to_flow`."""

    def take(self, rows: Tensor) -> Frame:
        """Frames of some spectra, by number."""


@dataclass(frozen=True)
class Guess:
    """A Gaussian of its own over z: location and log scale ``(n, n_labels)``, in the coordinates of a frame."""

    location: Tensor
    log_scale: Tensor
    frame: Frame | None

    def loss(self, u: Tensor) -> Tensor:
        """Negative log density over z but for a constant, shape ``(n,)``."""
        z = u if self.frame is None else self.frame.to_flow(u)[0]
        x = (z - self.location) * torch.exp(-self.log_scale)
        return (0.5 * x.square() + self.log_scale).sum(1)


@dataclass(frozen=True)
class Context:
    """What a flow is told of n spectra.

    Attributes
    ----------
    features
        Shape ``(n, n_features)``.
    frame
        The flow's coordinates; without it z is u.
    guess
        A first guess that the featurizer needs and that is trained beside the flow.
    summary
        What was measured of the spectra before any network saw them, shape ``(n, n_summary)``, for `maury.networks.novelty`.
    """

    features: Tensor
    frame: Frame | None = None
    guess: Guess | None = None
    summary: Tensor | None = None

    def __len__(self) -> int:
        return len(self.features)

    def __getitem__(self, row: int) -> Context:
        """Return the context of one spectrum, still with a first axis."""
        return self.take(torch.tensor([row]))

    def take(self, rows: Tensor) -> Context:
        """Return the contexts of some spectra, by number."""
        return Context(self.features[rows], self.frame and self.frame.take(rows))

    def repeat(self, n: int) -> Context:
        """Return one spectrum's context ``n`` times."""
        return self.take(torch.zeros(n, dtype=torch.long))

    def to_flow(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """Coordinates of the flow, and ``log |det dz/du|``."""
        return (u, u.new_zeros(len(u))) if self.frame is None else self.frame.to_flow(u)

    def from_flow(self, z: Tensor) -> Tensor:
        """Inverse of `to_flow`."""
        return z if self.frame is None else self.frame.from_flow(z)


@dataclass(frozen=True)
class AlignedFrame:
    """Velocities are fine near the one that alignment found, coarse far from it; other labels stay as they are.

    ``t = asinh((v - v_align) / width)`` is spread evenly over its own bounds and taken to R as a uniform label is.

    Attributes
    ----------
    prior
        Of the velocity, km/s.
    column
        Its place among the labels.
    v_align
        Velocity found, km/s, shape ``(n,)``, float64.
    width
        km/s below which t is linear.
    """

    prior: Uniform
    column: int
    v_align: Tensor
    width: float

    def _bounds(self) -> tuple[Tensor, Tensor]:
        low, high = ((bound - self.v_align) / self.width for bound in (self.prior.low, self.prior.high))
        return torch.asinh(low), torch.asinh(high)

    def velocity_to_normal(self, v: Tensor) -> tuple[Tensor, Tensor]:
        """Coordinate z and ``log |dz/dv|`` at velocities ``v (n,)``."""
        low, high = self._bounds()
        x = (v - self.v_align) / self.width
        t, span = torch.asinh(x), high - low
        below, above = ((t - low) / span).clamp_min(1e-300), ((high - t) / span).clamp_min(1e-300)
        z = torch.where(below < above, torch.special.ndtri(below), -torch.special.ndtri(above))
        log_dt = -(self.width * torch.sqrt(1 + x.square())).log()
        return z, log_dt - span.log() - log_standard_normal(z)

    def velocity_from_normal(self, z: Tensor) -> Tensor:
        """Velocity at coordinates ``z (n,)``."""
        low, high = self._bounds()
        step = (high - low) * torch.special.ndtr(-z.abs())
        t = torch.where(z < 0, low + step, high - step)
        return (self.v_align + self.width * torch.sinh(t)).clamp(self.prior.low, self.prior.high)

    def _replaced(self, x: Tensor, column: Tensor) -> Tensor:
        return torch.cat([x[:, : self.column], column[:, None], x[:, self.column + 1 :]], dim=1)

    def to_flow(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """Coordinates of the flow, and ``log |det dz/du|``."""
        u_v = u[:, self.column]
        z, log_dz_dv = self.velocity_to_normal(self.prior.from_normal(u_v))
        return self._replaced(u, z), log_dz_dv + self.prior.log_abs_det(u_v)

    def from_flow(self, z: Tensor) -> Tensor:
        """Inverse of `to_flow`."""
        v = self.velocity_from_normal(z[:, self.column])
        return self._replaced(z, self.prior.to_normal(v))

    def take(self, rows: Tensor) -> AlignedFrame:
        """Frames of some spectra, by number."""
        return AlignedFrame(self.prior, self.column, self.v_align[rows], self.width)


@dataclass(frozen=True)
class LaplaceFrame:
    """Labels in units of a Gaussian approximation of the posterior: ``z = L^T (u - centre)`` with precision ``L L^T``.

    ``centre`` is ``(n, n_labels)``, ``factor`` L ``(n, n_labels, n_labels)``, lower triangular.
    """

    centre: Tensor
    factor: Tensor

    def to_flow(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """Coordinates of the flow, and ``log |det dz/du|``."""
        z = ((u - self.centre)[:, None] @ self.factor)[:, 0]
        return z, self.factor.diagonal(dim1=1, dim2=2).log().sum(1)

    def from_flow(self, z: Tensor) -> Tensor:
        """Inverse of `to_flow`."""
        step = torch.linalg.solve_triangular(self.factor.mT, z[..., None], upper=True)
        return self.centre + step[..., 0]

    def take(self, rows: Tensor) -> LaplaceFrame:
        """Frames of some spectra, by number."""
        return LaplaceFrame(self.centre[rows], self.factor[rows])
