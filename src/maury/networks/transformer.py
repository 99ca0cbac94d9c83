"""A transformer over patches of a spectrum; patches that are masked whole take no part."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from maury.networks.plain import channels


def rotate(x: Tensor) -> Tensor:
    """Rotary positions (Su et al. 2021, arXiv:2104.09864) of ``x (n, heads, length, size)``, size even."""
    length, size = x.shape[-2:]
    rate = 10_000 ** (-torch.arange(0, size, 2, device=x.device, dtype=x.dtype) / size)
    angle = torch.arange(length, device=x.device, dtype=x.dtype)[:, None] * rate
    a, b = x[..., ::2], x[..., 1::2]
    return torch.stack(
        [a * angle.cos() - b * angle.sin(), a * angle.sin() + b * angle.cos()], dim=-1
    ).flatten(-2)


class _Layer(nn.Module):
    """Attention and a two-layer network, each behind a norm and around a skip connection."""

    def __init__(self, width: int, heads: int, rotary: bool) -> None:
        super().__init__()
        self.heads, self.rotary = heads, rotary
        self.norms = nn.ModuleList([nn.LayerNorm(width), nn.LayerNorm(width)])
        self.queries_keys_values = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.inner = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor, used: Tensor) -> Tensor:
        """Map tokens ``(n, length, width)``; those not ``used (n, length)`` are not attended to."""
        parts = self.queries_keys_values(self.norms[0](x)).chunk(3, dim=-1)
        q, k, v = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in parts)
        if self.rotary:
            q, k = rotate(q), rotate(k)
        seen = nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=used[:, None, None])
        x = x + self.out(seen.transpose(1, 2).flatten(2))
        return x + self.inner(self.norms[1](x))


class SpectrumTransformer(nn.Module):
    """Patches become tokens; a token of its own gathers what they tell.

    Parameters
    ----------
    n_pixels, n_channels
        Of the input; 1 channel for flux alone, 3 for flux, noise and mask.
    n_features
        Length of the output.
    patch
        Pixels a token.
    width, layers, heads
        Size of the network; ``width / heads`` even.
    positions
        ``"rotary"`` or ``"learned"``.
    """

    def __init__(
        self,
        n_pixels: int,
        n_channels: int,
        n_features: int,
        patch: int = 32,
        width: int = 128,
        layers: int = 4,
        heads: int = 4,
        positions: str = "rotary",
    ) -> None:
        super().__init__()
        self.patch, self.n_patches = patch, -(-n_pixels // patch)
        self.embed = nn.Linear(n_channels * patch, width)
        self.summary = nn.Parameter(torch.zeros(width))
        learned = torch.zeros(self.n_patches + 1, width)
        self.position = nn.Parameter(nn.init.normal_(learned, std=0.02)) if positions == "learned" else None
        self.layers = nn.ModuleList(_Layer(width, heads, positions == "rotary") for _ in range(layers))
        self.out = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, n_features))

    def forward(self, flux: Tensor, ivar: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """Features ``(n, n_features)`` of spectra ``(n, n_pixels)``."""
        n, n_pixels = flux.shape
        fill = self.n_patches * self.patch - n_pixels
        x = nn.functional.pad(channels(flux, ivar, mask), (0, fill)).unflatten(-1, (self.n_patches, -1))
        tokens = self.embed(x.transpose(1, 2).flatten(2))
        tokens = torch.cat([self.summary.expand(n, 1, -1), tokens], dim=1)
        used = torch.ones(n, self.n_patches + 1, dtype=torch.bool, device=flux.device)
        if mask is not None:
            masked = nn.functional.pad(mask, (0, fill), value=True).unflatten(-1, (self.n_patches, -1))
            used[:, 1:] = ~masked.all(-1)
        if self.position is not None:
            tokens = tokens + self.position
        for layer in self.layers:
            tokens = layer(tokens, used)
        return self.out(tokens[:, 0])
