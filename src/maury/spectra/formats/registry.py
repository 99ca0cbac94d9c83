"""Read spectra from a file of any known format."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from astropy.io import fits

from maury.errors import Failure, ReaderError, SpectrumError, failure_of
from maury.files import split_rows
from maury.spectra.formats.apogee import apvisit_from_hdus, is_apvisit
from maury.spectra.formats.apstar import is_apstar, is_aspcapstar, read_apstar, read_aspcapstar
from maury.spectra.formats.bits import DEFAULT_REJECT
from maury.spectra.formats.fits import open_fits
from maury.spectra.formats.igrins import is_igrins, read_igrins
from maury.spectra.formats.mwm import is_mwm, read_mwm
from maury.spectra.formats.nested import is_nested, read_nested
from maury.spectra.formats.sdss import is_sdss_spec, read_sdss_spec
from maury.spectra.formats.table import fits_table, is_fits_table, is_table_file, read_table
from maury.spectra.instrument import Instrument
from maury.spectra.spectrum import Spectrum


@dataclass(frozen=True)
class Format:
    """A FITS format.

    Parameters
    ----------
    name
        As messages call it.
    sniff
        Tells from an open file whether it is meant to be of this format.
    read
        Yields its spectra: open file, its path for messages, mask bits that take a pixel out of use.
    reject
        Those bits, unless the caller chooses others.
    """

    name: str
    sniff: Callable[[fits.HDUList], bool]
    read: Callable[[fits.HDUList, Path, int], Iterator[Spectrum]]
    reject: int = DEFAULT_REJECT


def _apvisit(hdus: fits.HDUList, path: Path, reject: int) -> Iterator[Spectrum]:
    yield apvisit_from_hdus(hdus, path, reject)


FORMATS = (
    Format("apStar", is_apstar, read_apstar),
    Format("mwmVisit or mwmStar", is_mwm, read_mwm),
    Format("apVisit", is_apvisit, _apvisit),
    Format("aspcapStar", is_aspcapstar, read_aspcapstar),
    # Its bits mean something else; inverse variances of 0 say which pixels are bad.
    Format("SDSS spec", is_sdss_spec, read_sdss_spec, reject=0),
    # Its mask is of yes and no.
    Format("IGRINS", is_igrins, read_igrins, reject=0),
    Format("table", is_fits_table, fits_table),
)


def read_spectra(
    path: str | os.PathLike[str], *, reject: int | None = None, instrument: Instrument | None = None
) -> Iterator[Spectrum]:
    """Yield every spectrum of a file, one at a time.

    Parameters
    ----------
    path
        A FITS file, also compressed by gzip or bzip2, or a table in ECSV, Parquet or VOTable (docs/formats.md). ``FILE[20:30]``
        stands for some of its spectra, counted from 0.
    reject
        Bits of the file's pixel mask that take a pixel out of use (`maury.spectra.formats.bits`); None for the
        format's usual ones, 0 for none.
    instrument
        Whose tables are read: it tells what a table leaves open, and which bits of its mask reject a pixel.

    Yields
    ------
    Spectrum
        Possibly without a single usable pixel: that is for the caller to flag.

    Raises
    ------
    SpectrumError
        If the file is missing, damaged or of no known format; the message names the file and, where it can,
        the HDU. Spectra before the damage have been yielded by then.

    Examples
    --------
    >>> for spectrum in read_spectra("mwmVisit-0.6.0-27.fits"):  # doctest: +SKIP
    ...     print(spectrum.id, spectrum.snr)
    """
    for item in read_each(path, reject=reject, instrument=instrument):
        yield spectrum_of(item)


def spectrum_of(item: Spectrum | Failure) -> Spectrum:
    """Return a spectrum, or raise what was wrong with it as a `SpectrumError`."""
    if isinstance(item, Failure):
        raise SpectrumError(item.reason)
    return item


def read_each(
    path: str | os.PathLike[str], *, reject: int | None = None, instrument: Instrument | None = None
) -> Iterator[Spectrum | Failure]:
    """Do as `read_spectra`, but go on after a row of a catalogue that holds no spectrum, with a failure in its place.

    Parameters
    ----------
    path, reject, instrument
        As there.

    Raises
    ------
    SpectrumError
        If the rest of the file cannot be read.
    """
    path, rows = split_rows(path)
    if is_nested(path):
        yield from read_nested(path, rows, reject=reject, instrument=instrument)
    else:
        spectra = _spectra_of_file(path, reject, instrument)
        yield from spectra if rows is None else islice(spectra, rows.start, rows.stop)


def _spectra_of_file(path: Path, reject: int | None, instrument: Instrument | None) -> Iterator[Spectrum]:
    if is_table_file(path):
        yield read_table(path, instrument=instrument, reject=reject)
        return
    with open_fits(path) as hdus:
        for form in FORMATS:
            if form.sniff(hdus):
                if form.read is fits_table:
                    yield from fits_table(hdus, Path(path), reject, instrument)
                    return
                yield from form.read(hdus, Path(path), form.reject if reject is None else reject)
                return
        known = ", ".join(form.name for form in FORMATS)
        raise SpectrumError(
            f"{path}: a FITS file of another kind ({_describe(hdus)}); known are {known}. "
            "A table (FITS, ECSV, Parquet or VOTable) needs columns wavelength and flux, and error or ivar"
        )


def read_spectrum(
    path: str | os.PathLike[str],
    index: int = 0,
    *,
    reject: int | None = None,
    instrument: Instrument | None = None,
) -> Spectrum:
    """Read one spectrum, by default the first, of a file of any known format.

    Parameters
    ----------
    path, reject, instrument
        As for `read_spectra`.
    index
        Its place in the file, from 0.

    Raises
    ------
    SpectrumError
        As `read_spectra` does, and if the file holds fewer spectra.

    Examples
    --------
    >>> spectrum = read_spectrum("apVisit-r13-9518-57729-104.fits")  # doctest: +SKIP
    """
    if index < 0:
        raise SpectrumError(f"{path}: spectra count from 0, not from {index}")
    spectra = read_spectra(path, reject=reject, instrument=instrument)
    try:
        for spectrum in islice(spectra, index, None):
            return spectrum
    finally:
        spectra.close()  # type: ignore[attr-defined]
    raise SpectrumError(f"{path}: has no spectrum {index}: it holds fewer")


def read_all(
    files: Iterable[str | os.PathLike[str]],
    instrument: Instrument | None = None,
    read: Callable[[Path], Iterator[Spectrum | Failure]] | None = None,
) -> Iterator[Spectrum | Failure]:
    """Yield every spectrum of some files, in order; a failure in place of those that could not be read.

    Tables are read as those of ``instrument``, if it is given. ``read`` takes the place of `read_each`; see
    `maury.spectra.formats.isolated`.
    """
    for name in map(Path, files):
        spectra = read(name) if read else read_each(name, instrument=instrument)
        file, rows = split_rows(name)
        index = 0 if rows is None else rows.start
        while True:
            # After a failed read the rest of the file is lost.
            try:
                item = next(spectra)
            except StopIteration:
                break
            except ReaderError:
                raise
            except Exception as error:
                yield failure_of(file, index, error)
                break
            yield item
            index += 1


def _describe(hdus: fits.HDUList) -> str:
    parts = [
        f"{number}: {type(hdu).__name__} {getattr(hdu, 'shape', '')}" for number, hdu in enumerate(hdus[:5])
    ]
    return "; ".join(part.strip() for part in parts) + (f"; {len(hdus)} HDUs" if len(hdus) > 5 else "")
