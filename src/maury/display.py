"""How numbers and objects show themselves: digits that an error deserves, and short cards for notebooks."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Iterable, Sequence
from html import escape
from importlib import import_module
from typing import Any


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
    notes: Iterable[tuple[str, str]] = (),
) -> str:
    """Return HTML of an object for a notebook: a title, what is said of it, notes, a table of rows under a header, facts in small print.

    All text is escaped.
    """
    cells = ["".join(f"<th>{escape(text)}</th>" for text in header)] if header else []
    cells += ["".join(f"<td>{escape(text)}</td>" for text in row) for row in rows]
    table = "".join(f"<tr>{row}</tr>" for row in cells)
    small = "; ".join(f"{escape(name)} {escape(text)}" for name, text in facts)
    body = f"<table>{table}</table>" if table else ""
    first = f"<div>{escape(said)}</div>" if said else ""
    items = "".join(f"<li><code>{escape(name)}</code> {escape(text)}</li>" for name, text in notes)
    first += f"<ul>{items}</ul>" if items else ""
    return f"<div><strong>{escape(title)}</strong>{first}{body}<div><small>{small}</small></div></div>"


class Progress:
    """Shows how far an inference is, for ``progress=`` of `maury.infer`: one line that changes in a notebook, a line a stage elsewhere.

    Examples
    --------
    >>> posterior = maury.infer("star.fits", progress=maury.Progress())  # doctest: +SKIP
    refine, 2 s
    """

    # Seconds between two changes of the line.
    _OFTEN = 0.5

    def __init__(self) -> None:
        self._began, self._last, self._stage = time.monotonic(), -math.inf, ""
        self._handle: Any = None

    def __call__(self, stage: str) -> None:
        """Tell a stage, or that it goes on."""
        now = time.monotonic()
        if stage == self._stage and (self._handle is None or now - self._last < self._OFTEN):
            return
        text = f"{stage}, {now - self._began:.0f} s"
        self._stage, self._last = stage, now
        if self._handle is not None:
            self._handle.update({"text/plain": text}, raw=True)
        elif (display := _notebook()) is not None:
            self._handle = display({"text/plain": text}, raw=True, display_id=True)
        else:
            sys.stderr.write(f"{text}\n")


def _notebook() -> Any:
    """Return IPython's ``display`` where a notebook shows what it is given; None elsewhere."""
    ipython = sys.modules.get("IPython")
    shell = None if ipython is None else ipython.get_ipython()
    if shell is None or not hasattr(shell, "kernel"):
        return None
    return import_module("IPython.display").display
