"""A grid of spectra in a tenth of its size: a basis and coefficients, in parts that are appended and never rewritten."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from sklearn.utils.extmath import randomized_svd

from maury.errors import ConfigError
from maury.files import writing
from maury.libraries.synthesis.grid import _STEP, Chunk, reading_arrays
from maury.libraries.synthesis.parts import write_index

Array = NDArray[np.float32]

# Shares of a spectrum's squared error that rounding the basis and rounding its coefficients may have; the rest is what no vector holds.
_OF_BASIS, _OF_COEFFICIENTS = 0.36, 0.05


@dataclass(frozen=True)
class Part:
    """One file of a compressed grid: some spectra, and the vectors that they need beside the earlier parts'.

    Parameters
    ----------
    index, labels
        Numbers of the spectra in the design, and their labels.
    mean
        What is subtracted before the basis is used; of the first part, zero in others, ``(n_points,)``.
    vectors
        Whole numbers ``(n_new, n_points)``; times ``steps`` they are the basis.
    steps
        ``(n_new,)``.
    coefficients, scales
        Of these spectra on all vectors so far: 16-bit numbers ``(n, n_vectors)`` and the step of each vector ``(n_vectors,)``.
    continuum
        Natural logarithm of the continuum at every 200th point.
    rms
        Error of each spectrum, of the continuum, ``(n,)``.
    grid
        First wavelength (air, A), step (A), number of points.
    holes
        Numbers of the design that have no spectrum.
    """

    index: NDArray[np.int64]
    labels: NDArray[np.float64]
    mean: Array
    vectors: NDArray[np.int16]
    steps: Array
    coefficients: NDArray[np.int16]
    scales: Array
    continuum: Array
    rms: Array
    grid: NDArray[np.float64]
    holes: NDArray[np.int64]

    def write(self, path: Path) -> None:
        """Write under a temporary name and rename."""
        with writing(path) as temporary, temporary.open("wb") as file:
            np.savez_compressed(file, **self.__dict__)

    @classmethod
    def read(cls, path: Path) -> Part:
        """Read one file.

        Raises
        ------
        ConfigError
            If it is damaged.
        """
        with reading_arrays(path, "a damaged part of a compressed grid ({})") as file:
            return cls(**{name: file[name] for name in cls.__dataclass_fields__})


@dataclass(frozen=True)
class CompressedGrid:
    """All parts of a compressed grid.

    Parameters
    ----------
    parts
        In the order of their making.
    """

    parts: list[Part]

    @classmethod
    def read(cls, folder: Path) -> CompressedGrid:
        """Read the parts in a folder.

        Raises
        ------
        ConfigError
            If there is none, or one is damaged.
        """
        files = sorted(folder.glob("part-*.npz"))
        if not files:
            raise ConfigError(f"{folder}: no parts of a compressed grid (part-000.npz and so on)")
        return cls([Part.read(path) for path in files])

    @property
    def wavelength(self) -> NDArray[np.float64]:
        """Air wavelengths, Angstrom, ``(n_points,)``."""
        low, step, number = self.parts[0].grid
        return low + step * np.arange(int(number))

    @property
    def labels(self) -> NDArray[np.float64]:
        """Labels of all spectra, ``(n, n_labels)``."""
        return np.concatenate([part.labels for part in self.parts])

    @property
    def index(self) -> NDArray[np.int64]:
        """Numbers of all spectra in the design, ``(n,)``."""
        return np.concatenate([part.index for part in self.parts])

    @property
    def known(self) -> set[int]:
        """Numbers of the design that are done: spectra and holes."""
        return {int(i) for part in self.parts for i in (*part.index, *part.holes)}

    @property
    def mean(self) -> Array:
        """What the basis is about, ``(n_points,)``."""
        return self.parts[0].mean

    @property
    def basis(self) -> Array:
        """All vectors, ``(n_vectors, n_points)``."""
        return np.concatenate([part.vectors * part.steps[:, None] for part in self.parts]).astype(np.float32)

    @property
    def coefficients(self) -> Array:
        """Of all spectra; zero for vectors of later parts, ``(n, n_vectors)``."""
        total = sum(len(part.steps) for part in self.parts)
        return np.concatenate(
            [
                np.pad(part.coefficients * part.scales, ((0, 0), (0, total - len(part.scales))))
                for part in self.parts
            ]
        ).astype(np.float32)

    @property
    def log_continuum(self) -> Array:
        """Natural logarithm of the continuum, ``(n, n_knots)``."""
        return np.concatenate([part.continuum for part in self.parts])

    def flux(self, rows: slice | NDArray[np.int64] = slice(None)) -> Array:
        """Normalised flux of some spectra, ``(n, n_points)``."""
        return self.mean + self.coefficients[rows] @ self.basis


def compress(
    source: Path, folder: Path, grid: tuple[float, float], error: float = 2e-4, most: int = 500, seed: int = 0
) -> Part | None:
    """Compress the spectra of a grid that no part holds yet, and append them as a part.

    Parameters
    ----------
    source
        Folder of the grid's files.
    folder
        Folder of the parts.
    grid
        First wavelength (air, A) and step (A).
    error
        Root mean square error that a spectrum may have at the median, of the continuum.
    most
        Most vectors of a part.
    seed
        Of the randomised decomposition.

    Returns
    -------
    Part or None
        What was written; None if there was nothing new.
    """
    folder.mkdir(parents=True, exist_ok=True)
    have = CompressedGrid.read(folder) if any(folder.glob("part-*.npz")) else None
    known = set() if have is None else have.known
    index, labels, flux, continuum, holes = [], [], [], [], []
    for path in sorted(source.glob("spectra-*.npz")):
        chunk = Chunk.read(path)
        for i, number in enumerate(chunk.index.tolist()):
            if number in known:
                continue
            if chunk.holes[i]:
                holes.append(number)
                continue
            index.append(number)
            labels.append(chunk.labels[i])
            flux.append(chunk.flux[i])
            continuum.append(chunk.continuum[i])
    if not index:
        return None
    values = np.stack(flux).astype(np.float32) * np.float32(_STEP)
    mean = values.mean(axis=0) if have is None else have.mean
    residual = values - mean
    old = np.zeros((0, values.shape[1]), np.float32) if have is None else have.basis
    if len(old):
        # The vectors are rounded, so not quite orthogonal.
        on_old = np.linalg.solve(
            (old @ old.T).astype(np.float64), (old @ residual.T).astype(np.float64)
        ).T.astype(np.float32)
        residual = residual - on_old @ old
    n, points = residual.shape
    _, s, vt = randomized_svd(residual, n_components=min(most, n), random_state=seed)
    left = np.sum(residual.astype(np.float64) ** 2) - np.cumsum(s.astype(np.float64) ** 2)
    allowed = error * np.sqrt(1 - _OF_BASIS - _OF_COEFFICIENTS)
    enough = np.flatnonzero(np.sqrt(np.maximum(left, 0) / residual.size) < allowed)
    number = int(enough[0]) + 1 if len(enough) else len(s)
    basis = vt[:number] * np.sqrt(points)
    size = s[:number] / np.sqrt(points * n)
    step = error * np.sqrt(12 * _OF_BASIS / number)
    steps = (step / np.maximum(size, 1e-12)).astype(np.float32)
    steps = np.maximum(steps, np.abs(basis).max(axis=1) / 32767)
    vectors = np.ascontiguousarray(np.round(basis / steps[:, None]).astype(np.int16))
    whole = np.concatenate([old, vectors * steps[:, None]])
    target = values - mean
    coefficients = np.linalg.solve(
        (whole @ whole.T).astype(np.float64), (whole @ target.T).astype(np.float64)
    ).T
    scales = np.full(len(whole), error * np.sqrt(12 * _OF_COEFFICIENTS / len(whole)), np.float32)
    scales = np.maximum(scales, np.abs(coefficients).max(axis=0) / 32767).astype(np.float32)
    rounded = np.ascontiguousarray(np.round(coefficients / scales).astype(np.int16))
    rms = np.sqrt(np.mean((target - (rounded * scales).astype(np.float32) @ whole) ** 2, axis=1))
    part = Part(
        np.array(index),
        np.stack(labels),
        mean if have is None else np.zeros(0, np.float32),
        vectors,
        steps,
        rounded,
        scales,
        np.stack(continuum).astype(np.float32).round(4),
        rms,
        np.array([*grid, points]),
        np.array(holes, np.int64),
    )
    part.write(folder / f"part-{0 if have is None else len(have.parts):03d}.npz")
    write_index(folder)
    return part
