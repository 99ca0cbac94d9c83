"""A posterior beside a pipeline's result: differences in total errors, kept in files, told in JSON, table and report."""

from __future__ import annotations

import io
from dataclasses import replace

import pytest
from rich.console import Console

import maury
from maury.errors import LabelError
from maury.posterior.compared import compare, fits_of
from maury.posterior.diagnostics import BetweenLibraries
from maury.report.star import star_page
from maury.report.tables import compared_table
from maury.spectra.formats.astra import PipelineFit

ASPCAP = PipelineFit("ASPCAP", {"teff": (4800.0, 30.0), "logg": (2.5, None), "fe_h": (0.0, 0.1)}, 2, 7, 3)


def test_differences_are_in_both_errors(made):
    assert compared_table(made) is None
    wide = BetweenLibraries(4710.0, 4750.0, 4790.0, 40.0, 38.0)
    made = replace(made, diagnostics=replace(made.diagnostics, systematic={"teff": wide}))
    found = compare(made, [ASPCAP]).diagnostics.compared
    assert [entry.label for entry in found] == ["teff", "logg"]
    teff, logg = found
    assert teff.total == 40.0
    assert teff.difference == teff.value - 4800.0
    assert teff.sigmas == pytest.approx(teff.difference / 50.0)
    assert logg.their_error is None
    assert logg.sigmas == pytest.approx(logg.difference / logg.total)


def test_results_of_the_star_and_telescope_are_chosen(made):
    other = replace(ASPCAP, sdss_id=8)
    assert fits_of(made, [other]) == [other]
    meta = made.spectrum.meta | {"sdss_id": 7, "hdu": 4}
    made = replace(made, spectrum=replace(made.spectrum, meta=meta))
    lco, payne = replace(ASPCAP, hdu=4), replace(ASPCAP, pipeline="ThePayne")
    assert fits_of(made, [other, ASPCAP, lco, payne]) == [lco, payne]
    with pytest.raises(
        LabelError, match=r"is of the star 7, and the results to compare with are of 8 \(SDSS_ID\)"
    ):
        compare(made, [other])


def test_it_is_kept_and_told(made, tmp_path):
    found = compare(made, [ASPCAP])
    found.save(tmp_path / "a.nc")
    again = maury.load(tmp_path / "a.nc")
    assert again.diagnostics.compared == found.diagnostics.compared
    assert found.to_json()["compared"][0]["pipeline"] == "ASPCAP"
    assert "compared" not in made.to_json()
    page = star_page(found)
    assert "Beside the survey's pipeline" in page
    assert "4800 ± 30" in page
    console = Console(width=120, record=True, file=io.StringIO())
    console.print(compared_table(found))
    text = console.export_text()
    assert "4800 ± 30" in text
    assert "flagged by itself: ASPCAP" in text
