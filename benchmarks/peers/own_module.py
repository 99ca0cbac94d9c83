"""A featurizer as a user would write it: convolutions over flux, noise and mask, and nothing that knows of stars."""

import torch
from torch import nn


class Convolutions(nn.Module):
    """Strided convolutions, what is left of them laid flat, and a layer.

    Parameters
    ----------
    n_pixels, n_features
        Lengths of input and output, as maury tells them.
    widths
        Channels, one a convolution.
    """

    def __init__(self, n_pixels, n_features, widths=(16, 32, 48, 64)):
        super().__init__()
        layers, n_in, length = [], 3, n_pixels
        for n_out in widths:
            layers += [nn.Conv1d(n_in, n_out, 9, stride=4, padding=4), nn.SiLU()]
            n_in, length = n_out, (length - 1) // 4 + 1
        self.layers = nn.Sequential(*layers, nn.Flatten(), nn.Linear(n_in * length, n_features))

    def forward(self, flux, ivar, mask):
        """Features ``(n, n_features)`` of spectra ``(n, n_pixels)``, masked pixels left out."""
        noise = torch.where(mask, 0.0, (ivar.clamp_min(1e-6).log() - 8) / 4)
        return self.layers(torch.stack([10 * (flux - 1), noise, mask.to(flux)], dim=1))
