"""What is done with an uploaded file: its spectra are listed, drawn and checked.

The bytes are read in a process with limits (`maury.spectra.formats.isolated`), and nowhere else in the server: `File` sees to that.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, cast

import numpy as np

from maury.errors import MauryError, SpectrumError
from maury.spectra.formats import isolated
from maury.spectra.formats.isolated import Limits
from maury.spectra.spectrum import Spectrum

# As every upload is called on disk, whatever its own name.
STORED = "spectrum"
# The clock is for a disk that does not answer, or a machine that is far too busy.
LIMITS = Limits(seconds=5.0, memory=2**30, patience=30.0)
_LISTED = 200


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
class File:
    """A file on disk, and what the browser called it."""

    path: Path
    name: str

    def named(self, message: str) -> str:
        """Put the browser's name in place of the path."""
        return message.replace(str(self.path), self.name)

    @property
    def stem(self) -> str:
        """The name without its ending, fit for the names of downloads."""
        stem = re.split(r"\.(fits?|ecsv|parquet)\b", self.name, maxsplit=1, flags=re.IGNORECASE)[0]
        return re.sub(r"[^A-Za-z0-9_+-]+", "-", stem).strip("-") or STORED

    def read(self, index: int) -> Spectrum:
        """Read one spectrum; it bears the browser's name for the file.

        Raises
        ------
        SpectrumError
            If there is no such spectrum, or it cannot be read within `LIMITS`.
        """
        try:
            return self._called(isolated.read_spectrum(self.path, index, limits=LIMITS))
        except SpectrumError as error:
            raise SpectrumError(self.named(str(error))) from None

    def listing(self) -> tuple[tuple[Listed, ...], str]:
        """Read all of it: its spectra, and what stopped the reading.

        Raises
        ------
        SpectrumError
            If not one spectrum could be read within `LIMITS`.
        """
        found: list[Listed] = []
        trouble = ""
        with closing(cast(Any, isolated.read_spectra(self.path, limits=LIMITS))) as spectra:
            try:
                for spectrum in islice(cast("Iterator[Spectrum]", spectra), _LISTED):
                    found.append(_listed(self._called(spectrum), len(found)))
                if len(found) == _LISTED:
                    trouble = f"only the first {_LISTED} spectra are listed"
            except MauryError as error:
                if not found:
                    raise SpectrumError(self.named(str(error))) from None
                trouble = self.named(str(error))
        if not found:
            raise SpectrumError(f"{self.name}: holds no spectrum")
        return tuple(found), trouble

    def _called(self, spectrum: Spectrum) -> Spectrum:
        name = self.name.split(".")[0] if spectrum.id == STORED else spectrum.id
        return replace(spectrum, path=self.name, id=name)


def _listed(spectrum: Spectrum, index: int) -> Listed:
    wavelength, mjd = spectrum.grid.wavelength, spectrum.meta.get("mjd")
    return Listed(
        index=index,
        id=spectrum.id,
        snr=float(np.nan_to_num(spectrum.snr)),
        pixels=spectrum.grid.n_pixels,
        used=int(spectrum.good.sum()),
        low=float(wavelength[0]),
        high=float(wavelength[-1]),
        frame=spectrum.frame,
        # A header may say NaN, which is no JSON.
        mjd=float(mjd) if isinstance(mjd, int | float) and math.isfinite(mjd) else None,
    )


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
    scale = float(np.nan_to_num(np.median(np.abs(spectrum.flux[good])))) if good.any() else 1.0
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


def wrong_regions(spectrum: Spectrum, regions: Sequence[tuple[float, float]]) -> dict[str, str]:
    """Say what is wrong with wavelength regions (Angstrom) to be left out of a spectrum, by the form's field."""
    wrong: dict[str, str] = {}
    for i, region in enumerate(regions):
        try:
            spectrum.without([region])
        except SpectrumError as error:
            wrong[f"regions.{i}"] = str(error)
    if not wrong and not spectrum.without(regions).good.any():
        wrong["regions"] = "no usable pixel is left"
    return wrong
