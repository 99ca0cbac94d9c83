"""What is known beforehand of limb darkening and macroturbulence, about which the likelihood's nuisances vary."""

from __future__ import annotations

import numpy as np

# Linear coefficient of limb darkening in the H band by effective temperature, rounded to 0.05: of ATLAS models from 3500 K on (Claret,
# Diaz-Cordoves & Gimenez 1995, A&AS 114, 247; Claret & Bloemen 2011, A&A 529, A75), of PHOENIX models below (Claret 1998, A&A 335, 647).
_TEFF = (2500.0, 3000.0, 3500.0, 4000.0, 4500.0, 5000.0, 5500.0, 6000.0, 6500.0, 7000.0)
_IN_H = (0.30, 0.30, 0.35, 0.40, 0.40, 0.35, 0.35, 0.30, 0.25, 0.25)


def in_h_band(teff: float) -> float:
    """Linear coefficient of limb darkening in the H band of a star of this temperature, K."""
    return float(np.interp(teff, _TEFF, _IN_H))


def macroturbulence(teff: float, logg: float, m_h: float) -> float:
    """Return the standard deviation of macroturbulence along the line of sight, km/s.

    Giants: the survey's full width at half maximum (Holtzman et al. 2018, AJ 156, 125, eq. 2). Dwarfs hotter than 5000 K: half of the
    radial-tangential velocity of Doyle et al. 2014, MNRAS 444, 3592, eq. 8. Between logg 3.6 and 4.2 from one to the other.
    """
    giant = 10 ** (0.741 - 0.0998 * logg - 0.225 * m_h) / 2.355
    warm = min(max(teff, 5000.0), 6500.0) - 5777.0
    dwarf = 0.5 * (3.21 + 2.33e-3 * warm + 2e-6 * warm**2 - 2 * (min(max(logg, 4.0), 4.6) - 4.44))
    share = min(max((logg - 3.6) / 0.6, 0.0), 1.0)
    return (1 - share) * giant + share * dwarf
