"""SDSS-V's astraStar and astraVisit files: what a pipeline (ASPCAP, The Payne, ...) made of a star's spectra, without these.

One table an HDU, laid out as a mwmStar's: HDUs 3 and 4 are APOGEE's. Their data model is that of https://github.com/sdss/astra.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from astropy.io import fits

from maury.errors import SpectrumError
from maury.quantities import ELEMENTS
from maury.spectra.formats.cards import number
from maury.spectra.formats.fits import open_fits, reason

__all__ = ["PipelineFit", "is_pipeline_table", "read_pipeline_fits"]

_HDUS = (3, 4)
_MAX_ROWS = 2000
_NAME = re.compile(r"(?:astra|mwm)(?:Star|Visit|AllStar|AllVisit)-?([A-Za-z]+)-?")
# Columns that a label may stand in, the first that is there; errors have an ``e_`` before.
_COLUMNS: Mapping[str, tuple[str, ...]] = {
    "teff": ("teff",),
    "logg": ("logg",),
    "m_h": ("m_h_atm", "m_h"),
    "alpha_m": ("alpha_m_atm", "alpha_m"),
    "c_m": ("c_m_atm", "c_m"),
    "n_m": ("n_m_atm", "n_m"),
    "v_micro": ("v_micro", "v_turb"),
    "v_sini": ("v_sini",),
} | {f"{symbol.lower()}_h": (f"{symbol.lower()}_h",) for symbol in ELEMENTS}  # fmt: skip


@dataclass(frozen=True)
class PipelineFit:
    """What a pipeline made of one spectrum.

    Attributes
    ----------
    pipeline
        Its name.
    labels
        Value and error of each label, by maury's names (``fe_h`` and the like are [X/H]); None where it states no error.
    flags
        Its own bits for what was wrong; 0 for nothing.
    sdss_id, hdu
        Which star and which telescope's spectrum; None where unknown.
    """

    pipeline: str
    labels: Mapping[str, tuple[float, float | None]]
    flags: int = 0
    sdss_id: int | None = None
    hdu: int | None = None


def is_pipeline_table(names: set[str]) -> bool:
    """Tell from the columns of an HDU, in lower case, whether it holds a pipeline's results and no spectrum."""
    return "flux" not in names and bool(names & {"teff", "raw_teff", "model_flux", "v_rel"})


def read_pipeline_fits(path: str | os.PathLike[str]) -> list[PipelineFit]:
    """Read what a pipeline made of a star, from an astraStar or astraVisit file.

    Parameters
    ----------
    path
        Such as ``astraStarASPCAP-0.6.0-12345.fits``. The pipeline's name is taken from the file's.

    Raises
    ------
    SpectrumError
        If the file is of another kind or holds no result for an APOGEE spectrum.

    Examples
    --------
    >>> (fit,) = read_pipeline_fits("astraStarASPCAP-0.6.0-12345.fits")  # doctest: +SKIP
    >>> fit.labels["teff"]  # doctest: +SKIP
    (4751.2, 23.0)
    """
    path = Path(path)
    found = []
    with open_fits(path) as hdus:
        sdss_id = number(hdus[0].header, "SDSS_ID")
        for hdu in _HDUS:
            if len(hdus) <= hdu or not isinstance(hdus[hdu], fits.BinTableHDU):
                continue
            if not hdus[hdu].header.get("NAXIS2"):
                continue
            names = {str(name).lower() for name in hdus[hdu].columns.names}
            if not is_pipeline_table(names):
                continue
            try:
                table = hdus[hdu].data
                found += [
                    PipelineFit(
                        _pipeline(path, names), _labels(row, names), _flags(row, names), _whole(sdss_id), hdu
                    )
                    for row in table[:_MAX_ROWS]
                ]
            except Exception as error:
                raise SpectrumError(f"{path} HDU {hdu}: its table cannot be read ({reason(error)})") from None
    found = [fit for fit in found if fit.labels]
    if not found:
        raise SpectrumError(
            f"{path}: holds no pipeline's result for an APOGEE spectrum: an astraStar or astraVisit file has columns "
            "teff, logg, ... in HDU 3 or 4"
        )
    return found


def _pipeline(path: Path, names: set[str]) -> str:
    if found := _NAME.match(path.name):
        return found[1]
    return "ASPCAP" if "m_h_atm" in names else "The Payne" if "v_turb" in names else "pipeline"


def _labels(row: Any, names: set[str]) -> dict[str, tuple[float, float | None]]:
    found: dict[str, tuple[float, float | None]] = {}
    for label, columns in _COLUMNS.items():
        for column in columns:
            value = number(row, column) if column in names else None
            if value is None:
                continue
            error = number(row, f"e_{column}") if f"e_{column}" in names else None
            found[label] = value, error if error is not None and error > 0 else None
            break
    return found


def _flags(row: Any, names: set[str]) -> int:
    return _whole(number(row, "result_flags")) or 0 if "result_flags" in names else 0


def _whole(value: float | None) -> int | None:
    return None if value is None else int(value)
