"""Spectra in plain tables (ECSV, FITS, Parquet) and in specutils' ``Spectrum``: columns with units, the medium stated."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Mapping, Sequence, Set
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from astropy import units
from astropy.io import fits
from numpy.typing import NDArray

from maury.errors import SpectrumError
from maury.files import writing
from maury.spectra.air import to_vacuum
from maury.spectra.formats.fits import reason
from maury.spectra.instrument import Instrument
from maury.spectra.linespread import Gaussian
from maury.spectra.spectrum import PixelGrid, Spectrum

__all__ = ["from_specutils", "read_table", "to_vacuum", "write_table"]

_WAVELENGTH = ("wavelength", "lambda", "wave", "spectral_axis", "loglam")
_FLUX = ("flux",)
_NOISE = ("ivar", "error", "uncertainty", "flux_error", "e_flux", "sigma")
_MASK = ("mask", "pixel_flags")
_MEDIUM = ("medium", "air_or_vac", "airorvac", "vacuum")
_FRAMES = ("observatory", "barycentric", "rest")
_MAX_PIXELS = 1_000_000
_MAX_COLUMNS = 1000
# A step this many times the median one parts two chips.
_GAP = 20.0


def is_table_file(path: str | os.PathLike[str]) -> bool:
    """Tell from its first bytes whether a file is an ECSV or Parquet table."""
    try:
        # A pipe would wait for ever.
        if not Path(path).is_file():
            return False
        with Path(path).open("rb") as stream:
            head = stream.read(16)
    except (OSError, ValueError):
        return False
    return head.startswith((b"# %ECSV", b"PAR1"))


def is_fits_table(hdus: fits.HDUList) -> bool:
    """Tell whether an open FITS file has a table with columns of wavelength and flux."""
    return _fits_hdu(hdus) is not None


def _fits_hdu(hdus: fits.HDUList) -> int | None:
    for number, hdu in enumerate(hdus[:8]):
        if isinstance(hdu, fits.BinTableHDU):
            names = {str(name).lower() for name in hdu.columns.names}
            if names & set(_WAVELENGTH) and names & set(_FLUX):
                return number
    return None


def fits_table(
    hdus: fits.HDUList, path: Path, reject: int | None, instrument: Instrument | None = None
) -> Iterator[Spectrum]:
    """Yield the spectrum of a FITS table, as `read_table` does."""
    from astropy.table import Table

    number = _fits_hdu(hdus)
    table = Table.read(hdus, hdu=number)
    table.meta = {**{k: v for k, v in hdus[0].header.items() if k}, **table.meta}
    yield from_table(table, f"{path} HDU {number}", path, instrument=instrument, reject=reject)


def read_table(
    path: str | os.PathLike[str],
    *,
    medium: str | None = None,
    instrument: Instrument | None = None,
    reject: int | None = None,
) -> Spectrum:
    """Read a spectrum from a table in ECSV, Parquet or FITS.

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
    from astropy.table import Table

    try:
        with path.open("rb") as stream:
            head = stream.read(16)
        kind = (
            "parquet" if head.startswith(b"PAR1") else "fits" if head.startswith(b"SIMPLE") else "ascii.ecsv"
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            table = _read_parquet(path) if kind == "parquet" else Table.read(path, format=kind)
    except SpectrumError:
        raise
    except FileNotFoundError:
        raise SpectrumError(f"{path}: no such file") from None
    except Exception as error:
        raise SpectrumError(f"{path}: cannot be read as a table ({reason(error)})") from error
    return from_table(table, str(path), path, medium, instrument, reject)


def _read_parquet(path: Path) -> Any:
    from astropy.table import Table

    try:
        import pyarrow.parquet as parquet
    except ImportError:
        raise SpectrumError(
            f"{path}: a Parquet table needs the package pyarrow: pip install pyarrow"
        ) from None
    # A few kilobytes can hold the same row a thousand million times: look before it is unpacked.
    known = parquet.read_metadata(path)
    if known.num_rows > _MAX_PIXELS or known.num_columns > _MAX_COLUMNS:
        raise SpectrumError(
            f"{path}: has {known.num_rows} rows and {known.num_columns} columns; "
            f"a spectrum has one row a pixel, {_MAX_PIXELS} at most"
        )
    return Table.read(path, format="parquet")


def from_table(
    table: Any,
    where: str,
    path: Path | str = "",
    medium: str | None = None,
    instrument: Instrument | None = None,
    reject: int | None = None,
) -> Spectrum:
    """Turn an astropy table, one row a pixel, into a spectrum; see `read_table`."""
    usual = {} if instrument is None else {"frame": instrument.frame}
    meta = usual | _plain(table.meta)
    columns = {str(name).lower(): table[name] for name in table.colnames}
    found = {
        kind: next((name for name in names if name in columns), None)
        for kind, names in (("wavelength", _WAVELENGTH), ("flux", _FLUX), ("noise", _NOISE), ("mask", _MASK))
    }
    for kind, names in (("wavelength", _WAVELENGTH[:1]), ("flux", _FLUX), ("noise", _NOISE[:3])):
        if found[kind] is None:
            raise SpectrumError(
                f"{where}: needs a column {' or '.join(names)}; it has {', '.join(columns) or 'none'}"
            )
    axis = columns[found["wavelength"] or ""]
    unit = units.Unit(axis.unit) if axis.unit is not None else None
    if unit is None and instrument is not None:
        unit = units.Unit(instrument.unit)
    if unit is None:
        raise SpectrumError(
            f"{where}: column {found['wavelength']!r} has no unit: state it, e.g. Angstrom, nm or micron"
        )
    wavelength, bad = _angstrom(_numbers(axis, where), unit, where)
    medium = medium or next((str(meta[key]) for key in _MEDIUM if key in meta), None)
    if medium is None and instrument is not None:
        medium = instrument.medium
    wavelength = _in_vacuum(wavelength, medium, where)
    flux = _numbers(columns["flux"], where)
    if columns["flux"].unit is not None:
        meta["flux_unit"] = str(columns["flux"].unit)
    uncertainty = columns[found["noise"] or ""]
    kind = "ivar" if found["noise"] == "ivar" else "std"
    noise = _numbers(uncertainty, where) * _scale(uncertainty.unit, columns["flux"].unit, kind, where)
    mask = np.zeros(len(flux), bool)
    if found["mask"] is not None:
        bits = instrument.mask.value if instrument is not None and reject is None else reject
        column = columns[found["mask"]]
        # A mask of yes and no has no bits.
        bits = -1 if bits is None or column.dtype.kind == "b" else bits
        mask = _rejected(_numbers(column, where), bits)
    return _spectrum(wavelength, flux, noise, kind == "ivar", mask | bad, meta, where, str(path))


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
    meta = _plain(spectrum.meta)
    axis = spectrum.spectral_axis
    wavelength, bad = _angstrom(np.asarray(axis.value, np.float64), axis.unit, where)
    medium = medium or next((str(meta[key]) for key in _MEDIUM if key in meta), None)
    wavelength = _in_vacuum(wavelength, medium, where)
    if spectrum.uncertainty is None:
        raise SpectrumError(f"{where}: has no uncertainty; a likelihood needs one")
    kind = str(spectrum.uncertainty.uncertainty_type)
    if kind not in ("std", "var", "ivar"):
        raise SpectrumError(f"{where}: uncertainty of type {kind!r}; std, var or ivar are known")
    flux = np.asarray(spectrum.flux.value, np.float64)
    if flux.ndim != 1:
        raise SpectrumError(f"{where}: flux of the shape {flux.shape}; give one spectrum at a time")
    unit = units.Unit(spectrum.flux.unit)
    scale = _scale(getattr(spectrum.uncertainty, "unit", None), unit, kind, where)
    noise = scale * np.asarray(spectrum.uncertainty.array, np.float64)
    meta["flux_unit"] = str(unit)
    with np.errstate(invalid="ignore"):
        noise = np.sqrt(noise) if kind == "var" else noise
    mask = np.zeros(len(noise), bool) if spectrum.mask is None else np.asarray(spectrum.mask, bool)
    return _spectrum(wavelength, flux, noise, kind == "ivar", mask | bad, meta, where, "")


def _scale(own: Any, flux: Any, kind: str, where: str) -> float:
    """Return what brings an uncertainty (std, var or ivar) in a unit of its own to the flux's; 1 where either states none."""
    if own is None or flux is None:
        return 1.0
    try:
        return float(units.Unit(own).to(units.Unit(flux) ** {"std": 1, "var": 2, "ivar": -2}[kind]))
    except units.UnitConversionError as error:
        raise SpectrumError(f"{where}: flux in {flux}, uncertainty in {own} ({reason(error)})") from None


def _numbers(column: Any, where: str) -> NDArray[np.float64]:
    """Return a column as numbers, ``nan`` where masked."""
    try:
        values = np.ma.filled(np.ma.asarray(column).astype(np.float64), np.nan)
    except (TypeError, ValueError) as error:
        raise SpectrumError(
            f"{where}: column {column.name!r} does not hold numbers ({reason(error)})"
        ) from None
    if values.ndim != 1 or not 2 <= values.size <= _MAX_PIXELS:
        raise SpectrumError(
            f"{where}: column {column.name!r} has the shape {values.shape}; one number a pixel is wanted"
        )
    return np.asarray(values)


def _rejected(mask: NDArray[np.float64], bits: int) -> NDArray[np.bool_]:
    """Tell which pixels are rejected: those with any of the bits, and those of which the mask tells nothing."""
    known = np.isfinite(mask)
    return ~known | (np.where(known, mask, 0).astype(np.int64) & bits != 0) | ((bits == -1) & (mask != 0))


def _angstrom(
    values: NDArray[np.float64], unit: Any, where: str
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Wavelengths in Angstrom, and where they are missing."""
    try:
        with np.errstate(all="ignore"):
            out = (values * unit).to_value(units.AA, equivalencies=units.spectral())
    except Exception as error:
        raise SpectrumError(
            f"{where}: unit {unit} of its wavelengths is none of a wavelength ({reason(error)})"
        ) from None
    out = np.asarray(out, np.float64)
    if not np.all(np.isfinite(out) & (out > 0)):
        raise SpectrumError(f"{where}: wavelengths that are not finite and positive")
    return out, np.zeros(out.shape, bool)


def _in_vacuum(wavelength: NDArray[np.float64], medium: str | None, where: str) -> NDArray[np.float64]:
    word = (medium or "").strip().lower()
    if word in ("vacuum", "vac", "true"):
        return wavelength
    if word == "air":
        return to_vacuum(wavelength)
    raise SpectrumError(
        f"{where}: does not say whether its wavelengths are of air or vacuum (80 km/s apart): set its metadata 'medium' to one"
        if not word
        else f"{where}: medium {medium!r} is neither 'air' nor 'vacuum'"
    )


def _spectrum(
    wavelength: NDArray[np.float64],
    flux: NDArray[np.float64],
    noise: NDArray[np.float64],
    is_ivar: bool,
    mask: NDArray[np.bool_],
    meta: Mapping[str, Any],
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
    good = ~mask & np.isfinite(flux) & np.isfinite(noise) & (noise > 0) & np.isfinite(ivar)
    edges = [0, *(np.flatnonzero(step > _GAP * np.median(step)) + 1), len(wavelength)]
    chips = tuple((int(a), int(b)) for a, b in pairwise(edges))
    frame = str(meta.get("frame", "observatory")).strip().lower()
    if frame not in _FRAMES:
        raise SpectrumError(f"{where}: frame {frame!r} is none of {', '.join(_FRAMES)}")
    resolution = _number(meta, "resolution", where)
    return Spectrum(
        PixelGrid(wavelength, chips),
        flux,
        np.where(good, ivar, 0.0),
        id=str(meta.get("id", meta.get("object", ""))) or Path(path).stem,
        frame=frame,
        v_correction=_number(meta, "v_correction", where),
        lsf=None if resolution is None else Gaussian(resolution),
        path=path,
        meta={"flux_unit": meta["flux_unit"]} if meta.get("flux_unit") else {},
    )


def _plain(meta: Mapping[Any, Any] | None) -> dict[str, Any]:
    """Metadata by names in lower case, without lists and the like: by references a file of 1 kB can nest some that print as gigabytes."""
    nested = (Mapping, Sequence, Set)
    return {
        key.lower(): value
        for key, value in (meta or {}).items()
        if isinstance(key, str) and (isinstance(value, str) or not isinstance(value, nested))
    }


def _number(meta: Mapping[str, Any], key: str, where: str) -> float | None:
    short = next((meta[k] for k in (key, key[:8]) if k in meta), None)
    if short is None:
        return None
    try:
        return float(short)
    except (TypeError, ValueError):
        raise SpectrumError(f"{where}: metadata {key!r} is no number: {short!r}") from None


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
        with writing(path) as temporary:
            table.write(temporary, format=formats[path.suffix])
    except (OSError, ImportError, ValueError) as error:
        raise SpectrumError(f"{path}: cannot be written ({reason(error)})") from None
