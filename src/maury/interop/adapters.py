"""maury among other packages: its simulator and prior for sbi, its estimators for the checks of sbi and LAMPE.

Those packages know one array of data: here flux and inverse variance side by side, ``x (n, 2 n_pixels)``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution, constraints

from maury.errors import InferenceError
from maury.labels import LabelSet
from maury.networks.context import Context
from maury.networks.estimator import Estimator
from maury.training.simulations import Simulator


def join(flux: Tensor, ivar: Tensor) -> Tensor:
    """Put flux and inverse variance, each ``(..., n_pixels)``, side by side."""
    return torch.cat([flux, ivar], dim=-1)


class LabelPrior(Distribution):
    """The priors of some labels as a torch distribution, float32 as sbi wants it.

    Parameters
    ----------
    labels
        Labels with their priors.
    """

    arg_constraints: dict[str, Any] = {}  # noqa: RUF012

    def __init__(self, labels: LabelSet) -> None:
        self.labels = labels
        super().__init__(event_shape=torch.Size([len(labels)]), validate_args=False)

    @property
    def support(self) -> Any:
        """The box of all labels."""
        return constraints.independent(
            constraints.interval(self.labels.low.float(), self.labels.high.float()), 1
        )

    @property
    def mean(self) -> Tensor:
        """Mean of many draws; sbi standardises by it."""
        return self.labels.sample(20_000, torch.Generator().manual_seed(0)).mean(0).float()

    @property
    def stddev(self) -> Tensor:
        """Standard deviations."""
        return self.labels.std.float()

    @property
    def variance(self) -> Tensor:
        """Variances."""
        return self.stddev.square()

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Draw ``sample_shape + (n_labels,)``; uses torch's global random state."""
        shape = torch.Size(sample_shape)
        return self.labels.sample(shape.numel()).float().reshape(*shape, len(self.labels))

    def log_prob(self, value: Tensor) -> Tensor:
        """Log density; minus infinity outside."""
        return self.labels.log_prob(value.double()).float()


def sbi_pair(simulator: Simulator) -> tuple[Callable[[Tensor], Tensor], LabelPrior]:
    """Return a function from labels ``(n, n_labels)`` to ``x (n, 2 n_pixels)``, and the prior, as sbi takes them.

    Labels are those that an estimator infers; the nuisance is drawn anew for each spectrum, and held labels are held.
    """
    problem = simulator.problem
    columns = problem.columns(problem.stellar)

    def simulate(theta: Tensor) -> Tensor:
        rows = theta.reshape(-1, len(columns))
        generator = torch.Generator().manual_seed(int(torch.randint(2**62, (1,))))
        whole = problem.sample(len(rows), generator)
        whole[:, columns] = rows.double().clamp(problem.stellar.low, problem.stellar.high)
        simulation = simulator.observe(whole, generator)
        return join(simulation.flux, simulation.ivar).reshape(*theta.shape[:-1], -1)

    return simulate, LabelPrior(problem.stellar)


class FlowDistribution(Distribution):
    """An estimator's posterior of one spectrum as a torch distribution over its labels.

    Parameters
    ----------
    estimator, context
        The estimator, and its context of the spectrum.
    """

    arg_constraints: dict[str, Any] = {}  # noqa: RUF012

    def __init__(self, estimator: Estimator, context: Context) -> None:
        self.estimator, self.context = estimator, context
        super().__init__(event_shape=torch.Size([len(estimator.labels)]), validate_args=False)

    @torch.no_grad()
    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Draw ``sample_shape + (n_labels,)``; uses torch's global random state."""
        shape = torch.Size(sample_shape)
        generator = torch.Generator().manual_seed(int(torch.randint(2**62, (1,))))
        u = self.estimator.sample(shape.numel(), self.context, generator)
        return self.estimator.labels.from_normal(u).float().reshape(*shape, -1)

    @torch.no_grad()
    def log_prob(self, value: Tensor) -> Tensor:
        """Log density of labels ``(..., n_labels)``; minus infinity outside the prior."""
        labels = self.estimator.labels
        theta = value.double().reshape(-1, len(labels))
        inside = ((theta >= labels.low) & (theta <= labels.high)).all(1)
        # In single precision a draw may sit on the bound, where u is infinite.
        margin = 1e-7 * (labels.high - labels.low)
        u = labels.to_normal(theta.clamp(labels.low + margin, labels.high - margin))
        log_prob = self.estimator.log_prob(u, self.context.repeat(len(u))) - labels.log_abs_det(u)
        return torch.where(inside, log_prob, -torch.inf).float().reshape(value.shape[:-1])


class EstimatorPosterior:
    """An estimator as sbi's and LAMPE's diagnostics take a posterior.

    sbi's call ``sample``, ``sample_batched`` and ``log_prob`` with ``x``; LAMPE's call the object itself, or `flow`, and use the
    distribution that it returns.

    Parameters
    ----------
    estimator
        The estimator; ``x`` is ``(n, 2 n_pixels)``, see `join`.
    """

    def __init__(self, estimator: Estimator) -> None:
        self.estimator = estimator
        self._x: Tensor | None = None

    def set_default_x(self, x: Tensor) -> EstimatorPosterior:
        """Condition on a spectrum where none is given."""
        self._x = x
        return self

    @torch.no_grad()
    def flow(self, x: Tensor) -> FlowDistribution:
        """Return the posterior of one spectrum ``(2 n_pixels,)`` or ``(1, 2 n_pixels)``.

        Raises
        ------
        InferenceError
            If ``x`` has another length.
        """
        n = self.estimator.n_pixels
        rows = x.reshape(-1, x.shape[-1]).float()
        if rows.shape != (1, 2 * n):
            raise InferenceError(
                f"x: expected one spectrum of {n} fluxes and {n} inverse variances, not {tuple(x.shape)}"
            )
        return FlowDistribution(self.estimator, self.estimator.context(rows[:, :n], rows[:, n:]))

    __call__ = flow

    def _at(self, x: Tensor | None) -> FlowDistribution:
        x = self._x if x is None else x
        if x is None:
            raise InferenceError("no spectrum: give x, or call set_default_x")
        return self.flow(x)

    def sample(self, sample_shape: Any = (), x: Tensor | None = None, **_: Any) -> Tensor:
        """Draw ``sample_shape + (n_labels,)``."""
        return self._at(x).sample(sample_shape)

    def sample_batched(self, sample_shape: Any, x: Tensor, **_: Any) -> Tensor:
        """Draw ``sample_shape + (n, n_labels)`` of n spectra."""
        return torch.stack([self.flow(row).sample(sample_shape) for row in x], dim=-2)

    def log_prob(self, theta: Tensor, x: Tensor | None = None, **_: Any) -> Tensor:
        """Log density of labels ``(n, n_labels)``, shape ``(n,)``."""
        return self._at(x).log_prob(theta)
