"""Which spectra of one star hold light of their own: what was observed once must not be counted twice."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from maury.spectra.spectrum import Spectrum

# Days within which the middles of two exposures are one; visits last an hour.
_SAME_MOMENT = 0.01
# The survey's nights begin a third of a day before midnight of Greenwich, at both of its observatories.
_NIGHT_BEGINS = 0.35
_MJD = 2_400_000.5


@dataclass(frozen=True)
class LeftOut:
    """A spectrum that is left out, and why.

    Attributes
    ----------
    number
        Its place among the spectra.
    reason
        A phrase without a subject.
    """

    number: int
    reason: str


def own_light(spectra: Sequence[Spectrum]) -> tuple[list[int], list[LeftOut]]:
    """Return the places of spectra that are independent observations, and which others are left out.

    Left out are, in this order: a spectrum with the same pixels as an earlier one; a combination of visits where single visits are
    given, or another combination of another file; an exposure that is given twice, of which the one on the detector's own pixels stays.

    Parameters
    ----------
    spectra
        Of one star.
    """
    names = [_name(spectrum) for spectrum in spectra]
    out: dict[int, str] = {}
    seen: dict[bytes, int] = {}
    for i, spectrum in enumerate(spectra):
        first = seen.setdefault(_pixels(spectrum), i)
        if first != i:
            out[i] = f"has the same pixels as {names[first]}"
    left = [i for i in range(len(spectra)) if i not in out]
    combined = [i for i in left if spectra[i].meta.get("combined")]
    visits = [i for i in left if i not in combined]
    for i in combined:
        if visits:
            out[i] = "is a combination of visits, of which some are given"
        elif spectra[i].path != spectra[combined[0]].path:
            # Those of one file are of several telescopes.
            out[i] = f"is a combination of visits, as {names[combined[0]]} is"
    # On the detector's own pixels first: they were not resampled.
    for place, i in enumerate(ordered := sorted(visits, key=lambda i: spectra[i].frame == "rest")):
        same = (j for j in ordered[:place] if j not in out and _same_exposure(spectra[i], spectra[j]))
        if (j := next(same, None)) is not None:
            out[i] = f"is the exposure that {names[j]} holds"
    kept = [i for i in range(len(spectra)) if i not in out]
    return kept, [LeftOut(i, out[i]) for i in sorted(out)]


def _name(spectrum: Spectrum) -> str:
    return f"{spectrum.path or spectrum.id or 'a spectrum'}" + (
        f" [{spectrum.index}]" if spectrum.index else ""
    )


def _pixels(spectrum: Spectrum) -> bytes:
    digest = hashlib.sha256()
    for values in (spectrum.grid.wavelength, spectrum.flux, spectrum.ivar):
        digest.update(np.ascontiguousarray(values).tobytes())
    return digest.digest()


def _same_exposure(a: Spectrum, b: Spectrum) -> bool:
    """Whether two spectra are of one exposure, as far as their files tell: fibre, telescope, and moment or night."""
    for key in ("fiber", "telescope"):
        if key in a.meta and key in b.meta and a.meta[key] != b.meta[key]:
            return False
    if "fiber" not in a.meta or "fiber" not in b.meta:
        return False
    if "jd_mid" in a.meta and "jd_mid" in b.meta:
        return abs(a.meta["jd_mid"] - b.meta["jd_mid"]) < _SAME_MOMENT
    nights = _night(a), _night(b)
    return None not in nights and nights[0] == nights[1]


def _night(spectrum: Spectrum) -> int | None:
    if "mjd" in spectrum.meta:
        return int(spectrum.meta["mjd"])
    jd = spectrum.meta.get("jd_mid")
    return None if jd is None else int(jd - _MJD + _NIGHT_BEGINS)
