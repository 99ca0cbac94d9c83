"""Batches to train on: made on the fly, or from a file of simulations."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Protocol

import torch
from torch import Tensor
from torch.utils.data import IterableDataset

from maury.labels import LabelSet
from maury.training.simulations import Simulator
from maury.training.store import Simulations

# u (n, n_labels) float64, flux and ivar (n, n_pixels) float32.
Batch = tuple[Tensor, Tensor, Tensor]


class Source(Protocol):
    """Batches by number: batch i of a source is always the same."""

    length: int

    def batch(self, i: int) -> Batch:
        """Return batch ``i``; ``i // length`` is the epoch."""


class Batches(IterableDataset[Batch]):
    """One epoch of a source after the other; of several processes each takes every so many batches.

    ``first`` is the number of the first batch of the next pass.
    """

    def __init__(self, source: Source) -> None:
        self.source, self.first, self.rank, self.world = source, 0, 0, 1

    def __len__(self) -> int:
        return max(1, self.source.length // self.world)

    def __iter__(self) -> Iterator[Batch]:
        for i in range(len(self)):
            yield self.source.batch(self.first + i * self.world + self.rank)


class OnTheFly:
    """Batches of new spectra; batch ``i`` depends on the seed and on ``i`` alone, so that training resumes exactly.

    Parameters
    ----------
    draw
        Makes labels ``(n, n_labels)``, flux and ivar of n examples from a generator.
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
        draw: Callable[[int, torch.Generator], Batch],
        labels: LabelSet,
        size: int,
        length: int,
        seed: int,
    ) -> None:
        self.draw, self.labels, self.size, self.length, self.seed = draw, labels, size, length, seed

    def batch(self, i: int) -> Batch:
        """Return batch ``i``."""
        theta, flux, ivar = self.draw(self.size, torch.Generator().manual_seed((self.seed << 32) + i))
        return self.labels.to_normal(theta), flux, ivar


def spectra(simulator: Simulator) -> Callable[[int, torch.Generator], Batch]:
    """Return a function that draws labels without nuisance, flux and ivar of n spectra."""
    columns = simulator.problem.columns(simulator.problem.stellar)

    def draw(n: int, generator: torch.Generator) -> Batch:
        simulation = simulator(n, generator)
        return simulation.labels[:, columns], simulation.flux, simulation.ivar

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
        return self.simulator.problem.stellar.to_normal(theta[:, self.columns]), flux, ivar
