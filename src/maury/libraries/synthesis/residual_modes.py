"""What a calibration leaves on its standards, as nuisances of the library: ``modes.safetensors`` of a model's folder."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from maury.errors import ConfigError
from maury.libraries.emulator import Emulator
from maury.libraries.residual_modes import by_chip, frequencies, sharpened, write_modes
from maury.libraries.synthesis.grid import reading_arrays
from maury.spectra.air import to_vacuum
from maury.spectra.instrument import apogee
from maury.spectra.linespread import Gaussian

STANDARDS = ("sun", "arcturus")


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
    profile = np.exp(-0.5 * (frequencies(grid) * Gaussian(instrument.power).sigma) ** 2)
    seen = [np.interp(at, wavelength, values, left=0.0, right=0.0) for values in left.values()]
    vectors = by_chip([sharpened(values, profile) for values in seen], grid, instrument)
    if not (vectors != 0).any(1).all():
        raise ConfigError(
            f"{residuals}: has no residuals at the wavelengths of {emulator.card.get('name', 'the emulator')}"
        )
    source = f"residuals of {' and '.join(STANDARDS)} in the calibration {residuals.name}, chip by chip"
    write_modes(vectors, emulator, folder, {"source": source})
