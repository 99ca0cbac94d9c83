"""Grid files: HDF5, one chunk a spectrum, and the checks that every library must pass."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import ArrayLike, NDArray

from maury.errors import ModelError
from maury.files import disk_errors, first_line, writing

UNIT = "erg s-1 cm-2 Angstrom-1"
FORMAT = "maury-grid-1"
# Nodes closer than this are one: it takes up the rounding of files that hold labels as float32.
DECIMALS = 6


def write_grid(
    path: str | os.PathLike[str],
    labels: Sequence[str],
    nodes: ArrayLike,
    wavelength: ArrayLike,
    flux: Iterable[ArrayLike],
    *,
    reference: str,
    medium: str = "vacuum",
    unit: str = UNIT,
    holes: ArrayLike | None = None,
    attributes: Mapping[str, str] | None = None,
) -> None:
    """Write a model library to one HDF5 file, which appears whole or not at all.

    Parameters
    ----------
    path
        The file; one that exists is replaced.
    labels
        Names of the labels.
    nodes
        Shape ``(n_nodes, n_labels)``.
    wavelength
        Angstrom, vacuum, strictly rising, shape ``(n_pixels,)``.
    flux
        The spectra in the order of the nodes, each of shape ``(n_pixels,)``: an array ``(n_nodes, n_pixels)`` or an iterator,
        so that a library need not fit in memory. The file has the precision of the first.
    reference
        The paper, or how the spectra came about.
    medium
        What the wavelengths are of; anything but ``"vacuum"`` is refused.
    unit
        Unit of the flux.
    holes
        Nodes that the library is known to lack, shape ``(n_holes, n_labels)``.
    attributes
        Further attributes of the file.

    Raises
    ------
    ModelError
        If nodes are repeated, wavelengths do not rise strictly, a flux is not finite or not above 0, or shapes disagree.
    MauryError
        If the file cannot be written.
    """
    path, labels = Path(path), tuple(labels)
    nodes_ = clean_nodes(nodes)
    wavelength_ = np.asarray(wavelength, dtype=np.float64)
    check_nodes(labels, nodes_, str(path))
    check_wavelength(wavelength_, medium, str(path))
    holes_ = np.empty((0, len(labels))) if holes is None else np.asarray(holes, dtype=np.float64)
    with disk_errors(path), writing(path) as temporary, h5py.File(temporary, "w") as file:
        file.attrs.update({"format": FORMAT, "medium": medium, "unit": unit, "reference": reference})
        file.attrs.update(attributes or {})
        file["labels"] = list(labels)
        file["nodes"], file["holes"], file["wavelength"] = (
            nodes_,
            holes_.reshape(-1, len(labels)),
            wavelength_,
        )
        file["wavelength"].attrs.update({"medium": medium, "unit": "Angstrom"})
        dataset, number = None, 0
        for spectrum in flux:
            row = np.asarray(spectrum)
            if number == len(nodes_):
                raise ModelError(f"{path}: more spectra than its {number} nodes")
            where = f"{path}, node {describe(labels, nodes_[number])}"
            check_flux(row, wavelength_, where)
            if dataset is None:
                # The checksum of each chunk makes a damaged spectrum an error instead of a wrong answer.
                dataset = file.create_dataset(
                    "flux",
                    (len(nodes_), len(wavelength_)),
                    np.float32 if row.dtype == np.float32 else np.float64,
                    chunks=(1, len(wavelength_)),
                    fletcher32=True,
                )
                dataset.attrs["unit"] = unit
            dataset[number] = row
            number += 1
        if number != len(nodes_):
            raise ModelError(f"{path}: {number} spectra for {len(nodes_)} nodes")


@contextmanager
def open_hdf5(path: str | os.PathLike[str]) -> Iterator[h5py.File]:
    """Open an HDF5 file to read; what is wrong with it becomes a `ModelError` that names the file."""
    path = Path(path)
    try:
        with h5py.File(path, "r") as file:
            yield file
    except FileNotFoundError:
        raise ModelError(f"{path}: no such file") from None
    except KeyError as error:
        raise ModelError(f"{path}: not a grid, or damaged: {error.args[0]}") from None
    except (OSError, RuntimeError) as error:
        raise ModelError(f"{path}: cannot be read; not HDF5, or damaged ({first_line(error)})") from None


def read_rows(path: Path, indices: NDArray[np.intp], pixels: slice) -> NDArray[Any]:
    """Read flux ``(n, n_read)`` of rising row numbers from the dataset ``flux``.

    Opened anew each time: nothing is held that a forked process or a replaced file could upset.
    """
    with open_hdf5(path) as file:
        rows: NDArray[Any] = file["flux"][indices, pixels]
    return rows


def describe(labels: Sequence[str], values: ArrayLike) -> str:
    """Return label values ``(n_labels,)`` as text."""
    return ", ".join(f"{n} = {v:g}" for n, v in zip(labels, np.asarray(values).tolist(), strict=True))


def clean_nodes(nodes: ArrayLike) -> NDArray[np.float64]:
    """Labels ``(n_nodes, n_labels)`` without the rounding of float32 and without negative zeros."""
    return np.asarray(np.asarray(nodes, dtype=np.float64).round(DECIMALS) + 0.0)


def check_nodes(labels: tuple[str, ...], nodes: NDArray[np.float64], where: str) -> None:
    """Raise a `ModelError` unless nodes ``(n_nodes, n_labels)`` are finite, distinct and as wide as the labels."""
    if not labels or len(set(labels)) != len(labels):
        raise ModelError(f"{where}: label names must be distinct and at least one; got {list(labels)}")
    if nodes.ndim != 2 or nodes.shape[1] != len(labels) or not len(nodes):
        raise ModelError(f"{where}: nodes of shape {nodes.shape}; needs (n_nodes, {len(labels)})")
    bad = np.flatnonzero(~np.isfinite(nodes).all(axis=1))
    if len(bad):
        raise ModelError(f"{where}: node {bad[0]} is not finite ({describe(labels, nodes[bad[0]])})")
    distinct, count = np.unique(nodes, axis=0, return_counts=True)
    if len(distinct) < len(nodes):
        twice = distinct[np.argmax(count)]
        raise ModelError(
            f"{where}: the node {describe(labels, twice)} is there {count.max()} times; keep one"
        )


def check_wavelength(wavelength: NDArray[np.float64], medium: str | None, where: str) -> None:
    """Raise a `ModelError` unless wavelengths ``(n_pixels,)`` rise strictly, are positive and in vacuum."""
    if medium is None:
        raise ModelError(f"{where}: does not state the medium of its wavelengths; state medium 'vacuum'")
    if medium != "vacuum":
        raise ModelError(f"{where}: wavelengths in {medium!r}; convert them to vacuum first")
    if wavelength.ndim != 1 or len(wavelength) < 2:
        raise ModelError(f"{where}: wavelengths of shape {wavelength.shape}; needs (n_pixels,)")
    if not np.isfinite(wavelength).all() or wavelength[0] <= 0:
        raise ModelError(f"{where}: wavelengths must be finite and above 0")
    step = np.diff(wavelength)
    if (step <= 0).any():
        i = int(np.argmax(step <= 0))
        kind = "repeated" if step[i] == 0 else "not in rising order"
        raise ModelError(
            f"{where}: wavelengths are {kind} at pixel {i + 1} ({wavelength[i + 1]:.6f} Angstrom)"
        )


def check_flux(flux: NDArray[Any], wavelength: NDArray[np.float64], where: str) -> None:
    """Raise a `ModelError` unless flux ``(n_pixels,)`` is finite and above 0 everywhere, as its logarithm needs."""
    if flux.shape != wavelength.shape:
        raise ModelError(f"{where}: {flux.shape} fluxes for {len(wavelength)} wavelengths")
    bad = ~(np.isfinite(flux) & (flux > 0))
    if bad.any():
        i = int(np.argmax(bad))
        raise ModelError(
            f"{where}: the flux is {flux[i]} at {wavelength[i]:.3f} Angstrom ({bad.sum()} pixels not finite or not above 0); "
            "leave the node out, or crop to a band where the flux is above 0"
        )
