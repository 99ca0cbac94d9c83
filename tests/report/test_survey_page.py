"""A survey's page: its counts are the catalogue's, and it stays small."""

import json
import re

import numpy as np
import pytest
from made_surveys import HOSTILE, make_survey

from maury.errors import ConfigError
from maury.report.diagrams import Axis, diagram, mollweide
from maury.report.folder import report
from maury.report.survey import MOST, Catalogue, survey_page
from maury.survey.export import read_rows

N = 40


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_survey(tmp_path_factory.mktemp("made") / "survey", N)


def data_of(page):
    return json.loads(re.search(r'id="data">(.*?)</script>', page, re.S)[1])


def test_counts_are_the_catalogues(folder):
    page = survey_page(folder)
    table = read_rows(folder)
    flags = [f for text in table["flag_warn"].to_pylist() for f in text.split(",") if f]
    for flag in set(flags):
        row = re.search(rf"</span> {flag}</span></th><td>(\d+)</td>", page)
        assert int(row[1]) == flags.count(flag), flag
    assert re.search(r"Stars</dt><dd>40<", page)
    assert re.search(r"Failures</dt><dd>3<", page)
    teff = re.search(r'<tr data-label="teff">.*?</tr>', page, re.S)[0]
    assert float(re.findall(r"<td>(.*?)</td>", teff)[0]) == pytest.approx(
        np.median(table["teff_p50"].to_numpy()), abs=20
    )
    rows = data_of(page)["rows"]
    assert rows["id"] == table["id"].to_pylist()
    assert {d["name"] for d in data_of(page)["diagrams"]} >= {
        "kiel",
        "metals",
        "sky",
        "error-teff",
        "error-v_rad",
    }


def test_names_and_reasons_are_escaped(folder):
    page = survey_page(folder)
    assert HOSTILE not in page
    assert "<b>at all" not in page
    assert "&lt;b&gt;at all" in page
    assert "http://" not in page
    assert "src=" not in page.replace("\\u003cimg src=", "")


def test_stars_with_a_page_are_linked(folder, tmp_path):
    stars = tmp_path / "stars"
    stars.mkdir()
    (stars / "apVisit-3.html").write_text("x")
    (page,) = report(folder, tmp_path / "out" / "page.html", stars)
    links = data_of(page.read_text())["rows"]["link"]
    assert links[3] == "../stars/apVisit-3.html"
    assert links.count("") == N - 1


def test_many_rows_are_counted_and_sampled(tmp_path):
    n = 20_000
    folder = make_survey(tmp_path / "big", n)
    (path,) = report(folder)
    page = path.read_text()
    assert len(page) < 2e6
    assert f"holds {MOST:,} of {n:,} stars" in page
    data = data_of(page)
    kiel = next(d for d in data["diagrams"] if d["name"] == "kiel")
    assert "px" not in kiel
    assert len(data["rows"]["id"]) == MOST
    found = Catalogue.of(read_rows(folder))
    shown = found.shown()
    bad = np.flatnonzero(found.kinds == 0)
    assert set(bad) <= set(shown)
    assert (found.kinds[shown] == 3).sum() >= 1000


def test_a_flow_only_survey(tmp_path):
    """What only verification tells is missing from its rows."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from maury.survey.store import Store

    folder = make_survey(tmp_path / "flow", 10, failures=0)
    store = Store(folder)
    (task,) = store.tasks()
    table = read_rows(folder)
    for name in ("khat", "ess", "rchi2", "rchi2_jitter", "log_evidence", "p_predictive", "seconds"):
        i = table.schema.get_field_index(name)
        table = table.set_column(i, table.schema.field(i), pa.nulls(10, table.schema.field(i).type))
    i = table.schema.get_field_index("method")
    table = table.set_column(i, table.schema.field(i), pa.array(["flow"] * 10))
    table = table.drop_columns([c for c in table.column_names if c.startswith("jitter")])
    pq.write_table(table, store.part("catalogue", task))
    page = survey_page(folder)
    assert "Not verified" in page
    assert "No spectrum failed" in page


def test_a_survey_without_results(tmp_path):
    folder = make_survey(tmp_path / "s", 2)
    for path in (folder / "commits").iterdir():
        path.unlink()
    with pytest.raises(ConfigError, match="no task is done yet"):
        survey_page(folder)
    (folder / "survey.json").write_text("{}")
    with pytest.raises(ConfigError, match=r"survey\.json: cannot be read"):
        report(folder)


def test_a_damaged_part(tmp_path):
    folder = make_survey(tmp_path / "s", 2)
    next((folder / "catalogue").iterdir()).write_bytes(b"junk")
    with pytest.raises(ConfigError, match="maury survey repair"):
        report(folder)


def test_mollweide_is_equal_in_area():
    rng = np.random.default_rng(0)
    ra, dec = rng.uniform(0, 360, 200_000), np.degrees(np.arcsin(rng.uniform(-1, 1, 200_000)))
    x, y = mollweide(ra, dec)
    assert ((x / 2) ** 2 + y**2 <= 1 + 1e-9).all()
    inner = ((x / 2) ** 2 + y**2 < 0.25).mean()
    assert inner == pytest.approx(0.25, abs=0.005)
    # East is to the left, and 180 degrees in the middle.
    assert mollweide(np.array([180.0, 181.0]), np.zeros(2))[0][1] < 0
    assert mollweide(np.array([180.0]), np.array([90.0]))[1][0] == pytest.approx(1, abs=1e-3)


def test_counts_on_a_grid_are_all_there():
    from base64 import b64decode

    x = Axis(np.random.default_rng(1).normal(size=5000), "x")
    y = Axis(np.r_[np.nan, np.ones(4999)], "y")
    found = diagram("d", x, y, 100)
    assert np.frombuffer(b64decode(found["counts"]), "<f4").sum() == 4999
