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
from scipy import stats
from scipy.optimize import minimize
from torch import Tensor

from maury.batching import Question, Steps, ask
from maury.likelihood.noise import Correlation
from maury.likelihood.pixels import Likelihood
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
    theta = target.labels.from_normal(u)
    full = target.likelihood.complete(theta)
    plain = replace(target.likelihood.pixels, correlation=None)
    place = target.labels.place(Role.nuisance)
    assert place is not None, "residuals are fitted together with a jitter"
    prior = target.labels.labels[place].prior
    with torch.no_grad():
        spectra = plain.spectra(full[None])
    depth = (1 - spectra[0]).cpu().numpy()
    evaluations = 0

    def value(point: NDArray[np.float64]) -> tuple[Likelihood, float]:
        """Likelihood and its log at (log jitter[, log amplitude, log in_lines, log scale])."""
        nonlocal evaluations
        evaluations += 1
        labels = full.clone()
        labels[plain.jitter] = math.exp(point[0])
        likelihood = plain
        if len(point) > 1:
            amplitude, in_lines, scale = np.exp(point[1:]).tolist()
            likelihood = replace(plain, correlation=Correlation(amplitude, in_lines, scale, depth))
        return likelihood, float(likelihood.log_prob(labels[None], spectra))

    low, high = math.log(prior.low * 1.01), math.log(prior.high * 0.99)
    start = min(max(math.log(float(theta[place])), low), high)
    bounds = [(low, high), *(tuple(map(math.log, ends)) for ends in (_AMPLITUDE, _IN_LINES, _SCALE))]

    def best(point: list[float]) -> tuple[NDArray[np.float64], float]:
        options = {"xatol": 0.02, "fatol": 0.05, "maxfev": 250}
        found = minimize(
            lambda x: -value(x)[1], point, bounds=bounds[: len(point)], method="Nelder-Mead", options=options
        )
        return found.x, -float(found.fun)

    _, without = best([start])
    point, with_it = best([max(start - 1.0, low), *map(math.log, _START)])
    likelihood, _ = value(point)
    correlation = likelihood.correlation
    assert correlation is not None
    gain = with_it - without
    used = noise == "correlated" or (noise == "auto" and gain > ENOUGH_GAIN)
    found = Residuals(correlation, gain, used, evaluations)
    if not used:
        return target, found, u
    moved = u.clone()
    moved[place] = prior.to_normal(torch.tensor([math.exp(point[0])], dtype=torch.float64))[0]
    return target.with_pixels(likelihood), found, moved


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
    return first, float(stats.chi2.sf(total, lags))
