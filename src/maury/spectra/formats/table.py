"""Spectra in plain tables (ECSV, FITS, Parquet, VOTable) and in specutils' ``Spectrum``: columns with units, the medium stated."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from astropy import units
from astropy.io import fits
from numpy.typing import NDArray

from maury.errors import SpectrumError
from maury.files import write_ecsv, writing
from maury.spectra.air import to_vacuum
from maury.spectra.formats.columns import (
    MAX_PIXELS,
    Column,
    Measured,
    PlainTable,
    fits_columns,
    plain_meta,
    read_ecsv,
    read_parquet,
    read_votable,
    table_kind,
)
from maury.spectra.formats.fits import open_fits, reason
from maury.spectra.formats.units import known_unit, noise_scale, to_angstrom
from maury.spectra.instrument import Instrument
from maury.spectra.linespread import ChipGaussians, Gaussian, LineSpread
from maury.spectra.spectrum import PixelGrid, Spectrum
from maury.text import readable

__all__ = ["from_specutils", "read_table", "to_vacuum", "write_table"]

# Names of columns; those of ESO's data products (err, qual) are among them.
WAVELENGTH = ("wavelength", "lambda", "wave", "spectral_axis", "loglam", "log_wavelength", "wavelengths")
FLUX = ("flux",)
_IVAR = ("ivar", "flux_ivar", "inverse_variance")
_NOISE = (*_IVAR, "error", "uncertainty", "flux_error", "e_flux", "err", "err_flux", "flux_err", "sigma")
_MASK = ("mask", "pixel_flags", "qual", "and_mask", "bitmask", "pix_bitmask")
COLUMNS = frozenset((*WAVELENGTH, *FLUX, *_NOISE, *_MASK))
MEDIUM = ("medium", "air_or_vac", "airorvac", "vacuum")
FRAME = ("frame", "specsys")
NAME = ("id", "object", "objid", "objname")
RESOLUTION = ("resolution", "resoluti", "spec_res")
V_CORRECTION = ("v_correction", "v_correc")
_FRAMES = {
    "observatory": ("observatory", "observer", "topocent", "topocentric"),
    "barycentric": ("barycentric", "barycent", "barycenter", "barycentre", "heliocen", "heliocentric"),
    "rest": ("rest", "source"),
}
_NOTHING = ("", "none", "null", "nan", "--", "unknown", "n/a")
_READERS: dict[str, Callable[[Path, Callable[[str], bool]], PlainTable]] = {
    "ecsv": read_ecsv,
    "parquet": read_parquet,
    "votable": read_votable,
}
# Columns, and letters, that a message repeats.
_TOLD = 40
# A step this many times the median one parts two chips.
_GAP = 20.0
# Rows that are spectra of their own.
_MAX_SPECTRA = 2000
# Of the shorter of two tables: those that share more of their wavelengths are two spectra, not two orders of one.
_SHARED = 0.5


def is_table_file(path: str | os.PathLike[str]) -> bool:
    """Tell from its first bytes whether a file is an ECSV, Parquet or VOTable table."""
    try:
        return table_kind(Path(path)) is not None
    except (OSError, ValueError):
        return False


def is_fits_table(hdus: fits.HDUList) -> bool:
    """Tell whether an open FITS file has a table with columns of wavelength and flux."""
    return bool(_fits_tables(hdus))


def _fits_tables(hdus: fits.HDUList) -> list[int]:
    """Numbers of the HDUs that hold spectra: tables of wavelength and flux, those without errors only if none has some."""
    found: dict[bool, list[int]] = {True: [], False: []}
    for number, hdu in enumerate(hdus):
        if isinstance(hdu, fits.BinTableHDU):
            names = {str(name).lower() for name in hdu.columns.names}
            if names & set(WAVELENGTH) and names & set(FLUX):
                found[bool(names & set(_NOISE))].append(number)
    return found[True] or found[False]


def fits_table(
    hdus: fits.HDUList, path: Path, reject: int | None, instrument: Instrument | None = None
) -> Iterator[Spectrum]:
    """Yield the spectra of a FITS file's tables.

    Tables that share no wavelengths, and say the same of star and frame, are chips of one spectrum; others are spectra of their own. A row
    whose cells are arrays is a spectrum.

    Raises
    ------
    SpectrumError
        As `read_table` does, and if tables share some of their wavelengths, as the orders of an echelle do.
    """
    group: list[tuple[int, Spectrum]] = []
    index = 0
    for number in _fits_tables(hdus):
        where = f"{path} HDU {number}"
        table = fits_columns(hdus, number, _wanted, where)
        for one in _rows(table):
            part = from_columns(one, where, path, instrument=instrument, reject=reject)
            if group and not _belongs(part, group, where):
                yield replace(_joined(group), index=index)
                group, index = [], index + 1
            group.append((number, part))
    if group:
        yield replace(_joined(group), index=index)


def _rows(table: PlainTable) -> Iterator[PlainTable]:
    """Yield a table of one row a pixel as it is; of one whose cells are arrays, each row."""
    if not any(column.values.ndim > 1 for column in table.columns.values()):
        yield table
        return
    number = min(len(column.values) for column in table.columns.values())
    for row in range(min(number, _MAX_SPECTRA)):
        cells = {name: column._replace(values=column.values[row].ravel()) for name, column in table.columns.items()
                 if column.values.ndim > 1}  # fmt: skip
        yield replace(table, columns=cells)


def _belongs(part: Spectrum, group: list[tuple[int, Spectrum]], where: str) -> bool:
    """Tell whether a table's pixels belong to the spectrum that the tables before it began."""
    first = group[0][1]
    if (part.id, part.frame, part.v_correction) != (first.id, first.frame, first.v_correction):
        return False
    low, high = part.grid.wavelength[[0, -1]]
    for number, other in group:
        start, stop = other.grid.wavelength[[0, -1]]
        shared = min(high, stop) - max(low, start)
        if shared >= _SHARED * min(high - low, stop - start):
            return False
        if shared >= 0:
            raise SpectrumError(
                f"{where}: shares {shared:.1f} Angstrom with HDU {number}: merge the orders of a spectrum, or cut them where they meet"
            )
    return True


def _joined(group: list[tuple[int, Spectrum]]) -> Spectrum:
    parts = sorted((part for _, part in group), key=lambda part: part.grid.wavelength[0])
    if len(parts) == 1:
        return parts[0]
    starts = np.cumsum([0, *(part.grid.n_pixels for part in parts)])
    chips = tuple(
        (int(first) + a, int(first) + b)
        for first, part in zip(starts, parts, strict=False)
        for a, b in part.grid.chips
    )
    grid = PixelGrid(np.concatenate([part.grid.wavelength for part in parts]), chips)
    flux, ivar = (np.concatenate([getattr(part, name) for part in parts]) for name in ("flux", "ivar"))
    powers = [
        part.lsf.resolution if isinstance(part.lsf, Gaussian) else None
        for part in parts
        for _ in part.grid.chips
    ]
    known = [power for power in powers if power is not None]
    lsf: LineSpread | None = ChipGaussians.simplest(known) if len(known) == len(powers) else None
    return replace(parts[0], grid=grid, flux=flux, ivar=ivar, lsf=lsf)


def read_table(
    path: str | os.PathLike[str],
    *,
    medium: str | None = None,
    instrument: Instrument | None = None,
    reject: int | None = None,
) -> Spectrum:
    """Read a spectrum from a table in ECSV, Parquet, FITS (the first there) or VOTable.

    Parameters
    ----------
    path
        One row a pixel: ``wavelength`` and ``flux`` with units, one of ``ivar``, ``error`` or ``uncertainty``, and optionally
        ``mask`` (true or not 0 where a pixel is bad). Metadata: ``medium`` (air or vacuum), ``frame`` (observatory, barycentric or
        rest; observatory if absent), ``resolution`` (the resolving power), ``v_correction`` (km/s), ``id``.
    medium
        What the wavelengths are of, where the file does not say.
    instrument
        Whose table it is: tells medium, frame and unit where the file does not, and which bits of the mask reject a pixel.
    reject
        These bits in place of the instrument's.

    Raises
    ------
    SpectrumError
        If the file cannot be read, a column or the medium is missing, or wavelengths repeat or have no unit.
    """
    path = Path(path)
    kind = table_kind(path)
    if kind is None:
        with open_fits(path) as hdus:
            numbers = _fits_tables(hdus)
            if not numbers:
                raise SpectrumError(f"{path}: has no table with columns of wavelength and flux")
            where = f"{path} HDU {numbers[0]}"
            table = next(_rows(fits_columns(hdus, numbers[0], _wanted, where)))
            return from_columns(table, where, path, medium, instrument, reject)
    try:
        table = _READERS[kind](path, _wanted)
    except SpectrumError:
        raise
    except Exception as error:
        raise SpectrumError(f"{path}: cannot be read as a table ({reason(error)})") from error
    return from_columns(table, str(path), path, medium, instrument, reject)


def _wanted(name: str) -> bool:
    return name in COLUMNS


def from_columns(
    table: PlainTable,
    where: str,
    path: Path | str = "",
    medium: str | None = None,
    instrument: Instrument | None = None,
    reject: int | None = None,
) -> Spectrum:
    """Turn columns, one row a pixel, into a spectrum; see `read_table`."""
    usual = {} if instrument is None else {"frame": instrument.frame}
    meta = usual | {key: value for key, value in table.meta.items() if not _is_nothing(value)}
    columns = table.columns
    found = {
        kind: next((name for name in names if name in columns), None)
        for kind, names in (("wavelength", WAVELENGTH), ("flux", FLUX), ("noise", _NOISE), ("mask", _MASK))
    }
    for kind, names in (
        ("wavelength", WAVELENGTH[:1]),
        ("flux", FLUX),
        ("noise", ("ivar", "error", "uncertainty")),
    ):
        if found[kind] is None:
            has = readable(", ".join(table.names[:_TOLD])) or "none"
            raise SpectrumError(f"{where}: needs a column {' or '.join(names)}; it has {has}")
    axis = columns[found["wavelength"] or ""]
    unit = axis.unit
    if unit is None and instrument is not None:
        unit = instrument.unit
    name = found["wavelength"] or ""
    wavelength = to_angstrom(_numbers(axis, name, where), unit, name, where)
    medium = medium or _medium(meta, axis.ucd)
    if medium is None and instrument is not None:
        medium = instrument.medium
    wavelength = _in_vacuum(wavelength, medium, where)
    flux_column, noise_column = columns[found["flux"] or ""], columns[found["noise"] or ""]
    flux = _numbers(flux_column, "flux", where)
    kept = {} if (flux_unit := known_unit(flux_column.unit)) is None else {"flux_unit": str(flux_unit)}
    kind = "ivar" if found["noise"] in _IVAR else "std"
    noise = _numbers(noise_column, found["noise"] or "", where)
    with np.errstate(over="ignore", under="ignore"):
        noise = noise * noise_scale(noise_column.unit, flux_column.unit, kind, where)
    mask = np.zeros(len(flux), bool)
    if found["mask"] is not None:
        bits = instrument.mask.value if instrument is not None and reject is None else reject
        column = columns[found["mask"]]
        # A mask of yes and no has no bits.
        bits = -1 if bits is None or column.values.dtype.kind == "b" else bits
        mask = _rejected(_numbers(column, found["mask"], where), bits)
    return _spectrum(wavelength, flux, noise, kind == "ivar", mask, meta, kept, where, str(path))


def _is_nothing(value: Any) -> bool:
    return (isinstance(value, str) and value.strip().lower() in _NOTHING) or (
        isinstance(value, float | np.floating) and math.isnan(value)
    )


def _medium(meta: Mapping[str, Any], ucd: str = "") -> str | None:
    """Return the word for the medium: of the metadata, or of the wavelengths' UCD, in which ESO says it."""
    for key in MEDIUM:
        if key in meta:
            value = str(meta[key]).strip().lower()
            if key == "vacuum" and value in ("true", "t", "yes", "1", "1.0"):
                return "vacuum"
            if key == "vacuum" and value in ("false", "f", "no", "0", "0.0"):
                return "air"
            return str(meta[key])
    return "air" if "obs.atmos" in ucd.lower() else None


def from_specutils(spectrum: Any, *, medium: str | None = None) -> Spectrum:
    """Turn a specutils ``Spectrum`` into one of ours.

    Parameters
    ----------
    spectrum
        With an uncertainty; its ``meta`` may state ``medium``, ``frame``, ``resolution``, ``v_correction`` and ``id``.
    medium
        ``"air"`` or ``"vacuum"``, where the metadata do not say.

    Raises
    ------
    SpectrumError
        If it has no uncertainty or the medium is not stated.
    """
    where = "specutils Spectrum"
    meta = {key: value for key, value in plain_meta(spectrum.meta).items() if not _is_nothing(value)}
    axis = spectrum.spectral_axis
    wavelength = to_angstrom(np.asarray(axis.value, np.float64), axis.unit, "spectral_axis", where)
    wavelength = _in_vacuum(wavelength, medium or _medium(meta), where)
    if spectrum.uncertainty is None:
        raise SpectrumError(f"{where}: has no uncertainty; a likelihood needs one")
    kind = str(spectrum.uncertainty.uncertainty_type)
    if kind not in ("std", "var", "ivar"):
        raise SpectrumError(f"{where}: uncertainty of type {kind!r}; std, var or ivar are known")
    flux = np.asarray(spectrum.flux.value, np.float64)
    if flux.ndim != 1:
        raise SpectrumError(f"{where}: flux of the shape {flux.shape}; give one spectrum at a time")
    unit = units.Unit(spectrum.flux.unit)
    scale = noise_scale(getattr(spectrum.uncertainty, "unit", None), unit, kind, where)
    noise = scale * np.asarray(spectrum.uncertainty.array, np.float64)
    with np.errstate(invalid="ignore"):
        noise = np.sqrt(noise) if kind == "var" else noise
    mask = np.zeros(len(noise), bool) if spectrum.mask is None else np.asarray(spectrum.mask, bool)
    return _spectrum(wavelength, flux, noise, kind == "ivar", mask, meta, {"flux_unit": str(unit)}, where, "")


def _numbers(column: Column, name: str, where: str) -> NDArray[np.float64]:
    """Return a column as numbers, ``nan`` where masked."""
    if column.values.dtype.kind not in "iufb":
        raise SpectrumError(f"{where}: column {name!r} does not hold numbers")
    values = column.values.astype(np.float64)
    if values.ndim != 1 or not 2 <= values.size <= MAX_PIXELS:
        raise SpectrumError(
            f"{where}: column {name!r} has the shape {values.shape}; one number a pixel is wanted"
        )
    return np.asarray(values)


def _rejected(mask: NDArray[np.float64], bits: int) -> NDArray[np.bool_]:
    """Tell which pixels are rejected: those with any of the bits, and those of which the mask tells nothing."""
    known = np.isfinite(mask)
    return ~known | (np.where(known, mask, 0).astype(np.int64) & bits != 0) | ((bits == -1) & (mask != 0))


def _in_vacuum(wavelength: NDArray[np.float64], medium: str | None, where: str) -> NDArray[np.float64]:
    word = (medium or "").strip().lower()
    if word in ("vacuum", "vac"):
        return wavelength
    if word == "air":
        return to_vacuum(wavelength)
    raise SpectrumError(
        f"{where}: does not say whether its wavelengths are of air or vacuum (80 km/s apart): set its metadata 'medium' to one"
        if not word
        else f"{where}: medium {readable(word)[:_TOLD]!r} is neither 'air' nor 'vacuum'"
    )


def _spectrum(
    wavelength: NDArray[np.float64],
    flux: NDArray[np.float64],
    noise: NDArray[np.float64],
    is_ivar: bool,
    mask: NDArray[np.bool_],
    meta: Mapping[str, Any],
    kept: dict[str, Any],
    where: str,
    path: str,
) -> Spectrum:
    if not len(wavelength) == len(flux) == len(noise) == len(mask):
        raise SpectrumError(f"{where}: wavelength, flux, noise and mask have different lengths")
    order = np.argsort(wavelength, kind="stable")
    wavelength, flux, noise, mask = wavelength[order], flux[order], noise[order], mask[order]
    step = np.diff(wavelength)
    if np.any(step <= 0):
        raise SpectrumError(
            f"{where}: wavelength {wavelength[:-1][step <= 0][0]:.5f} Angstrom occurs twice: merge or drop such rows"
        )
    with np.errstate(all="ignore"):
        ivar = noise if is_ivar else 1 / np.square(noise)
    good = ~mask & np.isfinite(flux) & np.isfinite(noise) & (noise > 0)
    lost = good & ~(np.isfinite(ivar) & (ivar > 0))
    # A few such errors mark bad pixels.
    if np.count_nonzero(lost) > 0.5 * np.count_nonzero(good):
        raise SpectrumError(
            f"{where}: errors such as {noise[lost][0]:.3g} leave what can be computed with: give flux and errors in another unit"
        )
    good &= ~lost
    edges = [0, *(np.flatnonzero(step > _GAP * np.median(step)) + 1), len(wavelength)]
    chips = tuple((int(a), int(b)) for a, b in pairwise(edges))
    stated = next((str(meta[key]) for key in FRAME if key in meta), "observatory").strip().lower()
    frame = next((name for name, words in _FRAMES.items() if stated in words), None)
    if frame is None:
        raise SpectrumError(f"{where}: frame {readable(stated)!r} is none of {', '.join(_FRAMES)}")
    resolution = _number(meta, RESOLUTION, "", where)
    v_correction = _number(meta, V_CORRECTION, "km/s", where)
    try:
        return Spectrum(
            PixelGrid(wavelength, chips),
            flux,
            np.where(good, ivar, 0.0),
            id=next((str(meta[key]) for key in NAME if key in meta), "") or Path(path).stem,
            frame=frame,
            v_correction=v_correction,
            lsf=None if resolution is None else Gaussian(resolution),
            path=path,
            meta=kept,
        )
    except SpectrumError as error:
        raise SpectrumError(f"{where}: {error}") from None


def _number(meta: Mapping[str, Any], keys: tuple[str, ...], unit: str, where: str) -> float | None:
    """Return a number of the metadata, in ``unit`` where it has one of its own; None where absent or no number (``nan``)."""
    key = next((key for key in keys if key in meta), None)
    if key is None:
        return None
    value = meta[key]
    try:
        if isinstance(value, Measured):
            known = known_unit(value.unit)
            value = float(value.value) * (1.0 if known is None else float(known.to(unit)))
        value = float(value)
    except (TypeError, ValueError):
        raise SpectrumError(
            f"{where}: metadata {key!r} is no number: {readable(str(meta[key]))[:_TOLD]!r}"
        ) from None
    return None if math.isnan(value) else value


def write_table(path: str | os.PathLike[str], spectrum: Spectrum) -> None:
    """Write a spectrum as ECSV, FITS or Parquet, by the ending of the name; `read_table` reads it again.

    Raises
    ------
    SpectrumError
        If the ending is another or the file cannot be written.
    """
    from astropy.table import Table

    path = Path(path)
    formats = {".ecsv": "ascii.ecsv", ".fits": "fits", ".parquet": "parquet"}
    if path.suffix not in formats:
        raise SpectrumError(f"{path}: ends with none of {', '.join(formats)}")
    unit = units.Unit(spectrum.meta.get("flux_unit", ""))
    table = Table(
        {
            "wavelength": spectrum.grid.wavelength * units.AA,
            "flux": spectrum.flux * unit,
            "ivar": spectrum.ivar * unit**-2,
            "mask": (~spectrum.good).astype(np.int16),
        }
    )
    table.meta = {"medium": "vacuum", "frame": spectrum.frame, "id": spectrum.id}
    if spectrum.v_correction is not None:
        # Eight letters, as FITS has them.
        table.meta["v_correc"] = spectrum.v_correction
    if isinstance(spectrum.lsf, Gaussian):
        table.meta["resoluti"] = spectrum.lsf.resolution
    try:
        if path.suffix == ".ecsv":
            write_ecsv(path, table)
        else:
            with writing(path) as temporary:
                table.write(temporary, format=formats[path.suffix])
    except (OSError, ImportError, ValueError) as error:
        raise SpectrumError(f"{path}: cannot be written ({reason(error)})") from None
