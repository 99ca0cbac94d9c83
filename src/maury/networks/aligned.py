"""The default featurizer: spectra are cross-correlated, taken to rest, and read by a residual network."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from maury.networks.context import AlignedFrame, Context
from maury.networks.prepare import Preparation, Prepared
from maury.priors import Uniform


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


class AlignedNetwork(nn.Module):
    """Residual multilayer perceptron over spectra at rest.

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


class AlignedFeaturizer(nn.Module):
    """Prepare spectra, and read them at rest; the flow gets v_rad relative to the velocity that was taken out.

    Parameters
    ----------
    preparation
        Normalises, cross-correlates and aligns.
    n_features, width, blocks
        As for `AlignedNetwork`.
    prior, column
        Of ``v_rad``, and its place among the labels; None where it is not inferred.
    velocity_width
        km/s below which the flow's velocity coordinate is linear.
    """

    def __init__(
        self,
        preparation: Preparation,
        n_features: int,
        width: int,
        blocks: int,
        prior: Uniform | None,
        column: int,
        velocity_width: float,
    ) -> None:
        super().__init__()
        self.preparation, self.n_features = preparation, n_features
        self.prior, self.column, self.velocity_width = prior, column, velocity_width
        self.network = AlignedNetwork(preparation.n_rest, preparation.n_summary, n_features, width, blocks)

    def forward(self, flux: Tensor, ivar: Tensor) -> Context:
        """Context of spectra ``(n, n_pixels)``."""
        prepared = self.preparation(flux, ivar)
        frame = None
        if self.prior is not None:
            frame = AlignedFrame(self.prior, self.column, prepared.v_align, self.velocity_width)
        return Context(self.network(prepared), frame, summary=prepared.summary)
