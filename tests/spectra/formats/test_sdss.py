"""SDSS's optical spectra: read, and told that no shipped model covers them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits

import maury
from maury.errors import SpectrumError
from maury.spectra.formats.cards import FLUX_UNIT

N = 400
LOGLAM = 3.6 + 1e-4 * np.arange(N)


def write(path: Path, **changes: np.ndarray) -> Path:
    columns = {
        "flux": np.full(N, 20.0), "loglam": LOGLAM, "ivar": np.full(N, 4.0), "and_mask": np.zeros(N, np.int32),
        "wdisp": np.full(N, 1.0), "model": np.full(N, 20.0),
    } | changes  # fmt: skip
    made = [
        fits.Column(name, "J" if name == "and_mask" else "D", array=values)
        for name, values in columns.items()
        if values is not None
    ]
    primary = fits.PrimaryHDU()
    primary.header.update({"PLUG_RA": 10.5, "PLUG_DEC": -1.25, "MJD": 55000, "PLATEID": 3586, "FIBERID": 16})
    fits.HDUList([primary, fits.BinTableHDU.from_columns(made, name="COADD")]).writeto(path)
    return path  # fmt: skip


def test_the_coadd_is_read(tmp_path):
    ivar = np.full(N, 4.0)
    ivar[:3] = 0
    found = maury.read_spectrum(write(tmp_path / "spec-3586-55181-0016.fits", ivar=ivar))
    assert found.id == "spec-3586-55181-0016"
    assert found.frame == "barycentric"
    np.testing.assert_allclose(found.grid.wavelength, 10**LOGLAM)
    assert found.good.sum() == N - 3
    # A standard deviation of one pixel of 1e-4 dex.
    assert found.lsf.resolution == pytest.approx(1 / (2.3548 * 1e-4 * np.log(10)), rel=1e-3)
    assert found.meta["flux_unit"] == FLUX_UNIT
    assert (found.meta["ra"], found.meta["dec"], found.meta["plate"]) == (10.5, -1.25, 3586)


def test_bits_are_asked_for(tmp_path):
    mask = np.zeros(N, np.int32)
    mask[5] = 1 << 20
    path = write(tmp_path / "spec.fits", and_mask=mask)
    assert maury.read_spectrum(path).good.all()
    assert not maury.read_spectrum(path, reject=1 << 20).good[5]


def test_a_file_without_dispersion_has_no_line_spread_function(tmp_path):
    assert maury.read_spectrum(write(tmp_path / "a.fits", wdisp=None)).lsf is None
    assert maury.read_spectrum(write(tmp_path / "b.fits", wdisp=np.zeros(N))).lsf is None


@pytest.mark.parametrize("loglam", [LOGLAM[::-1], np.full(N, np.nan), 10**LOGLAM])
def test_what_is_no_wavelength_is_told(tmp_path, loglam):
    with pytest.raises(SpectrumError, match=r"spec.fits HDU 1: column 'loglam' is no rising log10"):
        maury.read_spectrum(write(tmp_path / "spec.fits", loglam=loglam))


def test_no_shipped_model_covers_it(run, tmp_path):
    code, _, error = run("infer", write(tmp_path / "spec-3586-55181-0016.fits"))
    assert code == 2
    assert "covers 3981-4364 Angstrom, and kurucz-apogee 15" in error
    assert "docs/instruments.md says how to build one" in error
    assert error.count("\n") == 1
