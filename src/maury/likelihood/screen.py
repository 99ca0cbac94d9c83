"""A first look at all of a prior: the likelihood of one spectrum at any star's labels, with velocities and jitter as of one mode.

A spectrum is a sum of the emulator's components. Their products over the noise, with continuum and nuisances integrated out, are computed
once; a likelihood is then a form in the components' coefficients, and costs what the emulator's coefficients cost.
"""

from __future__ import annotations

import torch
from torch import Tensor

from maury.forward.model import ForwardModel
from maury.likelihood.solution import Curvature
from maury.likelihood.target import Target
from maury.likelihood.ties import Tied
from maury.sampling.density import Density

# Components that are enough for a look: what the others leave is less than what a spectrum with correlated residuals can tell.
_COMPONENTS = 96


class Screen(Density):
    """Approximate log posterior of some labels beside a mode, the others as of the mode.

    Parameters
    ----------
    target
        The exact posterior of one spectrum, of one star.
    u
        The mode, shape ``(n_labels,)``.
    free
        Places of the labels that are looked at: the emulator's.
    """

    @torch.no_grad()
    def __init__(self, target: Target[Tied], u: Tensor, free: list[int]) -> None:
        self.target, self.u, self.free = target, u, free
        pixels = target.likelihood.pixels
        assert isinstance(pixels.model, ForwardModel), "one star is looked at"
        self.pixels, self.emulator = pixels, pixels.model.emulator
        full = target.likelihood.complete(target.labels.from_normal(u))[None]
        labels = full[:, : pixels.jitter]
        components = self.emulator.components[:_COMPONENTS]
        parts = pixels.to_pixels(pixels.model.carried(components, labels))[0]
        reduced = pixels.reduced(full, pixels.spectra(full), parts)
        self.gram, self.constant = reduced.gram.cpu(), reduced.constant
        self.middle = self._coefficients(full)

    @property
    def dim(self) -> int:
        """Number of labels that are looked at."""
        return len(self.free)

    def whole(self, u: Tensor) -> Tensor:
        """Put the other labels of the mode beside ``u (n, dim)``, shape ``(n, n_labels)``."""
        out = self.u.repeat(len(u), 1)
        out[:, self.free] = u
        return out

    def _full(self, u: Tensor) -> Tensor:
        return self.target.likelihood.complete(self.target.labels.from_normal(self.whole(u)))

    def _coefficients(self, full: Tensor) -> Tensor:
        stellar = full[:, : len(self.emulator.labels)]
        return self.emulator.coefficients(stellar)[:, :_COMPONENTS].double()

    @torch.no_grad()
    def log_likelihood(self, u: Tensor) -> Tensor:
        """Log likelihood, shape ``(n,)``, of ``u (n, dim)``; the prior of the other labels is left out."""
        full = self._full(u)
        terms = torch.nn.functional.pad(self.middle - self._coefficients(full), (1, 0), value=1.0)
        return (
            -0.5 * ((terms @ self.gram) * terms).sum(1) + self.constant + self.pixels.prior_beside(full).cpu()
        )

    @torch.no_grad()
    def newton(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """Gradient and precision; see `Density.newton`."""
        full, whole = self._full(u), self.whole(u)
        n, k = len(u), self.pixels.jitter
        slopes = torch.zeros(n, full.shape[1], self.gram.shape[1] - 1, dtype=torch.float64)
        stellar = len(self.emulator.labels)
        slopes[:, :stellar] = self.emulator.jacobian(full[:, :stellar])[..., :_COMPONENTS].double()
        away = self._coefficients(full) - self.middle
        gradient = (slopes @ (self.gram[0, 1:] - away @ self.gram[1:, 1:])[..., None])[..., 0]
        fisher = slopes @ self.gram[1:, 1:] @ slopes.mT
        for distance, by_labels in self.pixels.relations(full):
            gradient[:, :k] -= distance[:, None] * by_labels
            fisher[:, :k, :k] += by_labels[:, :, None] * by_labels[:, None]
        curvature = self.target.likelihood.pulled_back(Curvature(gradient, fisher), whole.shape[1])
        gradient, precision = self.target.newton_from(whole, curvature)
        return gradient[:, self.free], precision[:, self.free][:, :, self.free]
