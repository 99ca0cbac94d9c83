"""The PHOENIX-ACES-AGSS-COND-2011 library (Husser et al. 2013, A&A 553, A6) of high-resolution spectra, as its archive lays it out.

Wavelengths are vacuum, whatever a header says: that paper does, and headers of some products of the archive do not.
"""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import astuple, dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from maury.download import fits_lock
from maury.errors import LabelError, ModelError, SpectrumError
from maury.libraries import gridfile
from maury.libraries.grid import Grid
from maury.names import meant
from maury.spectra.formats.fits import open_fits

NAME = "PHOENIX-ACES-AGSS-COND-2011"
REFERENCE = "PHOENIX-ACES-AGSS-COND-2011, Husser et al. 2013, A&A 553, A6"
WAVELENGTH_FILE = f"WAVE_{NAME}.fits"
LABELS = ("teff", "logg", "m_h", "alpha_m")
AXES: dict[str, tuple[float, ...]] = {
    "teff": (*map(float, range(2300, 7000, 100)), *map(float, range(7000, 12001, 200))),
    "logg": tuple(i / 2 for i in range(13)),
    "m_h": (-4.0, -3.0, -2.0, -1.5, -1.0, -0.5, 0.0, 0.5, 1.0),
    "alpha_m": tuple(i / 5 for i in range(-1, 7)),
}
# Of the values as the files hold them, erg/s/cm2/cm, to erg/s/cm2/Angstrom.
PER_ANGSTROM = 1e-8
_UNITS = {"", "erg/s/cm^2/cm", "erg/s/cm2/cm", "erg/s/cm**2/cm", "erg/s/cm3", "erg/s/cm^3"}
_KEYWORDS = ("PHXTEFF", "PHXLOGG", "PHXM_H", "PHXALPHA")
_FOLDER = re.compile(r"Z[+-]\d\.\d(\.Alpha=[+-]\d\.\d\d)?")
_FILE = re.compile(
    r"lte(\d{5})([+-]\d\.\d\d)([+-]\d\.\d)(?:\.Alpha=([+-]\d\.\d\d))?\." + NAME + r"-HiRes\.fits"
)


@dataclass(frozen=True, order=True)
class Node:
    """Labels of one spectrum: teff (K), logg, m_h, alpha_m (dex)."""

    teff: float
    logg: float
    m_h: float
    alpha_m: float = 0.0

    @property
    def folder(self) -> str:
        """Folder of the file, such as ``Z-0.0`` or ``Z-0.5.Alpha=+0.40``."""
        return f"Z{self._m_h}{self._alpha}"

    @property
    def file(self) -> str:
        """Name of the file, such as ``lte05500-4.50-0.0.PHOENIX-ACES-AGSS-COND-2011-HiRes.fits``."""
        # The sign before logg is a separator that turns to + for a logg below 0.
        logg = f"{-self.logg:+.2f}" if self.logg else "-0.00"
        return f"lte{self.teff:05.0f}{logg}{self._m_h}{self._alpha}.{NAME}-HiRes.fits"

    @property
    def path(self) -> PurePosixPath:
        """Path of the file below ``HiResFITS``, the folder of the archive with the wavelengths."""
        return PurePosixPath(NAME, self.folder, self.file)

    @property
    def _m_h(self) -> str:
        # The library writes solar metallicity as -0.0.
        return f"{self.m_h:+.1f}" if self.m_h else "-0.0"

    @property
    def _alpha(self) -> str:
        return f".Alpha={self.alpha_m:+.2f}" if self.alpha_m else ""


def parse_name(name: str) -> Node | None:
    """Return the node that the name of a file tells, or None if it is another file's."""
    match = _FILE.fullmatch(name)
    if match is None:
        return None
    teff, logg, m_h, alpha = match.groups()
    return Node(float(teff), 0.0 - float(logg), float(m_h) + 0.0, float(alpha or 0) + 0.0)


def nodes_within(ranges: Mapping[str, tuple[float, float]]) -> list[Node]:
    """List the nodes of the library's mesh within ranges, both ends included; not all of them exist.

    Parameters
    ----------
    ranges
        Range by label; a label left out is taken whole, but alpha_m as 0.

    Raises
    ------
    LabelError
        If a label is unknown or its range holds no node.
    """
    axes = []
    for name in ranges:
        if name not in AXES:
            raise LabelError(f"no label {name!r} in {NAME}; {meant(name, LABELS, 'its labels are')}")
    for name, axis in AXES.items():
        low, high = ranges.get(name, (0.0, 0.0) if name == "alpha_m" else (axis[0], axis[-1]))
        values = [value for value in axis if low - 1e-9 <= value <= high + 1e-9]
        if not values:
            known = ", ".join(f"{value:g}" for value in axis)
            raise LabelError(f"{name}: no node from {low:g} to {high:g}; {NAME} has {known}")
        axes.append(values)
    return [Node(*values) for values in itertools.product(*axes)]


def columns(nodes: Iterable[Node]) -> tuple[tuple[str, ...], NDArray[np.float64]]:
    """Return label names and nodes ``(n_nodes, n_labels)``; without alpha_m where it is 0 throughout."""
    values = np.array([astuple(node) for node in nodes], dtype=np.float64).reshape(-1, len(LABELS))
    n_labels = len(LABELS) if values[:, 3].any() else 3
    return LABELS[:n_labels], values[:, :n_labels]


def read_wavelength(path: str | os.PathLike[str]) -> NDArray[np.float64]:
    """Read the library's one file of wavelengths: Angstrom, vacuum, shape ``(n_pixels,)``.

    Raises
    ------
    ModelError
        If it is missing or damaged, or the wavelengths do not rise strictly.
    """
    wavelength = _read(Path(path), slice(None))[0].astype(np.float64)
    gridfile.check_wavelength(wavelength, "vacuum", str(path))
    return wavelength


def read_flux(path: str | os.PathLike[str], pixels: slice, n_pixels: int, node: Node) -> NDArray[np.float32]:
    """Read a slice of one spectrum.

    Parameters
    ----------
    path
        The file.
    pixels
        Which pixels.
    n_pixels
        How many the file must have in all.
    node
        Whose spectrum it must be.

    Returns
    -------
    ndarray
        erg/s/cm2/Angstrom, shape ``(n_read,)``.

    Raises
    ------
    ModelError
        If it is missing or damaged, in another unit, of another length or of another node.
    """
    path = Path(path)
    values, header, length = _read(path, pixels)
    if length != n_pixels:
        raise ModelError(f"{path}: {length} pixels, but {WAVELENGTH_FILE} has {n_pixels}")
    # Spectra that the authors interpolated have no unit.
    unit = str(header.get("BUNIT", "")).replace(" ", "").lower()
    if unit not in _UNITS:
        raise ModelError(f"{path}: BUNIT is {header['BUNIT']!r}; known is erg/s/cm^2/cm")
    for keyword, label, expected in zip(_KEYWORDS, LABELS, astuple(node), strict=True):
        if keyword in header and not abs(float(header[keyword]) - expected) < 1e-3:
            raise ModelError(
                f"{path}: {keyword} is {header[keyword]}, but by its name {label} is {expected:g}"
            )
    return (values.astype(np.float64) * PER_ANGSTROM).astype(np.float32)


def _read(path: Path, pixels: slice) -> tuple[NDArray[Any], dict[str, Any], int]:
    """Read a slice of the primary HDU, its header and its length."""
    try:
        with fits_lock, open_fits(path) as hdus:
            if len(hdus[0].shape) != 1:
                raise ModelError(f"{path} HDU 0: shape {hdus[0].shape}; needs one row of pixels")
            return np.array(hdus[0].section[pixels]), dict(hdus[0].header), int(hdus[0].shape[0])
    except SpectrumError as error:
        raise ModelError(str(error)) from None


def _root(path: Path) -> Path | None:
    """Folder with the wavelengths: the one given, or one above or below it."""
    for folder in (path, path / "HiResFITS", path.parent, path.parent.parent):
        if (folder / WAVELENGTH_FILE).is_file():
            return folder
    return None


def is_tree(path: str | os.PathLike[str]) -> bool:
    """Tell whether a folder holds spectra of the library, with the wavelengths in it, above it, or in ``HiResFITS``."""
    path = Path(path)
    return _root(path) is not None or any(parse_name(file.name) for file in path.glob("lte*.fits"))


def open_tree(path: str | os.PathLike[str]) -> Grid:
    """Open a copy of the archive as a grid that reads a spectrum when it is asked for.

    Parameters
    ----------
    path
        ``HiResFITS`` or the folder above it, the folder named as the library in it, or one ``Z...`` folder. Spectra may also
        lie without folders beside the file of wavelengths.

    Raises
    ------
    ModelError
        If there is no file of wavelengths or no spectrum.

    Notes
    -----
    Labels are teff, logg, m_h, and alpha_m where it is not 0 throughout.
    """
    path = Path(path)
    root = _root(path)
    if root is None:
        raise ModelError(
            f"{path}: no {WAVELENGTH_FILE} here, above or in HiResFITS; it lies in the archive's HiResFITS"
        )
    # Only the folder of wavelengths stands for all spectra: a folder below it, for those in it.
    start = root if path in (root, root.parent) else path
    found: dict[Node, Path] = {}
    for folder in [start, start / NAME, *sorted((start / NAME).glob("Z*")), *sorted(start.glob("Z*"))]:
        if folder.name.startswith("Z") and not _FOLDER.fullmatch(folder.name):
            continue
        for file in folder.glob("lte*.fits"):
            if node := parse_name(file.name):
                found.setdefault(node, file)
    if not found:
        raise ModelError(f"{path}: no spectra such as {Node(5500, 4.5, 0).path}")
    files = sorted(found.items())
    wavelength = read_wavelength(root / WAVELENGTH_FILE)

    def read(indices: NDArray[np.intp], pixels: slice) -> NDArray[np.float32]:
        rows = (files[i] for i in indices.tolist())
        return np.stack([read_flux(file, pixels, len(wavelength), node) for node, file in rows])

    labels, nodes = columns(node for node, _ in files)
    return Grid(labels, nodes, wavelength, read, reference=REFERENCE, source=path)
