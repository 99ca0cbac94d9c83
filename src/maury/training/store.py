"""Files of simulated spectra: HDF5 of a fixed size, written batch by batch, that a kill at any instant cannot damage.

All datasets are contiguous and allocated when the file is made. From then on the writer puts bytes at their places and never
touches what HDF5 knows of the file, so that nothing has to be repaired, copied or assembled, and memory holds one batch.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from maury.errors import MauryError, ModelError
from maury.files import first_line
from maury.labels import Label, LabelSet

FORMAT = "maury-simulations-1"
_DONE = "done"


def create(
    path: Path, layout: Mapping[str, tuple[tuple[int, ...], np.dtype[Any]]], attributes: Mapping[str, str]
) -> None:
    """Make a file with empty datasets, name to shape and type, and take its room on the disk.

    Raises
    ------
    OSError
        If the disk has not that much room; the file is removed then.
    """
    contiguous = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    contiguous.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    contiguous.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
    try:
        with h5py.File(path, "w") as file:
            file.attrs.update(attributes)
            for name, (shape, dtype) in {**layout, _DONE: ((1,), np.dtype(np.int64))}.items():
                file.create_dataset(name, shape, dtype, dcpl=contiguous)
        with path.open("r+b") as plain:
            # A full disk is better met now than after hours.
            os.posix_fallocate(plain.fileno(), 0, path.stat().st_size)
    except OSError:
        path.unlink(missing_ok=True)
        raise


@dataclass(frozen=True)
class Writer:
    """Puts rows of datasets at their places in a file that `create` made."""

    descriptor: int
    offsets: Mapping[str, int]
    dtypes: Mapping[str, np.dtype[Any]]

    def write(self, name: str, first: int, rows: NDArray[Any]) -> None:
        """Write ``rows`` from row number ``first`` of a dataset on."""
        values = np.ascontiguousarray(rows, dtype=self.dtypes[name])
        row_bytes = values.nbytes // max(1, len(values))
        place, rest = self.offsets[name] + first * row_bytes, values.reshape(-1).view(np.uint8).data
        while rest:
            written = os.pwrite(self.descriptor, rest, place)
            place, rest = place + written, rest[written:]

    def commit(self, done: int) -> None:
        """Note that ``done`` spectra are complete, once they are on the disk."""
        os.fdatasync(self.descriptor)
        self.write(_DONE, 0, np.array([done]))


@contextmanager
def open_writer(path: Path) -> Iterator[Writer]:
    """Open a file that `create` made, to write rows of its datasets."""
    with _open(path) as file:
        datasets = {name: item for name, item in file.items() if isinstance(item, h5py.Dataset)}
        offsets = {name: item.id.get_offset() for name, item in datasets.items()}
        dtypes = {name: item.dtype for name, item in datasets.items()}
    descriptor = os.open(path, os.O_WRONLY)
    try:
        yield Writer(descriptor, offsets, dtypes)
    finally:
        os.close(descriptor)


def progress_of(path: Path) -> tuple[dict[str, str], int]:
    """Return a file's attributes and how many of its spectra are complete."""
    with _open(path) as file:
        return {key: str(value) for key, value in file.attrs.items()}, int(file[_DONE][0])


@contextmanager
def _open(path: Path) -> Iterator[h5py.File]:
    try:
        with h5py.File(path, "r") as file:
            if file.attrs.get("format") != FORMAT:
                raise ModelError(f"{path}: not a file of simulated spectra (`maury simulate` writes such)")
            yield file
    except FileNotFoundError:
        raise ModelError(f"{path}: no such file") from None
    except (KeyError, OSError, RuntimeError) as error:
        raise ModelError(f"{path}: cannot be read; damaged or cut short ({first_line(error)})") from None


@dataclass(frozen=True)
class Simulations:
    """A file of simulated spectra, read as it is asked for.

    Attributes
    ----------
    path
        The file.
    labels
        Labels with their priors, the nuisance ``jitter`` included.
    fixed
        Labels that were held at a value instead.
    wavelength
        Angstrom in vacuum, shape ``(n_pixels,)``.
    theta
        True labels, shape ``(n, n_labels)`` float64.
    config
        The configuration that made the file.
    """

    path: Path
    labels: LabelSet
    fixed: dict[str, float]
    wavelength: NDArray[np.float64]
    theta: Tensor
    config: dict[str, Any]

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> Simulations:
        """Open a finished file.

        Raises
        ------
        ModelError
            If it is not such a file, cut short, or not finished.
        """
        path = Path(path)
        with _open(path) as file:
            done, n = int(file[_DONE][0]), len(file["labels"])
            if done < n:
                raise ModelError(f"{path}: only {done} of {n} spectra; finish it by `maury simulate`")
            labels = LabelSet(tuple(map(Label.from_dict, json.loads(file.attrs["label_set"]))))
            config = json.loads(file.attrs["config"])
            theta = torch.from_numpy(file["labels"][:])
            return cls(path, labels, config["fixed"], file["wavelength"][:], theta, config)

    def __len__(self) -> int:
        return len(self.theta)

    @property
    def noisy(self) -> bool:
        """Whether the file holds observed spectra, or clean ones without noise, masks and continua."""
        return self.config["store"] == "noisy"

    def read(self, rows: ArrayLike) -> tuple[Tensor, Tensor | None]:
        """Read spectra by number, which must rise.

        Returns
        -------
        flux, ivar : Tensor
            Shape ``(n, n_pixels)`` float32; ``ivar`` is None for clean spectra.
        """
        rows = np.asarray(rows)
        with _open(self.path) as file:
            flux = torch.from_numpy(file["flux"][rows].astype(np.float32))
            return flux, torch.from_numpy(file["ivar"][rows]) if self.noisy else None

    def batches(
        self, size: int, generator: torch.Generator | None = None
    ) -> Iterator[tuple[Tensor, Tensor, Tensor | None]]:
        """Yield labels, flux and ivar, batch by batch: in order, or shuffled by a generator.

        Shuffling picks runs of consecutive spectra, which are independent draws as they are, so that a disk reads in long strokes.
        """
        run = min(size, 32)
        starts = torch.arange(0, len(self), run)
        if generator is not None:
            starts = starts[torch.randperm(len(starts), generator=generator)]
        for group in starts.split(max(1, size // run)):
            rows = torch.cat(
                [torch.arange(int(s), min(int(s) + run, len(self))) for s in group.sort().values]
            )
            yield self.theta[rows], *self.read(rows.numpy())


def differing(stored: Mapping[str, Any], wanted: Mapping[str, Any]) -> str:
    """Name the first entry in which two configurations differ, with both values."""
    for key in {**stored, **wanted}:
        if stored.get(key) != wanted.get(key):
            return f"{key} is {stored.get(key)} there and {wanted.get(key)} here"
    raise MauryError("the configurations are the same")
