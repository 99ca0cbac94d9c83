"""How far labels move when a stretch of the spectrum is left out: one linear step, for any number of stretches.

About the mode everything is linear: labels, nuisances and continuum are columns of one design, whitened as the noise asks. What is left
out takes its rows with it (Belsley, Kuh & Welsch 1980, Regression Diagnostics, ch. 2).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from maury.likelihood.noise import innovations
from maury.likelihood.pixels import Likelihood
from maury.likelihood.solution import SPREAD
from maury.likelihood.target import Target
from maury.likelihood.ties import Tied

Array = NDArray[np.float64]
# Units of the prior: a step that leads farther has left the range in which anything is linear.
_FARTHEST = 4.0


@dataclass(frozen=True)
class Influence:
    """A spectrum's posterior as a linear model about its mode.

    Attributes
    ----------
    target
        The exact posterior.
    u
        The mode, shape ``(n_labels,)``.
    design
        Whitened columns: labels over u first, then nuisances and continuum; shape ``(n_columns, n_pixels)``.
    residual
        Whitened, shape ``(n_pixels,)``.
    precision
        Of all columns, their priors included, shape ``(n_columns, n_columns)``.
    continuum
        Over the reference continuum, shape ``(n_pixels,)``.
    variance
        Of single pixels, over the squared reference continuum, shape ``(n_pixels,)``.
    """

    target: Target[Tied]
    u: Tensor
    design: Array
    residual: Array
    precision: Array
    continuum: Array
    variance: Array

    @classmethod
    @torch.no_grad()
    def at(cls, target: Target[Tied], u: Tensor) -> Influence:
        """Make a posterior linear about its mode ``u (n_labels,)``."""
        pixels, k = target.likelihood.pixels, target.dim
        theta = target.likelihood.complete(target.labels.from_normal(u))
        m, slopes = pixels.model.jacobian(theta[None, : pixels.jitter])
        fit, reference = pixels.fit(theta), pixels.reference.cpu().numpy()
        continuum = fit.continuum / reference
        by_labels = _inferred(target, u, pixels.to_pixels(slopes)[0].cpu().numpy())
        linear = pixels.linear
        by_nuisances = by_labels[:0] if linear is None else linear.columns.cpu().numpy()
        by_continuum = _continuum(pixels, pixels.to_pixels(m)[0].cpu().numpy())
        both = np.vstack([by_labels * continuum, by_nuisances, by_continuum, fit.residual / reference])
        variance = (fit.sigma / reference) ** 2
        whitened = _whitened(pixels, both, variance)
        design, residual = whitened[:-1], whitened[-1]
        prior = np.ones(len(design))
        prior[k + len(by_nuisances) :] = SPREAD**-2
        precision = design @ design.T + np.diag(prior)
        # A label whose square counts, near 0, and one that leans on a bound are better known than their slopes say.
        curvature = pixels.curvature(theta[None], (m, slopes))
        _, known = target.newton_from(u[None], target.likelihood.pulled_back(curvature, k))
        others = precision[:k, k:] @ np.linalg.solve(precision[k:, k:], precision[k:, :k])
        more = known[0].numpy().diagonal() - (precision[:k, :k] - others).diagonal()
        precision[range(k), range(k)] += np.clip(more, 0.0, None)
        return cls(target, u, design, residual, precision, continuum, variance)

    def gains(self, columns: Array) -> tuple[Array, Array]:
        """Return what further columns would gain, each by itself with all others free, and no less than nothing of it.

        Parameters
        ----------
        columns
            Fluxes over the continuum, shape ``(n, n_pixels)``.

        Returns
        -------
        gain, amplitude
            Nats of log likelihood, and the most likely amplitude; shape ``(n,)`` each.
        """
        whitened = _whitened(self.target.likelihood.pixels, columns * self.continuum, self.variance)
        cross = whitened @ self.design.T
        free = (whitened**2).sum(1) - (cross * np.linalg.solve(self.precision, cross.T).T).sum(1)
        amplitude = np.clip(whitened @ self.residual / free, 0, None)
        return 0.5 * amplitude**2 * free, amplitude

    def alone(self, place: int) -> tuple[Array, Array]:
        """Split what a spectrum says of a label, all others left free, by pixel.

        Parameters
        ----------
        place
            Of the label.

        Returns
        -------
        information, score
            Shape ``(n_pixels,)`` each: the sums over some pixels give the label's offset from the mode, over u, that these alone ask for,
            ``score / information``, and its error, ``1 / sqrt(information)``.
        """
        others = [i for i in range(len(self.design)) if i != place]
        share = np.linalg.solve(self.precision[others][:, others], self.precision[others, place])
        column = self.design[place] - share @ self.design[others]
        return column * self.design[place], column * self.residual

    def without(self, stretches: Iterable[NDArray[np.bool_]]) -> Iterator[tuple[Array, Array]]:
        """Leave some of the used pixels, ``(n_pixels,)`` each time, out.

        Yields
        ------
        moves, by_chance
            How far each label moves, and the standard deviation of that if the model is right (Hausman 1978, Econometrica 46, 1251: the
            difference of the covariances); ``(n_labels,)`` each, in the labels' units.
        """
        labels, k = self.target.labels, self.target.dim
        here, scale = labels.from_normal(self.u), labels.scale(self.u[None])[0].numpy()
        variance = np.linalg.inv(self.precision).diagonal()[:k]
        for out in stretches:
            rows = self.design[:, out]
            covariance = np.linalg.inv(self.precision - rows @ rows.T)
            step = -(covariance @ (rows @ self.residual[out]))[:k]
            there = self.u + torch.from_numpy(step.clip(-_FARTHEST, _FARTHEST))
            by_chance = np.sqrt(np.clip(covariance.diagonal()[:k] - variance, 0, None))
            yield (labels.from_normal(there) - here).numpy(), by_chance * scale


def _whitened(pixels: Likelihood, columns: Array, variance: Array) -> Array:
    """Columns ``(n, n_pixels)`` over the reference continuum, in units of what the noise lets expect of each pixel."""
    if pixels.correlation is None:
        return np.asarray(columns / np.sqrt(variance))
    decay = pixels.correlation.decay(pixels.wavelength, pixels.chip)
    return innovations(columns, variance, pixels.correlation.deviation, decay)[0]


def _inferred(target: Target[Tied], u: Tensor, slopes: Array) -> Array:
    """Slopes by the inferred labels over u, ``(n_labels, n_pixels)``, from those by all of the model's; jitter has none."""
    tied, out = target.likelihood, np.zeros((target.dim, slopes.shape[1]))
    for slope, place, scale in zip(slopes, tied.places.tolist(), tied.scale.tolist(), strict=False):
        out[place] += scale * slope
    return out * target.labels.scale(u[None])[0].numpy()[:, None]


def _continuum(pixels: Likelihood, m: Array) -> Array:
    """Columns of each chip's continuum, ``(n_chips (degree + 1), n_pixels)``, of a model ``m (n_pixels,)``."""
    out = []
    for chip, basis in pixels.bases:
        n = basis.shape[1] // 2 + 1
        column = np.zeros((n, len(m)))
        column[:, chip] = basis[:, :n].cpu().numpy().T * m[chip]
        out.append(column)
    return np.concatenate(out) if out else np.zeros((0, len(m)))
