"""Has the estimator seen such a spectrum? A score of the prepared spectrum in feature space, judged by simulations.

The score is the squared Mahalanobis distance of a spectrum's features from those of simulated spectra. What it means is read from other
simulations of about the same S/N: the share of them that score as high is a p-value, so that whoever flags p < alpha flags that share of
good spectra.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from maury.errors import ModelError
from maury.networks.context import Context
from maury.networks.estimator import Estimator
from maury.weights import read_model, write_model

# Flux, inverse variance and perhaps profiles of n simulated spectra.
Draw = Callable[[int, torch.Generator], tuple[Tensor, Tensor, Tensor | None]]
_BATCH = 500
# Features that hardly vary must not decide: their whitened values are shrunk.
_SHRINK = 1e-3
# Simulations nearest in S/N that a spectrum is judged by, at most.
_NEAREST = 2000


@torch.no_grad()
def features(
    estimator: Estimator,
    flux: Tensor,
    ivar: Tensor,
    context: Context | None = None,
    seen: Tensor | None = None,
) -> Tensor:
    """Return what is judged of spectra ``(n, n_pixels)``: features, and the prepared spectrum's summary where there is one.

    Their ``context`` is computed unless it is known.
    """
    context = context or estimator.context(flux, ivar, seen)
    known = [context.features] if context.summary is None else [context.features, context.summary]
    return torch.cat(known, dim=1).double()


def log_snr(flux: Tensor, ivar: Tensor) -> Tensor:
    """Log of the median S/N of used pixels, shape ``(n,)``."""
    snr = torch.where(ivar > 0, flux.abs() * ivar.sqrt(), torch.nan).nanmedian(1).values
    return snr.nan_to_num(1e-3).clamp_min(1e-3).log()


@dataclass(frozen=True)
class Novelty:
    """Out-of-distribution score of one estimator.

    Attributes
    ----------
    mean, whiten
        Of simulated features: ``(n_features,)``, and ``(n_features, n_features)`` that turns offsets into unit normals.
    scores, snr
        Scores and log S/N of other simulations, shape ``(n_simulations,)`` each.
    """

    mean: Tensor
    whiten: Tensor
    scores: Tensor
    snr: Tensor

    @classmethod
    def of(cls, estimator: Estimator, draw: Draw, number: int = 12_000, seed: int = 0) -> Novelty:
        """Simulate spectra: a third of them tells the spread of features, the rest how scores are spread."""
        generator = torch.Generator().manual_seed(seed)
        rows, snr = [], []
        for _ in range(0, number, _BATCH):
            flux, ivar, seen = draw(_BATCH, generator)
            rows.append(features(estimator, flux, ivar, seen=seen))
            snr.append(log_snr(flux, ivar))
        x, s = torch.cat(rows), torch.cat(snr)
        third = len(x) // 3
        mean, covariance = x[:third].mean(0), torch.cov(x[:third].T)
        scale = covariance.diagonal().sqrt().clamp_min(1e-6)
        correlation = covariance / scale[:, None] / scale
        values, vectors = torch.linalg.eigh(correlation)
        whiten = vectors.T / (values.clamp_min(0) + _SHRINK).sqrt()[:, None] / scale
        scores = ((x[third:] - mean) @ whiten.T).square().sum(1)
        return cls(mean, whiten, scores, s[third:])

    def score(
        self, estimator: Estimator, flux: Tensor, ivar: Tensor, context: Context | None = None
    ) -> Tensor:
        """Squared distance of spectra ``(n, n_pixels)`` from the simulations, shape ``(n,)``."""
        return ((features(estimator, flux, ivar, context) - self.mean) @ self.whiten.T).square().sum(1)

    def p_value(
        self, estimator: Estimator, flux: Tensor, ivar: Tensor, context: Context | None = None
    ) -> Tensor:
        """Share of simulations of about the same S/N that score as high, shape ``(n,)``; never 0."""
        n = min(_NEAREST, len(self.scores) // 2)
        distance = (self.snr - log_snr(flux, ivar)[:, None]).abs()
        near = self.scores[distance.topk(n, largest=False).indices]
        score = self.score(estimator, flux, ivar, context)
        return ((near >= score[:, None]).sum(1) + 1) / (n + 1)

    def save(self, path: Path) -> None:
        """Write it beside the estimator, single precision but for the scores' order."""
        write_model(path, {k: getattr(self, k).float() for k in ("mean", "whiten", "scores", "snr")}, {})

    @classmethod
    def load(cls, path: Path) -> Novelty:
        """Read what `save` wrote.

        Raises
        ------
        ModelError
            If it is damaged.
        """
        tensors, _ = read_model(path)
        try:
            mean, whiten, scores, snr = (tensors[k] for k in ("mean", "whiten", "scores", "snr"))
            d = len(mean)
            if mean.ndim != 1 or whiten.shape != (d, d) or scores.ndim != 1 or scores.shape != snr.shape:
                raise ModelError(f"{path}: its arrays do not fit together; train the estimator again")
            if len(scores) < 2:
                raise ModelError(f"{path}: holds too few scores; train the estimator again")
            return cls(**{k: tensors[k].double() for k in ("mean", "whiten", "scores", "snr")})
        except KeyError as error:
            raise ModelError(f"{path}: has no {error}; train the estimator again") from None
