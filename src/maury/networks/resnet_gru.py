"""A residual convolutional network whose output a recurrent one reads; strides where that of Gupta et al. 2024 has max-pooling."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from maury.networks.plain import channels


class _Block(nn.Module):
    """Two convolutions around a skip connection, the first with a stride; weight norm, since batches mix spectra of all kinds."""

    def __init__(self, n_in: int, n_out: int, stride: int) -> None:
        super().__init__()
        self.first = weight_norm(nn.Conv1d(n_in, n_out, 3, stride=stride, padding=1))
        self.second = weight_norm(nn.Conv1d(n_out, n_out, 3, padding=1))
        self.skip = weight_norm(nn.Conv1d(n_in, n_out, 1, stride=stride))

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(n, n_in, length)`` to ``(n, n_out, length / stride)``."""
        inner = self.second(torch.relu(self.first(x)))
        return torch.relu(inner + self.skip(x))


class ResNetGRU(nn.Module):
    """Residual blocks that halve the length and double the channels, then GRU layers; their last state gives the features.

    Parameters
    ----------
    n_channels
        1 for flux alone, 3 for flux, noise and mask.
    n_features
        Length of the output.
    depth
        Residual blocks.
    width, most
        Channels of the first block, and the most of any.
    stride
        Of each block.
    layers
        GRU layers.
    """

    def __init__(
        self,
        n_channels: int,
        n_features: int,
        depth: int = 8,
        width: int = 32,
        most: int = 512,
        stride: int = 2,
        layers: int = 2,
    ) -> None:
        super().__init__()
        sizes = [n_channels, *(min(width * 2**i, most) for i in range(depth))]
        self.blocks = nn.Sequential(*(_Block(a, b, stride) for a, b in itertools.pairwise(sizes)))
        self.gru = nn.GRU(sizes[-1], n_features, layers, batch_first=True)
        self.out = nn.Linear(n_features, n_features)

    def forward(self, flux: Tensor, ivar: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """Features ``(n, n_features)`` of spectra ``(n, n_pixels)``."""
        x = self.blocks(channels(flux, ivar, mask))
        states, _ = self.gru(x.mT)
        return self.out(states[:, -1])
