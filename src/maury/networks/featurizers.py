"""Networks that turn a prepared spectrum into the context of a flow."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from maury.networks.prepare import Prepared


class ResidualBlock(nn.Module):
    """Two layers around a skip connection; the summary enters each, since what to trust depends on the noise."""

    def __init__(self, width: int, n_summary: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.inner = nn.Linear(width + n_summary, width)
        self.outer = nn.Linear(width, width)
        nn.init.zeros_(self.outer.weight)
        nn.init.zeros_(self.outer.bias)

    def forward(self, x: Tensor, summary: Tensor) -> Tensor:
        """Map ``(n, width)`` to ``(n, width)``."""
        return x + self.outer(nn.functional.silu(self.inner(torch.cat([self.norm(x), summary], dim=1))))


class AlignedFeaturizer(nn.Module):
    """Residual multilayer perceptron over spectra at rest: each line is always at the same input.

    Parameters
    ----------
    n_pixels, n_summary
        Lengths of ``Prepared.pixels`` and ``Prepared.summary``.
    n_features
        Length of the output.
    width, blocks
        Size of the network.
    """

    def __init__(self, n_pixels: int, n_summary: int, n_features: int, width: int, blocks: int) -> None:
        super().__init__()
        self.pixels = nn.Linear(n_pixels, width)
        self.summary = nn.Linear(n_summary, width)
        self.blocks = nn.ModuleList(ResidualBlock(width, n_summary) for _ in range(blocks))
        self.norm = nn.LayerNorm(width)
        self.out = nn.Linear(width + n_summary, n_features)

    def forward(self, prepared: Prepared) -> Tensor:
        """Features, shape ``(n, n_features)``."""
        x = self.pixels(prepared.pixels) + self.summary(prepared.summary)
        for block in self.blocks:
            x = block(x, prepared.summary)
        return self.out(torch.cat([self.norm(x), prepared.summary], dim=1))
