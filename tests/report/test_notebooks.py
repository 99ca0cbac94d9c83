"""In a notebook: objects show themselves as cards, figures inline, without pyplot; a notebook is executed as Jupyter does it."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path

import matplotlib.image
import pytest

import maury
from maury.figures import new_figure

CELLS = [
    "import maury\nposterior = maury.load('draws.nc')\nposterior",
    "posterior.plot_corner()",
    "posterior.plot_fit()",
    "posterior.spectrum",
    "posterior.spectrum.plot()",
    "quiet = posterior.spectrum.without([(15900, 15950)])\nquiet.good.sum() < posterior.spectrum.good.sum()",
    "posterior.to_pandas().head(2)",
]


def execute(notebook: Path) -> list[dict[str, str | bytes]]:
    """Run the code cells of a notebook in its folder; return what Jupyter would show of each last line, by kind."""
    session: dict[str, object] = {}
    shown = []
    for cell in json.loads(notebook.read_text(encoding="utf-8"))["cells"]:
        tree = ast.parse("".join(cell["source"]))
        last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
        exec(compile(tree, notebook.name, "exec"), session)
        value = eval(compile(ast.Expression(last.value), notebook.name, "eval"), session) if last else None
        kinds = {"html": "_repr_html_", "png": "_repr_png_"}
        shown.append(
            {"text": repr(value)}
            | {kind: getattr(value, name)() for kind, name in kinds.items() if hasattr(value, name)}
        )
    return shown


@pytest.fixture(scope="module")
def shown(posterior, tmp_path_factory):
    folder = tmp_path_factory.mktemp("notebook")
    posterior.save(folder / "draws.nc")
    cells = [
        {"cell_type": "code", "id": f"c{i}", "metadata": {}, "outputs": [], "execution_count": None, "source": source.splitlines(True)}
        for i, source in enumerate(CELLS)
    ]  # fmt: skip
    made = folder / "star.ipynb"
    made.write_text(
        json.dumps({"cells": cells, "metadata": {}, "nbformat": 4, "nbformat_minor": 5}), encoding="utf-8"
    )
    with pytest.MonkeyPatch.context() as here:
        here.chdir(folder)
        return execute(made)


def test_a_posterior_shows_its_verdict_and_labels(shown):
    card = shown[0]["html"]
    assert "take v_sini as an upper limit" in card
    assert card.index("Believe it") < card.index("<td>teff</td>")
    assert "<script>" not in card
    assert "&lt;script&gt;" in card
    assert len(shown[0]["text"]) < 600


@pytest.mark.parametrize("cell", [1, 2, 4])
def test_figures_are_inline(shown, cell, tmp_path):
    (tmp_path / "shown.png").write_bytes(shown[cell]["png"])
    assert matplotlib.image.imread(tmp_path / "shown.png").std() > 0.01


def test_spectra_tables_and_masks(shown):
    assert "html" in shown[3]
    assert shown[5]["text"] in ("True", "np.True_")
    assert "<table" in shown[6]["html"]


def test_every_plot_returns_a_figure():
    kinds = (maury.Posterior, maury.JointPosterior)
    plots = [getattr(kind, name) for kind in kinds for name in dir(kind) if name.startswith("plot_")]
    assert len(plots) == 5
    assert all(plot.__annotations__["return"] == "Figure" for plot in plots)


def test_a_figure_needs_no_pyplot():
    code = "import sys, maury.figures as f; f.new_figure(2, 2)._repr_png_(); print('matplotlib.pyplot' in sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "False"
    assert new_figure(3, 2)._repr_png_().startswith(b"\x89PNG")
