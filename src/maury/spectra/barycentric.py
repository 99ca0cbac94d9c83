"""Barycentric corrections of APOGEE's telescopes, without the network."""

from __future__ import annotations

import warnings

# Longitude, latitude [deg], height [m].
_SITES = {
    "apo25m": (-105.820417, 32.780361, 2788.0),
    "apo1m": (-105.820417, 32.780361, 2788.0),
    "lco25m": (-70.6926, -29.0146, 2380.0),
}
# From before APOGEE's first light to long after the last: a date outside is no date.
_JD_RANGE = (2455000.0, 2480000.0)


def barycentric_correction(ra: float, dec: float, jd: float, telescope: str) -> float | None:
    """Return what to add to a velocity measured at the telescope to refer it to the barycentre.

    Parameters
    ----------
    ra, dec
        ICRS, degrees.
    jd
        Julian date (UTC) of the middle of the exposure.
    telescope
        ``apo25m``, ``apo1m`` or ``lco25m``.

    Returns
    -------
    float or None
        km/s; None for an unknown telescope, or a position or date out of range.
    """
    site = _SITES.get(telescope.strip().lower())
    if site is None or not (0 <= ra <= 360 and -90 <= dec <= 90 and _JD_RANGE[0] < jd < _JD_RANGE[1]):
        return None
    # They take most of a second to import, and most files state the correction.
    from astropy import units
    from astropy.coordinates import EarthLocation, SkyCoord
    from astropy.time import Time
    from astropy.utils import iers

    longitude, latitude, height = site
    # The earth's rotation adds 0.46 km/s at most: degraded UT1 changes nothing that matters here.
    # Without a limit to their age, tables that came with astropy serve for new observations too.
    # Time loads the leap seconds when first used, so it too belongs inside.
    with (
        iers.conf.set_temp("auto_download", False),
        iers.conf.set_temp("auto_max_age", None),
        iers.conf.set_temp("iers_degraded_accuracy", "ignore"),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")
        velocity = SkyCoord(ra, dec, unit="deg").radial_velocity_correction(
            "barycentric",
            obstime=Time(jd, format="jd", scale="utc"),
            location=EarthLocation.from_geodetic(longitude, latitude, height=height),
        )
        return float(velocity.to_value(units.km / units.s))
