"""APOGEE's pixel mask, APOGEE_PIXMASK (SDSS data release 17, apogee bitmasks)."""

from __future__ import annotations

PIXMASK = {
    "BADPIX": 0,
    "CRPIX": 1,
    "SATPIX": 2,
    "UNFIXABLE": 3,
    "BADDARK": 4,
    "BADFLAT": 5,
    "BADERR": 6,
    "NOSKY": 7,
    "LITTROW_GHOST": 8,
    "PERSIST_HIGH": 9,
    "PERSIST_MED": 10,
    "PERSIST_LOW": 11,
    "SIG_SKYLINE": 12,
    "SIG_TELLURIC": 13,
    "NOT_ENOUGH_PSF": 14,
    "FERRE_MASK": 16,
}


def bits(*names: str) -> int:
    """Return the mask value in which the named bits are set."""
    value = 0
    for name in names:
        value |= 1 << PIXMASK[name]
    return value


BAD = bits(*list(PIXMASK)[:8], "NOT_ENOUGH_PSF")
"""The survey's own definition of a bad pixel: 16639."""

DEFAULT_REJECT = BAD | bits("SIG_SKYLINE")
"""What maury takes out of use by default.

Persistence, tellurics and ghosts stay, with the errors that the survey inflated.
"""
