"""Files that lie about themselves."""

from __future__ import annotations

import numpy as np

_BLOCK = 2880


def header(*cards: str) -> bytes:
    """Bytes of a FITS header."""
    text = "".join(card.ljust(80) for card in (*cards, "END"))
    return text.ljust(-(-len(text) // _BLOCK) * _BLOCK).encode()


def _card(key: str, value: object) -> str:
    shown = f"'{value}'" if isinstance(value, str) and value not in ("T", "F") else str(value)
    return f"{key:<8}= {shown:>20}"


def image(*shape: int, bitpix: int = -64) -> bytes:
    """A primary HDU that announces an image and has none of it."""
    axes = [_card(f"NAXIS{i + 1}", n) for i, n in enumerate(shape)]
    cards = (_card("SIMPLE", "T"), _card("BITPIX", bitpix), _card("NAXIS", len(shape)), *axes)
    return header(*cards, _card("EXTEND", "T"))


def table(width: int, rows: int, form: str = "1D", heap: int = 0, more: tuple[str, ...] = ()) -> bytes:
    """A table of wavelength and flux that announces rows and has none."""
    start = header(_card("SIMPLE", "T"), _card("BITPIX", 8), _card("NAXIS", 0), _card("EXTEND", "T"))
    names = ("wavelength", "flux", "ivar")
    columns = [
        card
        for i, name in enumerate(names, start=1)
        for card in (_card(f"TTYPE{i}", name), _card(f"TFORM{i}", form))
    ]
    return start + header(
        "XTENSION= 'BINTABLE'",
        _card("BITPIX", 8),
        _card("NAXIS", 2),
        _card("NAXIS1", width),
        _card("NAXIS2", rows),
        _card("PCOUNT", heap),
        _card("GCOUNT", 1),
        _card("TFIELDS", len(names)),
        *columns,
        *more,
    )


FORGED = {
    "80 GB image": image(100_000, 100_000),
    "800 PB image": image(10**9, 10**8),
    "overflowing image": image(2**62, 2**62),
    "negative axis": image(-5, 100),
    "negative axis of an extension": table(24, -(10**6)),
    "negative heap": table(24, 2, heap=-(2**40)) + bytes(_BLOCK),
    "999 axes": image(*[2] * 999),
    "table of 10^9 rows": table(24, 10**9),
    "table without width": table(0, 10**9),
    "table of a huge heap": table(24, 1, heap=2**40) + bytes(_BLOCK),
    "columns wider than rows": table(24, 2, form="999999999D") + bytes(_BLOCK),
    "pointers beyond the heap": table(24, 2, form="1PD(9)") + np.full(720, 2**30, ">i4").tobytes(),
    "no end of the header": image(10, 10)[:800].ljust(_BLOCK * 400),
}
