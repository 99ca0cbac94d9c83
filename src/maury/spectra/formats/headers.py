"""Headers of a FITS file, read from their bytes before astropy opens it.

astropy trusts what a header announces, and two parts of it may read the same header differently: of two cards ``NAXIS1`` one takes the
first and one the last, and lower case, ``PCOUNT = -  5760`` or an axis that is missing send it round in circles. So the keywords that say
how large a file's parts are must stand as the FITS standard has them (version 4.0, sections 4.1 and 4.4.1): once, in upper case, as plain
integers. Then there is one way to read them, and every part is known to lie inside the file.
"""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import BinaryIO

from maury.errors import SpectrumError

BLOCK = 2880
_CARD = 80
# A card that is, or looks to some reader as if it were, one of those that tell sizes.
_STRUCTURE = re.compile(
    rb"\s*(?:HIERARCH\s+)?(BITPIX|NAXIS\d*|PCOUNT|GCOUNT|TFIELDS|GROUPS|Z?THEAP)\s*(?==)", re.IGNORECASE
)
_INTEGER = re.compile(rb"([A-Z]+\d{0,3}) *= +([+-]?\d{1,18}) *(?:/.*)?", re.DOTALL)
_LOGICAL = re.compile(rb"GROUPS  = +F *(?:/.*)?", re.DOTALL)
_COMPRESSED = re.compile(rb"\s*(?:HIERARCH\s+)?ZIMAGE\s*=", re.IGNORECASE)
_BITPIX = (8, 16, 32, 64, -32, -64)
# The longest headers of surveys have a few hundred blocks, the largest files some hundred HDUs; a spectrum has three axes at most.
_MOST_BLOCKS, _MOST_IN_ALL, _MOST_HDUS, _MOST_AXES, _MOST_FIELDS = 1000, 4000, 1000, 8, 999


def check_headers(stream: BinaryIO, size: int, path: Path) -> None:
    """Walk through the headers of a FITS file and refuse what astropy would not survive, or would read in two ways.

    Parameters
    ----------
    stream
        The file, unpacked.
    size
        Its bytes.
    path
        For messages.

    Raises
    ------
    SpectrumError
        If a header is damaged, has no end, or announces sizes that are not plain numbers, or more than there is; if there are very many
        headers, or images compressed by tiles.
    """
    start = number = blocks = 0
    while not _is_blank(stream, start):
        if number >= _MOST_HDUS:
            raise SpectrumError(f"{path}: more than {_MOST_HDUS} HDUs; no file of spectra has so many")
        cards, length = _header(stream, start, f"{path} HDU {number}")
        blocks += length // BLOCK
        if blocks > _MOST_IN_ALL:
            raise SpectrumError(
                f"{path}: its headers have more than {_MOST_IN_ALL * 36} lines; it is damaged or forged"
            )
        data = _data_bytes(cards, f"{path} HDU {number}")
        end = start + length + data
        if end > size:
            raise SpectrumError(f"{path} HDU {number}: truncated: {size} of at least {end} bytes are there")
        start = end + -end % BLOCK
        number += 1


def _is_blank(stream: BinaryIO, start: int) -> bool:
    """Tell whether nothing follows: blank bytes after the last HDU do no harm."""
    stream.seek(start)
    return not stream.read(BLOCK).strip(b"\0 \r\n")


def _header(stream: BinaryIO, start: int, where: str) -> tuple[dict[str, int], int]:
    """Sizes in the header at ``start``, and its length in bytes."""
    stream.seek(start)
    sizes: dict[str, int] = {}
    for block_number in range(_MOST_BLOCKS):
        block = stream.read(BLOCK)
        if block_number == 0 and not block.startswith((b"SIMPLE  =", b"XTENSION=")):
            raise SpectrumError(f"{where}: its header is damaged or truncated")
        if len(block) < BLOCK:
            raise SpectrumError(f"{where}: its header is damaged or truncated: it has no end")
        for at in range(0, BLOCK, _CARD):
            card = block[at : at + _CARD]
            if card.startswith(b"END") and not card[3:].strip():
                return sizes, (block_number + 1) * BLOCK
            if _COMPRESSED.match(card):
                raise SpectrumError(
                    f"{where}: an image compressed by tiles (.fz), which is not read: unpack the file with funpack"
                )
            if _STRUCTURE.match(card):
                _note(card, sizes, where)
    raise SpectrumError(f"{where}: its header is damaged or forged: no end within {_MOST_BLOCKS * 36} lines")


def _note(card: bytes, sizes: dict[str, int], where: str) -> None:
    """Keep the number of a card that tells sizes.

    Raises
    ------
    SpectrumError
        If it does not stand as the standard has it, or stands there twice.
    """
    if _LOGICAL.fullmatch(card):
        return
    found = _INTEGER.fullmatch(card)
    # The value's indicator is in columns 9 and 10, so that the name takes the first eight.
    if found is None or card[8:10] != b"= ":
        raise SpectrumError(f"{where}: its header is damaged or forged ({_shown(card)})")
    name, value = found[1].decode(), int(found[2])
    if name in sizes:
        raise SpectrumError(f"{where}: its header is damaged or forged: {name} is there twice")
    if value < 0 and name != "BITPIX":
        raise SpectrumError(f"{where}: {name} is {value}: the header is damaged or forged")
    sizes[name] = value


def _shown(card: bytes) -> str:
    return card[:40].decode("ascii", "backslashreplace").strip()


def _data_bytes(sizes: dict[str, int], where: str) -> int:
    """Bytes of data that a header announces, without padding."""
    axes = sizes.get("NAXIS")
    if axes is None or sizes.get("BITPIX") not in _BITPIX:
        raise SpectrumError(
            f"{where}: its header is damaged or truncated: NAXIS or BITPIX is missing or none that FITS knows"
        )
    if axes > _MOST_AXES or sizes.get("TFIELDS", 0) > _MOST_FIELDS:
        raise SpectrumError(
            f"{where}: NAXIS is {axes}, TFIELDS {sizes.get('TFIELDS', 0)}: the header is damaged or forged, or of no spectrum"
        )
    missing = next((f"NAXIS{i}" for i in range(1, axes + 1) if f"NAXIS{i}" not in sizes), None)
    if missing is not None:
        raise SpectrumError(f"{where}: its header is damaged or truncated: {missing} is missing")
    pixels = math.prod(sizes[f"NAXIS{i}"] for i in range(1, axes + 1)) if axes else 0
    return abs(sizes["BITPIX"]) // 8 * sizes.get("GCOUNT", 1) * (sizes.get("PCOUNT", 0) + pixels)
