"""SDSS-V's mwmVisit and mwmStar: tables of spectra at rest, one HDU an observatory, empty where nothing was observed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits
from numpy.typing import NDArray

from maury.errors import SpectrumError
from maury.spectra.formats.apstar import believed, log_grid
from maury.spectra.formats.astra import is_pipeline_table
from maury.spectra.formats.cards import FLUX_UNIT, SNR_LIMIT, number, text, velocity
from maury.spectra.instrument import apogee
from maury.spectra.spectrum import Spectrum

__all__ = ["is_mwm", "read_mwm"]

# HDUs 1 and 2 are BOSS's, in the optical.
APOGEE_HDUS = (3, 4)
_MAX_PIXELS, _MAX_SPECTRA = 100_000, 2000
_COLUMNS = ("flux", "ivar", "pixel_flags")


def is_mwm(hdus: fits.HDUList) -> bool:
    """Tell whether an open FITS file is meant to be a mwmVisit or mwmStar."""
    header = hdus[0].header
    return "SDSS_ID" in header or "V_ASTRA" in header


def read_mwm(hdus: fits.HDUList, path: Path, reject: int) -> Iterator[Spectrum]:
    """Yield every APOGEE spectrum of the file, row by row.

    ``v_correction`` is the barycentric velocity ``v_rad`` that the survey took out.

    Raises
    ------
    SpectrumError
        If there is none, or a table lacks a column or has another shape.
    """
    index = 0
    for hdu in APOGEE_HDUS:
        if len(hdus) <= hdu or not isinstance(hdus[hdu], fits.BinTableHDU):
            continue
        # The checksum of an empty table may be wrong: its length alone tells.
        if not hdus[hdu].header.get("NAXIS2"):
            continue
        table = _table(hdus, hdu, path)
        if len(table) > _MAX_SPECTRA:
            raise SpectrumError(f"{path} HDU {hdu}: {len(table)} spectra; no star has so many")
        for row in table:
            yield _spectrum(hdus, hdu, row, path, reject, index)
            index += 1
    if index == 0:
        raise SpectrumError(
            f"{path}: holds no APOGEE spectrum: HDUs 3 and 4 are missing or empty (BOSS spectra are not read)"
        )


def _table(hdus: fits.HDUList, hdu: int, path: Path) -> Any:
    try:
        table = hdus[hdu].data
        names = {name.lower() for name in table.names}
    except Exception as error:
        raise SpectrumError(f"{path} HDU {hdu}: its table cannot be read ({error})") from error
    if is_pipeline_table(names):
        raise SpectrumError(
            f"{path} HDU {hdu}: holds what a pipeline made of the star, not its spectrum; infer the star's mwmStar file "
            f"with --compare {path.name}"
        )
    missing = [name for name in _COLUMNS if name not in names]
    if missing:
        raise SpectrumError(
            f"{path} HDU {hdu}: column {missing[0]!r} is missing; a mwmVisit or mwmStar has {', '.join(_COLUMNS)}"
        )
    return table


def _vector(row: Any, name: str, where: str, n_pixels: int | None = None) -> NDArray[np.float64]:
    try:
        values = np.asarray(row[name], dtype=np.float64)
    except Exception as error:
        raise SpectrumError(f"{where}: column {name!r} cannot be read as numbers ({error})") from error
    if values.ndim != 1 or not 2 <= values.size <= _MAX_PIXELS or (n_pixels and values.size != n_pixels):
        raise SpectrumError(
            f"{where}: column {name!r} has the shape {values.shape}, not ({n_pixels or 8575},)"
        )
    return values


def _spectrum(hdus: fits.HDUList, hdu: int, row: Any, path: Path, reject: int, index: int) -> Spectrum:
    where, header = f"{path} HDU {hdu}", hdus[hdu].header
    flux = _vector(row, "flux", where)
    ivar, flags = (_vector(row, name, where, len(flux)) for name in ("ivar", "pixel_flags"))
    # Stored as floats; bits are only there after the cast.
    flags = np.where(np.isfinite(flags) & (np.abs(flags) < 2.0**62), flags, 0.0)
    mask = flags.astype(np.int64)
    grid = log_grid(header, len(flux), where, suffix="" if "CRVAL" in header else "1")
    on_chip = np.zeros(grid.n_pixels, dtype=bool)
    for start, stop in grid.chips:
        on_chip[start:stop] = True
    good = on_chip & np.isfinite(flux) & np.isfinite(ivar) & (ivar > 0) & ((mask & reject) == 0)
    with np.errstate(all="ignore"):
        good &= np.abs(flux) * np.sqrt(np.abs(ivar)) < SNR_LIMIT
    names = {"snr": "snr", "mjd": "mjd", "fiber": "fiber", "v_rel_survey": "v_rel", "bc": "bc"}
    meta: dict[str, Any] = {name: number(row, key) for name, key in names.items()}
    primary = hdus[0].header
    if "mjd" not in {name.lower() for name in hdus[hdu].columns.names}:
        # A mwmStar's rows are of no single night.
        meta["combined"] = True
    meta |= {"telescope": text(header, "OBSRVTRY") or None, "lsf_source": "assumed", "hdu": hdu}
    meta["flux_unit"] = FLUX_UNIT
    meta |= {"ra": number(primary, "RA"), "dec": number(primary, "DEC")}
    if (sdss_id := number(primary, "SDSS_ID")) is not None:
        meta["sdss_id"] = int(sdss_id)
    name = next((text(primary, key) for key in ("APOGEEID", "OBJ", "SDSS_ID") if text(primary, key)), "")
    return Spectrum(
        grid,
        flux,
        np.where(good, ivar, 0.0),
        id=name or path.name.split(".fit")[0],
        frame="rest",
        v_correction=believed(velocity(row, "v_rad")),
        bitmask=mask,
        lsf=apogee().assumed_lsf,
        path=str(path),
        index=index,
        meta={key: value for key, value in meta.items() if value is not None},
    )
