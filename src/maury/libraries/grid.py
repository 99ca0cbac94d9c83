"""A model library as a grid: spectra at nodes of a rectilinear mesh of labels, read when asked for, interpolated in ln(flux)."""

from __future__ import annotations

import math
import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from maury.errors import LabelError, ModelError
from maury.libraries import gridfile, stencils
from maury.libraries.gridfile import UNIT, write_grid
from maury.names import meant

__all__ = ["UNIT", "Grid", "write_grid"]

# Spectra read at a time: one opening of the file serves all of them.
_BATCH = 32

Reader = Callable[[NDArray[np.intp], slice], NDArray[Any]]


class Grid:
    """Spectra at the nodes of a rectilinear mesh of labels, of which some may be missing (holes).

    Parameters
    ----------
    labels
        Names of the labels, in the order of the columns of ``nodes``.
    nodes
        Labels of the spectra that exist, shape ``(n_nodes, n_labels)``.
    wavelength
        Angstrom, vacuum, strictly rising, shape ``(n_pixels,)``.
    read
        Returns the flux ``(n, n_read)`` of n node numbers on a slice of the pixels; called only when spectra are needed.
    medium
        What the wavelengths are of; anything but ``"vacuum"`` is refused.
    unit, reference, source
        Unit of the flux, the paper, and the file or folder that messages shall name.
    cache
        Bytes of spectra kept in memory; those longest unused go first.

    Attributes
    ----------
    axes : tuple of ndarray
        The values that occur of each label.
    holes : ndarray or None
        Nodes known to be missing in the library, shape ``(n_holes, n_labels)``, where its file tells.

    Raises
    ------
    ModelError
        If nodes are repeated or not finite, wavelengths do not rise strictly or are not in vacuum, or shapes disagree.
    """

    def __init__(
        self,
        labels: Sequence[str],
        nodes: ArrayLike,
        wavelength: ArrayLike,
        read: Reader,
        *,
        medium: str | None = "vacuum",
        unit: str = UNIT,
        reference: str = "",
        source: str | os.PathLike[str] = "grid",
        cache: int = 2**28,
        holes: ArrayLike | None = None,
    ) -> None:
        self.labels, self.unit, self.reference, self.source = tuple(labels), unit, reference, str(source)
        self.nodes = gridfile.clean_nodes(nodes)
        self.wavelength = np.array(wavelength, dtype=np.float64)
        self.holes = None if holes is None else np.array(holes, dtype=np.float64)
        gridfile.check_nodes(self.labels, self.nodes, self.source)
        gridfile.check_wavelength(self.wavelength, medium, self.source)
        self.axes = tuple(np.unique(column) for column in self.nodes.T)
        if math.prod(self.shape) > 2**62:
            raise ModelError(f"{self.source}: its {self.n_nodes} nodes lie on no rectilinear mesh")
        places = [np.searchsorted(axis, x) for axis, x in zip(self.axes, self.nodes.T, strict=True)]
        keys = self._key(np.stack(places, axis=1))
        self._order = np.argsort(keys)
        self._keys = keys[self._order]
        self._read, self._start, self._cache_bytes = read, 0, cache
        self._cache: OrderedDict[int, NDArray[Any]] = OrderedDict()
        self._lock = threading.Lock()

    @classmethod
    def from_arrays(
        cls, labels: Sequence[str], nodes: ArrayLike, wavelength: ArrayLike, flux: ArrayLike
    ) -> Grid:
        """Return a grid of spectra in memory, flux of shape ``(n_nodes, n_pixels)``."""
        flux = np.asarray(flux)
        if flux.shape != (len(np.asarray(nodes)), len(np.asarray(wavelength))):
            raise ModelError(f"grid: flux has the shape {flux.shape}, not (n_nodes, n_pixels)")
        return cls(labels, nodes, wavelength, lambda indices, pixels: flux[indices, pixels])

    @property
    def n_nodes(self) -> int:
        """Number of spectra."""
        return len(self.nodes)

    @property
    def n_pixels(self) -> int:
        """Number of pixels."""
        return len(self.wavelength)

    @property
    def shape(self) -> tuple[int, ...]:
        """Number of values of each label; their product less `n_nodes` is the number of holes."""
        return tuple(len(axis) for axis in self.axes)

    def __repr__(self) -> str:
        ranges = ", ".join(
            f"{n} {a[0]:g}..{a[-1]:g} ({len(a)})" for n, a in zip(self.labels, self.axes, strict=True)
        )
        band = f"{self.wavelength[0]:.2f}..{self.wavelength[-1]:.2f} Angstrom, {self.n_pixels} pixels"
        return f"Grid({self.source}: {self.n_nodes} of {math.prod(self.shape)} nodes; {ranges}; {band})"

    def flux(self, indices: ArrayLike) -> NDArray[Any]:
        """Read spectra.

        Parameters
        ----------
        indices
            Node numbers (rows of `nodes`), shape ``(n,)``.

        Returns
        -------
        ndarray
            Flux in `unit`, shape ``(n, n_pixels)``, in the file's precision.

        Raises
        ------
        LabelError
            If a number is not that of a node.
        ModelError
            If a flux is not finite or not above 0, or cannot be read; names the node.
        """
        wanted = np.atleast_1d(np.asarray(indices, dtype=np.intp))
        if len(wanted) and (wanted.min() < 0 or wanted.max() >= self.n_nodes):
            raise LabelError(f"{self.source}: nodes are numbered 0 to {self.n_nodes - 1}; asked for {wanted}")
        rows = self._rows(wanted)
        return np.stack([rows[i] for i in wanted.tolist()]) if rows else np.empty((0, self.n_pixels))

    def _rows(self, wanted: NDArray[np.intp]) -> dict[int, NDArray[Any]]:
        """Spectra by node number, from memory or file."""
        numbers = np.unique(wanted).tolist()
        with self._lock:
            rows = {i: self._cache[i] for i in numbers if i in self._cache}
            for i in rows:
                self._cache.move_to_end(i)
        missing = [i for i in numbers if i not in rows]
        for first in range(0, len(missing), _BATCH):
            batch = missing[first : first + _BATCH]
            pixels = slice(self._start, self._start + self.n_pixels)
            for i, flux in zip(batch, self._read(np.array(batch, dtype=np.intp), pixels), strict=True):
                gridfile.check_flux(
                    flux, self.wavelength, f"{self.source}, node {self.describe(self.nodes[i])}"
                )
                # A copy, lest a row keep the whole batch in memory.
                rows[i] = flux.copy()
                self._keep(i, rows[i])
        return rows

    def _keep(self, index: int, flux: NDArray[Any]) -> None:
        with self._lock:
            self._cache[index] = flux
            while len(self._cache) > max(1, self._cache_bytes // flux.nbytes):
                self._cache.popitem(last=False)

    def interpolate(self, labels: ArrayLike, method: str = "linear") -> NDArray[np.float64]:
        """Interpolate in ln(flux).

        Parameters
        ----------
        labels
            Shape ``(n, n_labels)``, or ``(n_labels,)`` for one spectrum.
        method
            ``"linear"``: multilinear within the cell. ``"cubic"``: tensor product of `stencils.cubic`, smooth across cells;
            needs up to four nodes along each label.

        Returns
        -------
        ndarray
            Flux in `unit`, shape ``(n, n_pixels)``; at a node its own spectrum to rounding.

        Raises
        ------
        LabelError
            If a label is outside the grid (names it, its value and its range), a node that is needed is missing (names it),
            or ``"cubic"`` meets a label of two nodes.
        """
        values = self._values(labels)
        index, weight, _ = self._stencil(values, method)
        bad = np.flatnonzero((index < 0).any(axis=1))
        if len(bad):
            row = int(bad[0])
            position = self._corners(values[row : row + 1], method)[2]
            place = position[0, np.argmax((index[row] < 0) & (weight[row] != 0))]
            absent = [axis[p] for axis, p in zip(self.axes, place, strict=True)]
            linear = " (the linear method needs fewer nodes)" if method == "cubic" else ""
            raise LabelError(
                f"{self.source}: {self.describe(values[row])} needs the node {self.describe(absent)}, which the library "
                f"lacks; keep to labels for which is_complete is true{linear}"
            )
        out = np.empty((len(values), self.n_pixels))
        stencils_, group = np.unique(index, axis=0, return_inverse=True)
        for k, corners in enumerate(stencils_):
            members = np.flatnonzero(group.ravel() == k)
            rows = self._rows(corners)
            log_flux = np.log(np.stack([rows[i] for i in corners.tolist()]).astype(np.float64))
            out[members] = np.exp(weight[members] @ log_flux)
        return out

    def is_complete(self, labels: ArrayLike, method: str = "linear") -> NDArray[np.bool_]:
        """Tell for which labels ``(n, n_labels)`` `interpolate` has all the nodes it needs; shape ``(n,)``."""
        values = self._values(labels, check=False)
        inside = np.all(
            [(v >= a[0]) & (v <= a[-1]) for a, v in zip(self.axes, values.T, strict=True)], axis=0
        )
        out = np.zeros(len(values), dtype=bool)
        if inside.any():
            out[inside] = (self._stencil(values[inside], method)[0] >= 0).all(axis=1)
        return out

    def neighbours(self, labels: ArrayLike) -> NDArray[np.intp]:
        """Return the corners of the cell about each of ``labels``, shape ``(n, n_labels)``.

        Returns
        -------
        ndarray
            Node numbers, shape ``(n, n_corners)``, -1 for a hole; the corners run as in ``itertools.product``, lower
            before upper. Labels of one node alone do not double the corners.

        Raises
        ------
        LabelError
            If a label is outside the grid.
        """
        return self._stencil(self._values(labels), "linear")[2]

    def crop(self, low: float, high: float) -> Grid:
        """Return the grid on the pixels from ``low`` to ``high`` Angstrom, both included.

        Raises
        ------
        ModelError
            If fewer than two pixels are left.
        """
        start, stop = np.searchsorted(self.wavelength, [low, high], side="left")
        stop += int(stop < self.n_pixels and self.wavelength[stop] == high)
        if stop - start < 2:
            raise ModelError(
                f"{self.source}: no two pixels from {low:g} to {high:g}; it holds {self.wavelength[0]:g} to "
                f"{self.wavelength[-1]:g} Angstrom"
            )
        grid = self._like(self.labels, self.nodes, self.wavelength[start:stop], self._read)
        grid._start = self._start + int(start)
        return grid

    def fix(self, **values: float) -> Grid:
        """Return the grid of the nodes at which labels have the given values, without these labels.

        Raises
        ------
        LabelError
            If a label is unknown, no node has the value, or no label would be left.
        """
        keep, columns = np.ones(self.n_nodes, dtype=bool), list(range(len(self.labels)))
        for name, value in values.items():
            if name not in self.labels:
                raise LabelError(
                    f"{self.source}: no label {name!r}; {meant(name, self.labels, 'its labels are')}"
                )
            column = self.labels.index(name)
            columns.remove(column)
            keep &= np.abs(self.nodes[:, column] - value) < 10.0**-gridfile.DECIMALS
        if not columns or not keep.any():
            given = ", ".join(f"{name} = {value:g}" for name, value in values.items())
            raise LabelError(f"{self.source}: nothing is left with {given}")
        numbers, inner = np.flatnonzero(keep), self._read
        grid = self._like(
            [self.labels[c] for c in columns],
            self.nodes[numbers][:, columns],
            self.wavelength,
            lambda indices, pixels: inner(numbers[indices], pixels),
        )
        grid._start = self._start
        return grid

    def describe(self, values: ArrayLike) -> str:
        """Return label values ``(n_labels,)`` as text."""
        return gridfile.describe(self.labels, values)

    def _like(self, labels: Sequence[str], nodes: ArrayLike, wavelength: ArrayLike, read: Reader) -> Grid:
        return Grid(
            labels,
            nodes,
            wavelength,
            read,
            unit=self.unit,
            reference=self.reference,
            source=self.source,
            cache=self._cache_bytes,
        )

    def _values(self, labels: ArrayLike, check: bool = True) -> NDArray[np.float64]:
        """Labels as ``(n, n_labels)``, those on a node but for rounding moved onto it."""
        values = np.atleast_2d(np.asarray(labels, dtype=np.float64))
        if values.ndim != 2 or values.shape[1] != len(self.labels):
            raise LabelError(
                f"{self.source}: labels of shape {np.shape(labels)}; its {len(self.labels)} labels are, in order, "
                f"{', '.join(self.labels)}"
            )
        values = np.stack([stencils.snap(a, v) for a, v in zip(self.axes, values.T, strict=True)], axis=1)
        if check:
            for name, axis, value in zip(self.labels, self.axes, values.T, strict=True):
                outside = ~((value >= axis[0]) & (value <= axis[-1]))
                if outside.any():
                    raise LabelError(
                        f"{self.source}: {name} = {value[outside][0]:g} is outside the grid, which covers "
                        f"{axis[0]:g} to {axis[-1]:g}"
                    )
        return values

    def _corners(
        self, values: NDArray[np.float64], method: str
    ) -> tuple[list[Any], NDArray[np.intp], NDArray[np.intp]]:
        """Stencil of each label, which of its nodes each corner takes, and the corners' places ``(n, n_corners, n_labels)``."""
        if method not in stencils.METHODS:
            raise LabelError(f"method {method!r}: {meant(method, stencils.METHODS)}")
        if method == "cubic" and 2 in self.shape:
            name = self.labels[self.shape.index(2)]
            raise LabelError(f"{self.source}: the cubic method needs three nodes along {name}, which has two")
        parts = [stencils.METHODS[method](a, v) for a, v in zip(self.axes, values.T, strict=True)]
        choice = np.stack(
            [c.ravel() for c in np.meshgrid(*(range(p[0].shape[1]) for p in parts), indexing="ij")], axis=1
        )
        position = np.stack([p[0][:, c] for p, c in zip(parts, choice.T, strict=True)], axis=2)
        return parts, choice, position

    def _stencil(
        self, values: NDArray[np.float64], method: str
    ) -> tuple[NDArray[np.intp], NDArray[np.float64], NDArray[np.intp]]:
        """Node numbers and weights ``(n, n_corners)``; -1 for a hole that has weight; last, with all holes."""
        parts, choice, position = self._corners(values, method)
        weight = np.prod([p[1][:, c] for p, c in zip(parts, choice.T, strict=True)], axis=0)
        corner = self._find(position)
        # A corner without weight is not needed: its place is taken by the heaviest one.
        heaviest = np.take_along_axis(corner, np.abs(weight).argmax(axis=1)[:, None], axis=1)
        return np.where(weight == 0, heaviest, corner), weight, corner

    def _key(self, position: NDArray[np.intp]) -> NDArray[np.int64]:
        strides = np.cumprod((1, *self.shape[:0:-1]), dtype=np.int64)[::-1]
        return position @ strides

    def _find(self, position: NDArray[np.intp]) -> NDArray[np.intp]:
        """Node numbers at positions ``(..., n_labels)`` on the axes, -1 where there is none."""
        key = self._key(position)
        place = np.minimum(np.searchsorted(self._keys, key), self.n_nodes - 1)
        return np.where(self._keys[place] == key, self._order[place], -1)
