"""APOGEE's pixel mask."""

from __future__ import annotations

import pytest

from maury.spectra.formats import apogee
from maury.spectra.formats.bits import BAD, DEFAULT_REJECT, PIXMASK, bits


@pytest.mark.parametrize(
    ("name", "bit"),
    [("BADPIX", 0), ("NOSKY", 7), ("SIG_SKYLINE", 12), ("NOT_ENOUGH_PSF", 14), ("FERRE_MASK", 16)],
)
def test_names_stand_for_the_survey_s_bits(name: str, bit: int) -> None:
    assert PIXMASK[name] == bit
    assert bits(name) == 1 << bit


def test_table_is_complete_and_its_unions_are_the_documented_numbers() -> None:
    assert sorted(PIXMASK.values()) == [*range(15), 16]
    assert BAD == 16639
    assert DEFAULT_REJECT == 16639 | 4096
    assert bits("BADPIX", "BADPIX") == 1
    assert bits() == 0
    assert (apogee.BAD, apogee.DEFAULT_REJECT) == (BAD, DEFAULT_REJECT)
