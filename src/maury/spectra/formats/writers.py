"""Write apVisit files: for the demonstration, for tests, and for seeing a simulated star in other tools."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from astropy.io import fits
from numpy.typing import NDArray

from maury.errors import SpectrumError
from maury.files import writing
from maury.names import meant
from maury.spectra.formats.bits import DEFAULT_REJECT, bits
from maury.spectra.instrument import apogee, nominal_visit_lsf
from maury.spectra.linespread import GaussHermite
from maury.spectra.spectrum import PixelGrid, Spectrum

Release = Literal["dr16", "dr17", "dr19"]

# The dispersion of the three chips as HDU 9 tells it: one cubic in (pixel + offset) / 3000 for all chips; offsets red, green, blue.
_WAVE_OFFSETS = (-6433.90731, -2050.81534, 2354.38261)
_WAVE_POLYNOMIAL = (1.61565373e4, -4.23760086e2, -2.32212235e1, 4.06560758e-1)
_EXTNAMES = (
    "FLUX",
    "ERROR",
    "MASK",
    "WAVELENGTH",
    "SKY FLUX",
    "SKY ERROR",
    "TELLURIC",
    "TELLURIC ERROR",
    "WAVE COEFFICIENTS",
    "LSF COEFFICIENTS",
)
_UNIT = "10^-17 erg/s/cm^2/Ang"
_MASK_MAX = 2**15 - 1
# Error of a pixel out of use, in units of the median error of the others: beyond what readers accept.
_BLOWN_UP = 1e5


def nominal_visit_grid(n_pixels: int = 4096) -> PixelGrid:
    """Return the native pixels of an APOGEE visit: three chips, irregular and rising.

    Parameters
    ----------
    n_pixels
        Pixels of one chip: 4096 of a dithered visit, 2048 of a single one; the grid has ``3 * n_pixels``.
    """
    wavelength = [chip.polynomial.at(n_pixels) for chip in apogee().chips if chip.polynomial is not None]
    return PixelGrid(np.concatenate(wavelength), tuple((i * n_pixels, (i + 1) * n_pixels) for i in range(3)))


def write_apvisit(
    path: str | os.PathLike[str],
    spectrum: Spectrum,
    *,
    release: Release = "dr16",
    bitmask: NDArray[np.int64] | None = None,
    header: Mapping[str, Any] | None = None,
) -> None:
    """Write a spectrum in the layout of an apVisit file; it appears whole or not at all.

    Parameters
    ----------
    path
        Where to; compressed if it ends with ``.gz``.
    spectrum
        On three chips of equal length, blue, green, red. Pixels out of use get a huge error and, if no bit of
        `DEFAULT_REJECT` marks them yet, the bit BADERR: so they are out of use when read again.
    release
        Whose layout: where the barycentric correction stands (header, table, nowhere), which keywords there
        are, and whether HDUs have names.
    bitmask
        APOGEE_PIXMASK of each pixel, shape ``(n_pixels,)``, 0 to 32767; else ``spectrum.bitmask``, else 0.
    header
        Further primary keywords; a value of None leaves the keyword out.

    Raises
    ------
    SpectrumError
        If the spectrum does not fit the layout, or the file cannot be written.
    """
    path = Path(path)
    if release not in get_args(Release):
        raise SpectrumError(f"{path}: unknown release {release!r}; {meant(release, get_args(Release))}")
    try:
        hdus = [_primary(spectrum, release, header or {}), *_images(path, spectrum, release, bitmask)]
        hdus.append(_table(spectrum, release))
        with writing(path) as temporary:
            fits.HDUList(hdus).writeto(temporary, overwrite=True, output_verify="exception")
    except (OSError, ValueError, fits.VerifyError) as error:
        raise SpectrumError(f"{path}: cannot be written ({error})") from error


def _images(
    path: Path, spectrum: Spectrum, release: Release, bitmask: NDArray[np.int64] | None
) -> list[fits.ImageHDU]:
    n = spectrum.grid.n_pixels // 3
    if spectrum.grid.chips != ((0, n), (n, 2 * n), (2 * n, 3 * n)):
        raise SpectrumError(f"{path}: an apVisit has three chips of equal length, not {spectrum.grid.chips}")
    lsf = (
        spectrum.lsf.coefficients
        if isinstance(spectrum.lsf, GaussHermite)
        else nominal_visit_lsf().coefficients
    )
    if len(lsf) != 3:
        raise SpectrumError(f"{path}: line-spread coefficients of shape {lsf.shape}; an apVisit has (3, 26)")
    good = spectrum.good
    error = np.full(spectrum.grid.n_pixels, _BLOWN_UP)
    error[good] = 1 / np.sqrt(spectrum.ivar[good])
    if good.any():
        error[~good] = _BLOWN_UP * np.median(error[good])

    def rows(values: Any, dtype: str) -> NDArray[Any]:
        # Row 0 is the red chip, and wavelengths fall along it.
        with np.errstate(over="ignore", under="ignore"):
            return np.broadcast_to(values, 3 * n).reshape(3, n)[::-1, ::-1].astype(dtype)

    wave = np.zeros((3, 14))
    wave[:, 0], wave[:, 3], wave[:, 6:10] = _WAVE_OFFSETS, 2, _WAVE_POLYNOMIAL
    contents = (
        (rows(spectrum.flux, ">f4"), f"Flux ({_UNIT})"),
        (rows(error, ">f4"), f"Flux Error ({_UNIT})"),
        (rows(_mask(path, spectrum, bitmask), ">i2"), "Flag Mask (bitwise)"),
        (rows(spectrum.grid.wavelength, ">f8"), "Wavelength (Ang)"),
        (rows(0, ">f4"), f"Sky ({_UNIT})"),
        (rows(0, ">f4"), f"Sky Error ({_UNIT})"),
        (rows(1, ">f4"), "Telluric"),
        (rows(0, ">f4"), "Telluric Error"),
        (wave.astype(">f8"), "Wavelength Coefficients"),
        (lsf[::-1].astype(">f8"), "LSF Coefficients"),
    )
    hdus = []
    for (data, unit), name in zip(contents, _EXTNAMES, strict=True):
        hdu = fits.ImageHDU(data, name=name if release == "dr19" else None)
        axes = ("Fiber", "Parameters") if "Coefficients" in unit else ("Pixel", "Chip")
        hdu.header["CTYPE1"], hdu.header["CTYPE2"] = axes
        hdu.header["BUNIT"] = unit
        hdus.append(hdu)
    return hdus


def _mask(path: Path, spectrum: Spectrum, bitmask: NDArray[np.int64] | None) -> NDArray[np.int64]:
    given = spectrum.bitmask if bitmask is None else bitmask
    mask = np.zeros(spectrum.grid.n_pixels, np.int64) if given is None else np.array(given, dtype=np.int64)
    if mask.shape != (spectrum.grid.n_pixels,):
        raise SpectrumError(f"{path}: bitmask of shape {mask.shape} for {spectrum.grid.n_pixels} pixels")
    if mask.min() < 0 or mask.max() > _MASK_MAX:
        raise SpectrumError(f"{path}: the mask of an apVisit holds values from 0 to {_MASK_MAX}")
    mask[~spectrum.good & ((mask & DEFAULT_REJECT) == 0)] |= bits("BADERR")
    return mask


def _primary(spectrum: Spectrum, release: Release, header: Mapping[str, Any]) -> fits.PrimaryHDU:
    hdu = fits.PrimaryHDU()
    for key, value in (_keywords(spectrum, release) | dict(header)).items():
        if value is not None:
            hdu.header[key] = value
    if release != "dr19":
        hdu.header["HISTORY"] = "AP1DVISIT: simulated by maury"
    return hdu


def _keywords(spectrum: Spectrum, release: Release) -> dict[str, Any]:
    meta = spectrum.meta
    survey = str(meta.get("survey", ""))
    values = {
        "FIELD": meta.get("field"),
        "PLATE": meta.get("plate", "9518"),
        "TELESCOP": meta.get("telescope", "apo25m"),
        "MJD5": meta.get("mjd", 57729),
        "FIBERID": meta.get("fiber", 1),
        "DATE-OBS": meta.get("date_obs", "2016-12-07T04:17:07.901"),
        "EXPTIME": meta.get("exptime", 2500.0),
        "JD-MID": meta.get("jd_mid", 2457729.70782),
        "NCOMBINE": meta.get("n_combine", 10),
        "NPAIRS": meta.get("n_pairs", 0 if spectrum.grid.n_pixels == 3 * 2048 else 5),
        "OBJID": spectrum.id,
        "OBJTYPE": "STAR",
        "RA": meta.get("ra", 6.111105),
        "DEC": meta.get("dec", 53.688282),
        "SNR": meta.get("snr", round(spectrum.snr, 3)),
        "SURVEY": survey if "apogee" in survey else "apogee2",
        "STARFLAG": meta.get("starflag", 0),
        "V_APRED": meta.get("pipeline", "simulated"),
    }
    magnitudes = ("JMAG", "HMAG", "KMAG") if release == "dr19" else ("J", "H", "K")
    values |= dict(zip(magnitudes, (10.84, 10.144, 9.987), strict=True))
    if release == "dr16":
        values |= {"BC": spectrum.v_correction}
        values |= {"VRAD": meta.get("v_rad_survey"), "VHELIO": meta.get("v_helio_survey")}
    elif release == "dr17":
        values |= {"WAVEID": 2380000, "LSFID": 5440020, "MTPFLUX": 1.0}
    else:
        values |= {
            "SURVEY": "SDSS-V",
            "APRED": "1.3",
            "CATID": 27021597917837494,
            "CARTON1": "mwm_galactic_core",
        }
    return values


def _table(spectrum: Spectrum, release: Release) -> fits.BinTableHDU:
    meta = spectrum.meta
    columns = [fits.Column("APOGEE_ID", "30A", array=[spectrum.id])]
    velocities = {
        "BC": spectrum.v_correction,
        "VREL": meta.get("v_rad_survey"),
        "VHELIO": meta.get("v_helio_survey"),
    }
    for name, value in velocities.items():
        if release == "dr17" and value is not None:
            columns.append(fits.Column(name, "D", unit="km/s", array=[value]))
    return fits.BinTableHDU.from_columns(columns)
