"""A star's page: it says what the posterior says, needs nothing beside it, and trusts no header."""

import base64
import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from maury.display import digits_for, number
from maury.posterior.diagnostics import Tried
from maury.report.citations import MAURY
from maury.report.observed import MASKED, OUTSIDE, USED, lines_of
from maury.report.star import star_page
from maury.report.svg import ticks

# Attributes that make a browser load something.
LOADING = {"src", "srcset", "data", "poster", "action", "background"}


class Elements(HTMLParser):
    """All elements of a page, and the text of its scripts."""

    def __init__(self, page):
        super().__init__()
        self.elements, self.scripts, self._script = [], [], None
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        if tag == "script":
            self._script = ""

    def handle_data(self, data):
        if self._script is not None:
            self._script += data

    def handle_endtag(self, tag):
        if tag == "script":
            self.scripts.append(self._script)
            self._script = None


@pytest.fixture(scope="module")
def page(posterior):
    return star_page(posterior)


@pytest.fixture(scope="module")
def found(page):
    return Elements(page)


@pytest.fixture(scope="module")
def data(found):
    return json.loads(found.scripts[0])


def test_numbers_are_the_summarys(page, data, posterior):
    assert data["record"]["labels"] == posterior.to_json()["labels"]
    for name, entry in posterior.summary().items():
        row = re.search(rf'<tr data-label="{name}">.*?</tr>', page, re.S)[0]
        if name == "v_sini":
            # Flagged average_lsf: a limit, not a value.
            limit = number(posterior.quantile(name, 0.95), 1)
            assert f'class="median">&lt; {limit}<' in row
            assert f"below {limit} km/s" in row
            continue
        median = float(re.search(r'class="median">(.*?)<', row)[1].replace("−", "-"))
        written = [tuple(map(float, pair)) for pair in re.findall(r'class="plus">\+(.*?)<br>−(.*?)<', row)]
        total, (plus, minus) = written[0], written[-1]
        if name in posterior.systematic:
            wide = posterior.systematic[name]
            assert total[0] == pytest.approx(wide.p84 - entry["p50"], abs=0.06 * wide.std), name
        # Two digits of the error are written.
        assert median == pytest.approx(entry["p50"], abs=0.06 * entry["std"]), name
        assert plus == pytest.approx(entry["p84"] - entry["p50"], abs=0.06 * entry["std"])
        assert minus == pytest.approx(entry["p50"] - entry["p16"], abs=0.06 * entry["std"])
    assert 'data-label="v_bary"' in page


def test_all_parts_are_there(page):
    for title in ("Spectrum", "Corner plot", "The flow and the verified", "Prior and posterior", "Should you believe it?",
                  "Would the model have made these residuals?", "Where it comes from", "What to cite"):  # fmt: skip
        assert title in page, title
    for name in ("chip 1", "Mg I", "Brackett", "Pareto k-hat", "Effective sample size", "Seed"):
        assert name in page, name


def test_headers_are_escaped(page, found, posterior):
    assert posterior.spectrum.id not in page
    assert "&lt;/script&gt;" in page
    assert "<b>star</b>" not in page
    assert not [a for tag, a in found.elements if tag == "img"]
    assert not [name for _, a in found.elements for name in a if name.startswith("on")]
    assert len(found.scripts) == 2


def test_nothing_is_loaded(page, found):
    for tag, attributes in found.elements:
        assert not LOADING & set(attributes), (tag, attributes)
        assert tag not in ("link", "iframe", "object", "embed", "base", "form"), tag
        if attributes.get("href", "").startswith("http"):
            assert tag == "a"
    assert "@import" not in page
    assert "url(" not in page
    assert "fetch(" not in page


def test_only_its_own_script_may_run(page, found):
    import hashlib

    digest = base64.b64encode(hashlib.sha256(found.scripts[1].encode()).digest()).decode()
    policy = next(a["content"] for _, a in found.elements if a.get("http-equiv") == "Content-Security-Policy")
    assert "default-src 'none'" in policy
    assert f"script-src 'sha256-{digest}'" in policy


def test_it_is_small(page):
    assert len(page.encode()) < 1_000_000


def test_every_pixel_is_drawn(data, posterior):
    drawn = data["spectrum"]
    state = np.frombuffer(base64.b64decode(drawn["state"]), np.uint8)
    assert len(state) == posterior.spectrum.grid.n_pixels
    assert (state == USED).sum() == len(posterior.fit.pixels)
    assert ((state == MASKED) == ~posterior.spectrum.good).all()
    assert (state == OUTSIDE).any()
    flux = np.frombuffer(base64.b64decode(drawn["flux"]), "<f4") * drawn["level"]
    np.testing.assert_allclose(flux, posterior.spectrum.flux, rtol=1e-5, atol=1e-3)
    model = np.frombuffer(base64.b64decode(drawn["model"]), "<f4") * drawn["level"]
    np.testing.assert_allclose(model[posterior.fit.pixels], posterior.fit.flux, rtol=1e-5)


def test_lines_stand_at_the_stars_velocity(posterior):
    lines = lines_of(posterior)
    assert {line["species"] for line in lines} >= {
        "Fe I",
        "Mg I",
        "Al I",
        "Si I",
        "Mn I",
        "OH",
        "CO",
        "Brackett",
    }
    for line in lines:
        shift = 299792.458 * (line["observed"] / line["rest"] - 1)
        assert shift == pytest.approx(41.7, abs=1)
    strong = [line for line in lines if line["species"] == "Mg I"]
    assert all(line["depth"] > 0.1 and not line["faint"] for line in strong)


def test_citations_follow_what_was_used(posterior, page):
    assert "nautilus" not in page
    nested = star_page(replace(posterior, method="nested"))
    assert "Lange 2023" in nested
    assert "El-Badry" in page
    title = re.search(r'^title: "(.*)"', (Path(__file__).parents[2] / "CITATION.cff").read_text(), re.M)[1]
    assert title in MAURY.text


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"flag_warn": ()}, "Verified"),
        ({"flag_warn": ("at_bound:teff",)}, "Verified, but flagged"),
        ({"flag_bad": ("no_star",)}, "Not usable"),
    ],
)
def test_verdicts(posterior, changes, words):
    assert re.search(rf"</span> {words}</h2>", star_page(replace(posterior, **changes)))


def test_models_that_were_tried(posterior):
    tried = (Tried("other<i>", -12.34, 0.25),)
    page = star_page(replace(posterior, diagnostics=replace(posterior.diagnostics, models=tried)))
    assert "other&lt;i&gt;" in page
    assert "−12.3" in page or "-12.3" in page


def test_a_held_velocity(posterior):
    """Models that hold labels have fewer columns, and their lines stand where the velocity is held."""
    keep = [i for i, name in enumerate(posterior.labels.names) if name not in ("v_rad", "v_sini")]
    names = [posterior.labels.names[i] for i in keep]
    held = replace(
        posterior,
        labels=posterior.labels.select(names),
        draws=posterior.draws[:, keep],
        flow_draws=posterior.flow_draws[:, keep[:-1]],
        held={"v_rad": 0.0, "v_sini": 5.0},
        target=None,
    )
    page = star_page(held)
    assert "Held: v_rad" in page
    assert lines_of(held)[0]["observed"] == lines_of(held)[0]["rest"]


@pytest.mark.parametrize(
    ("error", "digits"), [(17.0, 0), (0.042, 3), (1.4, 1), (0.00012, 5), (0.0, 2), (float("nan"), 2)]
)
def test_two_digits_of_an_error(error, digits):
    assert digits_for(error) == digits


def test_ticks_are_round():
    values, digits = ticks(4423.0, 4571.0, 3)
    assert (values, digits) == ([4450.0, 4500.0, 4550.0], 0)
    values, digits = ticks(-0.061, 0.043, 3)
    assert values == pytest.approx([-0.05, 0.0])
    assert digits == 2
    assert number(-0.0001, 2) == "0.00"
    assert number(-1.5, 1) == "−1.5"
    assert number(None, 1) == "–"
