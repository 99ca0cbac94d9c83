"""Sizes that FITS headers announce, read from their bytes, for what astropy does not survive."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import BinaryIO

from maury.errors import SpectrumError

BLOCK = 2880
_CARD = 80
_SIZES = re.compile(rb"(BITPIX|NAXIS\d{0,3}|PCOUNT|GCOUNT) *= *([+-]?\d{1,20})\b")
# Blocks; the longest headers of surveys have a few hundred.
_LONGEST = 20_000


def check_sizes(stream: BinaryIO, path: Path) -> None:
    """Walk through the headers of a FITS file and refuse a size below zero.

    Of such a file astropy reads the same HDU for ever: its end lies before its start. Whatever else is wrong is left for others to find.

    Parameters
    ----------
    stream
        The file, unpacked.
    path
        For messages.

    Raises
    ------
    SpectrumError
        If an axis, a heap or a count is negative.
    """
    start, number = 0, 0
    while (header := _header(stream, start)) is not None:
        sizes, length = header
        axes = sizes.get("NAXIS", 0)
        for name, value in sizes.items():
            if value < 0 and name != "BITPIX":
                raise SpectrumError(
                    f"{path} HDU {number}: {name} is {value}: the header is damaged or forged"
                )
        pixels = math.prod(sizes.get(f"NAXIS{i}", 0) for i in range(1, min(axes, 999) + 1)) if axes else 0
        pixels = sizes.get("GCOUNT", 1) * (sizes.get("PCOUNT", 0) + pixels)
        data = abs(sizes.get("BITPIX", 8)) // 8 * pixels
        start += length + data + -data % BLOCK
        number += 1


def _header(stream: BinaryIO, start: int) -> tuple[dict[str, int], int] | None:
    """Sizes in the header at ``start`` and its length in bytes; None where there is none."""
    if start >= 2**62:
        return None
    stream.seek(start)
    sizes: dict[str, int] = {}
    for blocks in range(1, _LONGEST):
        block = stream.read(BLOCK)
        if len(block) < _CARD:
            return None
        for at in range(0, len(block), _CARD):
            card = block[at : at + _CARD]
            if card.startswith(b"END") and not card[3:].strip():
                return sizes, blocks * BLOCK
            if found := _SIZES.match(card):
                sizes.setdefault(found[1].decode(), int(found[2]))
    return None
