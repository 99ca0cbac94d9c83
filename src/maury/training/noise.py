"""Where the errors of simulated spectra come from, beside the log-uniform S/N that `Observing` has by itself."""

from __future__ import annotations

from collections.abc import Callable
from glob import glob
from itertools import islice
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from maury.errors import ConfigError
from maury.spectra.formats.registry import read_spectra
from maury.spectra.instrument import Instrument, apogee
from maury.spectra.regrid import on_network_grid
from maury.spectra.spectrum import PixelGrid, Spectrum

Draw = Callable[[int, torch.Generator], Tensor]


class PaperNoise(BaseModel):
    """White noise, its ratio to the flux drawn once a spectrum from U(0, ``largest``): that of Gupta et al. 2024."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Literal["paper"] = "paper"
    largest: float = Field(0.05, gt=0)
    of: Literal["flux"] = "flux"

    def source(self, grid: PixelGrid, instrument: Instrument | None = None) -> Draw:
        """Return a function that draws errors ``(n, n_pixels)`` in units of the flux."""

        def draw(n: int, generator: torch.Generator) -> Tensor:
            # 1 - rand is never 0, and a pixel without error has no inverse variance.
            return (self.largest * (1 - torch.rand(n, 1, generator=generator))).repeat(1, grid.n_pixels)

        return draw


class SnrList(BaseModel):
    """S/N a pixel drawn from the values of a file: one a line, lines of ``#`` left out."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Literal["snr-list"] = "snr-list"
    file: Path
    of: Literal["continuum"] = "continuum"

    def source(self, grid: PixelGrid, instrument: Instrument | None = None) -> Draw:
        """Return a function that draws errors ``(n, n_pixels)`` in units of the continuum.

        Raises
        ------
        ConfigError
            If the file cannot be read, or a value is not above 0.
        """
        try:
            values = np.loadtxt(self.file, ndmin=1, encoding="utf-8")
        except (OSError, ValueError) as error:
            raise ConfigError(f"{self.file}: needs one S/N a line ({error})") from None
        if values.ndim != 1 or not len(values) or not (np.isfinite(values) & (values > 0)).all():
            raise ConfigError(f"{self.file}: needs one S/N a line, each above 0")
        snr = torch.from_numpy(values).float()

        def draw(n: int, generator: torch.Generator) -> Tensor:
            rows = torch.randint(len(snr), (n, 1), generator=generator)
            return (1 / snr[rows]).repeat(1, grid.n_pixels)

        return draw


class RealErrors(BaseModel):
    """Error arrays, masks included, of the spectra in files; one drawn for each simulated spectrum."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Literal["real"] = "real"
    files: str = Field(description="glob of spectrum files of any known format")
    most: int = Field(2000, gt=0, description="spectra taken at most; their errors are held in memory")
    of: Literal["continuum"] = "continuum"

    def source(self, grid: PixelGrid, instrument: Instrument | None = None) -> Draw:
        """Return a function that draws errors ``(n, n_pixels)`` in units of the continuum, infinite where masked.

        Raises
        ------
        ConfigError
            If no file matches, or pixels are not those of the simulation.
        SpectrumError
            If a file cannot be read.
        """
        paths = sorted(glob(self.files, recursive=True))
        if not paths:
            raise ConfigError(f"noise.files: no file matches {self.files!r}")
        spectra = islice((s for path in paths for s in read_spectra(path, instrument=instrument)), self.most)
        errors = torch.from_numpy(np.stack([_relative_error(s, grid, instrument) for s in spectra]))

        def draw(n: int, generator: torch.Generator) -> Tensor:
            return errors[torch.randint(len(errors), (n,), generator=generator)]

        return draw


def _relative_error(
    spectrum: Spectrum, grid: PixelGrid, instrument: Instrument | None
) -> NDArray[np.float32]:
    """Errors ``(n_pixels,)`` over each chip's median flux, infinite where masked."""
    spectrograph = instrument or apogee()
    common = spectrograph.grid.wavelength
    if len(grid.wavelength) == len(common) and np.allclose(grid.wavelength, common):
        flux, ivar = on_network_grid(spectrum, spectrograph)
    elif spectrum.grid.chips == grid.chips:
        flux, ivar = spectrum.flux, spectrum.ivar
    else:
        raise ConfigError(
            f"{spectrum.path}: {spectrum.grid.n_pixels} pixels in chips {spectrum.grid.chips}, but the simulation's are {grid.chips}; "
            "choose files of the same pixels, or simulate with pixels = 'network'"
        )
    error = np.full(grid.n_pixels, np.inf, dtype=np.float32)
    for start, stop in grid.chips:
        good = ivar[start:stop] > 0
        if good.any():
            level = np.median(np.abs(flux[start:stop][good]))
            error[start:stop][good] = 1 / np.sqrt(ivar[start:stop][good]) / max(level, 1e-300)
    return error


SimulatedNoise = Annotated[PaperNoise | SnrList | RealErrors, Field(discriminator="kind")]
