"""Elements in a report: by atomic number, line by line, and their correlations."""

import re
from dataclasses import replace
from xml.etree import ElementTree

import pytest

from maury.posterior.diagnostics import Abundance, ElementLine
from maury.report.elements import by_number, correlations, element_rows, is_element
from maury.report.plots import corner_figure
from maury.report.star import star_page

MG = Abundance("Mg", "mg_m", 0.38, 0.42, 0.45, 0.035, -0.1, -0.07, -0.04, 0.03, 0.5, 0.1, True)
CE = Abundance("Ce", "ce_m", -0.4, 0.1, 0.6, 0.5, -0.4, 0.1, 0.6, 0.5, 0.9, 0.95, False)


@pytest.fixture(scope="module")
def star(posterior):
    """As if alpha enhancement were an element that was asked for."""
    alpha = replace(MG, label="alpha_m")
    lines = (
        ElementLine("alpha_m", 15744.9, 0.2, 0.40, 0.03),
        ElementLine("alpha_m", 15753.3, 0.5, 0.90, 0.03),
    )
    systematic = {name: entry for name, entry in posterior.systematic.items() if name != "alpha_m"}
    found = replace(posterior.diagnostics, abundances=(alpha, CE), lines=lines, systematic=systematic)
    return replace(posterior, diagnostics=found)


def test_rows_tell_values_limits_and_disagreement(star):
    magnesium, cerium = element_rows(star)
    assert magnesium["fe"] == "0.420 ± 0.035"
    assert magnesium["disagree"]
    assert [line["wavelength"] for line in magnesium["lines"]] == ["15753.3", "15744.9"]
    # At the star's velocity.
    assert magnesium["observed"][0] == pytest.approx(15753.3 * (1 + 41.7 / 299_792.458), abs=0.05)
    assert ElementTree.fromstring(magnesium["picture"]).get("class") == "strips"
    assert cerium["fe"] == "< 0.90"
    assert cerium["h"] == "not measured"
    assert cerium["picture"] == ""


def test_pictures_are_of_all_elements(star):
    root = ElementTree.fromstring(by_number(star.diagnostics.abundances))
    text = [node.text for node in root.iter("text")]
    assert {"Mg", "12", "Ce", "58"} <= set(text)
    assert sum(node.get("class") == "dot" for node in root) == 1
    assert sum(node.get("class") == "limit" for node in root) == 1
    cells = [
        node for node in ElementTree.fromstring(correlations(star)) if node.get("class") in ("rise", "fall")
    ]
    n = len(star.stellar)
    assert len(cells) == n * (n - 1) / 2
    assert all(0 <= float(node.get("fill-opacity")) <= 1 for node in cells)


def test_an_element_is_told_once(star):
    assert is_element(star, "alpha_m")
    assert not is_element(star, "teff")
    page = star_page(star)
    assert 'data-label="alpha_m"' not in page
    assert 'data-element="Mg"' in page
    assert len(re.findall(r'<svg class="marginal"', page)) == len(star.labels) - 1
    # A corner plot shows it where it is named.
    n = len(star.stellar)
    assert len(corner_figure(star).axes) == (n - 1) ** 2
    assert len(corner_figure(star, labels=["teff", "alpha_m"], jitter=True).axes) == 9
