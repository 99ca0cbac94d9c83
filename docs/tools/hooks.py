"""What MkDocs does besides: tutorials run in a folder of their own, pictures and commands come in, formulas become MathML.

Sources stay plain Markdown, which reads well where it lies: what a build adds is asked for by comments,

- ``<!-- picture: corner.png | caption -->``: a picture that the page's code wrote;
- ``<!-- commands -->``: every command with its options;

and links that lead out of docs/ lose their target here, where it is not there to be followed.
"""

from __future__ import annotations

import html
import logging
import os
import re
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import latex2mathml.converter

sys.path.insert(0, str(Path(__file__).parent))
from command_reference import reference

log = logging.getLogger("mkdocs.hooks.maury")

_PICTURE = re.compile(r"<!-- picture: (\S+) \| (.+?) -->", re.DOTALL)
_LINK = re.compile(r"(?<!!)\[([^\]]+)\]\(((?:\.\./)+[^)#\s]+)\)")
_MATHS = re.compile(r'<(span|div) class="arithmatex">(.*?)</\1>', re.DOTALL)
_DELIMITERS = re.compile(r"^\s*\\[(\[](.*)\\[)\]]\s*$", re.DOTALL)


class _Runs:
    """Where pages with code are run, and how long each took."""

    def __init__(self) -> None:
        self.home = Path.cwd()
        self.folder: Path | None = None
        self.began = self.spent = 0.0
        self.seconds: dict[str, float] = {}

    def start(self) -> None:
        """Begin to count."""
        self.began, self.spent = time.perf_counter(), sum(os.times()[:4])

    def stop(self, name: str) -> None:
        """Keep the processor's seconds of a page, children included, and tell them."""
        self.seconds[name] = sum(os.times()[:4]) - self.spent
        if self.seconds[name] > 1:
            wall = time.perf_counter() - self.began
            log.info("%s: %.1f s of the processor, %.1f s in all", name, self.seconds[name], wall)


_runs = _Runs()


def on_pre_build(config: Any) -> None:
    """Make the folder, and let ``maury`` in shell blocks be that of this environment."""
    _runs.home, _runs.folder = Path.cwd(), Path(tempfile.mkdtemp(prefix="maury-docs-"))
    paths = [str(Path(sys.executable).parent), os.environ.get("PATH", "")]
    os.environ.update(PATH=os.pathsep.join(paths), COLUMNS="100", MPLBACKEND="agg", MAURY_NO_COLOR="1")


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


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Put in the commands, unlink what lies outside, and go to the folder of a tutorial."""
    if "<!-- commands -->" in markdown:
        markdown = markdown.replace("<!-- commands -->", reference())
    here, docs = Path(page.file.abs_src_path).parent, Path(config.docs_dir)

    def unlink(match: re.Match[str]) -> str:
        target = (here / match[2]).resolve()
        away = docs not in target.parents or docs / "tools" in target.parents
        return match[1] if target.exists() and away else match[0]

    if _is_tutorial(page) and _runs.folder is not None:
        os.chdir(_runs.folder)
        _runs.start()
    return _LINK.sub(unlink, markdown)


def on_page_content(content: str, page: Any, config: Any, files: Any) -> str:
    """Put in pictures and mathematics, and leave the folder."""
    if _is_tutorial(page):
        _runs.stop(page.file.src_uri)

    def picture(match: re.Match[str]) -> str:
        source = Path.cwd() / match[1]
        caption = " ".join(match[2].split())
        if not source.is_file():
            log.warning("%s: no picture %s was written", page.file.src_uri, match[1])
            return ""
        name = f"{Path(page.file.dest_uri).stem}-{source.name}"
        target = Path(config.site_dir) / Path(page.file.dest_uri).parent / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)
        text = html.escape(caption)
        return f'<figure class="run"><img src="{name}" alt="{text}"><figcaption>{text}</figcaption></figure>'

    content = _PICTURE.sub(picture, content)
    if _is_tutorial(page):
        os.chdir(_runs.home)
    return _MATHS.sub(lambda match: _mathml(match[1] == "div", match[2]), content)


def on_post_build(config: Any) -> None:
    """Remove the folder; say what the tutorials took."""
    if _runs.folder is not None:
        shutil.rmtree(_runs.folder, ignore_errors=True)
    log.info("all tutorials: %.0f s of the processor", sum(_runs.seconds.values()))


def _is_tutorial(page: Any) -> bool:
    return bool(page.file.src_uri.startswith("tutorials/"))


def _mathml(block: bool, source: str) -> str:
    inner = _DELIMITERS.sub(r"\1", html.unescape(source))
    mathml = latex2mathml.converter.convert(inner.strip(), display="block" if block else "inline")
    return f'<div class="formula">{mathml}</div>' if block else mathml
