"""What pipelines of SDSS-V made of a star: astraStar files, and that they are no spectra."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits

from maury.errors import SpectrumError
from maury.spectra import read_spectrum
from maury.spectra.formats.astra import PipelineFit, read_pipeline_fits

ASPCAP = {
    "teff": 4751.0, "e_teff": 23.0, "logg": 2.5, "e_logg": 0.05, "m_h_atm": -0.1, "e_m_h_atm": np.nan,
    "v_sini": np.nan, "mg_h": 0.02, "e_mg_h": 0.01, "result_flags": 4,
}  # fmt: skip
PAYNE = {"teff": 4700.0, "e_teff": 10.0, "v_turb": 1.6, "e_v_turb": 0.1, "fe_h": -0.2, "e_fe_h": 0.02}


def write(path: Path, columns: dict[str, float] | None = None, hdus: tuple[int, ...] = (3,)) -> Path:
    columns = ASPCAP if columns is None else columns
    rows = [
        fits.Column(name, "K" if isinstance(value, int) else "D", array=[value])
        for name, value in columns.items()
    ]
    pixels = fits.Column("model_flux", "10E", array=np.ones((1, 10)))
    made = [fits.PrimaryHDU()]
    made[0].header["SDSS_ID"], made[0].header["V_ASTRA"] = 123, "0.6.0"
    full = fits.BinTableHDU.from_columns([*rows, pixels])
    for hdu in range(1, 5):
        made.append(full.copy() if hdu in hdus else fits.BinTableHDU(full.data[:0]))
    fits.HDUList(made).writeto(path)
    return path


def test_aspcap(tmp_path: Path) -> None:
    (found,) = read_pipeline_fits(write(tmp_path / "astraStarASPCAP-0.6.0-123.fits", hdus=(1, 4)))
    labels = {"teff": (4751.0, 23.0), "logg": (2.5, 0.05), "m_h": (-0.1, None), "mg_h": (0.02, 0.01)}
    assert found == PipelineFit("ASPCAP", labels, 4, 123, 4)


@pytest.mark.parametrize(
    ("name", "columns", "pipeline"),
    [
        ("astraStarThePayne-0.6.0-123.fits", PAYNE, "ThePayne"),
        ("payne.fits", PAYNE, "The Payne"),
        ("a.fits", ASPCAP, "ASPCAP"),
        ("a.fits", {"teff": 5000.0}, "pipeline"),
    ],
)
def test_pipelines_are_told_by_name_or_columns(
    tmp_path: Path, name: str, columns: dict, pipeline: str
) -> None:
    found = read_pipeline_fits(write(tmp_path / name, columns, hdus=(3, 4)))
    assert [fit.pipeline for fit in found] == [pipeline] * 2
    if columns is PAYNE:
        assert found[0].labels["v_micro"] == (1.6, 0.1)
        assert found[0].labels["fe_h"] == (-0.2, 0.02)


def test_files_without_results(tmp_path: Path) -> None:
    with pytest.raises(SpectrumError, match="holds no pipeline's result for an APOGEE spectrum"):
        read_pipeline_fits(write(tmp_path / "a.fits", hdus=(1,)))
    with pytest.raises(SpectrumError, match="holds no pipeline's result"):
        read_pipeline_fits(write(tmp_path / "b.fits", {"teff": np.nan}))


def test_they_are_no_spectra(tmp_path: Path) -> None:
    path = write(tmp_path / "astraStarASPCAP-0.6.0-123.fits")
    with pytest.raises(
        SpectrumError, match=r"infer the star's mwmStar file with --compare astraStarASPCAP-0.6.0-123.fits"
    ):
        read_spectrum(path)
