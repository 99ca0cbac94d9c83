"""APOGEE visit spectra (apVisit): data releases 13 to 17 and SDSS-V.

Each HDU holds three rows, one a chip; row 0 is the red chip, and wavelengths fall along a row.
"""

from __future__ import annotations

import os
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits
from numpy.typing import NDArray

from maury.errors import SpectrumError
from maury.spectra.barycentric import barycentric_correction
from maury.spectra.formats.bits import BAD, DEFAULT_REJECT, PIXMASK, bits
from maury.spectra.formats.cards import (
    FLUX_UNIT,
    image_data,
    image_shape,
    inverse_variance,
    number,
    text,
    unsigned,
    velocity,
)
from maury.spectra.formats.fits import open_fits
from maury.spectra.instrument import apogee
from maury.spectra.linespread import GaussHermite, LineSpread
from maury.spectra.spectrum import PixelGrid, Spectrum

__all__ = ["BAD", "DEFAULT_REJECT", "PIXMASK", "apvisit_from_hdus", "bits", "is_apvisit", "read_apvisit"]

FLUX, ERROR, MASK, WAVELENGTH, LSF, TABLE = 1, 2, 3, 4, 10, 11
N_CHIPS = 3
_MAX_PIXELS = 16384
# No pixel of the spectrograph lies outside (Angstrom).
_WAVELENGTH_RANGE = (14500.0, 17500.0)
# The earth moves with at most 31 km/s; what is larger is a mark for a missing value.
_CORRECTION_LIMIT = 35.0

_TEXTS = {
    "telescope": "TELESCOP",
    "field": "FIELD",
    "plate": "PLATE",
    "date_obs": "DATE-OBS",
    "survey": "SURVEY",
    "pipeline": "V_APRED",
}
_INTEGERS = {
    "fiber": "FIBERID",
    "mjd": "MJD5",
    "starflag": "STARFLAG",
    "n_pairs": "NPAIRS",
    "n_combine": "NCOMBINE",
}
_FLOATS = {"ra": "RA", "dec": "DEC", "jd_mid": "JD-MID", "exptime": "EXPTIME", "snr": "SNR"}


def is_apvisit(hdus: fits.HDUList) -> bool:
    """Tell whether an open FITS file is meant to be an apVisit, be it complete or not."""
    header = hdus[0].header
    first = hdus[1].header if len(hdus) > 1 else {}
    # A single-visit apStar has three rows too, but uniform pixels.
    if "NVISITS" in header or any("LOG" in text(h, "CTYPE1").upper() for h in (header, first)):
        return False
    if "AP1DVISIT" in str(header.get("HISTORY", "")) or ("FIBERID" in header and "OBJID" in header):
        return True
    if len(hdus) <= WAVELENGTH:
        return False
    last = hdus[WAVELENGTH].header
    named = any(text(last, key).upper().startswith("WAVELENGTH") for key in ("BUNIT", "EXTNAME"))
    return (
        named
        and image_shape(hdus, WAVELENGTH) == image_shape(hdus, FLUX)
        and image_shape(hdus, FLUX)[:1] == (N_CHIPS,)
    )


def read_apvisit(path: str | os.PathLike[str], *, reject: int = DEFAULT_REJECT) -> Spectrum:
    """Read one visit spectrum.

    Parameters
    ----------
    path
        An apVisit or asVisit file of data releases 13 to 17 or of SDSS-V, also compressed.
    reject
        Bits of the file's pixel mask that take a pixel out of use. Values that are not finite, errors that
        are not positive and errors above a thousand times the chip's median do so too.

    Returns
    -------
    Spectrum
        Observatory frame, ``3 * n`` pixels: chips blue, green and red, in rising wavelength. ``v_correction``
        is the file's own where it has one, else computed; ``meta["v_correction_source"]`` is ``"header"``,
        ``"table"``, ``"astropy"`` or None.

    Raises
    ------
    SpectrumError
        If the file is missing, damaged or no apVisit, or an HDU is missing or of another shape, or the
        wavelengths of a chip do not run one way or overlap another chip's.
    """
    with open_fits(path) as hdus:
        if not is_apvisit(hdus):
            raise SpectrumError(f"{path}: not an apVisit file; try maury.spectra.read_spectrum")
        return apvisit_from_hdus(hdus, Path(path), reject)


def apvisit_from_hdus(hdus: fits.HDUList, path: Path, reject: int = DEFAULT_REJECT) -> Spectrum:
    """Read one visit spectrum from an open file, as `read_apvisit` does."""
    shape = image_shape(hdus, FLUX)
    if shape and (len(shape) != 2 or shape[0] != N_CHIPS or not 2 <= shape[1] <= _MAX_PIXELS):
        raise SpectrumError(f"{path} HDU {FLUX}: shape {shape}; an apVisit has (3, 4096) or (3, 2048)")
    flux, error, mask, raw = (
        _image(hdus, hdu, path, shape, "iu" if hdu == MASK else "iuf")
        for hdu in (FLUX, ERROR, MASK, WAVELENGTH)
    )
    bitmask = unsigned(mask)
    flux, error = flux.astype(np.float64), error.astype(np.float64)
    wavelength, measured = _complete(raw.astype(np.float64), path)
    ivar = inverse_variance(flux, error, measured & ((bitmask & reject) == 0))
    order = _rising(wavelength, path)

    def flat(rows: NDArray[Any]) -> NDArray[Any]:
        return np.concatenate([rows[chip][::step] for chip, step in order])

    n = shape[1]
    header, row = hdus[0].header, _TableRow(hdus)
    correction, source = _correction(header, row)
    lsf = _lsf(hdus, path, [chip for chip, _ in order])
    return Spectrum(
        grid=PixelGrid(flat(wavelength), tuple((i * n, (i + 1) * n) for i in range(N_CHIPS))),
        flux=flat(flux),
        ivar=flat(ivar),
        id=text(header, "OBJID") or path.name.split(".fit")[0],
        frame="observatory",
        v_correction=correction,
        bitmask=flat(bitmask),
        lsf=lsf,
        path=str(path),
        meta=_meta(header, row)
        | {
            "v_correction_source": source,
            "lsf_source": "file" if isinstance(lsf, GaussHermite) else "assumed",
        },
    )


def _image(hdus: fits.HDUList, hdu: int, path: Path, shape: tuple[int, ...], kinds: str) -> NDArray[Any]:
    found = image_shape(hdus, hdu)
    if not found:
        raise SpectrumError(f"{path} HDU {hdu}: missing or no image; an apVisit has 12 HDUs")
    if found != shape:
        raise SpectrumError(f"{path} HDU {hdu}: shape {found}, but the flux has {shape}")
    data = image_data(hdus, hdu, path)
    if data.dtype.kind not in kinds:
        raise SpectrumError(f"{path} HDU {hdu}: values of type {data.dtype}, which an apVisit has not there")
    return data.astype(data.dtype.newbyteorder("="))


def _complete(wavelength: NDArray[np.float64], path: Path) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Fill wavelengths that are missing from their neighbours', and tell which were there: ``(3, n)``."""
    measured = np.isfinite(wavelength) & (wavelength > 0)
    pixels = np.arange(wavelength.shape[1])
    filled = wavelength.copy()
    for chip, there in enumerate(measured):
        if np.count_nonzero(there) < max(2, there.size // 2):
            raise SpectrumError(f"{path} HDU {WAVELENGTH}: chip row {chip} has too few finite wavelengths")
        if there.all():
            continue
        x, y = pixels[there], wavelength[chip, there]
        filled[chip] = np.interp(pixels, x, y)
        for outside, (i, j) in ((pixels < x[0], (0, 1)), (pixels > x[-1], (-1, -2))):
            slope = (y[j] - y[i]) / (x[j] - x[i])
            filled[chip, outside] = y[i] + slope * (pixels[outside] - x[i])
        filled[chip, there] = y
    low, high = _WAVELENGTH_RANGE
    if filled.min() < low or filled.max() > high:
        raise SpectrumError(
            f"{path} HDU {WAVELENGTH}: wavelengths {filled.min():.6g} to {filled.max():.6g} "
            f"leave APOGEE's range of {low:g} to {high:g} Angstrom"
        )
    return filled, measured


def _rising(wavelength: NDArray[np.float64], path: Path) -> list[tuple[int, int]]:
    """Chips in rising wavelength, each with the step (1 or -1) that reads its pixels so."""
    steps = []
    for chip, row in enumerate(wavelength):
        difference = np.diff(row)
        if not (np.all(difference > 0) or np.all(difference < 0)):
            raise SpectrumError(f"{path} HDU {WAVELENGTH}: wavelengths of chip row {chip} do not run one way")
        steps.append(1 if difference[0] > 0 else -1)
    chips = [int(chip) for chip in np.argsort(wavelength.min(axis=1))]
    for lower, upper in pairwise(chips):
        if wavelength[lower].max() >= wavelength[upper].min():
            raise SpectrumError(
                f"{path} HDU {WAVELENGTH}: chip rows {lower} and {upper} overlap in wavelength"
            )
    return [(chip, steps[chip]) for chip in chips]


def _lsf(hdus: fits.HDUList, path: Path, chips: list[int]) -> LineSpread:
    """Return the visit's line-spread function; the survey's average where the file has none that is of use."""
    average = apogee().assumed_lsf
    shape = image_shape(hdus, LSF)
    if not shape or 0 in shape:
        return average
    if len(shape) != 2 or shape[0] != N_CHIPS or shape[1] > _MAX_PIXELS:
        raise SpectrumError(f"{path} HDU {LSF}: shape {shape}; line-spread coefficients have (3, 26)")
    coefficients = image_data(hdus, LSF, path).astype(np.float64)
    if not np.all(np.isfinite(coefficients)) or not coefficients.any():
        return average
    try:
        return GaussHermite(coefficients[chips])
    except SpectrumError as error:
        raise SpectrumError(f"{path} HDU {LSF}: {error}") from None


class _TableRow:
    """Only row of the last HDU, read when it is first asked: its fifty columns take longer than all else in the file.

    Where it is absent or unreadable it is empty, since nothing depends on it alone.
    """

    def __init__(self, hdus: fits.HDUList) -> None:
        self._hdus = hdus

    @cached_property
    def _row(self) -> Any:
        try:
            return self._hdus[TABLE].data[0] if isinstance(self._hdus[TABLE], fits.BinTableHDU) else {}
        except Exception:
            return {}

    def __getitem__(self, name: str) -> Any:
        return self._row[name]


def _correction(header: fits.Header, row: Any) -> tuple[float | None, str | None]:
    """Barycentric correction, km/s, and its source: the header (to DR16), the table (DR17), else astropy."""
    for source, place in ((header, "header"), (row, "table")):
        value = velocity(source, "BC")
        if value is not None and abs(value) < _CORRECTION_LIMIT:
            return value, place
    ra, dec, jd = (number(header, key) for key in ("RA", "DEC", "JD-MID"))
    if ra is None or dec is None or jd is None or ra == dec == 0:
        return None, None
    value = barycentric_correction(ra, dec, jd, text(header, "TELESCOP"))
    return value, None if value is None else "astropy"


def _release(header: fits.Header, row: Any) -> str | None:
    if text(header, "SURVEY").upper() == "SDSS-V":
        return "SDSS-V"
    if any(key in header for key in ("WAVEID", "LSFID", "MTPFLUX")):
        return "DR17"
    if "BC" not in header and velocity(row, "BC") is not None:
        return "DR17"
    return "DR13-DR16" if "AP1DVISIT" in str(header.get("HISTORY", "")) else None


def _meta(header: fits.Header, row: Any) -> dict[str, Any]:
    """Gather what a user may want to see again; what the file has not is left out."""
    found: dict[str, Any] = {name: text(header, key) or None for name, key in _TEXTS.items()}
    for name, key in _INTEGERS.items():
        value = number(header, key)
        found[name] = None if value is None else int(value)
    found |= {name: number(header, key) for name, key in _FLOATS.items()}
    # The survey's own: relative to the observatory, and to the barycentre.
    found["v_rad_survey"] = velocity(header, "VRAD") or velocity(row, "VREL", "VRAD")
    found["v_helio_survey"] = velocity(header, "VHELIO") or velocity(row, "VHELIO")
    found["flux_unit"] = FLUX_UNIT
    found["release"] = _release(header, row)
    return {name: value for name, value in found.items() if value is not None}
