"""A featurizer as a user would write it."""

import torch
from torch import nn


class Pooled(nn.Module):
    """Mean signal-to-noise weighted flux of equal stretches, and a linear layer."""

    def __init__(self, n_pixels, n_features, stretches=32):
        super().__init__()
        self.stretches = stretches
        self.out = nn.Linear(stretches, n_features)

    def forward(self, flux, ivar, mask):
        weights = torch.where(mask, 0.0, ivar).sqrt()
        signal = (weights * (flux - 1)).unfold(
            1, flux.shape[1] // self.stretches, flux.shape[1] // self.stretches
        )
        return self.out(signal.mean(2)[:, : self.stretches].tanh())


class FluxOnly(nn.Module):
    """The same for flux alone."""

    def __init__(self, n_pixels, n_features):
        super().__init__()
        self.out = nn.Linear(n_pixels, n_features)

    def forward(self, flux):
        return self.out(flux - 1)


class WrongSize(FluxOnly):
    """Returns one feature too many."""

    def __init__(self, n_pixels, n_features):
        super().__init__(n_pixels, n_features + 1)
