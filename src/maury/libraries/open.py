"""Open a model library, whatever its format."""

from __future__ import annotations

import os
from pathlib import Path

from maury.errors import ModelError
from maury.libraries import btsettl, gridfile, phoenix
from maury.libraries.grid import Grid


def open_grid(path: str | os.PathLike[str]) -> Grid:
    """Open a library by what it is: a file of `write_grid`, a BT-Settl file or folder, or a PHOENIX tree.

    Raises
    ------
    ModelError
        If it is missing, damaged, or none of these.
    """
    path = Path(path)
    if path.is_dir():
        if phoenix.is_tree(path):
            return phoenix.open_tree(path)
        return btsettl.open_folder(path)
    with gridfile.open_hdf5(path) as file:
        if "en_alpha" in file:
            return btsettl.open_hdf5(path)
        if file.attrs.get("format") != gridfile.FORMAT:
            raise ModelError(f"{path}: no grid of maury (attribute 'format' is not {gridfile.FORMAT!r})")
        labels, nodes, wavelength = file["labels"].asstr()[:], file["nodes"][:], file["wavelength"][:]
        if file["flux"].shape != (len(nodes), len(wavelength)):
            raise ModelError(f"{path}: flux has the shape {file['flux'].shape}, not (n_nodes, n_pixels)")
        return Grid(
            labels.tolist(),
            nodes,
            wavelength,
            lambda indices, pixels: gridfile.read_rows(path, indices, pixels),
            medium=file.attrs.get("medium"),
            unit=file.attrs.get("unit", ""),
            reference=file.attrs.get("reference", ""),
            source=path,
            holes=file["holes"][:] if "holes" in file else None,
        )
