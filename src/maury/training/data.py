"""Batches to train on: made on the fly, or from a file of simulations."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor
from torch.utils.data import IterableDataset

from maury.labels import LabelSet
from maury.networks.context import Context
from maury.networks.estimator import Estimator
from maury.networks.score import Measured, ScoreFeaturizer
from maury.networks.truncated import TruncatedFrame
from maury.training.density import Denser, Density
from maury.training.simulations import Simulator
from maury.training.store import Simulations


class Batch(NamedTuple):
    """Examples to train on.

    Attributes
    ----------
    u
        Labels, ``(n, n_labels)`` float64.
    flux, ivar
        ``(n, n_pixels)`` float32.
    seen
        Profiles that they were seen through (`maury.spectra.seen`), where each has its own.
    weight
        Of each in the loss, where labels were not drawn from the prior: the prior's density over that which they were drawn from.
    """

    u: Tensor
    flux: Tensor
    ivar: Tensor
    seen: Tensor | None = None
    weight: Tensor | None = None


class MeasuredBatch(NamedTuple):
    """Examples of which a featurizer has measured all that it measures without weights that are trained; see `maury.networks.score`."""

    u: Tensor
    told: Tensor
    mean: Tensor
    factor: Tensor
    weight: Tensor | None = None

    def take(self, rows: Tensor | slice) -> MeasuredBatch:
        """Return some of them."""
        weight = None if self.weight is None else self.weight[rows]
        return MeasuredBatch(self.u[rows], self.told[rows], self.mean[rows], self.factor[rows], weight)

    def context(self, estimator: Estimator) -> Context:
        """Return what the estimator's featurizer reads in it."""
        featurizer = estimator.featurizer
        assert isinstance(featurizer, ScoreFeaturizer)
        return featurizer.read(Measured(self.told, TruncatedFrame(self.mean, self.factor, featurizer.square)))


AnyBatch = Batch | MeasuredBatch


class Source(Protocol):
    """Batches by number: batch i of a source is always the same."""

    length: int

    def batch(self, i: int) -> AnyBatch:
        """Return batch ``i``; ``i // length`` is the epoch."""


class Batches(IterableDataset[AnyBatch]):
    """One epoch of a source after the other; of several processes each takes every so many batches.

    ``first`` is the number of the first batch of the next pass.
    """

    def __init__(self, source: Source) -> None:
        self.source, self.first, self.rank, self.world = source, 0, 0, 1

    def __len__(self) -> int:
        return max(1, self.source.length // self.world)

    def __iter__(self) -> Iterator[AnyBatch]:
        for i in range(len(self)):
            yield self.source.batch(self.first + i * self.world + self.rank)


class OnTheFly:
    """Batches of new spectra; batch ``i`` depends on the seed and on ``i`` alone, so that training resumes exactly.

    Parameters
    ----------
    draw
        Makes labels ``(n, n_labels)`` and what else a `Batch` holds of n examples from a generator.
    labels
        Of the first.
    size
        Examples a batch.
    length
        Batches that count as an epoch.
    seed
        Of all of them.
    """

    def __init__(
        self,
        draw: Drawn,
        labels: LabelSet,
        size: int,
        length: int,
        seed: int,
    ) -> None:
        self.draw, self.labels, self.size, self.length, self.seed = draw, labels, size, length, seed

    def batch(self, i: int) -> Batch:
        """Return batch ``i``."""
        theta, *rest = self.draw(self.size, torch.Generator().manual_seed((self.seed << 32) + i))
        assert theta is not None
        return Batch(self.labels.to_normal(theta), *rest)  # type: ignore[arg-type]


# Labels, flux, inverse variances, and perhaps profiles and weights, of n examples.
Drawn = Callable[[int, torch.Generator], tuple[Tensor | None, ...]]


def spectra(simulator: Simulator, denser: Sequence[Denser] = ()) -> Drawn:
    """Return a function that draws labels without nuisance, flux, ivar, profiles and weights of n spectra."""
    columns = simulator.problem.columns(simulator.problem.stellar)
    sampler = Density(simulator.problem, denser) if denser else None

    def draw(n: int, generator: torch.Generator) -> tuple[Tensor | None, ...]:
        if sampler is None:
            simulation, weight = simulator(n, generator), None
        else:
            labels, weight = sampler.sample(n, generator)
            simulation = simulator.observe(labels, generator)
        return simulation.labels[:, columns], simulation.flux, simulation.ivar, simulation.seen, weight

    return draw


class Stored:
    """Spectra of a file, in another order each epoch; clean ones are observed anew each time.

    Parameters
    ----------
    file
        The simulations.
    simulator
        What they were made with.
    rows
        Which of the spectra, half-open.
    size
        Spectra a batch.
    seed
        Of order and noise.
    """

    def __init__(
        self, file: Simulations, simulator: Simulator, rows: tuple[int, int], size: int, seed: int
    ) -> None:
        self.file, self.simulator, self.seed = file, simulator, seed
        self.size = min(size, rows[1] - rows[0])
        self.rows = torch.arange(*rows)
        self.length = len(self.rows) // self.size
        self.columns = simulator.problem.columns(simulator.problem.stellar)
        self._order: tuple[int, Tensor] = (-1, self.rows)

    def batch(self, i: int) -> Batch:
        """Return batch ``i``."""
        epoch, place = divmod(i, self.length)
        if self._order[0] != epoch:
            shuffle = torch.Generator().manual_seed((self.seed << 32) + epoch)
            self._order = (epoch, self.rows[torch.randperm(len(self.rows), generator=shuffle)])
        rows = self._order[1][place * self.size : (place + 1) * self.size].sort().values
        theta = self.file.theta[rows]
        flux, ivar = self.file.read(rows.numpy())
        if ivar is None:
            observed = torch.Generator().manual_seed((self.seed + 1 << 32) + i)
            simulation = self.simulator.add_noise(theta, flux, observed)
            flux, ivar = simulation.flux, simulation.ivar
        return Batch(self.simulator.problem.stellar.to_normal(theta[:, self.columns]), flux, ivar)
