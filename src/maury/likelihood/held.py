"""A likelihood of fewer labels: the others are held at known values."""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import Tensor

from maury.forward.fit import Fit
from maury.forward.likelihood import Curvature, Likelihood


@dataclass(frozen=True)
class Held:
    """A `Likelihood` of which some labels are held.

    Attributes
    ----------
    likelihood
        Of all labels.
    values
        Of all labels, shape ``(n_all,)``, or ``(n, n_all)`` where each row of labels has its own; those of the free ones do not matter.
    free
        Places of the free labels, shape ``(n_labels,)``.
    """

    likelihood: Likelihood
    values: Tensor
    free: Tensor

    @property
    def n_pixels(self) -> int:
        """Number of pixels used."""
        return self.likelihood.n_pixels

    def complete(self, labels: Tensor) -> Tensor:
        """Put the held values beside free labels ``(..., n_labels)``: ``(..., n_all)``."""
        out = self.values.to(labels).expand(*labels.shape[:-1], self.values.shape[-1])
        return out.index_copy(-1, self.free, labels)

    def log_prob(self, labels: Tensor) -> Tensor:
        """Log likelihood, shape ``(n,)``, of free labels ``(n, n_labels)``."""
        return self.likelihood.log_prob(self.complete(labels))

    def log_prob_with_gradient(self, labels: Tensor) -> Tensor:
        """As `Likelihood.log_prob_with_gradient`."""
        return self.likelihood.log_prob_with_gradient(self.complete(labels))

    def curvature(self, labels: Tensor, on_grid: tuple[Tensor, Tensor] | None = None) -> Curvature:
        """Gradient and information of the free labels; ``on_grid`` as of `Likelihood.curvature`, at all labels."""
        whole = self.likelihood.curvature(self.complete(labels), on_grid)
        return Curvature(whole.gradient[:, self.free], whole.fisher[:, self.free][:, :, self.free])

    def refer(self, labels: Tensor) -> Held:
        """As `Likelihood.refer`."""
        return replace(self, likelihood=self.likelihood.refer(self.complete(labels)))

    def excess_scatter(self, labels: Tensor) -> Tensor:
        """As `Likelihood.excess_scatter`."""
        return self.likelihood.excess_scatter(self.complete(labels))

    def fit(self, labels: Tensor) -> Fit:
        """As `Likelihood.fit`."""
        return self.likelihood.fit(self.complete(labels))
