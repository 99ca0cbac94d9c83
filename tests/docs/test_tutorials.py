"""What tutorials show is what their code printed: no page's code was changed since, and one is run afresh (by make test-all, all)."""

from __future__ import annotations

import importlib
import json
import re
import sys
from pathlib import Path

import pytest

TOOLS = Path(__file__).parents[2] / "docs" / "tools"
sys.path.insert(0, str(TOOLS))
tutorials = importlib.import_module("tutorials")
Part, Shown = tutorials.Part, tutorials.Shown

PAGES = tutorials.pages()
EACH = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
PAGE = """# Sums

```python
2 + 2
```

![A line.](pictures/sums/line.png)

Said.
"""


@EACH
def test_a_page_shows_what_its_code_printed(page):
    """Where this fails: make tutorials PAGES=..."""
    found = tutorials.parts(page.read_text(encoding="utf-8"))
    assert tutorials.whole(found, page.stem) == page.read_text(encoding="utf-8")
    assert tutorials.recorded(found) == tutorials.code_hash(found), "its code was changed after it was run"
    # Nothing but what was printed stands in a block of text.
    before = [part for part in found if part != Part("prose", "\n")]
    assert all(before[i - 1].kind in ("python", "sh") for i, part in enumerate(before) if part.kind == "text")


@EACH
def test_pictures_are_there_and_small(page):
    found = tutorials.parts(page.read_text(encoding="utf-8"))
    named = [part.name for part in found if part.kind == "picture"]
    folder = tutorials.FOLDER / "pictures" / page.stem
    there = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert set(named) == there
    assert len(re.findall(r"!\[", page.read_text(encoding="utf-8"))) == len(named)


def test_pictures_and_notebooks_are_small_together():
    files = [*tutorials.FOLDER.glob("*.ipynb"), *(tutorials.FOLDER / "pictures").rglob("*.png")]
    assert sum(path.stat().st_size for path in files) < 1.5e6


@EACH
def test_the_notebook_is_the_page(page):
    """Where this fails: python docs/tools/tutorials.py --notebooks."""
    text = page.read_text(encoding="utf-8")
    assert page.with_suffix(".ipynb").read_text(encoding="utf-8") == tutorials.notebook_text(text, page.stem)


@pytest.mark.parametrize(
    "page",
    [
        page if page.stem == tutorials.CHECKED else pytest.param(page, marks=pytest.mark.slow)
        for page in PAGES
    ],
    ids=lambda page: page.stem,
)
def test_a_page_run_afresh_shows_the_same(page):
    assert tutorials.check(page) == []


def test_outputs_take_the_place_of_those_of_before():
    once = tutorials.rendered(tutorials.parts(PAGE), [Shown("4\n")])
    assert "2 + 2\n```\n\n```text\n4\n```\n\n![A line." in tutorials.whole(once, "sums")
    again = tutorials.rendered(once, [Shown("5  \n\n")])
    assert tutorials.whole(again, "sums") == tutorials.whole(once, "sums").replace("4", "5", 1)
    silent = tutorials.rendered(again, [Shown("")])
    assert tutorials.whole(silent, "sums") == PAGE


def test_a_page_is_run_as_a_notebook_is(tmp_path, monkeypatch):
    monkeypatch.setattr(tutorials, "FOLDER", tmp_path)
    page = tmp_path / "sums.md"
    page.write_text(
        "```python\nimport pandas\nx = 2\nprint('two')\npandas.DataFrame({'x': [x]})\n```\n\n```sh\necho $COLUMNS > made.txt\n```\n\n"
        "```python\nimport matplotlib.pyplot as plt\nassert open('made.txt').read() == '100\\n'\n"
        "figure, axis = plt.subplots()\nfigure\n```\n\n![A line.](pictures/sums/line.png)\n",
        encoding="utf-8",
    )
    folder = tmp_path / "run"
    folder.mkdir()
    shown, seconds = tutorials.run(page, folder)
    assert [each.text for each in shown] == ["two\n   x\n0  2\n", "", ""]
    assert seconds > 0
    tutorials.write(page, shown, seconds, folder)
    assert (tmp_path / "pictures" / "sums" / "line.png").stat().st_size < 20_000
    text = page.read_text(encoding="utf-8")
    # Run again, it is the same page.
    tutorials.write(page, shown, seconds, folder)
    assert page.read_text(encoding="utf-8") == text
    assert "```text\ntwo\n   x\n0  2\n```" in text
    cells = json.loads(page.with_suffix(".ipynb").read_text(encoding="utf-8"))["cells"]
    assert [cell["cell_type"] for cell in cells] == ["code", "code", "code", "markdown"]
    assert cells[0]["outputs"][0]["text"] == ["two\n", "   x\n", "0  2\n"]
    assert cells[1]["source"][0] == "%%sh\n"
    found = tutorials.parts(text)
    assert tutorials.recorded(found) == tutorials.code_hash(found)
    page.write_text(text.replace("x = 2", "x = 3"), encoding="utf-8")
    changed = tutorials.parts(page.read_text(encoding="utf-8"))
    assert tutorials.recorded(changed) != tutorials.code_hash(changed)


@pytest.mark.parametrize("block", ["python\nraise ValueError\n", "sh\nfalse | true\n"])
def test_a_block_that_fails_is_no_output(tmp_path, block):
    page = tmp_path / "wrong.md"
    page.write_text(f"```{block}```\n", encoding="utf-8")
    with pytest.raises(SystemExit, match=r"wrong.md: could not be run"):
        tutorials.run(page, tmp_path)


@pytest.mark.parametrize(
    ("old", "new", "same"),
    [
        ("teff 4750.1 +- 10.0 K", "teff 4760.1 +-  10.4 K", True),
        ("teff 4750.1 K", "teff 5750.1 K", False),
        ("m_h -0.010", "m_h  0.005", True),
        ("m_h -0.1", "m_h 0.1", False),
        ("k-hat 0.33, 62.5 s", "k-hat 0.41, 22 s", True),
        ("k-hat 0.33, 62.5 s", "k-hat 0.83, 22 s", False),
        ("logg 2.294, off by -0.4 sigma", "logg 2.291, off by -0.6 sigma", True),
        ("logg 2.294, off by -0.4 sigma", "logg 2.291, off by 1.4 sigma", False),
        ("flags none", "flags misfit", False),
        ("2 stars", "2 stars\n3 stars", False),
        ("v_rad_2 5", "v_rad_3 5", False),
    ],
)
def test_numbers_agree_within_a_tolerance_and_words_are_the_same(old, new, same):
    assert (tutorials.differences(old, new) == []) == same
