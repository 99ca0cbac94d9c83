"""One definition of what is told of a result feeds the JSON line, the table, the catalogue and failures."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from astropy.io.votable.ucd import check_ucd
from astropy.table import Table

from maury.errors import Failure
from maury.inference.flow import Amortised
from maury.labels import LabelSet
from maury.posterior.columns import (
    ERRORS,
    HOW,
    WHERE,
    Output,
    column_named,
    failed_line,
    failed_row,
    line,
    of_catalogue,
    row,
)
from maury.posterior.diagnostics import BetweenLibraries
from maury.report.tables import write_summary

# What scripts rely on: keys are added, never renamed.
LINE = {
    "file", "index", "id", "model", "labels", "v_bary", "v_sini_ul95", "jitter", "rchi2", "rchi2_jitter", "ess", "draws", "efficiency",
    "khat", "evaluations", "log_evidence", "method", "seconds", "verdict", "flag_warn", "flag_bad",
}  # fmt: skip
FAILURE = Failure(Path("a/bad.fits"), 2, "unreadable", "it is empty")


def test_the_line_has_all_that_was_promised(made):
    told = line(made)
    assert set(told) >= LINE
    assert list(told)[:5] == ["file", "index", "id", "model", "labels"]
    assert set(told["labels"]) == {"teff", "logg", "v_rad", "v_sini"}
    assert told["jitter"]["p50"] == pytest.approx(0.005, rel=0.1)
    assert told["v_bary"]["p50"] == pytest.approx(told["labels"]["v_rad"]["p50"] + 12, abs=0.01)
    assert (told["flag_warn"], told["flag_bad"]) == (["average_lsf", "at_bound:teff"], [])
    assert (told["verdict"], told["evaluations"], told["draws"]) == ("flagged", 4321, 400)
    assert told["misfit"]["p_novelty"] == 0.3
    assert replace(made, flag_bad=("no_star",)).to_json()["verdict"] == "unusable"


def test_a_failure_has_the_same_keys(made):
    told = failed_line(FAILURE, "auto")
    assert set(told) == LINE | {"error", "snr"}
    assert set(line(made)) - set(told) == {"misfit"}
    known = {"file", "index", "model", "verdict", "flag_warn", "flag_bad", "error"}
    assert {name for name, value in told.items() if value is not None} == known
    assert told["error"] == "a/bad.fits: it is empty"
    assert told["flag_bad"] == ["unreadable"]


def test_rows_hold_what_their_schemas_say(made):
    for where, names in (
        (Output.table, {c.name for c in (*WHERE, *HOW) if Output.table in c.where}),
        (Output.catalogue, {c.name for c in of_catalogue([])}),
    ):
        told = row(made, where)
        percentiles = {
            f"{name}_{q}" for name in (*made.labels.names, "v_bary") for q in ("p16", "p50", "p84")
        }
        assert set(told) == names | percentiles
        assert told["flag_warn"] == "average_lsf,at_bound:teff"
    assert set(of_catalogue(made.labels.names)) >= set(of_catalogue([]))


def test_failures_are_rows_of_the_same_columns():
    names = {column.name for column in ERRORS}
    assert set(failed_row(FAILURE, Output.catalogue)) | {"sha256", "traceback"} == names
    assert failed_row(FAILURE) == {
        "file": "a/bad.fits",
        "index": 2,
        "flag_bad": "unreadable",
        "reason": "it is empty",
    }


def test_what_only_verification_tells_is_missing_of_the_flow(made):
    stellar = LabelSet(made.labels.labels[:-1])
    flow = Amortised(stellar, made.draws[:, :-1], made.spectrum, "m", 0.4)
    told = row(flow, Output.catalogue)
    assert (told["method"], told["p_novelty"], told["model"]) == ("flow", 0.4, "m")
    assert [told[name] for name in ("khat", "ess", "rchi2", "log_evidence", "p_predictive", "seconds")] == [
        None
    ] * 6
    assert told["v_sini_ul95"] == pytest.approx(np.quantile(made.draws[:, 3], 0.95))
    assert "jitter_p50" not in told


def test_models_without_rotation_have_no_limit(made):
    kept = [0, 1, 2, 4]
    fewer = replace(
        made, labels=LabelSet(tuple(made.labels.labels[i] for i in kept)), draws=made.draws[:, kept]
    )
    assert row(fewer)["v_sini_ul95"] is None
    assert line(fewer)["v_sini_ul95"] is None
    assert row(replace(made, held={"v_sini": 3.0}))["v_sini_ul95"] == 3.0


@pytest.mark.parametrize(
    ("name", "unit"),
    [
        ("teff_p50", "K"),
        ("teff_2_p84", "K"),
        ("v_rad_2_p16", "km/s"),
        ("v_m_p50", "dex"),
        ("mg_fe_library", "dex"),
        ("v_bary_p50", "km/s"),
        ("v_sini_ul95", "km/s"),
        ("flux_ratio_p50", ""),
        ("khat", ""),
        ("of_somebody", ""),
    ],
)
def test_units_by_name(name, unit):
    assert column_named(name).name == name
    assert column_named(name).unit == unit


def test_ucds_are_controlled():
    for column in (
        *WHERE,
        *HOW,
        *ERRORS,
        *of_catalogue(["teff", "mg_fe", "c12_c13"]),
        column_named("teff_library"),
    ):
        assert check_ucd(column.ucd, check_controlled_vocabulary=True), column


def test_the_table_on_disk(made, tmp_path):
    between = {"teff": BetweenLibraries(1.0, 2.0, 3.0, 1.0, 40.0)}
    known = replace(made, diagnostics=replace(made.diagnostics, systematic=between))
    write_summary(
        tmp_path / "summary.ecsv",
        [
            known.row(),
            replace(made, spectrum=replace(made.spectrum, v_correction=None)).row(),
            failed_row(FAILURE),
        ],
    )
    table = Table.read(tmp_path / "summary.ecsv")
    assert str(table["teff_p50"].unit) == "K"
    assert str(table["teff_library"].unit) == "K"
    assert str(table["v_bary_p50"].unit) == "km / s"
    assert table["teff_p50"].description == "median of teff"
    assert table["v_bary_p50"].mask.tolist() == [False, True, True]
    assert table["dec"].mask.all()
    assert table["reason"].tolist()[2] == "it is empty"
    assert table["teff_library"].tolist()[0] == 40.0
