"""What of a stranger's file may be handed to a library, and what that would never come back from, or would go out for."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from xml.parsers import expat

from maury.errors import MauryError
from maury.text import readable

_LONGEST_UNIT = 80
# A power of four digits is no unit, and may take astropy for ever: 10**9999999999 Angstrom.
_HUGE = re.compile(r"\d{4,}")
# Letters of foreign text that a message repeats; elements in one another; bytes that a table may take in memory.
_SHOWN, _DEEPEST, _MOST_BYTES = 60, 50, 2**28
# Of a number in a table, and of the largest that is told from others.
_CELL, _MANY = 16, 10**10


def is_harmless_unit(text: str) -> bool:
    """Tell whether astropy may be asked what a unit is: it would never answer to some."""
    return len(text) <= _LONGEST_UNIT and not _HUGE.search(text)


def is_votable(head: bytes) -> bool:
    """Tell from its first bytes whether a file is a VOTable, whatever it is called."""
    text = head.replace(b"\0", b"").lstrip(b"\xef\xbb\xbf\xff\xfe \t\r\n")
    return text.startswith(b"<") and b"<VOTABLE" in text


def check_votable(content: bytes, path: Path, error: type[MauryError]) -> None:
    """Refuse a VOTable that refers to anything outside itself, declares entities, unpacks, or announces more than there is.

    Parameters
    ----------
    content
        The file, in any encoding that XML knows.
    path
        For messages.
    error
        What to raise.

    Raises
    ------
    MauryError
        As ``error``: if a STREAM has an address or is compressed, a document type has entities, a unit is none, or rows and cells are more
        than fit into memory; or if it is no XML.
    """
    depth = rows = width = 0

    def begins(name: str, attributes: Mapping[str, str]) -> None:
        nonlocal depth, rows, width
        depth += 1
        names = {key.rpartition(":")[2].lower(): value for key, value in attributes.items()}
        element = name.rpartition(":")[2].upper()
        if element == "TABLE":
            rows, width = _integer(names.get("nrows", "0")), 0
        elif element == "FIELD":
            width += _CELL * math.prod(map(_integer, re.findall(r"\d+", names.get("arraysize", "1"))))
        elif element == "TR":
            rows += 1
        # astropy takes the units of all columns and parameters for true, and some take it for ever.
        if "unit" in names and not is_harmless_unit(names["unit"]):
            raise error(f"{path}: unit {readable(names['unit'][:_SHOWN])} is none")
        if depth > _DEEPEST or rows * max(width, 1) > _MOST_BYTES:
            raise error(f"{path}: announces more than a table can have; it is damaged or forged")
        if element == "STREAM":
            _check_stream(names, path, error)

    def ends(_name: str) -> None:
        nonlocal depth
        depth -= 1

    def refuse(*_: Any) -> int:
        raise error(f"{path}: declares entities of its own, which no VOTable needs")

    parser = expat.ParserCreate()
    parser.StartElementHandler, parser.EndElementHandler = begins, ends
    parser.EntityDeclHandler = parser.ExternalEntityRefHandler = refuse
    try:
        parser.Parse(content, True)
    except expat.ExpatError as reason:
        raise error(f"{path}: cannot be read as XML ({reason})") from None


def _check_stream(names: Mapping[str, str], path: Path, error: type[MauryError]) -> None:
    if "href" in names:
        raise error(
            f"{path}: its data lie elsewhere ({readable(names['href'][:_SHOWN])}); files are read, addresses are not: "
            "save the table with its data in it"
        )
    if names.get("encoding", "").lower() not in ("", "none", "base64"):
        raise error(
            f"{path}: its data are packed ({readable(names['encoding'][:_SHOWN])}); save them as TABLEDATA"
        )


def _integer(text: str) -> int:
    """Value of a number that a hostile file wrote: large ones are all alike, and none is an error here."""
    return int(text) if text.isascii() and text.isdigit() and len(text) < 10 else _MANY
