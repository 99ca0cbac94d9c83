"""Spectra that are simulated and measured once, and read many times.

Where a featurizer's measurement rests on weights that are no longer trained, nothing of it changes from epoch to epoch: a spectrum's
thousands of pixels become a few hundred numbers, and what is trained costs little. They are kept in files, one a batch, that depend on
the configuration and on their number alone, so that a run that was stopped goes on.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import torch
from safetensors.torch import load_file, save
from torch import Tensor

from maury.errors import ConfigError
from maury.files import writing
from maury.networks.estimator import Estimator
from maury.networks.score import ScoreFeaturizer
from maury.training.data import Batch, MeasuredBatch, OnTheFly

FOLDER = "measured"
T = TypeVar("T")
R = TypeVar("R")


@torch.no_grad()
def measured(estimator: Estimator, batch: Batch) -> MeasuredBatch:
    """Measure a batch.

    Raises
    ------
    ConfigError
        If the featurizer measures nothing.
    """
    featurizer = estimator.featurizer
    if not isinstance(featurizer, ScoreFeaturizer):
        raise ConfigError("keep: only the featurizer 'score' measures what can be kept")
    device = next(estimator.parameters()).device
    seen = None if batch.seen is None else batch.seen.to(device)
    found = featurizer.measure(batch.flux.to(device), batch.ivar.to(device), seen)
    u = batch.u
    return MeasuredBatch(u, found.told.cpu(), found.frame.mean.cpu(), found.frame.factor.cpu(), batch.weight)


def measure(
    estimator: Estimator,
    source: OnTheFly,
    number: int,
    folder: Path,
    minutes: float | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[Path]:
    """Measure batches of a source into files, or go on with those of an earlier run.

    Parameters
    ----------
    estimator
        Its featurizer measures.
    source
        Of spectra.
    number
        Batches.
    folder
        Of the files.
    minutes
        After so many no more are begun, however many there are.
    progress
        Told how many batches of how many are done.
    """
    folder.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    estimator.eval()
    files = [folder / f"batch-{i:05d}.safetensors" for i in range(number)]

    def one(i: int) -> None:
        if files[i].exists() or (i and minutes is not None and time.monotonic() - began > 60 * minutes):
            return
        batch = measured(estimator, source.batch(i))
        tensors = {key: value.contiguous() for key, value in batch._asdict().items() if value is not None}
        with writing(files[i]) as temporary:
            temporary.write_bytes(save(tensors))

    for done, _ in enumerate(side_by_side(one, range(number)), start=1):
        progress(done, number)
    return [path for path in files if path.exists()]


def side_by_side(work: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
    """Do something with each item on as many threads as torch has, which each compute on one: they wait less for each other so."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with ThreadPoolExecutor(threads) as pool:
            yield from pool.map(work, items)
    finally:
        torch.set_num_threads(threads)


class Kept:
    """Examples that were measured, in another order each epoch.

    Parameters
    ----------
    parts
        Batches.
    size
        Of the batches that are trained on.
    seed
        Of the order.
    """

    def __init__(self, parts: Sequence[MeasuredBatch], size: int, seed: int) -> None:
        u, told, mean, factor = (
            torch.cat([getattr(part, key) for part in parts]) for key in ("u", "told", "mean", "factor")
        )
        weights = [part.weight for part in parts if part.weight is not None]
        self.whole = MeasuredBatch(
            u, told, mean, factor, torch.cat(weights) if len(weights) == len(parts) else None
        )
        self.seed, self.size = seed, min(size, len(self.whole.u))
        self.length = len(self.whole.u) // self.size
        self._order: tuple[int, Tensor] = (-1, torch.arange(0))

    @classmethod
    def read(cls, files: Sequence[Path], size: int, seed: int) -> Kept:
        """Read files of `measure`."""
        return cls([MeasuredBatch(**load_file(path)) for path in files], size, seed)

    def batch(self, i: int) -> MeasuredBatch:
        """Return batch ``i``."""
        epoch, place = divmod(i, self.length)
        if self._order[0] != epoch:
            generator = torch.Generator().manual_seed((self.seed << 32) + epoch)
            self._order = (epoch, torch.randperm(len(self.whole.u), generator=generator))
        rows = self._order[1][place * self.size : (place + 1) * self.size]
        return self.whole.take(rows)
