"""How numbers and objects show themselves: digits that an error deserves, and short cards for notebooks."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from html import escape


def digits_for(error: float) -> int:
    """Decimals at which an error has two significant digits, 0 to 5."""
    if not (math.isfinite(error) and error > 0):
        return 2
    return min(5, max(0, 1 - math.floor(math.log10(error))))


def number(value: float | None, digits: int) -> str:
    """Write a number with a true minus sign; a dash where there is none."""
    if value is None or not math.isfinite(value):
        return "–"
    # No minus before what rounds to nothing.
    return f"{round(value, digits) + 0.0:.{digits}f}".replace("-", "−")


def with_error(value: float, error: float, unit: str = "") -> str:
    """Write ``4751 ± 12 K``, two digits of the error."""
    digits = digits_for(error)
    return f"{number(value, digits)} ± {number(error, digits)} {unit}".rstrip()


def card(
    title: str,
    facts: Iterable[tuple[str, str]],
    header: Sequence[str] = (),
    rows: Iterable[Sequence[str]] = (),
    said: str = "",
) -> str:
    """Return HTML of an object for a notebook: a title, what is said of it, a table of rows under a header, and facts in small print.

    All text is escaped.
    """
    cells = ["".join(f"<th>{escape(text)}</th>" for text in header)] if header else []
    cells += ["".join(f"<td>{escape(text)}</td>" for text in row) for row in rows]
    table = "".join(f"<tr>{row}</tr>" for row in cells)
    small = "; ".join(f"{escape(name)} {escape(text)}" for name, text in facts)
    body = f"<table>{table}</table>" if table else ""
    first = f"<div>{escape(said)}</div>" if said else ""
    return f"<div><strong>{escape(title)}</strong>{first}{body}<div><small>{small}</small></div></div>"
