"""The documentation agrees with the code, and its links lead somewhere; what tutorials show is test_tutorials.py's."""

from __future__ import annotations

import importlib
import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import typer.main

import maury
from maury.cli import app

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]
NAV = (ROOT / "mkdocs.yml").read_text()

sys.path.insert(0, str(DOCS / "tools"))
reference = importlib.import_module("command_reference").reference

FENCE = re.compile(r"^```(\w*)[^\n]*\n(.*?)^```", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#+ (.+?)\s*$", re.MULTILINE)
# What stands for something of the reader's, and what leads from one command to the next.
STOP = {"|", "&&", ";", ">", "2>/dev/null", "2>&1", "#"}


# Options that act as they are parsed: completion would be written into the reader's own shell.
EAGER = {"--help", "-h", "--version", "--install-completion", "--show-completion"}


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def fences(path: Path, languages: set[str]) -> Iterator[str]:
    for match in FENCE.finditer(path.read_text()):
        if match[1] in languages:
            yield match[2]


def commands(text: str) -> Iterator[list[str]]:
    """Yield the words of each ``maury`` command of a shell block."""
    for line in text.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        while words:
            end = next((i for i, word in enumerate(words) if word in STOP), len(words))
            command, words = words[:end], words[end + 1 :]
            while command and re.fullmatch(r"[A-Z_]+=\S*", command[0]):
                command = command[1:]
            if command and Path(command[0]).name == "maury":
                yield command[1:]


def parse(words: list[str]) -> None:
    """Parse a command as the command line does, without running it."""
    command: Any = typer.main.get_command(app)
    context: Any = None
    while True:
        context = command.make_context(command.name or "maury", list(words), parent=context)
        if not hasattr(command, "commands"):
            return
        rest = [*getattr(context, "_protected_args", []), *context.args]
        name, command, words = command.resolve_command(context, rest)
        assert command is not None, f"no command {name}"


def slug(heading: str) -> str:
    plain = re.sub(r"[`*]|\]\([^)]*\)|\[", "", heading).lower()
    return re.sub(r"[\s]+", "-", re.sub(r"[^\w\s-]", "", plain)).strip("-")


WORDS = [
    pytest.param(words, id=f"{name_of(page)}: maury {' '.join(words)}"[:100])
    for page in PAGES
    for block in fences(page, {"sh", "bash"})
    for words in commands(block)
]


@pytest.mark.parametrize("words", WORDS)
def test_commands_of_the_docs_parse(words):
    if not EAGER & set(words):
        parse(words)


def test_commands_are_found_and_wrong_ones_refused():
    assert len(WORDS) > 30
    with pytest.raises(Exception, match="No such option"):
        parse(["infer", "star.fits", "--no-such-option"])
    with pytest.raises(Exception, match="No such command"):
        parse(["no-such-command"])


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_resolve(page):
    text = FENCE.sub("", page.read_text())
    for target in LINK.findall(text):
        if re.match(r"(https?|mailto):", target):
            continue
        path, _, anchor = target.partition("#")
        there = (page.parent / path).resolve() if path else page
        assert there.exists(), f"{target} is not there"
        if anchor and there.suffix == ".md":
            headings = {slug(heading) for heading in HEADING.findall(there.read_text())}
            assert anchor in headings, f"{target}: no such heading"


def test_every_tutorial_and_page_of_the_navigation_is_there():
    listed = set(re.findall(r"(\S+\.md)\s*$", NAV, re.MULTILINE))
    assert all((DOCS / page).is_file() for page in listed)
    assert {f"tutorials/{page.name}" for page in (DOCS / "tutorials").glob("*.md")} <= listed


@pytest.mark.parametrize("page", sorted((DOCS / "tutorials").glob("[!R]*.md")), ids=lambda page: page.stem)
def test_a_tutorial_hides_no_failure(page):
    # A pipe, or a line that goes on whatever came of it, would.
    for block in fences(page, {"sh"}):
        assert "|" not in block
        assert all(line.endswith("&&") for line in block.strip().splitlines()[:-1])


def test_python_blocks_compile():
    for page in PAGES:
        for block in fences(page, {"python"}):
            compile(block.replace("): ...", "): pass"), name_of(page), "exec")


def test_reference_of_the_command_line_has_every_command_and_option():
    text = reference()
    for words in (
        "## maury infer",
        "## maury survey run",
        "## maury models build",
        "`--false-alarm`",
        "`FILE...`",
    ):
        assert words in text
    assert "None" not in text


def test_reference_of_python_names_what_exists():
    text = "".join(page.read_text() for page in (DOCS / "reference" / "python").glob("*.md"))
    for name in re.findall(r"^::: (\S+)", text, re.MULTILINE):
        parts = name.split(".")
        for i in range(len(parts), 0, -1):
            try:
                found: Any = importlib.import_module(".".join(parts[:i]))
            except ModuleNotFoundError:
                continue
            break
        for part in parts[i:]:
            found = getattr(found, part)


def test_reference_of_python_has_the_names_that_users_import():
    page = (DOCS / "reference" / "python" / "maury.md").read_text()
    for name in set(maury.__all__) - {"MauryError"}:
        assert re.search(rf"::: maury\.{name}$|`maury\.{name}`", page, re.MULTILINE), name
    assert "::: maury.errors" in page


def test_a_search_finds_flags_before_decisions():
    """Pages that users look things up in count more than those that say why."""
    hooks = importlib.import_module("hooks")

    def boost(place):
        file = SimpleNamespace(src_uri=place, abs_src_path=str(DOCS / place))
        page = SimpleNamespace(file=file, meta={})
        assert hooks.on_page_markdown("text", page, SimpleNamespace(docs_dir=DOCS), []) == "text"
        return page.meta["search"]["boost"]

    assert all((DOCS / place).is_file() for place in hooks._FIRST)
    assert boost("flags.md") > boost("survey.md") > boost("decisions.md")
    assert boost("results/README.md") < 1


def test_pictures_of_tutorials_get_captions():
    hooks = importlib.import_module("hooks")
    page = SimpleNamespace(file=SimpleNamespace(src_uri="tutorials/a.md"))
    html = '<p><img alt="Two &amp; more." src="pictures/a/b.png" /></p>'
    assert hooks.on_page_content(html, page, None, None) == (
        '<figure class="run"><img src="pictures/a/b.png" alt="Two &amp; more."><figcaption>Two &amp; more.</figcaption></figure>'
    )


def test_site_asks_nothing_of_the_network():
    assert "font: false" in NAV
    assert not re.search(r"extra_javascript|https?://", NAV)
