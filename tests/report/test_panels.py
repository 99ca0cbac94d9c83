"""Windows of a spectrum as pictures."""

import re
from dataclasses import replace
from xml.etree import ElementTree

import numpy as np
import pytest

from maury.posterior.diagnostics import ElementLine, Window
from maury.report.panels import marks, panels, told_by


def test_a_panel_a_window(posterior):
    made = panels(posterior)
    assert [(p.low, p.high) for p in made] == [(w.low, w.high) for w in posterior.windows]
    for panel in made:
        root = ElementTree.fromstring(panel.svg)
        drawn = {node.get("class"): node.get("d") for node in root if node.get("d")}
        assert drawn["p-data"].count("L") > 20
        assert drawn["p-model"].count("L") == drawn["p-data"].count("L")
        # Nothing of it lies outside.
        width, height = map(float, root.get("viewBox").split()[2:])
        xy = np.array(
            [[float(x) for x in pair] for pair in re.findall(r"(-?[\d.]+) (-?[\d.]+)", drawn["p-data"])]
        )
        assert (xy > 0).all()
        assert (xy < (width, height)).all()
        assert panel.title in root.get("aria-label")


def test_pixels_out_of_use_leave_a_gap(posterior):
    window = posterior.windows[0]
    middle = (window.low + window.high) / 2
    near = np.abs(posterior.spectrum.grid.wavelength[posterior.fit.pixels] - middle) < 1
    kept = {
        name: getattr(posterior.fit, name)[~near]
        for name in ("pixels", "flux", "continuum", "residual", "sigma", "whitened", "predicted")
    }
    holed = replace(posterior, fit=replace(posterior.fit, **kept))
    holed.__dict__["windows"] = (window,)
    (panel,) = panels(holed)
    assert re.search(r'class="p-data" d="M[^"]*M', panel.svg)
    # A window without a single pixel is an empty frame.
    holed.__dict__["windows"] = (Window(1e4, 1.0001e4),)
    ElementTree.fromstring(panels(holed)[0].svg)


def test_lines_are_marked_once(posterior):
    found = marks(posterior, Window(15_730.0, 15_780.0))
    assert [name for _, name in found].count("Mg I") == 3
    assert found == sorted(found)
    lines = (
        ElementLine("mg_m", 15744.9, 0.2, 0.1, 0.02),
        ElementLine("c12_c13", 15750.0, 0.2, 7.0, 0.5),
        ElementLine("ti_m", 15750.0, 0.3, 0.1, 0.02),
    )
    with_elements = replace(posterior, diagnostics=replace(posterior.diagnostics, lines=lines))
    names = [name for _, name in marks(with_elements, Window(15_730.0, 15_780.0))]
    assert names.count("Mg I") == 3
    assert "Mg" not in names
    assert names.count("Ti") == 1


@pytest.mark.parametrize(
    ("told", "said"), [((), ""), ((("logg", 0.064), ("c_m", 0.051)), "log g 6 %, [C/M] 5 %")]
)
def test_what_a_window_tells_is_said(told, said):
    assert told_by(Window(1.0, 2.0, told)) == said
