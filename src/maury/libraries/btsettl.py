"""BT-Settl 2008 spectra (Allard et al. 2012) of the APOGEE band: text files, or one HDF5 file of them.

A text file has two columns, wavelength (micron, vacuum) and flux (erg/s/cm2/Angstrom), every 0.1 or every 0.05 Angstrom;
its name tells the labels: ``btsettl08_t3000_g5.00_z-0.00_en0.00_APOGEE-RAW.txt``. All are brought to the 0.1 Angstrom
sampling: fine ones are smoothed by 1/4, 1/2, 1/4, and every second pixel is kept.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from maury.errors import ModelError
from maury.files import first_line
from maury.libraries import gridfile
from maury.libraries.grid import Grid

REFERENCE = "BT-Settl 2008, Allard, Homeier & Freytag 2012, RSPTA 370, 2765"
LABELS = ("teff", "logg", "m_h", "alpha_m")
# Angstrom.
SAMPLING = 0.1
_NAME = re.compile(r"btsettl08_t(\d+)_g(-?\d+\.\d+)_z([+-]?\d+\.\d+)_en([+-]?\d+\.\d+)_APOGEE-RAW\.txt")
_MICRON = 1e4


def parse_name(name: str) -> tuple[float, float, float, float] | None:
    """Return teff (K), logg, m_h and alpha_m that the name of a text file tells, or None if it is another file's."""
    match = _NAME.fullmatch(name)
    return None if match is None else tuple(float(x) + 0.0 for x in match.groups())  # type: ignore[return-value]


def file_name(teff: float, logg: float, m_h: float, alpha_m: float = 0.0) -> str:
    """Return the name of a text file; ``m_h = 0`` is written -0.00, as the library does."""
    m_h = -0.0 if m_h == 0 else m_h
    return f"btsettl08_t{teff:.0f}_g{logg:.2f}_z{m_h:.2f}_en{alpha_m:.2f}_APOGEE-RAW.txt"


def read_text(path: str | os.PathLike[str]) -> tuple[NDArray[np.float64], NDArray[np.float32]]:
    """Read one text file.

    Returns
    -------
    wavelength, flux
        Angstrom (vacuum) and erg/s/cm2/Angstrom at 0.1 Angstrom sampling, both of shape ``(n_pixels,)``.

    Raises
    ------
    ModelError
        If it is missing or damaged, or has another sampling.
    """
    path = Path(path)
    try:
        columns = np.loadtxt(path, dtype=np.float64, ndmin=2, encoding="utf-8")
    except FileNotFoundError:
        raise ModelError(f"{path}: no such file") from None
    except (OSError, ValueError) as error:
        raise ModelError(f"{path}: not two columns of numbers ({first_line(error)})") from None
    if columns.shape[1] != 2 or len(columns) < 3:
        raise ModelError(
            f"{path}: {columns.shape} numbers; needs wavelength and flux, two columns, on many lines"
        )
    wavelength, flux = columns[:, 0] * _MICRON, columns[:, 1]
    gridfile.check_wavelength(wavelength, "vacuum", str(path))
    step = np.diff(wavelength)
    for factor in (1, 2):
        # The files round to 1e-4 Angstrom and worse.
        if np.abs(step * factor - SAMPLING).max() < 0.1 * SAMPLING:
            return wavelength[::factor], (flux if factor == 1 else _smoothed(flux))[::factor].astype(
                np.float32
            )
    raise ModelError(
        f"{path}: steps of {step.min():.4f} to {step.max():.4f} Angstrom; known are 0.1 and 0.05"
    )


def _smoothed(flux: NDArray[np.float64]) -> NDArray[np.float64]:
    out = flux.copy()
    out[1:-1] = flux[:-2] / 4 + flux[1:-1] / 2 + flux[2:] / 4
    return out


def open_folder(path: str | os.PathLike[str]) -> Grid:
    """Open a folder of text files as a grid that reads a file when it is asked for.

    Labels are teff, logg, m_h and alpha_m, the last only where it is no function of the others.

    Raises
    ------
    ModelError
        If the folder has none, or (when read) the files disagree in wavelength.
    """
    path = Path(path)
    found = sorted((values, file) for file in path.glob("*.txt") if (values := parse_name(file.name)))
    if not found:
        example = file_name(3000, 5, 0)
        raise ModelError(f"{path}: no model library: neither files such as {example} nor a PHOENIX tree")
    wavelength = read_text(found[0][1])[0]

    def read(indices: NDArray[np.intp], pixels: slice) -> NDArray[np.float32]:
        return np.stack([one(found[i][1])[pixels] for i in indices.tolist()])

    def one(file: Path) -> NDArray[np.float32]:
        own, flux = read_text(file)
        # A tenth of the sampling is far above the rounding of the files.
        if own.shape != wavelength.shape or np.abs(own - wavelength).max() > 0.1 * SAMPLING:
            raise ModelError(f"{file}: its wavelengths differ from those of {found[0][1].name}")
        return flux

    labels, nodes = _free_labels(np.array([values for values, _ in found]))
    return Grid(labels, nodes, wavelength, read, reference=REFERENCE, source=path)


def open_hdf5(path: str | os.PathLike[str]) -> Grid:
    """Open the HDF5 file of the library: teff, logg, m_h, en_alpha, wavelength (micron), flux ``(n_nodes, n_pixels)``.

    Labels are as of `open_folder`.

    Raises
    ------
    ModelError
        If it is missing or damaged, or its wavelengths are not stated to be vacuum micron.
    """
    path = Path(path)
    with gridfile.open_hdf5(path) as file:
        columns = np.stack([file[key][:] for key in ("teff", "logg", "m_h", "en_alpha")], axis=1)
        told: dict[str, Any] = dict(file["wavelength"].attrs)
        wavelength, shape = file["wavelength"][:] * _MICRON, file["flux"].shape
        unit = file["flux"].attrs.get("unit", gridfile.UNIT)
    if told.get("unit") != "micron":
        raise ModelError(f"{path}: wavelength: unit {told.get('unit')!r}, not 'micron'")
    if shape != (len(columns), len(wavelength)):
        raise ModelError(f"{path}: flux has the shape {shape}, not {(len(columns), len(wavelength))}")
    labels, nodes = _free_labels(columns)
    return Grid(
        labels,
        nodes,
        wavelength,
        lambda indices, pixels: gridfile.read_rows(path, indices, pixels),
        medium=told.get("medium"),
        unit=unit,
        reference=REFERENCE,
        source=path,
    )


def _free_labels(columns: NDArray[Any]) -> tuple[Sequence[str], NDArray[np.float64]]:
    """Leave alpha_m out where it is a function of m_h, as in most of the library: the mesh would be all holes."""
    nodes = gridfile.clean_nodes(columns)
    relation = np.unique(nodes[:, 2:], axis=0)
    if len(np.unique(relation[:, 0])) == len(relation):
        return LABELS[:3], nodes[:, :3]
    return LABELS, nodes
