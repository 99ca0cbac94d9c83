"""Residuals that are correlated: whether a spectrum's noise model is short of a correlated part, and which one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Literal, Self

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import chdtrc
from torch import Tensor

from maury.batching import Question, Steps, ask
from maury.likelihood.noise import Correlation
from maury.likelihood.pixels import Likelihood
from maury.likelihood.solution import Leftover
from maury.likelihood.target import Target
from maury.likelihood.ties import Tied
from maury.quantities import Role

Noise = Literal["auto", "independent", "correlated"]
# Nats that a correlated part must gain before "auto" adds it: two more numbers gain 1 by chance, 5 in one case of 150.
ENOUGH_GAIN = 5.0
# Standard deviations relative to the continuum, and lengths in km/s: from a pixel's width to a hundred lines' widths.
_AMPLITUDE = (1e-4, 0.3)
_IN_LINES = (1e-4, 1.0)
_SCALE = (2.0, 500.0)
_START = (0.005, 0.03, 12.0)
_BY_CHANCE = 0.01
# Rounds of the search after its first, steps of its slopes, and sizes of the first and of later simplices, all in logarithms.
_ROUNDS, _STEP, _WIDE, _NARROW = 2, 0.05, 0.5, 0.1
# Pixels over which residuals are asked to be independent, and fewest pairs of pixels that tell.
_LAGS, _FEWEST = 8, 15


@dataclass(frozen=True)
class Residuals:
    """What was found of a spectrum's residuals.

    Attributes
    ----------
    correlation
        The most likely process.
    gain
        Nats of log likelihood above independent pixels, each at its best jitter.
    used
        Whether the posterior takes it into account.
    evaluations
        Likelihoods that this took.
    """

    correlation: Correlation
    gain: float
    used: bool
    evaluations: int


def autocorrelated(target: Target[Tied], u: Tensor) -> bool:
    """Tell whether residuals at ``u (n_labels,)`` are correlated beyond chance, so that a closer look is worth its time."""
    fit = target.likelihood.fit(target.labels.from_normal(u))
    return ljung_box(fit.whitened, fit.pixels)[1] < _BY_CHANCE


def fit_residuals(target: Target[Tied], u: Tensor, noise: Noise) -> tuple[Target[Tied], Residuals, Tensor]:
    """Find the most likely correlation of the residuals at labels ``u (n_labels,)``, together with the jitter, and add it.

    Parameters
    ----------
    target
        The exact posterior; one that has a correlated part already gets a better one.
    u
        Where the residuals are taken; one of the labels is a jitter.
    noise
        ``"correlated"`` adds the process; ``"auto"`` only where it gains more than 5 nats.

    Returns
    -------
    Target, Residuals, Tensor
        The posterior to go on with, what was found, and ``u`` with the jitter that goes with it.
    """
    full = target.likelihood.complete(target.labels.from_normal(u))
    known = target.likelihood.pixels.correlation
    plain = replace(target.likelihood.pixels, correlation=None)
    place = target.labels.place(Role.nuisance)
    assert place is not None, "residuals are fitted together with a jitter"
    prior = target.labels.labels[place].prior
    with torch.no_grad():
        spectra = plain.spectra(full[None])
    low, high = math.log(prior.low * 1.01), math.log(prior.high * 0.99)
    start = min(max(math.log(float(full[plain.jitter])), low), high)
    bounds = [(low, high), *(tuple(map(math.log, ends)) for ends in (_AMPLITUDE, _IN_LINES, _SCALE))]
    process = _Process(plain, full, spectra, bounds)
    without = process.best([start])
    if known is None:
        first, rounds = [max(start - 1.0, low), *map(math.log, _START)], _ROUNDS
    else:
        first, rounds = [start, *map(math.log, (known.amplitude, known.in_lines, known.scale))], 1
    found = process.best(first, rounds)
    gain = found.value - without.value
    used = noise == "correlated" or (noise == "auto" and gain > ENOUGH_GAIN)
    correlation = process.likelihood(found.point).correlation
    assert correlation is not None
    residuals = Residuals(correlation, gain, used, process.evaluations)
    if not used:
        return target, residuals, u
    moved = u.clone()
    moved[place] = prior.to_normal(torch.tensor([math.exp(found.point[0])], dtype=torch.float64))[0]
    return target.with_pixels(process.likelihood(found.point)), residuals, moved


@dataclass(frozen=True)
class _Best:
    """The logarithms of jitter, and perhaps of amplitude, in_lines and scale, and the log likelihood there."""

    point: NDArray[np.float64]
    value: float


class _Process:
    """Search of the most likely jitter and correlation of the residuals of one spectrum, at given labels.

    A likelihood of the spectrum costs a hundred times one of its residuals, continuum and nuisances taken for known. What they add
    changes slowly: the residuals' likelihood is climbed, with the difference's slope there, a few times.

    Parameters
    ----------
    plain
        Likelihood without correlation.
    labels, spectra
        All labels, ``(n_all,)``, and the model there, ``(1, n_pixels)``.
    bounds
        Of the logarithms of the four.
    """

    def __init__(
        self, plain: Likelihood, labels: Tensor, spectra: Tensor, bounds: Sequence[tuple[float, ...]]
    ) -> None:
        self.plain, self.labels, self.spectra, self.bounds = plain, labels, spectra, bounds
        self.depth = (1 - spectra[0]).cpu().numpy()
        self.evaluations = 0

    def likelihood(self, point: NDArray[np.float64]) -> Likelihood:
        """Likelihood with the correlation that a point tells."""
        if len(point) == 1:
            return self.plain
        amplitude, in_lines, scale = np.exp(point[1:]).tolist()
        return replace(self.plain, correlation=Correlation(amplitude, in_lines, scale, self.depth))

    def exact(self, point: NDArray[np.float64]) -> Leftover:
        """Return what the labels leave of the spectrum, and its likelihood."""
        self.evaluations += 1
        labels = self.labels.clone()
        labels[self.plain.jitter] = math.exp(point[0])
        return self.likelihood(point).left_over(labels[None], self.spectra)

    def cheap(self, point: NDArray[np.float64], left: Leftover) -> float:
        """Log likelihood of the residuals alone."""
        return self.likelihood(point).of_residual(left, math.exp(point[0]))

    def best(self, start: Sequence[float], rounds: int = 1) -> _Best:
        """Climb from a start, in so many rounds after a first one that knows no slope."""
        bounds = np.array(self.bounds[: len(start)])
        point = np.clip(start, *bounds.T)
        left, slope = self.exact(point), np.zeros(len(point))
        for round_ in range(rounds + 1):
            found = self._climbed(point, left, slope, _WIDE if round_ == 0 else _NARROW)
            moved = self.exact(found)
            if round_ == rounds:
                break
            # Of the difference between the two likelihoods, at the residuals of the point that was reached.
            step = np.where(found + _STEP < bounds[:, 1], _STEP, -_STEP)
            beside = [found + step * (np.arange(len(found)) == i) for i in range(len(found))]
            here = moved.log_likelihood - self.cheap(found, moved)
            there = [self.exact(x).log_likelihood - self.cheap(x, moved) for x in beside]
            slope = (np.array(there) - here) / step
            point, left = found, moved
        return _Best(found, moved.log_likelihood)

    def _climbed(
        self, point: NDArray[np.float64], left: Leftover, slope: NDArray[np.float64], width: float
    ) -> NDArray[np.float64]:
        bounds = np.array(self.bounds[: len(point)])
        inward = np.where(point + width < bounds[:, 1], width, -width)
        simplex = np.clip(np.vstack([point, point + np.diag(inward)]), *bounds.T)
        options = {"xatol": 0.02, "fatol": 0.02, "maxfev": 250, "initial_simplex": simplex}
        found = minimize(
            lambda x: -self.cheap(x, left) - slope @ x, point, bounds=bounds, method="Nelder-Mead", options=options
        )  # fmt: skip
        return np.asarray(found.x)


@dataclass(frozen=True)
class _ResidualFit(Question[tuple[Target[Tied], Residuals, Tensor]]):
    target: Target[Tied]
    u: Tensor
    noise: Noise

    @classmethod
    def answer(cls, asked: Sequence[Self]) -> Sequence[tuple[Target[Tied], Residuals, Tensor]]:
        # Each fit is hundreds of banded solves on one spectrum's own pixels, LAPACK's, which let go of the interpreter: there is nothing
        # to stack, but they run beside each other, on as many threads as torch may use.
        threads = min(len(asked), torch.get_num_threads())
        if threads == 1:
            return [fit_residuals(one.target, one.u, one.noise) for one in asked]
        with ThreadPoolExecutor(threads) as pool:
            return list(pool.map(lambda one: fit_residuals(one.target, one.u, one.noise), asked))


def residual_fit(
    target: Target[Tied], u: Tensor, noise: Noise
) -> Steps[tuple[Target[Tied], Residuals, Tensor]]:
    """Ask for `fit_residuals`; those of several spectra are found beside each other."""
    return (yield from ask(_ResidualFit(target, u, noise)))


def ljung_box(
    residual: NDArray[np.float64], pixels: NDArray[np.int64], lags: int = _LAGS
) -> tuple[float, float]:
    """Mean product of neighbours, and p-value of the correlations at lags 1 to ``lags``.

    Parameters
    ----------
    residual
        Over the total error, shape ``(n,)``.
    pixels
        Their places, rising; only pairs that are truly a lag apart count, so that gaps do not matter.
    """
    total, first = 0.0, 0.0
    variance = float(np.mean(residual**2)) or 1.0
    for lag in range(1, lags + 1):
        place = np.searchsorted(pixels, pixels + lag)
        inside = place < len(pixels)
        pair = np.flatnonzero(inside)[pixels[place[inside]] == pixels[inside] + lag]
        if len(pair) < _FEWEST:
            return first, 1.0
        products = residual[pair] * residual[np.searchsorted(pixels, pixels[pair] + lag)] / variance
        total += len(pair) * float(products.mean()) ** 2
        if lag == 1:
            first = float(products.mean())
    return first, float(chdtrc(lags, total))
