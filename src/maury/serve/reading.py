"""What is done with the bytes of a stranger: listed, drawn and checked, in a process that has limits and can be killed.

That process runs this module, for `maury.serve.readers`. Only numbers and text come back.
"""

from __future__ import annotations

import json
import math
import os
import re
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from maury.errors import MauryError, SpectrumError
from maury.serve.child import Message, answer
from maury.spectra.formats.registry import read_spectra, read_spectrum
from maury.spectra.spectrum import Spectrum

# As every upload is called on disk, whatever its own name.
STORED = "spectrum"
_LISTED = 200
# Bytes that reading may take beyond what the process has after its imports.
MEMORY = 2**30
# A process that has grown by so much is replaced.
_GROWN = 2**28


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
        """Read one spectrum, in this process; it bears the browser's name for the file.

        Raises
        ------
        SpectrumError
            If there is no such spectrum.
        """
        try:
            return self._called(read_spectrum(self.path, index))
        except SpectrumError as error:
            raise SpectrumError(self.named(str(error))) from None

    def listing(self) -> tuple[tuple[Listed, ...], str]:
        """Read all of it, in this process: its spectra, and what stopped the reading.

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
                found.append(_listed(self._called(spectrum), len(found)))
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


def do(request: Message) -> Message:
    """Answer one request."""
    file = File(Path(request["path"]), request["name"])
    try:
        if request["do"] == "list":
            spectra, trouble = file.listing()
            return {"spectra": [asdict(listed) for listed in spectra], "trouble": trouble}
        spectrum = file.read(request["index"])
        if request["do"] == "plot":
            return {"text": json.dumps(to_plot(spectrum), allow_nan=False)}
        return {"wrong": wrong_regions(spectrum, [(low, high) for low, high in request["regions"]])}
    except SpectrumError as error:
        return {"error": str(error)}
    except MemoryError:
        return {"error": f"{file.name}: needs more than {MEMORY >> 20} MiB of memory to be read"}
    except Exception:
        return {"failed": traceback.format_exc()}


@contextmanager
def limited(memory: int, seconds: float) -> Iterator[None]:
    """Let this process take no more than so many bytes and seconds of a processor beyond what it has; on POSIX systems.

    The clock is the server's. This one is for a process whose server is gone, and which is too busy to notice.
    """
    try:
        import resource
    except ImportError:
        yield
        return
    before = {kind: resource.getrlimit(kind) for kind in (resource.RLIMIT_AS, resource.RLIMIT_CPU)}
    usage = resource.getrusage(resource.RUSAGE_SELF)
    now = {
        resource.RLIMIT_AS: _taken() + memory if _taken() else resource.RLIM_INFINITY,
        resource.RLIMIT_CPU: math.ceil(usage.ru_utime + usage.ru_stime + 2 * seconds),
    }
    for kind, soft in now.items():
        hard = before[kind][1]
        resource.setrlimit(kind, (soft if hard == resource.RLIM_INFINITY else min(soft, hard), hard))
    try:
        yield
    finally:
        for kind, limits in before.items():
            resource.setrlimit(kind, limits)


def _taken() -> int:
    """Bytes of address space that this process has; 0 where the system does not tell."""
    try:
        return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0]) * os.sysconf(
            "SC_PAGE_SIZE"
        )
    except OSError:
        return 0


def main() -> None:
    """Answer the server's requests."""
    seconds = float(sys.argv[1])
    start = _taken()

    def handle(request: Message, tell: Callable[[Message], None]) -> None:
        with limited(start + MEMORY - _taken() if start else MEMORY, seconds):
            found = do(request)
        tell(dict(found) | {"grown": _taken() - start > _GROWN})

    answer(handle)


if __name__ == "__main__":
    main()
