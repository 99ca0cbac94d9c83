"""Featurizers that read spectra as they are: any network behind a common preparation."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from maury.errors import ModelError
from maury.likelihood.continuum import DEGREE, chebyshev_basis, fit_continuum
from maury.networks.context import Context

Inputs = Literal["flux", "flux+ivar+mask"]


class Normalise(nn.Module):
    """Chips side by side, each divided by a smooth fit.

    Parameters
    ----------
    chips
        Half-open pixel ranges that are used.
    degree
        Half of the fit's, for it has to follow the star's own slopes as well.
    """

    def __init__(self, chips: tuple[tuple[int, int], ...], degree: int = DEGREE) -> None:
        super().__init__()
        self.chips = chips
        self._bases = [chebyshev_basis(stop - start, 2 * degree).float() for start, stop in chips]

    @property
    def n_pixels(self) -> int:
        """Pixels of the result."""
        return sum(stop - start for start, stop in self.chips)

    def forward(self, flux: Tensor, ivar: Tensor) -> tuple[Tensor, Tensor]:
        """Flux over continuum, and its inverse variance, each ``(n, n_pixels)``."""
        parts = []
        for (start, stop), basis in zip(self.chips, self._bases, strict=True):
            f, w = flux[:, start:stop], ivar[:, start:stop]
            continuum = fit_continuum(f, w, basis.to(f))
            parts.append((f / continuum, w * continuum.square()))
        return torch.cat([f for f, _ in parts], dim=1), torch.cat([w for _, w in parts], dim=1)


class Used(nn.Module):
    """The pixels that the model covers whatever the labels, side by side, as they are: of spectra whose continuum is known to be 1.

    Parameters
    ----------
    usable
        Which these are, bool, shape ``(n_all,)``.
    """

    pixels: Tensor

    def __init__(self, usable: Tensor) -> None:
        super().__init__()
        self.register_buffer("pixels", usable.nonzero()[:, 0], persistent=False)

    def forward(self, flux: Tensor, ivar: Tensor) -> tuple[Tensor, Tensor]:
        """Flux and its inverse variance, each ``(n, n_pixels)``."""
        return flux[:, self.pixels], ivar[:, self.pixels]


class PlainFeaturizer(nn.Module):
    """A network that maps spectra to ``n_features`` numbers.

    The network is called as ``network(flux)`` or ``network(flux, ivar, mask)``, each ``(n, n_pixels)``: flux over a smooth continuum
    fitted chip by chip, 1 where masked; its inverse variance, 0 where masked; mask True where a pixel is not to be used.

    Parameters
    ----------
    network
        Any module that returns ``(n, n_features)``.
    n_features
        Length of its output.
    inputs
        What it is called with.
    normalise
        Applied first: `Normalise`, or `Used` where the continuum is known; None for series without one.

    Raises
    ------
    ModelError
        When it is called, if the output has another shape.
    """

    def __init__(
        self, network: nn.Module, n_features: int, inputs: Inputs, normalise: Normalise | Used | None
    ) -> None:
        super().__init__()
        self.network, self.n_features, self.inputs, self.normalise = network, n_features, inputs, normalise

    def forward(self, flux: Tensor, ivar: Tensor) -> Context:
        """Context of spectra ``(n, n_pixels)``."""
        if self.normalise is not None:
            flux, ivar = self.normalise(flux, ivar)
        mask = ivar <= 0
        flux = torch.where(mask, 1.0 if self.normalise is not None else 0.0, flux)
        features = self.network(flux) if self.inputs == "flux" else self.network(flux, ivar, mask)
        shape = tuple(features.shape) if isinstance(features, Tensor) else type(features).__name__
        if shape != (len(flux), self.n_features):
            raise ModelError(
                f"featurizer {type(self.network).__name__}: returned {shape} for {len(flux)} spectra; "
                f"its output must have the shape (n, {self.n_features})"
            )
        return Context(features)


def channels(flux: Tensor, ivar: Tensor | None, mask: Tensor | None) -> Tensor:
    """Stack what a network was given as channels of order 1, ``(n, 1 or 3, n_pixels)``."""
    deviation = 10 * (flux - 1)
    if ivar is None or mask is None:
        return deviation[:, None]
    # 0 at S/N 50; masked pixels are told by their own channel.
    noise = torch.where(mask, 0.0, (ivar.clamp_min(1e-6).log() - 8) / 4)
    return torch.stack([deviation.clamp(-30, 30), noise, mask.to(flux)], dim=1)
