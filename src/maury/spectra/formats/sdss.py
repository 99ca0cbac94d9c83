"""SDSS's optical spectra, ``spec-PLATE-MJD-FIBER.fits`` (SDSS, SEGUE, BOSS, SDSS-V): the coadded spectrum of HDU 1.

Their data model: https://data.sdss.org/datamodel/files/BOSS_SPECTRO_REDUX/RUN2D/spectra/PLATE4/spec.html
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits
from numpy.typing import NDArray

from maury.errors import SpectrumError
from maury.spectra.formats.cards import FLUX_UNIT, SNR_LIMIT, number, text
from maury.spectra.formats.fits import reason
from maury.spectra.linespread import FWHM, Gaussian
from maury.spectra.spectrum import PixelGrid, Spectrum

__all__ = ["is_sdss_spec", "read_sdss_spec"]

_COADD = 1
_COLUMNS = ("flux", "loglam", "ivar")
# What no other table of a spectrum has beside them.
_OWN = {"and_mask", "wdisp"}
_MAX_PIXELS = 100_000


def is_sdss_spec(hdus: fits.HDUList) -> bool:
    """Tell whether an open FITS file is meant to be a ``spec-*.fits``."""
    if len(hdus) <= _COADD or not isinstance(hdus[_COADD], fits.BinTableHDU):
        return False
    names = {str(name).lower() for name in hdus[_COADD].columns.names}
    return names.issuperset(_COLUMNS) and bool(names & _OWN)


def read_sdss_spec(hdus: fits.HDUList, path: Path, reject: int) -> Iterator[Spectrum]:
    """Yield the coadded spectrum; its wavelengths are of vacuum and at the Sun's centre.

    The line-spread function is a Gaussian of the median resolving power that the column ``wdisp`` tells.

    Parameters
    ----------
    hdus, path
        The open file and its path.
    reject
        Bits of ``and_mask`` that take a pixel out of use.

    Raises
    ------
    SpectrumError
        If a column cannot be read or holds no wavelengths.
    """
    where = f"{path} HDU {_COADD}"
    loglam, flux, ivar = (_column(hdus, name, where) for name in ("loglam", "flux", "ivar"))
    if not (np.isfinite(loglam).all() and (np.diff(loglam) > 0).all() and 3 < loglam[0] < loglam[-1] < 5):
        raise SpectrumError(f"{where}: column 'loglam' is no rising log10 of wavelengths in Angstrom")
    names = {str(name).lower() for name in hdus[_COADD].columns.names}
    mask = np.zeros(len(flux), dtype=np.int64)
    if "and_mask" in names:
        values = _column(hdus, "and_mask", where)
        mask = np.where(np.isfinite(values) & (np.abs(values) < 2.0**62), values, 0.0).astype(np.int64)
    good = np.isfinite(flux) & np.isfinite(ivar) & (ivar > 0) & ((mask & reject) == 0)
    with np.errstate(all="ignore"):
        good &= np.abs(flux) * np.sqrt(np.abs(ivar)) < SNR_LIMIT
    primary = hdus[0].header
    meta: dict[str, Any] = {
        "ra": number(primary, "PLUG_RA"), "dec": number(primary, "PLUG_DEC"), "mjd": number(primary, "MJD"),
        "plate": number(primary, "PLATEID"), "fiber": number(primary, "FIBERID"), "telescope": text(primary, "TELESCOP") or None,
        "flux_unit": FLUX_UNIT, "combined": True,
    }  # fmt: skip
    yield Spectrum(
        PixelGrid(np.power(10.0, loglam), ((0, len(loglam)),)),
        flux,
        np.where(good, ivar, 0.0),
        id=path.name.split(".fit")[0],
        frame="barycentric",
        bitmask=mask,
        lsf=_lsf(_column(hdus, "wdisp", where), loglam, good) if "wdisp" in names else None,
        path=str(path),
        meta={key: value for key, value in meta.items() if value is not None},
    )


def _column(hdus: fits.HDUList, name: str, where: str) -> NDArray[np.float64]:
    try:
        values = np.asarray(hdus[_COADD].data[name], dtype=np.float64)
    except Exception as error:
        raise SpectrumError(
            f"{where}: column {name!r} cannot be read as numbers ({reason(error)})"
        ) from error
    if values.ndim != 1 or not 2 <= values.size <= _MAX_PIXELS:
        raise SpectrumError(f"{where}: column {name!r} has the shape {values.shape}, not one value per pixel")
    return values


def _lsf(wdisp: NDArray[np.float64], loglam: NDArray[np.float64], good: NDArray[np.bool_]) -> Gaussian | None:
    """Gaussian of the median dispersion; ``wdisp`` is its standard deviation in pixels, what the pixel adds included."""
    known = good & np.isfinite(wdisp) & (wdisp > 0)
    if not known.any():
        return None
    sigma = np.median(wdisp[known]) * np.median(np.diff(loglam)) * np.log(10)
    resolution = 1 / (FWHM * sigma)
    return Gaussian(float(resolution), integrate=False) if 10 <= resolution <= 1e6 else None
