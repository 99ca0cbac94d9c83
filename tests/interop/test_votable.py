"""Posteriors as VOTables."""

import io

import numpy as np
import pytest
from astropy.io.votable import parse_single_table, validate
from astropy.table import Table

from maury.errors import MauryError
from maury.interop.votable import write_votable


def read(table, path):
    write_votable(path, table)
    with io.StringIO() as report:
        assert validate(str(path), output=report), report.getvalue()
    return parse_single_table(str(path))


def test_draws(posterior, tmp_path):
    found = read(posterior.to_votable(number=300), tmp_path / "draws.vot")
    fields = {field.name: field for field in found.fields}
    assert list(fields)[:7] == [*posterior.labels.names]
    assert str(fields["teff"].unit) == "K"
    assert fields["teff"].ucd == "phys.temperature.effective"
    assert (str(fields["v_bary"].unit), fields["v_bary"].ucd) == ("km / s", "spect.dopplerVeloc.opt")
    assert len(found.array) == 300
    np.testing.assert_allclose(np.exp(found.array["log_weight"]).sum(), 1)
    assert "equally weighted" in found.description


def test_weighted_draws(posterior, tmp_path):
    found = read(posterior.to_votable(weighted=True), tmp_path / "draws.vot")
    np.testing.assert_allclose(found.array["log_weight"], posterior.log_weights)
    np.testing.assert_allclose(found.array["m_h"], posterior.draws[:, posterior.labels.index("m_h")])


def test_summary(posterior, tmp_path):
    path = tmp_path / "summary.vot"
    found = read(posterior.to_votable("summary"), path)
    ucds = {field.name: field.ucd for field in found.fields}
    assert ucds["ra"] == "pos.eq.ra;meta.main"
    assert ucds["teff_p50"] == "phys.temperature.effective;stat.median"
    row = Table.read(path)[0]
    assert row["teff_p50"] == pytest.approx(posterior.summary()["teff"]["p50"])
    assert row["v_bary_p16"] == pytest.approx(posterior.v_bary["p16"])
    assert (row["id"], row["ra"]) == ("2M0024", 6.111)


def test_no_such_content(posterior):
    with pytest.raises(MauryError, match="did you mean 'draws'"):
        posterior.to_votable("draw")
