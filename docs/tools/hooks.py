"""What MkDocs does besides: commands come in, pictures of tutorials get their captions, formulas become MathML.

Sources stay plain Markdown, which reads well where it lies. ``<!-- commands -->`` asks for every command with its options. Links that lead
out of docs/ lose their target here, where it is not there to be followed.
"""

from __future__ import annotations

import html
import re
import sys
from pathlib import Path
from typing import Any

import latex2mathml.converter

sys.path.insert(0, str(Path(__file__).parent))
from command_reference import reference

_PICTURE = re.compile(r'<p><img alt="([^"]*)" src="(pictures/[^"]+)" ?/?></p>')
_LINK = re.compile(r"(?<!!)\[([^\]]+)\]\(((?:\.\./)+[^)#\s]+)\)")
_MATHS = re.compile(r'<(span|div) class="arithmatex">(.*?)</\1>', re.DOTALL)
_DELIMITERS = re.compile(r"^\s*\\[(\[](.*)\\[)\]]\s*$", re.DOTALL)


def on_nav(nav: Any, config: Any, files: Any) -> Any:
    """Give pages that the navigation does not know a place at the end of How-to."""
    known = {page.file.src_uri for page in nav.pages}
    how_to = next(item for item in nav.items if item.title == "How-to")
    for file in files.documentation_pages():
        if file.src_uri not in known and "/" not in file.src_uri:
            file.page.parent = how_to
            how_to.children.append(file.page)
            nav.pages.append(file.page)
    return nav


# What a search finds first, and last: who looks for a flag wants to know what it means, not why it was chosen so.
_FIRST = ("flags.md", "labels.md", "reference/cli.md", "formats.md", "trust.md")
_LAST = ("decisions.md", "licences.md", "results/", "scale.md")


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Put in the commands, unlink what lies outside, and say how much the page counts in a search."""
    place = page.file.src_uri
    boost = 4 if place in _FIRST else 0.2 if place.startswith(_LAST) else 1
    page.meta.setdefault("search", {"boost": boost})
    if "<!-- commands -->" in markdown:
        markdown = markdown.replace("<!-- commands -->", reference())
    here, docs = Path(page.file.abs_src_path).parent, Path(config.docs_dir)

    def unlink(match: re.Match[str]) -> str:
        target = (here / match[2]).resolve()
        away = docs not in target.parents or docs / "tools" in target.parents
        return match[1] if target.exists() and away else match[0]

    return _LINK.sub(unlink, markdown)


def on_page_content(content: str, page: Any, config: Any, files: Any) -> str:
    """Put captions under pictures, and mathematics into the page."""
    figure = r'<figure class="run"><img src="\2" alt="\1"><figcaption>\1</figcaption></figure>'
    content = _PICTURE.sub(figure, content)
    return _MATHS.sub(lambda match: _mathml(match[1] == "div", match[2]), content)


def _mathml(block: bool, source: str) -> str:
    inner = _DELIMITERS.sub(r"\1", html.unescape(source))
    mathml = latex2mathml.converter.convert(inner.strip(), display="block" if block else "inline")
    return f'<div class="formula">{mathml}</div>' if block else mathml
