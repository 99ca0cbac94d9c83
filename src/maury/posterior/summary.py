"""Weighted draws of labels, and numbers that sum them up."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from importlib import import_module
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from maury.display import with_error
from maury.errors import MauryError
from maury.labels import LabelSet
from maury.quantities import Role

if TYPE_CHECKING:
    import pandas


def made_elsewhere(module: str, name: str) -> Any:
    """Return what another room makes of a posterior: imported when it is asked for, as the data itself depends on none of it."""
    return getattr(import_module(f"maury.{module}"), name)


# Shares of the mass below the percentiles 16, 50 and 84: -1, 0 and +1 sigma of a Gaussian.
QUANTILES = {"p16": 0.158655, "p50": 0.5, "p84": 0.841345}


def weighted_quantile(values: NDArray[np.float64], weights: NDArray[np.float64], q: float) -> float:
    """Quantile of weighted draws ``(n,)``; the cumulative weight is taken at the middle of each draw."""
    order = np.argsort(values)
    cumulative = np.cumsum(weights[order]) - 0.5 * weights[order]
    return float(np.interp(q, cumulative, values[order]))


def summarise(
    labels: LabelSet, draws: NDArray[np.float64], weights: NDArray[np.float64]
) -> dict[str, dict[str, Any]]:
    """Percentiles 16, 50, 84, mean, standard deviation and unit of each label, of draws ``(n, n_labels)`` and weights ``(n,)``."""
    out = {}
    for i, label in enumerate(labels.labels):
        x = draws[:, i]
        mean = float(weights @ x)
        std = float(np.sqrt(weights @ (x - mean) ** 2))
        entry: dict[str, Any] = {key: weighted_quantile(x, weights, q) for key, q in QUANTILES.items()}
        out[label.name] = entry | {"mean": mean, "std": std, "unit": label.unit}
    return out


@dataclass(frozen=True, repr=False)
class WeightedDraws:
    """Draws of labels with weights: what the posteriors of one spectrum and of several have in common.

    Attributes
    ----------
    labels
        With priors.
    draws
        Shape ``(n_draws, n_labels)``, in the labels' units.
    log_weights
        Shape ``(n_draws,)``.
    """

    labels: LabelSet
    draws: NDArray[np.float64]
    log_weights: NDArray[np.float64]

    @cached_property
    def weights(self) -> NDArray[np.float64]:
        """Normalised weights, shape ``(n_draws,)``."""
        w = np.exp(self.log_weights - self.log_weights.max())
        return np.asarray(w / w.sum())

    @property
    def stellar(self) -> LabelSet:
        """The labels without the nuisance."""
        return self.labels.without(Role.nuisance)

    def quantile(self, name: str, q: float) -> float:
        """Quantile of one label."""
        return weighted_quantile(self.draws[:, self.labels.index(name)], self.weights, q)

    def rows(self, n: int, seed: int = 0) -> NDArray[np.int64]:
        """Places of ``n`` equally weighted draws, taken with replacement."""
        return np.random.default_rng(seed).choice(len(self.draws), n, p=self.weights)

    def sample(self, n: int, seed: int = 0) -> NDArray[np.float64]:
        """Equally weighted draws, shape ``(n, n_labels)``, in the order of ``labels.names``."""
        return self.draws[self.rows(n, seed)]

    def summary(self) -> dict[str, dict[str, Any]]:
        """Percentiles 16, 50, 84, mean, standard deviation and unit of each label."""
        return summarise(self.labels, self.draws, self.weights)

    def in_words(self) -> list[tuple[str, str]]:
        """Mean and standard deviation of each label, as ``("teff", "4751 ± 12 K")``."""
        return [(name, with_error(x["mean"], x["std"], x["unit"])) for name, x in self.summary().items()]

    def to_pandas(
        self, *, weighted: bool = False, number: int | None = None, seed: int = 0
    ) -> pandas.DataFrame:
        """Return a table with a row a draw and a column a label; units are in ``frame.attrs["units"]``.

        Parameters
        ----------
        weighted
            Keep the draws as they are, with a column ``weight`` that sums to 1; otherwise they are resampled to equal weights.
        number, seed
            Draws to resample, by default as many as there are, and the seed.

        Raises
        ------
        MauryError
            If pandas is not installed.
        """
        rows = np.arange(len(self.draws)) if weighted else self.rows(number or len(self.draws), seed)
        columns = {name: self.draws[rows, i] for i, name in enumerate(self.labels.names)}
        frame = frame_of(columns | ({"weight": self.weights} if weighted else {}))
        frame.attrs["units"] = {label.name: label.unit for label in self.labels}
        return frame


def frame_of(columns: dict[str, NDArray[np.float64]]) -> pandas.DataFrame:
    """Return a pandas table.

    Raises
    ------
    MauryError
        If pandas is not installed.
    """
    try:
        import pandas
    except ImportError:
        raise MauryError("pandas is not installed: pip install pandas") from None
    return pandas.DataFrame(columns)
