"""Files that browsers sent: received with a limit, kept under random names for a time, and looked into."""

from __future__ import annotations

import asyncio
import re
import secrets
import shutil
import threading
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from maury.errors import MauryError, SpectrumError
from maury.serve.guard import owned
from maury.serve.settings import Refused, Settings
from maury.spectra.formats.registry import read_spectra, read_spectrum
from maury.spectra.spectrum import Spectrum

# As every upload is called on disk, whatever its own name.
_STORED = "spectrum"
_LISTED = 200
_NAME_LENGTH = 120
_MB = 2**20


@dataclass(frozen=True)
class Listed:
    """One spectrum of a file, as the page lists it: wavelengths in Angstrom, ``used`` the number of usable pixels."""

    index: int
    id: str
    snr: float
    pixels: int
    used: int
    low: float
    high: float
    frame: str
    mjd: float | None = None


@dataclass(frozen=True)
class Upload:
    """A file that is kept.

    Attributes
    ----------
    id
        Random; also the name of its folder.
    owner
        The session that sent it.
    name
        What the browser called it: shown, never used as a path.
    folder, path
        Where it and its results lie.
    size
        Bytes.
    spectra
        What it holds, the first 200 spectra.
    trouble
        Why not all of it could be read; empty if it could.
    used
        When it was last used, seconds since 1970.
    """

    id: str
    owner: str
    name: str
    folder: Path
    size: int
    spectra: tuple[Listed, ...] = ()
    trouble: str = ""
    used: float = 0.0

    @property
    def path(self) -> Path:
        """The file on disk."""
        return self.folder / _STORED

    @property
    def stem(self) -> str:
        """The name without its ending, fit for the names of downloads."""
        stem = re.split(r"\.(fits?|ecsv|parquet)\b", self.name, maxsplit=1, flags=re.IGNORECASE)[0]
        return re.sub(r"[^A-Za-z0-9_+-]+", "-", stem).strip("-") or _STORED

    def named(self, message: str) -> str:
        """Put the browser's name for the file in place of its path."""
        return message.replace(str(self.path), self.name)

    def read(self, index: int) -> Spectrum:
        """Read one spectrum; it bears the browser's name for the file.

        Raises
        ------
        SpectrumError
            If there is no such spectrum.
        """
        try:
            return self._named(read_spectrum(self.path, index))
        except SpectrumError as error:
            raise SpectrumError(self.named(str(error))) from None

    def listing(self) -> tuple[tuple[Listed, ...], str]:
        """Read the file: its spectra, and what stopped the reading.

        Raises
        ------
        SpectrumError
            If not one spectrum could be read.
        """
        found: list[Listed] = []
        trouble = ""
        spectra = read_spectra(self.path)
        try:
            for spectrum in islice(spectra, _LISTED):
                found.append(_listed(self._named(spectrum), len(found)))
            if len(found) == _LISTED:
                trouble = f"only the first {_LISTED} spectra are listed"
        except MauryError as error:
            if not found:
                raise SpectrumError(self.named(str(error))) from None
            trouble = self.named(str(error))
        finally:
            spectra.close()  # type: ignore[attr-defined]
        if not found:
            raise SpectrumError(f"{self.name}: holds no spectrum")
        return tuple(found), trouble

    def _named(self, spectrum: Spectrum) -> Spectrum:
        name = self.name.split(".")[0] if spectrum.id == _STORED else spectrum.id
        return replace(spectrum, path=self.name, id=name)


def _listed(spectrum: Spectrum, index: int) -> Listed:
    wavelength, mjd = spectrum.grid.wavelength, spectrum.meta.get("mjd")
    return Listed(
        index=index,
        id=spectrum.id,
        snr=spectrum.snr,
        pixels=spectrum.grid.n_pixels,
        used=int(spectrum.good.sum()),
        low=float(wavelength[0]),
        high=float(wavelength[-1]),
        frame=spectrum.frame,
        mjd=float(mjd) if isinstance(mjd, int | float) else None,
    )


def shown_name(name: str) -> str:
    """Return what the page shows of a file's name: its last part, without control characters, not too long."""
    last = re.split(r"[/\\]", name)[-1]
    printable = "".join(c for c in last if c.isprintable()).strip()
    return printable[-_NAME_LENGTH:] or "unnamed"


class Uploads:
    """The files that are kept.

    Parameters
    ----------
    root
        Folder that they lie in, each in one of its own.
    settings
        Limits of size, number and time.
    """

    def __init__(self, root: Path, settings: Settings) -> None:
        self._root, self._settings = root, settings
        self._kept: dict[str, Upload] = {}
        self._arriving = 0
        # One file is read at a time: reading is what takes memory.
        self._reading = threading.Lock()

    async def receive(
        self, owner: str, name: str, announced: int | None, chunks: AsyncIterator[bytes]
    ) -> Upload:
        """Write a file as it arrives, and look into it; nothing of it stays if it is refused.

        Raises
        ------
        Refused
            If it is too large, empty, too slow, one too many, or holds no spectrum.
        """
        limit = self._settings.max_upload
        if announced is not None and announced > limit:
            raise self._too_large()
        if len(self._kept) + self._arriving >= self._settings.most_files:
            raise Refused("too many files are kept; remove some, or wait until older ones are deleted", 429)
        key = secrets.token_urlsafe(18)
        upload = Upload(key, owner, shown_name(name), self._root / key, 0)
        self._arriving += 1
        try:
            upload.folder.mkdir(mode=0o700)
            size = await self._write(upload.path, chunks)
            upload = replace(upload, size=size)
            spectra, trouble = await asyncio.to_thread(self._list, upload)
        except BaseException as error:
            shutil.rmtree(upload.folder, ignore_errors=True)
            if isinstance(error, SpectrumError):
                raise Refused(str(error), 422) from None
            raise
        finally:
            self._arriving -= 1
        self._kept[key] = replace(upload, spectra=spectra, trouble=trouble, used=time.time())
        return self._kept[key]

    async def _write(self, path: Path, chunks: AsyncIterator[bytes]) -> int:
        size = 0
        with path.open("wb") as stream:
            while True:
                try:
                    chunk = await asyncio.wait_for(anext(chunks, None), self._settings.patience)
                except TimeoutError:
                    raise Refused("the upload stood still for too long", 408) from None
                if chunk is None:
                    break
                size += len(chunk)
                if size > self._settings.max_upload:
                    raise self._too_large()
                stream.write(chunk)
        if not size:
            raise Refused("the file is empty", 422)
        return size

    def _list(self, upload: Upload) -> tuple[tuple[Listed, ...], str]:
        with self._reading:
            return upload.listing()

    def _too_large(self) -> Refused:
        return Refused(
            f"the file is larger than {self._settings.max_upload / _MB:g} MB; "
            "maury infer on the command line has no such limit",
            413,
        )

    def get(self, owner: str, key: str) -> Upload:
        """Return a session's file.

        Raises
        ------
        Refused
            If there is none of that id, or it is another session's.
        """
        return owned(self._kept, owner, key, "file")

    def of(self, owner: str) -> list[Upload]:
        """Return a session's files, the oldest first."""
        return [upload for upload in list(self._kept.values()) if upload.owner == owner]

    def touch(self, key: str) -> None:
        """Count a file's time from now."""
        if key in self._kept:
            self._kept[key] = replace(self._kept[key], used=time.time())

    def expired(self) -> list[Upload]:
        """Files whose time is over."""
        end = time.time() - self._settings.keep
        return [upload for upload in list(self._kept.values()) if upload.used < end]

    def remove(self, upload: Upload) -> None:
        """Delete a file and its results."""
        self._kept.pop(upload.id, None)
        shutil.rmtree(upload.folder, ignore_errors=True)


def to_plot(spectrum: Spectrum, most: int = 30_000) -> dict[str, Any]:
    """Return a spectrum for the page's plot, chip by chip: wavelength (Angstrom), flux over its median, and whether a pixel is usable.

    Parameters
    ----------
    spectrum
        The spectrum.
    most
        Points to return; of a longer spectrum, neighbouring pixels are averaged.
    """
    good, grid = spectrum.good, spectrum.grid
    scale = float(np.median(np.abs(spectrum.flux[good]))) if good.any() else 1.0
    together = -(-grid.n_pixels // most)
    chips = []
    for start, stop in grid.chips:
        n = max((stop - start) // together, 1) * together
        chip = slice(start, min(start + n, stop))
        shape = (-1, together) if stop - start >= together else (1, -1)
        flux = (spectrum.flux[chip] / (scale or 1.0)).reshape(shape).mean(1)
        chips.append(
            {
                "wavelength": np.round(grid.wavelength[chip].reshape(shape).mean(1), 4).tolist(),
                "flux": np.round(np.clip(np.nan_to_num(flux), -1e6, 1e6), 5).tolist(),
                "good": good[chip].reshape(shape).any(1).astype(int).tolist(),
            }
        )
    return {
        "id": spectrum.id,
        "index": spectrum.index,
        "frame": spectrum.frame,
        "scale": scale,
        "chips": chips,
    }
