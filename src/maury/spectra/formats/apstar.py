"""APOGEE's spectra on the common grid: apStar (combined and visits) and aspcapStar, all moved to rest by the survey."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits
from numpy.typing import NDArray

from maury.errors import SpectrumError
from maury.spectra.formats.bits import BAD
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
from maury.spectra.instrument import apogee
from maury.spectra.linespread import LineSpread, Tabulated
from maury.spectra.spectrum import PixelGrid, Spectrum
from maury.text import readable

__all__ = ["is_apstar", "is_aspcapstar", "read_apstar", "read_aspcapstar"]

FLUX, ERROR, MASK, LSF = 1, 2, 3, 8
_MODEL, _LABELS = 3, 4
_MAX_SPECTRA = 2000
_MAX_PIXELS = 100_000
# The survey's mark for a pixel out of use, and what a velocity must stay below to be one (km/s).
_HUGE = 9e9
_VELOCITY_LIMIT = 3000.0
_TEXTS = {"telescope": "TELESCOP", "field": "FIELD", "survey": "SURVEY", "pipeline": "V_APRED"}
# Where PARAM holds them: Teff, log g, log v_micro, [M/H], [C/M], [N/M], [alpha/M], log v_macro (or v_sini), oxygen; and their own columns.
_LABEL_PLACES = {"teff": (0, "TEFF"), "logg": (1, "LOGG"), "m_h": (3, "M_H"), "alpha_m": (6, "ALPHA_M")}
_N_PARAM = 9
_FLOATS = {"ra": "RA", "dec": "DEC", "snr": "SNR", "v_scatter": "VSCATTER"}


def is_apstar(hdus: fits.HDUList) -> bool:
    """Tell whether an open FITS file is meant to be an apStar or asStar."""
    header = hdus[0].header
    log = _is_log(header) or (len(hdus) > 1 and _is_log(hdus[1].header))
    return "NVISITS" in header and log and not is_aspcapstar(hdus)


def is_aspcapstar(hdus: fits.HDUList) -> bool:
    """Tell whether an open FITS file is meant to be an aspcapStar.

    Keywords do not tell it from an apStar: up to DR16 it has that one's, ``NVISITS`` too. HDUs do: HDU 3 is the best model, in floating
    point, where an apStar has its mask, and its labels follow in HDU 4, where an apStar has the sky.
    """
    if len(hdus) <= _MODEL:
        return False
    one = [len(image_shape(hdus, hdu)) == 1 for hdu in (FLUX, ERROR, _MODEL)]
    model = number(hdus[_MODEL].header, "BITPIX") or 0
    labelled = len(hdus) <= _LABELS or isinstance(hdus[_LABELS], fits.BinTableHDU)
    return (
        all(one) and model < 0 and labelled and _is_log(hdus[FLUX].header) and "CRVAL1" in hdus[FLUX].header
    )


def _is_log(header: fits.Header) -> bool:
    return "LOG" in text(header, "CTYPE1").upper() or number(header, "DC-FLAG") == 1


def log_grid(header: fits.Header, n_pixels: int, where: str, suffix: str = "1") -> PixelGrid:
    """Pixels of a header's uniform log10(wavelength); the first pixel is where CRPIX is, counted from 1.

    Raises
    ------
    SpectrumError
        If keywords are missing or give no wavelengths of APOGEE.
    """
    start, step = (number(header, key + suffix) for key in ("CRVAL", "CDELT"))
    pixel = number(header, "CRPIX" + suffix)
    if start is None or step is None:
        raise SpectrumError(
            f"{where}: CRVAL{suffix} or CDELT{suffix} is missing: where its pixels lie is not known"
        )
    exponent = start + step * (np.arange(n_pixels) + 1 - (1 if pixel is None else pixel))
    if not (step > 0 and 4.1 < exponent[0] < exponent[-1] < 4.3):
        raise SpectrumError(
            f"{where}: CRVAL{suffix} {start:g} and CDELT{suffix} {step:g} give no wavelengths of APOGEE"
        )
    chips = tuple((a, min(b, n_pixels)) for a, b in apogee().grid.chips if a < n_pixels)
    return PixelGrid(np.power(10.0, exponent, dtype=np.float64), chips)


def read_apstar(hdus: fits.HDUList, path: Path, reject: int) -> Iterator[Spectrum]:
    """Yield the pixel-weighted combination, then each visit; a file of one visit holds just that.

    ``v_correction`` is the barycentric velocity that the survey took out, so that what is measured in the file adds to it.

    Raises
    ------
    SpectrumError
        If an HDU is missing or of another shape.
    """
    header = hdus[0].header
    rows, n_pixels = _rows(hdus, FLUX, path)
    for hdu in (ERROR, MASK):
        if _rows(hdus, hdu, path) != (rows, n_pixels):
            raise SpectrumError(
                f"{path} HDU {hdu}: shape {image_shape(hdus, hdu)}, but the flux has {image_shape(hdus, FLUX)}"
            )
    card = hdus[FLUX].header if "CRVAL1" in hdus[FLUX].header else header
    grid = log_grid(card, n_pixels, f"{path} HDU {FLUX}")
    flux, error, mask = (image_data(hdus, hdu, path).reshape(rows, n_pixels) for hdu in (FLUX, ERROR, MASK))
    if mask.dtype.kind not in "iu" or flux.dtype.kind not in "iuf" or error.dtype.kind not in "iuf":
        raise SpectrumError(f"{path}: flux, error or mask hold values of another kind than an apStar's")
    lsf, source = _lsf(hdus, path, n_pixels)
    recent = _sdss_v(header)
    meta: dict[str, Any] = {name: text(header, key) or None for name, key in _TEXTS.items()}
    meta |= {name: number(header, key) for name, key in _FLOATS.items()}
    # Until DR16 a bit of any visit marks the combined pixel; since then it must be in all of them.
    meta |= {"mask_rule": "and" if flux.dtype.itemsize == 8 or recent else "or", "lsf_source": source}
    meta["flux_unit"] = FLUX_UNIT
    for index, row in enumerate([0, *range(2, rows)]):
        # Row 0 of several is the combination; the visits' keywords count from 1.
        visit = row - 1 if row else (1 if rows == 1 else 0)
        yield _spectrum(
            grid, flux[row], error[row], unsigned(mask[row]), reject,
            id=text(header, "OBJID") or path.name.split(".fit")[0],
            v_correction=_removed(header, visit, recent, combined=row == 0 and rows > 1),
            lsf=lsf, path=str(path), index=index,
            meta={k: v for k, v in (meta | _moment(header, visit)).items() if v is not None},
        )  # fmt: skip


def read_aspcapstar(hdus: fits.HDUList, path: Path, reject: int) -> Iterator[Spectrum]:
    """Yield the one spectrum, divided by the pipeline's pseudo-continuum; the survey's own labels go to ``meta``.

    Raises
    ------
    SpectrumError
        If an HDU is missing or of another shape.
    """
    shape = image_shape(hdus, FLUX)
    if image_shape(hdus, ERROR) != shape or not 2 <= shape[0] <= _MAX_PIXELS:
        raise SpectrumError(f"{path} HDU {ERROR}: shape {image_shape(hdus, ERROR)}, but the flux has {shape}")
    flux, error = (image_data(hdus, hdu, path) for hdu in (FLUX, ERROR))
    if flux.dtype.kind not in "iuf" or error.dtype.kind not in "iuf":
        raise SpectrumError(f"{path}: flux or error hold values of another kind than an aspcapStar's")
    grid = log_grid(hdus[FLUX].header, shape[0], f"{path} HDU {FLUX}")
    row, header = _row(hdus, _LABELS), hdus[0].header
    meta: dict[str, Any] = {name: text(header, key) or None for name, key in _TEXTS.items()}
    meta |= {name: _either(row, header, key) for name, key in _FLOATS.items()}
    meta |= _survey_labels(row) | {"lsf_source": "assumed", "combined": True}
    # It holds no mask: gaps and pixels that were not fitted are exactly 0.
    mask = np.where(flux == 0, BAD, 0).astype(np.int64)
    yield _spectrum(
        grid, flux, error, mask, reject | BAD,
        id=_name(row, "APOGEE_ID") or text(header, "OBJ") or path.name.split(".fit")[0].removeprefix("aspcapStar-"),
        v_correction=believed(velocity(row, "VHELIO_AVG", "VHELIO") or velocity(header, "VHELIO")), lsf=apogee().assumed_lsf,
        path=str(path), index=0, meta={k: v for k, v in meta.items() if v is not None},
    )  # fmt: skip


def _spectrum(
    grid: PixelGrid,
    flux: NDArray[Any],
    error: NDArray[Any],
    mask: NDArray[np.int64],
    reject: int,
    **fields: Any,
) -> Spectrum:
    flux, error = flux.astype(np.float64), error.astype(np.float64)
    usable = ((mask & reject) == 0) & (error < _HUGE)
    ivar = inverse_variance(flux[None], error[None], usable[None])[0]
    on_chip = np.zeros(grid.n_pixels, dtype=bool)
    for start, stop in grid.chips:
        on_chip[start:stop] = True
    return Spectrum(grid, flux, np.where(on_chip, ivar, 0.0), frame="rest", bitmask=mask, **fields)


def _rows(hdus: fits.HDUList, hdu: int, path: Path) -> tuple[int, int]:
    """Rows and pixels of an image that is one- or two-dimensional."""
    shape = image_shape(hdus, hdu)
    if not shape:
        raise SpectrumError(
            f"{path} HDU {hdu}: missing or no image; an apStar has flux, error and mask in HDUs 1 to 3"
        )
    rows, n_pixels = (1, shape[0]) if len(shape) == 1 else shape[-2:]
    if len(shape) > 2 or not 1 <= rows <= _MAX_SPECTRA or not 2 <= n_pixels <= _MAX_PIXELS:
        raise SpectrumError(f"{path} HDU {hdu}: shape {shape}; an apStar has (visits + 2, 8575) or (8575,)")
    return rows, n_pixels


def _lsf(hdus: fits.HDUList, path: Path, n_pixels: int) -> tuple[LineSpread, str]:
    """Tabulated kernels of HDU 8 if they are there, else the survey's average."""
    shape = image_shape(hdus, LSF)
    if len(shape) == 2 and n_pixels in shape and max(shape) == n_pixels:
        kernels = image_data(hdus, LSF, path).astype(np.float64)
        kernels = kernels if shape[0] == n_pixels else kernels.T
        if kernels.shape[1] % 2 and np.all(np.isfinite(kernels)):
            # Gaps between chips have none.
            empty = kernels.sum(1) <= 0
            kernels[empty] = np.eye(kernels.shape[1])[kernels.shape[1] // 2]
            return Tabulated(kernels), "file"
    return apogee().assumed_lsf, "assumed"


def _sdss_v(header: fits.Header) -> bool:
    """Tell whether ``VRADn`` is barycentric already: in SDSS-V, whose files have no ``VHELIOn``."""
    return text(header, "SURVEY").upper() == "SDSS-V" or ("VRAD1" in header and "VHELIO1" not in header)


def _moment(header: fits.Header, visit: int) -> dict[str, Any]:
    """Tell a visit, or that it is none: which exposure it is must be known where its own file is given too."""
    if visit == 0:
        return {"visit": 0, "combined": True}
    return {
        "visit": visit,
        "jd_mid": number(header, f"JD{visit}"),
        "fiber": number(header, f"FIBER{visit}"),
    }


def _removed(header: fits.Header, visit: int, recent: bool, combined: bool) -> float | None:
    """Barycentric velocity that the survey took out of a visit, or on average out of the combination; km/s."""
    if combined:
        value = velocity(header, "VRAD", "VHELIO") if recent else velocity(header, "VHELIO")
    elif recent:
        value = velocity(header, f"VRAD{visit}")
    else:
        value = velocity(header, f"VHELIO{visit}")
        relative, correction = velocity(header, f"VRAD{visit}"), number(header, f"BC{visit}")
        if value is None and relative is not None and correction is not None:
            value = relative + correction
    return believed(value)


def believed(velocity: float | None) -> float | None:
    """Return a velocity, km/s, that the survey took out; None where it is none of a star."""
    return velocity if velocity is not None and abs(velocity) < _VELOCITY_LIMIT else None


def _either(row: Any, header: fits.Header, key: str) -> float | None:
    value = number(row, key)
    return number(header, key) if value is None else value


def _survey_labels(row: Any) -> dict[str, float | None]:
    """Read the survey's labels: columns of their own since DR14, before that ``PARAM`` (calibrated) and ``FPARAM`` (as fitted) alone."""
    calibrated, fitted = (_vector(row, key) for key in ("PARAM", "FPARAM"))
    found = {}
    for name, (place, key) in _LABEL_PLACES.items():
        values = (number(row, key) if key else None, calibrated.get(place), fitted.get(place))
        found[f"{name}_survey"] = next((value for value in values if value is not None), None)
    return found


def _vector(row: Any, key: str) -> dict[int, float]:
    """Numbers of a vector by their place, without marks for missing ones."""
    try:
        values = dict(enumerate(np.asarray(row[key], dtype=np.float64).ravel()[:_N_PARAM]))
    except (KeyError, ValueError, TypeError, IndexError):
        return {}
    return {place: v for place in values if (v := number(values, place)) is not None}  # type: ignore[arg-type]


def _row(hdus: fits.HDUList, hdu: int) -> Any:
    try:
        return hdus[hdu].data[0] if isinstance(hdus[hdu], fits.BinTableHDU) else {}
    except Exception:
        # Nothing depends on the labels of others alone.
        return {}


def _name(row: Any, key: str) -> str:
    try:
        return readable(str(row[key]).strip())
    except (KeyError, ValueError, IndexError, UnicodeError):
        return ""
