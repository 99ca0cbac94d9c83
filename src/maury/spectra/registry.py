"""Read a spectrum from a file of any known format."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from astropy.io import fits

from maury.errors import SpectrumError
from maury.spectra.apogee import apvisit_from_hdus, is_apvisit
from maury.spectra.bits import DEFAULT_REJECT
from maury.spectra.files import open_fits
from maury.spectra.spectrum import Spectrum


@dataclass(frozen=True)
class Format:
    """A file format.

    Parameters
    ----------
    name
        As messages call it.
    sniff
        Tells from an open file whether it is meant to be of this format.
    read
        Reads it: open file, its path for messages, mask bits that take a pixel out of use.
    reject
        Those bits, unless the caller chooses others.
    """

    name: str
    sniff: Callable[[fits.HDUList], bool]
    read: Callable[[fits.HDUList, Path, int], Spectrum]
    reject: int


FORMATS = (Format("apVisit", is_apvisit, apvisit_from_hdus, DEFAULT_REJECT),)


def read_spectrum(path: str | os.PathLike[str], *, reject: int | None = None) -> Spectrum:
    """Read a spectrum, whatever its format.

    Parameters
    ----------
    path
        A FITS file, also compressed by gzip or bzip2.
    reject
        Bits of the file's pixel mask that take a pixel out of use (`maury.spectra.bits`); None for the
        format's usual ones, 0 for none.

    Returns
    -------
    Spectrum
        Possibly without a single usable pixel: that is for the caller to flag.

    Raises
    ------
    SpectrumError
        If the file is missing, damaged or of no known format; the message names the file and, where it can,
        the HDU.

    Examples
    --------
    >>> spectrum = read_spectrum("apVisit-r13-9518-57729-104.fits")  # doctest: +SKIP
    """
    with open_fits(path) as hdus:
        for form in FORMATS:
            if form.sniff(hdus):
                return form.read(hdus, Path(path), form.reject if reject is None else reject)
        known = ", ".join(form.name for form in FORMATS)
        raise SpectrumError(f"{path}: a FITS file of another kind ({_describe(hdus)}); supported: {known}")


def _describe(hdus: fits.HDUList) -> str:
    header = hdus[0].header
    first = hdus[1].header if len(hdus) > 1 else {}
    if "NVISITS" in header and "LOG" in f"{header.get('CTYPE1', '')}{first.get('CTYPE1', '')}".upper():
        return "an APOGEE apStar"
    if "SDSS_ID" in header or "V_ASTRA" in header:
        return "an SDSS-V mwmStar, mwmVisit or astraStar"
    if len(hdus) > 3 and first.get("NAXIS") == 1 and "CRVAL1" in first:
        return "an aspcapStar or other one-dimensional spectrum"
    parts = [
        f"{number}: {type(hdu).__name__} {getattr(hdu, 'shape', '')}" for number, hdu in enumerate(hdus[:5])
    ]
    return "; ".join(part.strip() for part in parts) + (f"; {len(hdus)} HDUs" if len(hdus) > 5 else "")
