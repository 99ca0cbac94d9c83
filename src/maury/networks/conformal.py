"""Regions of the flow that hold their share of truths whatever the flow: split-conformal recalibration.

Of simulated spectra that training has not seen, the credibilities at which truths lie are kept (`maury check calibration`). A region of
credibility ``q``, the ``ceil((n + 1) level)``-th smallest of the n, then holds a new truth of the same kind with a probability of
at least ``level``, and of at most ``1 / (n + 1)`` more: Vovk, Gammerman & Shafer 2005; Lei et al. 2018, JASA 113, 1094. That is so on
average over the stars of the prior, not star by star.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from maury.errors import ModelError
from maury.files import writing

# In a model's folder.
FILE = "conformal.json"
JOINT = "joint"
# Fewer truths tell nothing of the regions that matter.
FEWEST = 100
_ROUNDING = 1e-6


@dataclass(frozen=True)
class Conformal:
    """Credibilities of held-out truths.

    Attributes
    ----------
    scores
        Of ``joint`` regions (highest density), and by label of central intervals; each rising, in [0, 1], shape ``(n,)``.

    Raises
    ------
    ModelError
        If there are fewer than 100, or one is none.
    """

    scores: Mapping[str, NDArray[np.float64]]

    def __post_init__(self) -> None:
        for name, values in self.scores.items():
            if values.ndim != 1 or len(values) < FEWEST or not ((values >= 0) & (values <= 1)).all():
                raise ModelError(f"conformal.{name}: needs {FEWEST} credibilities or more, each from 0 to 1")

    @classmethod
    def of(cls, credibilities: Mapping[str, Sequence[float] | NDArray[np.float64]]) -> Conformal:
        """Return it of credibilities in any order; those of TARP, whose regions no user is told of, are left out."""
        found = {}
        for key, value in credibilities.items():
            if key != "tarp":
                x = np.sort(np.asarray(value, dtype=np.float64))
                # Sums of weights are 1 up to rounding.
                found[key] = np.where(np.abs(x - x.clip(0, 1)) < _ROUNDING, x.clip(0, 1), x)
        return cls(found)

    def level(self, name: str, level: float) -> float:
        """Return the credibility whose region holds truths with a probability of ``level``: 1 where too few are known."""
        values = self.scores[name]
        place = math.ceil((len(values) + 1) * level)
        if place <= 0:
            return 0.0
        return float(values[place - 1]) if place <= len(values) else 1.0

    def quantile(self, name: str, q: float) -> float:
        """Return the quantile of the flow at which a label's quantile ``q`` of the central interval lies."""
        half = 0.5 * self.level(name, abs(2 * q - 1))
        return 0.5 + math.copysign(half, q - 0.5) if q != 0.5 else 0.5

    def save(self, path: Path) -> None:
        """Write it as JSON."""
        plain = {key: [round(float(x), 6) for x in values] for key, values in self.scores.items()}
        with writing(path) as temporary:
            temporary.write_text(json.dumps({"scores": plain}) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: Path) -> Conformal:
        """Read what `save` wrote.

        Raises
        ------
        ModelError
            If it is missing or damaged.
        """
        try:
            entry: Any = json.loads(path.read_text(encoding="utf-8"))["scores"]
            return cls.of({str(key): np.asarray(value, dtype=np.float64) for key, value in entry.items()})
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise ModelError(
                f"{path}: holds no conformal credibilities ({error}); maury check calibration --output writes them"
            ) from None
