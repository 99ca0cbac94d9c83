"""Conditional densities over R^n, on zuko."""

from __future__ import annotations

import torch
import zuko
from torch import Tensor, nn

# Bounds of the conditional spread, in prior standard deviations: from far below the best spectrum's precision to a little above the prior.
_LOG_SCALE = (-11.0, 1.0)


class LocatedSplineFlow(nn.Module):
    """Neural spline flow around a location and a scale that the context gives.

    Posteriors are thousands of times narrower than priors; the splines, whose bins span a fixed box, then need to
    carry only the shape.

    Parameters
    ----------
    n_labels, n_context
        Dimensions of the density and of its context.
    transforms, bins, hidden
        Number of autoregressive spline transforms, bins of each, and widths of their networks.
    """

    def __init__(
        self, n_labels: int, n_context: int, transforms: int, bins: int, hidden: tuple[int, ...]
    ) -> None:
        super().__init__()
        self.head = nn.Sequential(
            nn.Linear(n_context, 2 * n_context), nn.SiLU(), nn.Linear(2 * n_context, 2 * n_labels)
        )
        self.flow = zuko.flows.NSF(
            n_labels, n_context, transforms=transforms, bins=bins, hidden_features=hidden, randperm=False
        )

    def _locate(self, context: Tensor) -> tuple[Tensor, Tensor]:
        location, raw = self.head(context).chunk(2, dim=-1)
        low, high = _LOG_SCALE
        return location, low + (high - low) * torch.sigmoid(raw / 3 + 2)

    def log_prob(self, z: Tensor, context: Tensor) -> Tensor:
        """Log density, shape ``(n,)``, of ``z (n, n_labels)`` given ``context (n, n_context)``."""
        location, log_scale = self._locate(context)
        return self.flow(context).log_prob((z - location) * torch.exp(-log_scale)) - log_scale.sum(-1)

    def sample(self, n: int, context: Tensor) -> Tensor:
        """Draw ``(n, n_labels)`` given one context ``(n_context,)``; uses torch's global random state."""
        location, log_scale = self._locate(context)
        return location + torch.exp(log_scale) * self.flow(context).sample((n,))
