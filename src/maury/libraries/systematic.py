"""How far labels move with the choice of the library: an error that the likelihood of one library does not know."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from maury.errors import ModelError
from maury.files import first_line, write_json

Array = NDArray[np.float64]
FILE = "systematic.json"
# Share of the offsets within one sigma, and how many sigma an offset counts at most for the correlations.
_INSIDE, _CLIP = 0.683, 3.0
FEWEST = 20


@dataclass(frozen=True)
class Systematic:
    """Errors of labels between libraries.

    Attributes
    ----------
    names
        Labels.
    sigma
        Of each label: 68 % of its offsets are smaller, in its unit.
    correlation
        Of the offsets, by label and label.
    teff
        Range in which it was measured, K.
    card
        How it was measured.
    """

    names: tuple[str, ...]
    sigma: tuple[float, ...]
    correlation: tuple[tuple[float, ...], ...]
    teff: tuple[float, float]
    card: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        names: Sequence[str],
        offsets: Array,
        teff: tuple[float, float],
        card: Mapping[str, Any] | None = None,
    ) -> Systematic:
        """Measure it by offsets from the truth ``(n, n_labels)`` of spectra that another library made.

        Raises
        ------
        ModelError
            If there are fewer than 20 of them.
        """
        if len(offsets) < FEWEST:
            raise ModelError(
                f"errors between libraries need at least {FEWEST} spectra; there are {len(offsets)}"
            )
        sigma = np.quantile(np.abs(offsets), _INSIDE, axis=0)
        z = np.clip(offsets / sigma, -_CLIP, _CLIP)
        # About zero: which of the libraries is right is not known.
        second = z.T @ z
        scale = np.sqrt(np.diag(second))
        correlation = tuple(tuple(row) for row in (second / np.outer(scale, scale)).tolist())
        return cls(tuple(names), tuple(sigma.tolist()), correlation, teff, dict(card or {}))

    def applies(self, teff: float) -> bool:
        """Tell whether it was measured for stars of this temperature, K, within its own error."""
        margin = self.sigma[self.names.index("teff")]
        return self.teff[0] - margin <= teff <= self.teff[1] + margin

    def scattered(self, names: Sequence[str], draws: Array, low: Array, high: Array, seed: int = 0) -> Array:
        """Scatter draws ``(n, n_labels)`` by it; what leaves the prior is reflected at its bounds ``(n_labels,)``."""
        factor = np.linalg.cholesky(np.array(self.correlation) + 1e-9 * np.eye(len(self.names)))
        rng = np.random.default_rng(seed)
        moved = (rng.normal(size=(len(draws), len(self.names))) @ factor.T) * np.array(self.sigma)
        out = draws.copy()
        for i, name in enumerate(self.names):
            if name not in names:
                continue
            k = list(names).index(name)
            x = draws[:, k] + moved[:, i]
            x = np.where(x < low[k], 2 * low[k] - x, x)
            x = np.where(x > high[k], 2 * high[k] - x, x)
            out[:, k] = np.clip(x, low[k], high[k])
        return out

    @classmethod
    def joined(cls, known: Systematic | None, own: Mapping[str, float]) -> Systematic | None:
        """Add independent errors by label, which hold at every teff, to what is known; None of nothing."""
        if not own:
            return known
        names = list(dict.fromkeys([*(known.names if known else ()), *own]))
        covariance = np.zeros((len(names), len(names)))
        if known is not None:
            sigma = np.array(known.sigma)
            n = len(sigma)
            covariance[:n, :n] = np.array(known.correlation) * np.outer(sigma, sigma)
        for name, value in own.items():
            covariance[names.index(name), names.index(name)] += value**2
        total = np.sqrt(np.diag(covariance))
        correlation = tuple(tuple(row) for row in (covariance / np.outer(total, total)).tolist())
        return cls(tuple(names), tuple(total.tolist()), correlation, (0.0, np.inf))

    def save(self, folder: Path) -> None:
        """Write ``systematic.json`` in a folder."""
        write_json(folder / FILE, asdict(self))

    @classmethod
    def load(cls, path: Path) -> Systematic:
        """Read what `save` wrote.

        Raises
        ------
        ModelError
            If it is damaged.
        """
        try:
            entry = json.loads(path.read_text(encoding="utf-8"))
            correlation = tuple(tuple(map(float, row)) for row in entry["correlation"])
            found = cls(
                tuple(entry["names"]),
                tuple(map(float, entry["sigma"])),
                correlation,
                (float(entry["teff"][0]), float(entry["teff"][1])),
                entry["card"],
            )
            np.linalg.cholesky(np.array(found.correlation) + 1e-9 * np.eye(len(found.names)))
            d = len(found.names)
            numbers = np.array([*found.sigma, *found.teff])
            if (
                not all(isinstance(name, str) for name in found.names)
                or "teff" not in found.names
                or len(found.sigma) != d
                or np.shape(found.correlation) != (d, d)
                or not np.isfinite(numbers).all()
            ):
                raise ValueError("its names and numbers do not fit together")
        except (OSError, ValueError, KeyError, TypeError, IndexError, OverflowError, RecursionError) as error:
            raise ModelError(
                f"{path}: cannot be read ({first_line(error)}); run maury check libraries again, or remove it"
            ) from None
        return found
