"""Pages of text, tables and pictures: one HTML file each, which needs nothing beside it."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import maury
from maury.files import writing


@dataclass(frozen=True)
class Cell:
    """A table's cell; ``verdict`` colours it: True as good, False as bad, None not at all."""

    text: str
    verdict: bool | None = None

    @classmethod
    def of(cls, value: str | float | Cell) -> Cell:
        """Format a number to three digits; leave text and cells as they are."""
        if isinstance(value, Cell):
            return value
        return cls(value if isinstance(value, str) else f"{value:.3g}")


@dataclass(frozen=True)
class Section:
    """A heading with paragraphs, a table and a picture (a PNG file), as far as they are given."""

    title: str
    text: Sequence[str] = ()
    header: Sequence[str] = ()
    rows: Sequence[Sequence[str | float | Cell]] = ()
    picture: Path | None = None
    caption: str = ""


def write_page(path: Path, title: str, lead: str, sections: Sequence[Section]) -> None:
    """Write a page; it appears whole or not at all. All text is escaped."""
    from jinja2 import Environment, PackageLoader

    environment = Environment(loader=PackageLoader("maury", "report/templates"), autoescape=True)
    parts = [
        {
            "title": section.title,
            "text": section.text,
            "header": section.header,
            "rows": [[Cell.of(value) for value in row] for row in section.rows],
            "picture": base64.b64encode(section.picture.read_bytes()).decode() if section.picture else "",
            "caption": section.caption or section.title,
        }
        for section in sections
    ]
    html = environment.get_template("page.html").render(
        title=title, lead=lead, sections=parts, foot=f"maury {maury.__version__}"
    )
    with writing(path) as temporary:
        temporary.write_text(html, encoding="utf-8")
