"""Writes the tables of docs/ that come from the code, between ``<!-- table: NAME -->`` and ``<!-- end -->``; tests hold them against it.

Run it as ``python docs/tools/tables.py``.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from maury import quantities
from maury.posterior import flags

TABLES: dict[str, Callable[[], str]] = {"labels": quantities.table, "flags": flags.table}
_PLACE = re.compile(r"(<!-- table: (\w+) -->\n)\n.*?\n\n(<!-- end -->)", re.DOTALL)


def filled(text: str) -> str:
    """Return a page with its tables as the code has them."""
    return _PLACE.sub(lambda place: f"{place[1]}\n{TABLES[place[2]]()}\n\n{place[3]}", text)


def main() -> None:
    """Fill the tables of all pages."""
    for path in sorted(Path(__file__).parents[1].glob("*.md")):
        text = path.read_text(encoding="utf-8")
        if filled(text) != text:
            path.write_text(filled(text), encoding="utf-8")


if __name__ == "__main__":
    main()
