"""Where training draws more stars than the prior does, and the weights that make up for it exactly.

Labels are drawn from ``q = (1 - sum_i s_i) p + sum_i s_i p_i``, with p the prior and p_i the prior inside a box, of which it holds the
share ``P_i``. In the loss an example then has the weight ``p / q = 1 / (1 - sum_i s_i + sum_{i: inside} s_i / P_i)``: means over q are
those over p. A weight is at most ``1 / (1 - sum_i s_i)``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from maury.errors import ConfigError
from maury.likelihood.problem import Problem
from maury.names import meant

# Draws that tell how much of the prior a box holds: to a thousandth of it.
_PROBES = 400_000
_ROUNDS = 100


class Denser(BaseModel):
    """A box of labels, and the share of examples that are drawn from it beside the prior's."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    share: float = Field(gt=0, lt=1)
    within: Mapping[str, tuple[float, float]] = Field(min_length=1, description="range by label")


class Density:
    """Draws from the mixture, and its weights.

    Parameters
    ----------
    problem
        Whose prior.
    boxes
        Their shares sum to less than 1.

    Raises
    ------
    ConfigError
        If a label is unknown, the shares are too many, or a box holds next to nothing of the prior.
    """

    def __init__(self, problem: Problem, boxes: Sequence[Denser]) -> None:
        self.problem, self.boxes = problem, tuple(boxes)
        self.rest = 1 - sum(box.share for box in boxes)
        if self.rest <= 0:
            raise ConfigError("denser: shares sum to 1 or more; the prior needs one too")
        names = problem.labels.names
        for i, box in enumerate(boxes):
            for name in box.within:
                if name not in names:
                    raise ConfigError(f"denser.{i}.within.{name}: no such label; {meant(name, names)}")
        probes = problem.sample(_PROBES, torch.Generator().manual_seed(0))
        self.held = [float(self.inside(box, probes).double().mean()) for box in boxes]
        for i, held in enumerate(self.held):
            if held < 1e-3:
                raise ConfigError(f"denser.{i}: holds {held:.1e} of the prior, too little to draw from")

    def inside(self, box: Denser, labels: Tensor) -> Tensor:
        """Which labels ``(n, n_all)`` lie in a box."""
        out = torch.ones(len(labels), dtype=torch.bool)
        for name, (low, high) in box.within.items():
            x = labels[:, self.problem.labels.index(name)]
            out &= (x >= low) & (x <= high)
        return out

    def weight(self, labels: Tensor) -> Tensor:
        """Return the prior's density over the mixture's, shape ``(n,)``."""
        ratio = torch.full((len(labels),), self.rest, dtype=torch.float64)
        for box, held in zip(self.boxes, self.held, strict=True):
            ratio += box.share / held * self.inside(box, labels)
        return 1 / ratio

    def sample(self, n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Draw all labels ``(n, n_all)``, and their weights ``(n,)``."""
        shares = torch.tensor([self.rest, *(box.share for box in self.boxes)])
        which = torch.multinomial(shares, n, replacement=True, generator=generator)
        out = self.problem.sample(n, generator)
        for i, box in enumerate(self.boxes, start=1):
            rows = (which == i).nonzero()[:, 0]
            for _ in range(_ROUNDS):
                rows = rows[~self.inside(box, out[rows])]
                if not len(rows):
                    break
                more = self.problem.sample(int(len(rows) / self.held[i - 1]) + 16, generator)
                found = more[self.inside(box, more)][: len(rows)]
                out[rows[: len(found)]] = found
        return out, self.weight(out)
