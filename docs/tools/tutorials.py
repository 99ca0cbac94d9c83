"""Runs the tutorials, and writes into each page what its code printed and drew, as a notebook does.

Usage: python docs/tools/tutorials.py [--check | --notebooks] [PAGE...]

Without pages, all of them. With --check nothing is written: what a page shows is compared with a fresh run (see `differences`), and the
exit status is 1 if they differ. ``make tutorials`` runs all pages. CI runs one of them afresh, and holds the code of the others against the
hash of what was run. With --notebooks nothing is run either: after a change of a page's prose its notebook is written again.

A page is plain Markdown. All its ``python`` blocks are one session, its ``sh`` blocks run in the same folder. After a block,

- a ``text`` block holds what it printed, and what its last line gave if that is something that notebooks show;
- a picture ``![caption](pictures/PAGE/NAME)`` is the figure that its last line gave, or else the file NAME that it wrote.

The page's last lines say when it was run, and of which code. Beside each page lies the same as a notebook, ``PAGE.ipynb``.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import hashlib
import io
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import date
from itertools import zip_longest
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parents[1] / "tutorials"
# Of the tutorials the cheapest: 35 s of a core. tests/docs/test_tutorials.py runs it.
CHECKED = "two-stars"
RELATIVE, ABSOLUTE = 0.1, 0.02

_PART = re.compile(
    r"^```(?P<kind>python|sh|text)\n(?P<body>.*?)^```\n"
    r"|^!\[(?P<caption>[^\]]*)\]\(pictures/(?P<page>[\w-]+)/(?P<name>[^)]+)\)\n"
    r"|^\*Run on (?P<when>[^*]*)\* <!-- code: (?P<code>\w+) -->\n",
    re.MULTILINE | re.DOTALL,
)
_NUMBER = re.compile(r"(?<![\w.])[-+]?\d+(?:\.\d+)?(?:e[-+]?\d+)?(?![\w.]*\d)")
# What some hundred weighted draws leave to chance: offsets in units of an error, and the tail of the weights.
BY_CHANCE = 0.4
_SIGMA, _KHAT = re.compile(r"\s*sigma\b"), re.compile(r"k-hat\s*$")
_SECONDS = re.compile(r"\s*(s|files/s|spectra/s|MB)\b")
_WIDTH, _COLOURS = 1100, 64
_EMPTY = "\n"
# Where the process that runs a page leaves what it showed.
_SHOWN = ".shown.json"


@dataclass(frozen=True)
class Part:
    """A piece of a page: ``prose``, ``python``, ``sh``, ``text`` (printed), ``picture`` (its caption is the body), or ``run``."""

    kind: str
    body: str
    name: str = ""

    def markdown(self, page: str) -> str:
        """Return the piece as it stands in the page of this name."""
        if self.kind in ("python", "sh", "text"):
            return f"```{self.kind}\n{self.body}```\n"
        if self.kind == "picture":
            return f"![{self.body}](pictures/{page}/{self.name})\n"
        if self.kind == "run":
            return f"*Run on {self.body}* <!-- code: {self.name} -->\n"
        return self.body


@dataclass(frozen=True)
class Shown:
    """What a block printed, and the figure that its last line gave: a file's name, or empty."""

    text: str
    figure: str = ""


def pages() -> list[Path]:
    """Return the tutorials."""
    return sorted(path for path in FOLDER.glob("*.md") if path.stem != "README")


def parts(text: str) -> list[Part]:
    """Take a page apart; `whole` puts it together."""
    found, end = [], 0
    for match in _PART.finditer(text):
        if match.start() > end:
            found.append(Part("prose", text[end : match.start()]))
        end = match.end()
        if match["kind"]:
            found.append(Part(match["kind"], match["body"]))
        elif match["page"]:
            found.append(Part("picture", match["caption"], match["name"]))
        else:
            found.append(Part("run", match["when"], match["code"]))
    return [*found, Part("prose", text[end:])] if end < len(text) else found


def whole(found: list[Part], page: str) -> str:
    """Put a page together."""
    return "".join(part.markdown(page) for part in found)


def code_hash(found: list[Part]) -> str:
    """SHA-256 of a page's blocks, in their order; the first 16 digits."""
    blocks = [(part.kind, part.body) for part in found if part.kind in ("python", "sh")]
    return hashlib.sha256(json.dumps(blocks).encode()).hexdigest()[:16]


def recorded(found: list[Part]) -> str:
    """Return the hash of the code that was run for what a page shows; empty if none was."""
    return next((part.name for part in found if part.kind == "run"), "")


def execute(path: Path, folder: Path) -> list[Shown]:
    """Run a page's blocks in this process and in a folder; return what each showed."""
    session: dict[str, Any] = {"__name__": "__main__"}
    shown = []
    os.chdir(folder)
    for i, part in enumerate(parts(path.read_text(encoding="utf-8"))):
        if part.kind == "sh":
            run = subprocess.run(
                ["bash", "-euo", "pipefail", "-c", part.body],
                stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, encoding="utf-8", check=False,
            )  # fmt: skip
            if run.returncode:
                raise SystemExit(f"{path.name}: exit status {run.returncode} of\n{part.body}\n{run.stdout}")
            shown.append(Shown(run.stdout))
        elif part.kind == "python":
            shown.append(_run_python(part.body, session, f"figure-{i}.png"))
    return shown


def _run_python(body: str, session: dict[str, Any], figure: str) -> Shown:
    printed, value = io.StringIO(), None
    tree = ast.parse(body)
    last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
    with contextlib.redirect_stdout(printed):
        exec(compile(tree, "<tutorial>", "exec"), session)
        if last is not None:
            value = eval(compile(ast.Expression(last.value), "<tutorial>", "eval"), session)
        drawn = hasattr(value, "savefig")
        if drawn:
            value.savefig(figure, dpi=100)
        elif hasattr(value, "_repr_html_"):
            print(repr(value))
    return Shown(printed.getvalue(), figure if drawn else "")


def run(path: Path, folder: Path) -> tuple[list[Shown], float]:
    """Run a page in a process of its own; return what its blocks showed, and seconds of the processor."""
    before = sum(os.times()[:4])
    environment = os.environ | {
        # Shells of the pages stop at variables that are not set.
        "PYTHONPATH": os.environ.get("PYTHONPATH", ""),
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]),
        "COLUMNS": "100",
        "MPLBACKEND": "agg",
        "PYTHONWARNINGS": "ignore",
        # What is computed depends on it in its last digits, and by that which draws are kept.
        "OMP_NUM_THREADS": "1",
    }
    result = folder / _SHOWN
    command = [sys.executable, __file__, "--execute", str(path.resolve()), str(folder)]
    if subprocess.run(command, env=environment, check=False).returncode:
        raise SystemExit(f"{path.name}: could not be run")
    shown = [Shown(**each) for each in json.loads(result.read_text(encoding="utf-8"))]
    return shown, sum(os.times()[:4]) - before


def rendered(found: list[Part], shown: list[Shown]) -> list[Part]:
    """Return a page with what its blocks printed in place of what stood there; pictures stay where they are."""
    outputs, new = iter(shown), []
    for part in found:
        if part.kind == "text":
            # Printed by an earlier run, after an empty line.
            new.pop()
            continue
        if part.kind != "run":
            new.append(part)
        if part.kind in ("python", "sh"):
            text = _tidy(next(outputs).text)
            if text:
                new += [Part("prose", _EMPTY), Part("text", text)]
    return new


def _tidy(text: str) -> str:
    lines = [line.rstrip() for line in text.splitlines()]
    while lines and not lines[-1]:
        lines.pop()
    return "\n".join(lines) + "\n" if lines else ""


def pictures(found: list[Part], shown: list[Shown]) -> Iterator[tuple[str, str]]:
    """Yield each picture's name, and the file of the run that it is."""
    outputs, figure = iter(shown), ""
    for part in found:
        if part.kind in ("python", "sh"):
            figure = next(outputs).figure
        elif part.kind == "picture":
            yield part.name, figure or part.name
            figure = ""


def shrink(source: Path, target: Path) -> None:
    """Copy a picture with few colours and no more pixels than a page shows."""
    from PIL import Image

    image = Image.open(source).convert("RGB")
    if image.width > _WIDTH:
        image = image.resize((_WIDTH, round(image.height * _WIDTH / image.width)), Image.Resampling.LANCZOS)
    target.parent.mkdir(parents=True, exist_ok=True)
    kept = Image.Quantize.MAXCOVERAGE
    image.quantize(_COLOURS, kept, dither=Image.Dither.NONE).save(target, optimize=True)


def differences(old: str, new: str) -> list[str]:
    """Compare what a page shows with what a run printed.

    Words are the same. Numbers agree to a tenth, or to 0.02; offsets in units of an error, and k-hat, to 0.4; seconds and
    rates, which are the machine's, are not compared.
    """
    found = []
    for before, after in zip_longest(_lines(old), _lines(new), fillvalue=""):
        if _NUMBER.sub("#", before) != _NUMBER.sub("#", after):
            found.append(f"- {before}\n+ {after}")
            continue
        for a, b in zip(_NUMBER.finditer(before), _NUMBER.finditer(after), strict=True):
            if _SECONDS.match(before, a.end()):
                continue
            x, y = float(a[0]), float(b[0])
            by_chance = _SIGMA.match(before, a.end()) or _KHAT.search(before[: a.start()])
            if abs(x - y) > max(RELATIVE * abs(x), BY_CHANCE if by_chance else ABSOLUTE):
                found.append(f"- {before}\n+ {after}\n  {a[0]} and {b[0]}")
                break
    return found


def _lines(text: str) -> list[str]:
    # Widths of columns follow the numbers; rules and signs stand apart from what they belong to.
    return [re.sub(r"[\s\u2500-\u257f]+", " ", line).strip() for line in text.splitlines()]


def notebook(found: list[Part], page: str) -> dict[str, Any]:
    """Return a page as a Jupyter notebook (format 4.5) with its outputs; pictures are those beside the page."""
    cells: list[dict[str, Any]] = []
    text = ""
    for part in [*found, Part("end", "")]:
        if part.kind not in ("python", "sh", "text", "end"):
            text += part.markdown(page)
            continue
        if text.strip():
            cells.append({"cell_type": "markdown", "source": _split(text.strip())})
        text = ""
        if part.kind == "text":
            cells[-1]["outputs"] = [{"output_type": "stream", "name": "stdout", "text": _split(part.body)}]
        elif part.kind != "end":
            source = ("%%sh\n" if part.kind == "sh" else "") + part.body.rstrip("\n")
            number = 1 + sum(cell["cell_type"] == "code" for cell in cells)
            cells.append(
                {"cell_type": "code", "execution_count": number, "outputs": [], "source": _split(source)}
            )
    for i, cell in enumerate(cells):
        cell |= {"id": f"cell-{i}", "metadata": {}}
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    return {
        "cells": cells,
        "metadata": {"kernelspec": kernel, "language_info": {"name": "python"}},
        "nbformat": 4,
        "nbformat_minor": 5,
    }


def notebook_text(text: str, page: str) -> str:
    """Return the notebook of a page's text, as it is written."""
    return json.dumps(notebook(parts(text), page), indent=1, ensure_ascii=False, sort_keys=True) + "\n"


def _split(text: str) -> list[str]:
    return text.splitlines(keepends=True)


def write(path: Path, shown: list[Shown], seconds: float, folder: Path) -> None:
    """Write a page's outputs into it, its pictures beside it, and its notebook."""
    import maury

    found = parts(path.read_text(encoding="utf-8"))
    for name, source in pictures(found, shown):
        shrink(folder / source, FOLDER / "pictures" / path.stem / name)
    body = whole(rendered(found, shown), path.stem).rstrip("\n")
    when = f"{date.today().isoformat()} with maury {maury.__version__}, in {seconds:.0f} s of a core."
    text = f"{body}\n\n{Part('run', when, code_hash(found)).markdown(path.stem)}"
    path.write_text(text, encoding="utf-8")
    path.with_suffix(".ipynb").write_text(notebook_text(text, path.stem), encoding="utf-8")


def check(path: Path) -> list[str]:
    """Run a page and say where it differs from what it shows."""
    found = parts(path.read_text(encoding="utf-8"))
    with tempfile.TemporaryDirectory(prefix="maury-tutorial-") as name:
        shown, _ = run(path, Path(name))
        missing = [
            picture for picture, source in pictures(found, shown) if not (Path(name) / source).is_file()
        ]
    old = "".join(part.body for part in found if part.kind == "text")
    new = "".join(_tidy(each.text) for each in shown)
    return [*differences(old, new), *(f"no picture {picture}" for picture in missing)]


def main() -> None:
    """Run pages, or check them."""
    reader = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    reader.add_argument("--check", action="store_true", help="compare, and write nothing")
    reader.add_argument("--notebooks", action="store_true", help="write the notebooks of pages as they are")
    reader.add_argument("pages", nargs="*", metavar="PAGE", help="such as one-star")
    wanted = reader.parse_args()
    bad = False
    for path in [FOLDER / f"{name}.md" for name in wanted.pages] or pages():
        began = time.perf_counter()
        if wanted.notebooks:
            text = path.read_text(encoding="utf-8")
            path.with_suffix(".ipynb").write_text(notebook_text(text, path.stem), encoding="utf-8")
        elif wanted.check:
            found = check(path)
            bad |= bool(found)
            print(*found, sep="\n")
        else:
            with tempfile.TemporaryDirectory(prefix="maury-tutorial-") as folder:
                shown, seconds = run(path, Path(folder))
                write(path, shown, seconds, Path(folder))
        print(f"{path.name}: {time.perf_counter() - began:.0f} s", flush=True)
    raise SystemExit(bad)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--execute"]:
        done = execute(Path(sys.argv[2]), Path(sys.argv[3]))
        Path(sys.argv[3], _SHOWN).write_text(json.dumps([asdict(each) for each in done]), encoding="utf-8")
    else:
        main()
