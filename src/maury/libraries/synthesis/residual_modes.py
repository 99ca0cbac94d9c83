"""What a calibration leaves on its standards, as nuisances of the library: ``modes.safetensors`` of a model's folder."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import torch

from maury.errors import ConfigError
from maury.libraries.emulator import MODES, Emulator
from maury.libraries.synthesis.grid import reading_arrays
from maury.spectra.air import to_vacuum
from maury.spectra.instrument import apogee
from maury.spectra.linespread import Gaussian
from maury.weights import write_model

STANDARDS = ("sun", "arcturus")
# Noise over signal of the Wiener filter that takes the standards' line-spread function out of the residuals.
_NOISE = 0.05


def write_residual_modes(residuals: Path, emulator: Emulator, folder: Path) -> None:
    """Write the residuals of each standard on each chip as a vector, sharpened to what the star emits.

    Parameters
    ----------
    residuals
        File of a calibration, ``NAME-error.npz``: air wavelengths, residuals of the Sun and Arcturus at R 22,500, and what is masked.
    emulator
        Of the library; the vectors are on its grid.
    folder
        Of the model.

    Raises
    ------
    ConfigError
        If the file is damaged, or of another instrument's wavelengths.
    """
    with reading_arrays(residuals, "no residuals of a calibration ({})") as file:
        air, masked = file["wavelength"].astype(np.float64), file["masked"]
        left = {name: np.where(masked, 0.0, file[name].astype(np.float64)) for name in STANDARDS}
    grid, instrument = emulator.grid, apogee()
    wavelength, at = to_vacuum(air), grid.wavelength.numpy()
    frequency = 2 * np.pi * np.fft.rfftfreq(grid.n_pixels, d=grid.dlnw)
    profile = np.exp(-0.5 * (frequency * Gaussian(instrument.power).sigma) ** 2)
    middle = [0.5 * (a[1] + b[0]) for a, b in zip(instrument.ranges[:-1], instrument.ranges[1:], strict=True)]
    ends = [0.0, *middle, np.inf]
    vectors = []
    for values in left.values():
        seen = np.interp(at, wavelength, values, left=0.0, right=0.0)
        sharp = np.fft.irfft(np.fft.rfft(seen) * profile / (profile**2 + _NOISE), grid.n_pixels)
        vectors += [np.where((at >= low) & (at < high), sharp, 0.0) for low, high in itertools.pairwise(ends)]
    modes = torch.from_numpy(np.array(vectors)).float()
    if not bool((modes != 0).any(1).all()):
        raise ConfigError(
            f"{residuals}: has no residuals at the wavelengths of {emulator.card.get('name', 'the emulator')}"
        )
    source = f"residuals of {' and '.join(STANDARDS)} in the calibration {residuals.name}, chip by chip"
    write_model(
        folder / MODES,
        {"modes": modes, "amplitude": torch.ones(len(modes))},
        {"kind": "modes", "source": source},
    )
