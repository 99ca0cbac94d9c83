"""A likelihood that costs microseconds, about a mode: the model spectrum as a quadratic of the labels, the covariance frozen.

Within a few standard deviations a spectrum is quadratic in its labels, if the square of v_sini is the coordinate: rotation broadens a line
by its variance. Then chi-squared is a form in the quadratic's terms, whose matrix, the Gram matrix of their vectors over the covariance
with continuum and nuisances integrated out, is computed once at a few jitters.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from maury.libraries.coefficients import quadratics
from maury.likelihood.solution import Reduced
from maury.likelihood.target import SQUARED, Target
from maury.likelihood.ties import Tied
from maury.quantities import Role

# Distance of the spectra from the middle, in standard deviations.
_APART = 1.4
# Draws of the Laplace approximation that tell middle and covariance of the coordinates, and widths of u that they keep to.
_DRAWS, _U_MAX = 400, 6.0
# Jitters at which the covariance is taken, and nats below the best at which a jitter counts no longer; of these many it is looked at.
_NODES, _NEGLIGIBLE, _PROFILE = 7, 16.0, 64
# Standard deviations of the coordinates beyond which nothing is known: the cheap density is zero there.
_FARTHEST = 8.0


@dataclass(frozen=True)
class Surrogate:
    """Log posterior over u of one spectrum, about one mode; up to no constant, so that its integral is the mode's evidence.

    Attributes
    ----------
    target
        What it stands for.
    middle, factor
        Of the coordinates: ``x = middle + factor z``, shapes ``(k,)`` and ``(k, k)``; coordinates are labels but the jitter, in the order
        ``places``, and squares of those ``squared``.
    jitter
        Its place among the labels; None where none is inferred.
    noise
        Variance of a pixel without jitter, over the squared level: ``ln(1 + jitter^2 / noise)`` is the coordinate of jitters.
    nodes
        Jitters in that coordinate, rising, shape ``(n,)``.
    forms
        At each node, the log likelihood as a form of ``(1, z, z z)`` of which the 1 stands for the data, ``(n, p, p)``, and its constant,
        ``(n,)``.
    evaluations
        Model spectra computed.
    """

    target: Target[Tied]
    middle: Tensor
    factor: Tensor
    places: Tensor
    squared: Tensor
    jitter: int | None
    noise: float
    nodes: Tensor
    forms: Tensor
    constants: Tensor
    evaluations: int

    def coordinates(self, u: Tensor) -> Tensor:
        """Return z, ``(n, k)``, of ``u (n, dim)``."""
        x = _coordinates(self.target.labels.from_normal(u), self.places, self.squared)
        return torch.linalg.solve_triangular(self.factor, (x - self.middle).T, upper=False).T

    @torch.no_grad()
    def log_likelihood(self, u: Tensor) -> Tensor:
        """Log likelihood, shape ``(n,)``."""
        z = self.coordinates(u)
        terms = quadratics(z)
        if self.jitter is None:
            found = ((terms @ self.forms[0]) * terms).sum(1) + self.constants[0]
            known = torch.ones(len(u), dtype=torch.bool)
        else:
            jitter = self.target.labels.from_normal(u)[:, self.jitter]
            at = torch.log1p(jitter.square() / self.noise)
            each = torch.stack([((terms @ form) * terms).sum(1) for form in self.forms], dim=1)
            found = ((each + self.constants) * _lagrange(self.nodes, at)).sum(1)
            known = (at >= self.nodes[0] - 1e-9) & (at <= self.nodes[-1] + 1e-9)
        out = found + self.target.likelihood.prior_beside(self.target.labels.from_normal(u))
        return out.masked_fill(~known | (z.abs() > _FARTHEST).any(1), -math.inf)

    def log_prob(self, u: Tensor) -> Tensor:
        """Log posterior, shape ``(n,)``."""
        return self.log_likelihood(u) + self.target.log_prior(u)


@torch.no_grad()
def surrogate(target: Target[Tied], u: Tensor, factor: Tensor, generator: torch.Generator) -> Surrogate:
    """Make a surrogate about a mode ``u (dim,)`` with the Cholesky factor ``(dim, dim)`` of its Laplace covariance."""
    labels, likelihood = target.labels, target.likelihood
    jitter = labels.place(Role.nuisance)
    # Labels that are squared come first: with a triangular factor only their own steps move them.
    free = [i for i in range(len(labels)) if i != jitter]
    is_squared = [labels.names[i] in SQUARED for i in free]
    order = sorted(range(len(free)), key=lambda k: not is_squared[k])
    places = torch.tensor([free[k] for k in order])
    squared = torch.tensor([is_squared[k] for k in order])
    draws = torch.randn(_DRAWS, len(u), generator=generator, dtype=torch.float64)
    x = _coordinates(labels.from_normal((u + draws @ factor.T).clamp(-_U_MAX, _U_MAX)), places, squared)
    covariance = torch.cov(x.T).reshape(len(places), len(places))
    scale = covariance.diagonal().clamp_min(1e-300).sqrt()
    correlation = covariance / scale / scale[:, None] + 1e-6 * torch.eye(len(scale)).double()
    triangular = scale[:, None] * torch.linalg.cholesky(correlation)
    # No step takes a square below zero.
    middle = torch.where(squared, torch.maximum(x.mean(0), _APART * triangular.abs().sum(1)), x.mean(0))
    z = _design(len(places))
    theta = labels.from_normal(u).repeat(len(z), 1)
    at = middle + z @ triangular.T
    theta[:, places] = torch.where(squared, at.clamp_min(0).sqrt(), at)
    full = likelihood.complete(theta)
    pixels = likelihood.pixels
    spectra = torch.cat([pixels.spectra(chunk) for chunk in full.split(pixels.chunk)])
    vectors = torch.linalg.solve(quadratics(z), spectra - spectra[0])
    # The continuum goes with the spectrum in the middle; where nothing is linear, so does the noise.
    if jitter is None:
        noise, nodes, reduced = (
            1.0,
            u.new_zeros(1),
            [pixels.reduced(full[:1], spectra[:1], vectors[1:])],
        )
    else:
        noise, low, high = _jitters(target, full[:1], spectra[:1], u, jitter)
        nodes = _chebyshev(math.log1p(low**2 / noise), math.log1p(high**2 / noise))
        reduced = []
        for value in (noise * torch.expm1(nodes)).clamp_min(0).sqrt():
            moved = full[:1].clone()
            moved[:, pixels.jitter] = value
            reduced.append(pixels.reduced(moved, spectra[:1], vectors[1:]))
    return Surrogate(
        target, middle, triangular, places, squared, jitter, noise, nodes,
        torch.stack([_form(one) for one in reduced]),
        torch.tensor([one.constant for one in reduced], dtype=torch.float64), len(z),
    )  # fmt: skip


def _coordinates(theta: Tensor, places: Tensor, squared: Tensor) -> Tensor:
    x = theta[:, places]
    return torch.where(squared, x.square(), x)


def _design(k: int) -> Tensor:
    """Points ``(1 + k + k (k + 1) / 2, k)`` that tell a quadratic: the middle, steps both ways, and pairs of steps."""
    one = torch.eye(k, dtype=torch.float64)
    i, j = torch.triu_indices(k, k, 1)
    return _APART * torch.cat([torch.zeros(1, k, dtype=torch.float64), one, -one, one[i] + one[j]])


def _form(reduced: Reduced) -> Tensor:
    """Return the form of the quadratic's terms, of which the first is 1: ``-1/2 |data - terms|^2``."""
    sign = -torch.ones(len(reduced.gram), dtype=torch.float64)
    sign[0] = 1.0
    return -0.5 * reduced.gram.cpu() * sign * sign[:, None]


def _jitters(
    target: Target[Tied], labels: Tensor, spectrum: Tensor, u: Tensor, place: int
) -> tuple[float, float, float]:
    """Return the noise beside which jitters stand, and the range of jitters that the residuals in the middle allow."""
    prior = target.labels.labels[place].prior
    left = target.likelihood.pixels.left_over(labels, spectrum)
    grid = torch.linspace(-_U_MAX, _U_MAX, _PROFILE, dtype=torch.float64)
    jitter = prior.from_normal(grid).clamp(prior.low, prior.high)
    value = torch.tensor(
        [target.likelihood.pixels.of_residual(left, float(x)) for x in jitter], dtype=torch.float64
    )
    value = value - 0.5 * grid.square()
    inside = (value > value.max() - _NEGLIGIBLE).nonzero()[:, 0]
    step, best = float(grid[1] - grid[0]), float(u[place])
    ends = torch.tensor([min(float(grid[inside[0]]), best) - step, max(float(grid[inside[-1]]), best) + step])
    low, high = prior.from_normal(ends.double()).clamp(prior.low, prior.high).tolist()
    return float((left.variance / left.squared).median()), low, high


def _chebyshev(low: float, high: float) -> Tensor:
    angle = math.pi * torch.arange(_NODES, dtype=torch.float64) / (_NODES - 1)
    return 0.5 * (low + high) - 0.5 * (high - low) * torch.cos(angle)


def _lagrange(nodes: Tensor, x: Tensor) -> Tensor:
    """Weights ``(n, n_nodes)`` that interpolate between nodes, at ``x (n,)``."""
    columns = []
    for k in range(len(nodes)):
        others = torch.cat([nodes[:k], nodes[k + 1 :]])
        columns.append(((x[:, None] - others) / (nodes[k] - others)).prod(1))
    return torch.stack(columns, dim=1)
