"""Units as people write them in tables: upper case, plurals, ``Ang``, ``1E-17 erg/cm^2/s/Ang``."""

from __future__ import annotations

import re
import warnings
from typing import Any

import numpy as np
from astropy import units
from numpy.typing import NDArray

from maury.errors import SpectrumError
from maury.text import readable
from maury.untrusted import is_harmless_unit

_LONGEST = 80
_FORMATS = ("generic", "fits", "cds", "vounit", "ogip")
# Spellings that astropy does not know in every format, in lower case; the unit's own name is among them for plurals and upper case.
_SPELLINGS = {
    "Angstrom": ("ang", "angs", "angstrom", "angstroms", "angstroem", "aa", "å", "\u212b"),
    "nm": ("nm", "nanometer", "nanometers", "nanometre", "nanometres"),
    "um": ("um", "µm", "μm", "micron", "microns", "micrometer", "micrometers", "micrometre", "micrometres"),
    "mm": ("mm", "millimeter", "millimeters", "millimetre", "millimetres"),
    "m": ("meter", "meters", "metre", "metres"),
    "erg": ("erg", "ergs"),
    "s": ("sec", "secs", "second", "seconds"),
    "Jy": ("jy", "jansky", "janskys"),
    "Hz": ("hz", "hertz"),
    "adu": ("adu", "adus", "dn"),
    "electron": ("electrons", "e-"),
    "photon": ("photons",),
    "ct": ("ct", "count", "counts", "cts"),
}
_KNOWN = {spelling: name for name, spellings in _SPELLINGS.items() for spelling in spellings}
_WORD = re.compile(r"[^\W\d_]+")
# What the logarithm of a wavelength is called: log(Angstrom), log10(AA), dex(Angstrom), log10 Angstrom.
_LOG = re.compile(r"(?:log10|log|dex)\s*\(?\s*([^()]*?)\s*\)?", re.IGNORECASE)


def known_unit(text: Any) -> units.UnitBase | None:
    """Return the unit that a text means, or None if that is not known.

    Examples
    --------
    >>> known_unit("1E-17 erg/cm^2/s/Ang")
    Unit("1e-17 erg / (Angstrom s cm2)")
    >>> known_unit("furlongs") is None
    True
    """
    if isinstance(text, units.UnrecognizedUnit):
        text = str(text)
    if isinstance(text, units.UnitBase):
        return text
    if not isinstance(text, str) or not text.strip() or not is_harmless_unit(text):
        return None
    respelt = _WORD.sub(lambda word: _KNOWN.get(word[0].lower(), word[0]), text.strip())
    lower = _WORD.sub(lambda word: _KNOWN.get(word[0].lower(), word[0].lower()), text.strip())
    for spelling in dict.fromkeys((text.strip(), respelt, lower)):
        for form in _FORMATS:
            try:
                with warnings.catch_warnings(), np.errstate(all="ignore"):
                    # It warns of several slashes and of names that it deems old.
                    warnings.simplefilter("ignore")
                    return units.Unit(spelling, format=form, parse_strict="raise")
            except Exception:
                # Its parsers fail in many ways on what is no unit.
                continue
    return None


def to_angstrom(values: NDArray[np.float64], unit: Any, name: str, where: str) -> NDArray[np.float64]:
    """Return wavelengths in Angstrom, of any spectral unit or of log10(Angstrom).

    Parameters
    ----------
    values
        Shape ``(n_pixels,)``.
    unit
        As the file states it; None where it does not.
    name
        Of the column: ``loglam`` and the like hold logarithms.
    where
        For messages.

    Raises
    ------
    SpectrumError
        If the unit is missing, not known, or none of a wavelength, or values are not finite and positive.
    """
    logarithm = _LOG.fullmatch(unit.strip()) if isinstance(unit, str) else None
    if logarithm or name.lower().startswith("log"):
        return _from_logarithm(values, logarithm[1] if logarithm else unit, name, where)
    if unit is None or not str(unit).strip():
        raise SpectrumError(f"{where}: column {name!r} has no unit: state it, e.g. Angstrom, nm or micron")
    # To astropy it is the ampere, to spectroscopists it is not.
    known = units.AA if str(unit).strip() in ("A", "a") else known_unit(unit)
    if known is None:
        raise SpectrumError(
            f"{where}: unit {_shown(unit)} of its wavelengths is not known: Angstrom, nm or micron are"
        )
    try:
        with np.errstate(all="ignore"):
            out = (values * known).to_value(units.AA, equivalencies=units.spectral())
    except units.UnitConversionError:
        raise SpectrumError(f"{where}: unit {known} of its wavelengths is none of a wavelength") from None
    return _checked(np.asarray(out, np.float64), where)


def _from_logarithm(values: NDArray[np.float64], unit: Any, name: str, where: str) -> NDArray[np.float64]:
    scale = known_unit(unit) if unit is not None and str(unit).strip() else units.AA
    if scale is None or not scale.is_equivalent(units.AA):
        scale = units.AA
    with np.errstate(all="ignore"):
        out = np.asarray((10.0**values * scale).to_value(units.AA), np.float64)
        beyond = np.isfinite(values) & ~((out > 100) & (out < 1e7))
    if beyond.any():
        raise SpectrumError(
            f"{where}: column {name!r} should hold log10 of wavelengths in {scale}, but has {values[beyond][0]:g}: "
            "give wavelengths themselves in a column 'wavelength' with their unit"
        )
    return _checked(out, where)


def _checked(wavelength: NDArray[np.float64], where: str) -> NDArray[np.float64]:
    bad = ~(np.isfinite(wavelength) & (wavelength > 0))
    if bad.any():
        raise SpectrumError(
            f"{where}: {np.count_nonzero(bad)} of {len(bad)} wavelengths are missing, not finite or not positive: drop these rows"
        )
    return wavelength


def noise_scale(own: Any, flux: Any, kind: str, where: str) -> float:
    """Return what brings an uncertainty (``std``, ``var`` or ``ivar``) in a unit of its own to the flux's; 1 where either states none.

    Raises
    ------
    SpectrumError
        If one is not known and they are not the same, or one cannot be converted to the other.
    """
    if not _stated(own) or not _stated(flux):
        return 1.0
    if kind == "std" and str(own).split() == str(flux).split():
        return 1.0
    mine, theirs = known_unit(own), known_unit(flux)
    told = f"{where}: flux in {_shown(flux)}, uncertainty in {_shown(own)}"
    if mine is None or theirs is None:
        raise SpectrumError(
            f"{told}: {'the latter' if mine is None else 'the former'} is no unit that is known here; write it as in "
            "'1e-17 erg / (Angstrom s cm2)', or state neither"
        )
    try:
        scale = float(mine.to(theirs ** {"std": 1, "var": 2, "ivar": -2}[kind]))
    except (units.UnitConversionError, OverflowError):
        raise SpectrumError(f"{told} ({kind}): one does not convert to the other") from None
    if not (np.isfinite(scale) and scale > 0):
        raise SpectrumError(f"{told} ({kind}): a factor of {scale:g} lies between them")
    return scale


def _shown(unit: Any) -> str:
    return readable(str(unit))[:_LONGEST]


def _stated(unit: Any) -> bool:
    return unit is not None and bool(str(unit).strip())
