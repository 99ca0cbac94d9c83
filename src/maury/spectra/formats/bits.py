"""APOGEE's pixel mask, APOGEE_PIXMASK (SDSS data release 17, apogee bitmasks)."""

from __future__ import annotations

from maury.spectra.instrument import apogee

PIXMASK = apogee().mask.bits


def bits(*names: str) -> int:
    """Return the mask value in which the named bits are set."""
    value = 0
    for name in names:
        value |= 1 << PIXMASK[name]
    return value


BAD = bits(*list(PIXMASK)[:8], "NOT_ENOUGH_PSF")
"""The survey's own definition of a bad pixel: 16639."""

DEFAULT_REJECT = apogee().mask.value
"""What maury takes out of use by default.

Persistence, tellurics and ghosts stay, with the errors that the survey inflated.
"""
