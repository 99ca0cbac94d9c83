"""What the readers of APOGEE's formats share: keywords with marks for missing values, images, masks and errors."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits
from numpy.typing import NDArray

from maury.errors import SpectrumError
from maury.spectra.formats.fits import reason
from maury.text import readable

# Errors this many times the chip's median mark pixels that the pipeline gave up on.
_ERROR_LIMIT = 1e3
# More than any spectrograph's signal-to-noise ratio of a pixel: its error is none.
SNR_LIMIT = 1e6
# Of all formats but aspcapStar, whose spectra are divided by their continuum.
FLUX_UNIT = "1e-17 erg / (Angstrom s cm2)"
_MISSING = (-9999.99, -9999.0)
_MISSING_VELOCITY = 99.99


def image_shape(hdus: fits.HDUList, hdu: int) -> tuple[int, ...]:
    """Shape that an image's header tells, without reading it; empty where there is no image."""
    if len(hdus) <= hdu or not isinstance(hdus[hdu], fits.ImageHDU | fits.CompImageHDU):
        return ()
    return tuple(hdus[hdu].shape)


def image_data(hdus: fits.HDUList, hdu: int, path: Path) -> NDArray[Any]:
    """Read an image; whatever is wrong with it names the HDU."""
    try:
        return np.asarray(hdus[hdu].data)
    except Exception as error:
        raise SpectrumError(f"{path} HDU {hdu}: cannot be read ({reason(error)})") from error


def unsigned(mask: NDArray[Any]) -> NDArray[np.int64]:
    """Widen a mask; its sign bit is a bit like any other and must not set all the higher ones."""
    width = 8 * mask.dtype.itemsize
    return mask.astype(np.int64) & np.int64((1 << min(width, 63)) - 1)


def inverse_variance(
    flux: NDArray[np.float64], error: NDArray[np.float64], usable: NDArray[np.bool_]
) -> NDArray[np.float64]:
    """Inverse variance ``(n_chips, n)``, 0 where a pixel is of no use.

    That is where values are not finite, or the error is not positive, far beyond the chip's median, or nothing beside the flux.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        good = (
            usable & np.isfinite(flux) & np.isfinite(error) & (error > 0) & (np.abs(flux) < SNR_LIMIT * error)
        )
    for chip, there in enumerate(good):
        if there.any():
            there &= error[chip] <= _ERROR_LIMIT * np.median(error[chip][there])
    with np.errstate(over="ignore", under="ignore", divide="ignore"):
        ivar = 1 / np.square(np.where(good, error, 1.0))
    return np.where(good & np.isfinite(ivar), ivar, 0.0)


def number(source: Any, key: str) -> float | None:
    """Value of a keyword or column; None where absent, not a number, or the survey's mark for missing."""
    try:
        value = float(source[key])
    except (KeyError, ValueError, TypeError, IndexError, OverflowError, fits.VerifyError):
        return None
    missing = not math.isfinite(value) or any(math.isclose(value, mark, abs_tol=1e-2) for mark in _MISSING)
    return None if missing else value


def velocity(source: Any, *keys: str) -> float | None:
    """First of some velocities that is there; an exact 0 is an unset one."""
    for key in keys:
        value = number(source, key)
        if value is not None and value != 0 and not math.isclose(value, _MISSING_VELOCITY, abs_tol=1e-4):
            return value
    return None


def text(header: Mapping[str, Any], key: str) -> str:
    """Value of a keyword as text; empty where absent or damaged."""
    try:
        value = header.get(key)
    except fits.VerifyError:
        return ""
    return readable(str(value).strip()) if isinstance(value, str | int | float) else ""
