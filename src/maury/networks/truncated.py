"""Coordinates in which a Gaussian that the bounds of the priors cut off is N(0, I): exact bijections, whatever the Gaussian.

With t the share of each label's prior, in [0, 1], and y the same but for one label whose square is taken, y ~ N(mean, covariance) inside
the bounds. Label by label, z is the normal quantile of the share of the conditional Gaussian below it, cut off at the bounds (the map of
Rosenblatt 1952, Annals of Mathematical Statistics 23, 470). A small part of the prior is mixed into each conditional: there is no label for
which z is out of reach. The squared label comes first; as a function of it the density is ``N(t^2)``, tabulated.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from maury.priors import log_standard_normal

# Share of the prior in each conditional, and the least share of a Gaussian inside the bounds that counts.
_SHARE, _LEAST = 2e-3, 1e-10
# Most steps to a label; a handful are the rule.
_STEPS = 25
# Sigma, and nodes, of the table of the squared label.
_REACH, _NODES = 8.0, 129


@dataclass(frozen=True)
class TruncatedFrame:
    """Bijections from u to z, one a spectrum.

    Attributes
    ----------
    mean, factor
        Of y: ``(n, d)``, and the lower Cholesky factor of the covariance ``(n, d, d)``, both with the squared label first.
    square
        Place of the squared label among the labels; None if there is none.
    """

    mean: Tensor
    factor: Tensor
    square: int | None

    @classmethod
    def of(cls, mean: Tensor, precision: Tensor, square: int | None) -> TruncatedFrame:
        """Return it of a Gaussian in y, in the labels' order."""
        order = _order(mean.shape[1], square)
        covariance = torch.linalg.inv(precision)[:, order][:, :, order]
        covariance = 0.5 * (covariance + covariance.mT)
        return cls(mean[:, order], torch.linalg.cholesky(covariance), square)

    def take(self, rows: Tensor) -> TruncatedFrame:
        """Frames of some spectra, by number."""
        return TruncatedFrame(self.mean[rows], self.factor[rows], self.square)

    @cached_property
    def _table(self) -> tuple[Tensor, Tensor]:
        """Nodes in t of the squared label and its cumulative share there, ``(n, n_nodes)``."""
        sigma = self.factor[:, 0, 0]
        steps = torch.linspace(-_REACH, _REACH, _NODES - 2).to(self.mean)
        s = (self.mean[:, :1] + sigma[:, None] * steps).clamp(0, 1)
        ends = torch.zeros_like(s[:, :1])
        t = torch.cat([ends, s.sqrt(), ends + 1], 1)
        middle = 0.5 * (t[:, 1:] + t[:, :-1])

        def density(x: Tensor) -> Tensor:
            # Relative to the highest that there is inside the bounds.
            best = self.mean[:, :1].clamp(0, 1)
            far = ((x.square() - self.mean[:, :1]) / sigma[:, None]).square()
            near = ((best - self.mean[:, :1]) / sigma[:, None]).square()
            return torch.exp(-0.5 * (far - near))

        width = t.diff()
        mass = width * (density(t[:, 1:]) + 4 * density(middle) + density(t[:, :-1])) / 6
        mass = (1 - _SHARE) * mass / mass.sum(1, keepdim=True).clamp_min(1e-300) + _SHARE * width
        cumulative = torch.cat([ends, mass.cumsum(1)], 1)
        return t, cumulative / cumulative[:, -1:]

    def to_flow(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """Coordinates of the flow, and ``log |det dz/du|``."""
        order = _order(u.shape[1], self.square)
        x = u[:, order]
        # The nearer end of the prior tells a label's place best.
        low, high = torch.special.ndtr(x), torch.special.ndtr(-x)
        y = low.clone()
        if self.square is not None:
            y[:, 0] = low[:, 0].square()
        e = torch.linalg.solve_triangular(self.factor, (y - self.mean)[..., None], upper=False)[..., 0]
        scale = self.factor.diagonal(dim1=1, dim2=2)
        centre = y - scale * e
        below, above, log_density = _conditional(low, high, centre, scale)
        if self.square is not None:
            b, a, ld = self._of_square(low[:, 0].contiguous())
            below = torch.cat([b[:, None], below[:, 1:]], 1)
            above = torch.cat([a[:, None], above[:, 1:]], 1)
            log_density = torch.cat([ld[:, None], log_density[:, 1:]], 1)
        z = torch.where(below < above, _quantile(below), -_quantile(above))
        log_det = log_density + log_standard_normal(x) - log_standard_normal(z)
        out = torch.empty_like(z)
        out[:, order] = z
        return out, log_det.sum(1)

    def from_flow(self, z: Tensor) -> Tensor:
        """Inverse of `to_flow`."""
        order = _order(z.shape[1], self.square)
        z = z.to(self.mean)[:, order]
        scale = self.factor.diagonal(dim1=1, dim2=2)
        e, u = torch.zeros_like(z), torch.zeros_like(z)
        for k in range(z.shape[1]):
            centre = self.mean[:, k] + (self.factor[:, k, :k] * e[:, :k]).sum(1)
            if k == 0 and self.square is not None:
                low = self._square_at(torch.special.ndtr(z[:, 0]))
                u[:, 0] = torch.special.ndtri(low.clamp(1e-16, 1 - 1e-16))
                y = low.square()
            else:
                u[:, k], y = _found(z[:, k], centre, scale[:, k])
            e[:, k] = (y - centre) / scale[:, k]
        out = torch.empty_like(u)
        out[:, order] = u
        return out

    def _of_square(self, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Shares below and above, and log density, at shares ``t (n,)`` of the squared label's prior."""
        nodes, cumulative = self._table
        i = torch.searchsorted(nodes, t[:, None].contiguous(), right=True).clamp(1, nodes.shape[1] - 1)
        # Of nodes that fall together, at a bound, those that enclose something.
        a, b = nodes.gather(1, i - 1)[:, 0], nodes.gather(1, i)[:, 0]
        p, q = cumulative.gather(1, i - 1)[:, 0], cumulative.gather(1, i)[:, 0]
        width = (b - a).clamp_min(1e-300)
        share = ((t - a) / width).clamp(0, 1)
        below = p + share * (q - p)
        return below, (1 - q) + (1 - share) * (q - p), ((q - p) / width).clamp_min(1e-300).log()

    def _square_at(self, p: Tensor) -> Tensor:
        nodes, cumulative = self._table
        i = torch.searchsorted(cumulative, p[:, None].contiguous(), right=True).clamp(1, nodes.shape[1] - 1)
        a, b = nodes.gather(1, i - 1)[:, 0], nodes.gather(1, i)[:, 0]
        low, high = cumulative.gather(1, i - 1)[:, 0], cumulative.gather(1, i)[:, 0]
        return a + ((p - low) / (high - low).clamp_min(1e-300)).clamp(0, 1) * (b - a)


def _order(d: int, square: int | None) -> list[int]:
    return list(range(d)) if square is None else [square, *(i for i in range(d) if i != square)]


def _quantile(p: Tensor) -> Tensor:
    return torch.special.ndtri(p.clamp(1e-300, 0.5))


def _parts(centre: Tensor, scale: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return ends of the prior in sigma, the Gaussian's share between them, and how much of the conditional it makes."""
    first, last = -centre / scale, (1 - centre) / scale
    ndtr = torch.special.ndtr
    # Both ends on one side: the difference of the smaller tails.
    inside = torch.where(first > 0, ndtr(-first) - ndtr(-last), ndtr(last) - ndtr(first))
    counts = torch.where(inside > _LEAST, 1 - _SHARE, 0.0).to(centre)
    return first, last, inside.clamp_min(_LEAST), counts


def _conditional(low: Tensor, high: Tensor, centre: Tensor, scale: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Shares of the conditionals below and above, and log density, at shares ``low = 1 - high`` of priors."""
    ndtr = torch.special.ndtr
    first, last, inside, counts = _parts(centre, scale)
    x = (low - centre) / scale
    below = torch.where(first > 0, ndtr(-first) - ndtr(-x), ndtr(x) - ndtr(first))
    above = torch.where(last < 0, ndtr(last) - ndtr(x), ndtr(-x) - ndtr(-last))
    density = torch.exp(-0.5 * x.square()) / (math.sqrt(2 * math.pi) * scale * inside)
    return (
        counts * below.clamp_min(0) / inside + (1 - counts) * low,
        counts * above.clamp_min(0) / inside + (1 - counts) * high,
        (counts * density + 1 - counts).log(),
    )


def _found(z: Tensor, centre: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    """Label, as u and as a share of its prior, ``(n,)`` each, with z below it: Newton's steps inside a bracket that shrinks."""
    ndtr, up = torch.special.ndtr, z > 0
    first, last, inside, counts = _parts(centre, scale)
    # What is counted, from the end of the prior that is nearer: its share is `sign * (ndtr(turn * x) - start)`.
    wanted = ndtr(-z.abs())
    turn = torch.where(up, torch.where(last < 0, 1.0, -1.0), torch.where(first > 0, -1.0, 1.0)).to(z)
    start = ndtr(turn * torch.where(up, last, first))
    sign = turn * torch.where(up, -1.0, 1.0)
    a, b = torch.zeros_like(z), torch.ones_like(z)
    k, rest = counts / inside, 1 - counts
    # Each part alone would be reached farther from the end: the nearer of the two is no more than twice too far.
    alone = centre + scale * turn * torch.special.ndtri(
        (start + sign * wanted * inside).clamp(1e-300, 1 - 1e-16)
    )
    alone = torch.where(up, 1 - alone, alone).clamp(0, 1)
    far = torch.minimum(torch.where(counts > 0, alone.nan_to_num(1.0), 1.0), wanted / rest)
    t = torch.where(up, 1 - far, far)
    a, b = torch.zeros_like(z), torch.ones_like(z)
    slowest = 1e-9 * scale.clamp_max(1.0)
    for _ in range(_STEPS):
        x = (t - centre) / scale
        reached = k * (sign * (ndtr(turn * x) - start)).clamp_min(0) + rest * torch.where(up, 1 - t, t)
        left = torch.where(up, reached - wanted, wanted - reached)
        slope = k * torch.exp(-0.5 * x.square()) / (math.sqrt(2 * math.pi) * scale) + rest
        a, b = torch.where(left > 0, t, a), torch.where(left > 0, b, t)
        step = t + left / slope
        step = torch.where((step < a) | (step > b), 0.5 * (a + b), step)
        moved = (step - t).abs()
        t = step
        if bool((moved < slowest).all()):
            break
    return torch.special.ndtri(t.clamp(1e-16, 1 - 1e-16)), t
