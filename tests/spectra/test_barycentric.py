"""Barycentric corrections against the survey's own."""

from __future__ import annotations

import socket
from typing import Any

import pytest
from astropy.io import fits
from astropy.time import Time
from astropy.utils import iers

from maury.spectra.barycentric import barycentric_correction

PLACE = (6.111105, 53.688282, 2457729.70782)


def test_agrees_with_the_survey_s_own(real_visit: Any) -> None:
    header = fits.getheader(real_visit)
    value = barycentric_correction(header["RA"], header["DEC"], header["JD-MID"], header["TELESCOP"])
    assert value == pytest.approx(header["BC"], abs=0.02)


def test_is_of_the_known_size_without_the_file() -> None:
    assert barycentric_correction(*PLACE, "apo25m") == pytest.approx(-14.58, abs=0.02)


def test_sites_differ_by_the_earth_s_rotation_only() -> None:
    north, south = (barycentric_correction(*PLACE, site) for site in ("apo25m", "lco25m"))
    assert 0.01 < abs(north - south) < 0.9  # type: ignore[operator]
    assert barycentric_correction(*PLACE, " APO1M ") == north


def test_needs_no_network_and_leaves_the_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise AssertionError("the network was used")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    settings = ("auto_download", "auto_max_age", "iers_degraded_accuracy")
    before = [getattr(iers.conf, name) for name in settings]
    # Measured, predicted, and far beyond the tables of the earth's rotation.
    for jd in (2457729.7, Time.now().jd, Time.now().jd + 200, 2470000.5):
        assert barycentric_correction(10.0, -20.0, jd, "lco25m") is not None
    assert [getattr(iers.conf, name) for name in settings] == before


@pytest.mark.parametrize(
    ("ra", "dec", "jd", "site"),
    [
        (*PLACE, "keck"),
        (*PLACE, ""),
        (6.1, -9999.99, PLACE[2], "apo25m"),
        (-9999.99, 5.0, PLACE[2], "apo25m"),
        (6.1, 53.6, 0.0, "apo25m"),
        (6.1, 53.6, 57729.7, "apo25m"),
        (float("nan"), 53.6, PLACE[2], "apo25m"),
    ],
)
def test_is_unknown_for_impossible_places_and_dates(ra: float, dec: float, jd: float, site: str) -> None:
    assert barycentric_correction(ra, dec, jd, site) is None
