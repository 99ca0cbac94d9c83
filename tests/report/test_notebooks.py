"""In a notebook: objects show themselves as cards, figures inline, without pyplot; a notebook is executed as Jupyter does it."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import matplotlib.image
import pytest

import maury
from maury.figures import new_figure
from maury.models import load_model
from maury.training.demo import write_demo

CELLS = [
    "import maury\nposterior = maury.load('draws.nc')\nposterior",
    "posterior.plot_corner()",
    "posterior.plot_fit()",
    "posterior.spectrum",
    "posterior.spectrum.plot()",
    "quiet = posterior.spectrum.without([(15900, 15950)])\nquiet.good.sum() < posterior.spectrum.good.sum()",
    "posterior.to_pandas().head(2)",
    "first = maury.infer('star.fits', draws=150, progress=maury.Progress())\nagain = first.again(masks=[(15900, 15950)], seed=3)\nagain",
    "first.moves(again)['teff']",
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
    write_demo(folder / "star.fits", load_model())
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
    assert card.index("Believe it") < card.index("<code>average_lsf</code>") < card.index("<td>teff</td>")
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


def test_a_mask_and_once_more(shown, posterior):
    """Without widgets: what was chosen before stays, the mask comes to it, and what moves is told."""
    assert "<table>" in shown[7]["html"]
    assert abs(float(shown[8]["text"].removeprefix("np.float64(").rstrip(")"))) < 5


def test_again_keeps_what_was_chosen(posterior, tmp_path):
    narrow = {"logg": maury.TruncatedNormal(2.6, 0.05)}
    write_demo(tmp_path / "star.fits", load_model())
    first = maury.infer(tmp_path / "star.fits", priors=narrow, draws=150, noise="independent", seed=7)
    first.save(tmp_path / "first.nc")
    loaded = maury.load(tmp_path / "first.nc")
    for before in (first, loaded):
        assert before.again().summary() == first.summary()
    masked = first.again(masks=[(15900, 15950)], seed=8)
    w = masked.spectrum.grid.wavelength[masked.fit.pixels]
    assert not ((w > 15900) & (w < 15950)).any()
    assert masked.labels["logg"].prior == first.labels["logg"].prior
    assert 0 < abs(first.moves(masked)["teff"]) < 5
    with pytest.raises(maury.MauryError, match="no option 'mask'"):
        first.again(mask=[(1, 2)])
    # A saved posterior needs its spectrum's file: the line-spread function is in it.
    (tmp_path / "star.fits").unlink()
    with pytest.raises(maury.MauryError, match="is not there to be inferred again"):
        loaded.again()


def test_progress_is_a_line_that_changes(monkeypatch, capsys):
    told = []

    class Handle:
        def update(self, data, raw):
            told.append(data["text/plain"])

    def display(data, raw, display_id):
        told.append(data["text/plain"])
        return Handle()

    progress = maury.Progress()
    progress("flow")
    progress("flow")
    progress("refine")
    assert [line.split(",")[0] for line in capsys.readouterr().err.splitlines()] == ["flow", "refine"]
    notebook = SimpleNamespace(get_ipython=lambda: SimpleNamespace(kernel=1))
    monkeypatch.setitem(sys.modules, "IPython", notebook)
    monkeypatch.setitem(sys.modules, "IPython.display", SimpleNamespace(display=display))
    progress = maury.Progress()
    progress("flow")
    progress("refine")
    progress._last -= 1
    progress("refine")
    assert [line.split(",")[0] for line in told] == ["flow", "refine", "refine"]
    assert capsys.readouterr().err == ""


def test_several_visits_show_their_verdict_too(posterior):
    from maury.inference.visits import infer_visits

    star = infer_visits(
        [posterior.spectrum, replace(posterior.spectrum, flux=1.001 * posterior.spectrum.flux)], draws=150
    )
    card = star._repr_html_()
    assert card.index("<div>") < card.index("<td>teff</td>")
    assert "average_lsf" in card


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
