"""Copy a part of the PHOENIX-ACES archive into one grid file: ``maury models fetch phoenix-aces``.

Each spectrum is downloaded, verified, cropped and kept as a small part; the parts become one grid file at the end. Whatever stops
a run, the next one goes on with what is there.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray

from maury.download import Archive, Missing, download_all, verify_checksums
from maury.errors import DownloadError, MauryError, ModelError
from maury.files import alone, disk_errors, writing
from maury.libraries import gridfile, phoenix
from maury.libraries.phoenix import Node

ARCHIVE = "https://phoenix.astro.physik.uni-goettingen.de/data/HiResFITS"
# Files that fail for good after all attempts before the run gives up: the archive is then ill as a whole.
_MAX_FAILURES = 10


@dataclass(frozen=True)
class Parts:
    """The folder beside the output in which finished spectra lie until all are there."""

    folder: Path

    def spectrum(self, node: Node) -> Path:
        """File of a node's cropped spectrum."""
        return self.folder / f"{node.file}.f32"

    def hole(self, node: Node) -> Path:
        """Empty file that says that the archive lacks a node."""
        return self.folder / f"{node.file}.hole"

    def download(self, name: str) -> Path:
        """File of a download under way."""
        return self.folder / f"{name}.download"

    def done(self, node: Node) -> bool:
        """Tell whether a node needs no more work."""
        return self.spectrum(node).exists() or self.hole(node).exists()

    def claim(self, request: dict[str, object], where: str) -> None:
        """Note what the parts are of, or check that they are of the same.

        Raises
        ------
        MauryError
            If they are of another band or archive.
        """
        note = self.folder / "request.json"
        if note.exists():
            held = note.read_text(encoding="utf-8")
            if json.loads(held) != request:
                raise MauryError(
                    f"{self.folder}: holds parts of another request ({held}); remove it or choose another {where}"
                )
            return
        with writing(note) as temporary:
            temporary.write_text(json.dumps(request), encoding="utf-8")


def fetch(
    output: str | os.PathLike[str],
    nodes: Sequence[Node],
    band: tuple[float, float],
    *,
    archive: Archive | None = None,
    jobs: int = 8,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> None:
    """Download spectra of the PHOENIX-ACES library, crop them to a band, and write them to a grid file.

    Parameters
    ----------
    output
        The grid file, HDF5. While the work is under way finished spectra lie in ``OUTPUT.parts`` beside it. A file that holds
        just what is asked for is left alone.
    nodes
        Which spectra, as `phoenix.nodes_within` lists them; those that the archive lacks become holes of the grid.
    band
        First and last wavelength, Angstrom in vacuum.
    archive
        Where from.
    jobs
        Downloads at the same time.
    progress
        Told how many nodes of how many are done.

    Raises
    ------
    ModelError
        If the archive has none of the nodes, cannot be reached, or sends files that are damaged again and again.
    MauryError
        If the output exists and holds something else, is being fetched by another process, or the disk is full. What is
        finished stays for the next run.
    """
    output, archive = Path(output), archive or Archive(ARCHIVE)
    request: dict[str, object] = {"library": phoenix.NAME, "base": archive.base, "band": list(band)}
    parts = Parts(output.with_name(output.name + ".parts"))
    advice = f"finished spectra are kept in {parts.folder}: make room and run the same command again"
    with disk_errors(output, advice):
        if _already(output, request, nodes):
            progress(len(nodes), len(nodes))
            return
        parts.folder.mkdir(parents=True, exist_ok=True)
        with alone(output, parts.folder / "lock"):
            parts.claim(request, "--output")
            wavelength, pixels = _wavelength(archive, parts, band)
            _download_all(archive, parts, nodes, wavelength, pixels, jobs, progress)
            _assemble(output, parts, nodes, wavelength[pixels], request)
        shutil.rmtree(parts.folder, ignore_errors=True)


def _already(output: Path, request: dict[str, object], nodes: Sequence[Node]) -> bool:
    if not output.exists():
        return False
    with gridfile.open_hdf5(output) as file:
        known = file.attrs.get("request")
        asked = {tuple(row) for row in phoenix.columns(nodes)[1].tolist()}
        rows = np.concatenate([file["nodes"][:], file["holes"][:]]) if known else np.empty((0, 0))
    if known and json.loads(known) == request and {tuple(row) for row in rows.tolist()} == asked:
        return True
    raise MauryError(
        f"{output}: exists and holds something else than is asked for; remove it or choose another --output"
    )


def _wavelength(
    archive: Archive, parts: Parts, band: tuple[float, float]
) -> tuple[NDArray[np.float64], slice]:
    """All wavelengths of the library, and which of them lie in the band."""
    path = parts.folder / phoenix.WAVELENGTH_FILE
    if not path.exists():
        download = parts.download(phoenix.WAVELENGTH_FILE)
        try:
            archive.download(PurePosixPath(phoenix.WAVELENGTH_FILE), download, verify_checksums)
        except Missing as error:
            raise ModelError(
                f"{error}; --base must be the address of the folder HiResFITS, which has it"
            ) from None
        download.replace(path)
    wavelength = phoenix.read_wavelength(path)
    first, stop = np.searchsorted(wavelength, [band[0] - 1e-6, band[1] + 1e-6])
    if stop - first < 2:
        raise ModelError(
            f"band {band[0]:g} to {band[1]:g} Angstrom: the library reaches from {wavelength[0]:.0f} to {wavelength[-1]:.0f}"
        )
    return wavelength, slice(int(first), int(stop))


def _download_all(
    archive: Archive,
    parts: Parts,
    nodes: Sequence[Node],
    wavelength: NDArray[np.float64],
    pixels: slice,
    jobs: int,
    progress: Callable[[int, int], None],
) -> None:
    todo = [node for node in nodes if not parts.done(node)]
    before = len(nodes) - len(todo)
    progress(before, len(nodes))
    failed = download_all(
        archive,
        todo,
        partial(_one, archive, parts, wavelength, pixels),
        jobs=jobs,
        patience=_MAX_FAILURES,
        progress=lambda done: progress(before + done, len(nodes)),
    )
    if failed:
        raise DownloadError(
            f"{sum(not parts.done(node) for node in nodes)} of {len(nodes)} spectra are missing yet; the first failed thus: {failed[0]}. "
            f"The others are kept in {parts.folder}: run the same command again"
        )


def _one(archive: Archive, parts: Parts, wavelength: NDArray[np.float64], pixels: slice, node: Node) -> None:
    download = parts.download(node.file)
    kept: list[NDArray[np.float32]] = []

    def check(path: Path) -> None:
        verify_checksums(path)
        flux = phoenix.read_flux(path, pixels, len(wavelength), node)
        gridfile.check_flux(flux, wavelength[pixels], node.file)
        kept[:] = [flux]

    try:
        archive.download(node.path, download, check)
    except Missing:
        parts.hole(node).touch()
        return
    with writing(parts.spectrum(node)) as temporary:
        kept[0].astype("<f4").tofile(temporary)
    download.unlink()


def _assemble(
    output: Path,
    parts: Parts,
    nodes: Sequence[Node],
    wavelength: NDArray[np.float64],
    request: dict[str, object],
) -> None:
    present = [node for node in nodes if parts.spectrum(node).exists()]
    if not present:
        first = f"{request['base']}/{nodes[0].path}"
        shutil.rmtree(parts.folder, ignore_errors=True)
        raise ModelError(
            f"the archive has none of the {len(nodes)} spectra asked for, the first being {first}"
        )
    labels, rows = phoenix.columns(nodes)
    there = np.array([parts.spectrum(node).exists() for node in nodes])

    def fluxes() -> Iterator[NDArray[np.float32]]:
        for node in present:
            path = parts.spectrum(node)
            flux = np.fromfile(path, "<f4")
            if flux.shape != wavelength.shape:
                path.unlink()
                raise ModelError(f"{path}: damaged; run the same command again to fetch it anew")
            yield flux

    gridfile.write_grid(
        output,
        labels,
        rows[there],
        wavelength,
        fluxes(),
        reference=phoenix.REFERENCE,
        holes=rows[~there],
        attributes={"request": json.dumps(request)},
    )
