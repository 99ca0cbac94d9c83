"""The apVisit writer: round trips, layouts of the releases, and nothing half written."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.io import fits
from flat_star import make_spectrum

from maury.errors import SpectrumError
from maury.spectra import Spectrum, apstar_grid, nominal_visit_grid, read_apvisit, write_apvisit
from maury.spectra.formats.bits import bits
from maury.spectra.instrument import nominal_visit_lsf
from maury.spectra.linespread import GaussHermite


@pytest.mark.parametrize("n", [4096, 2048])
def test_nominal_grid_is_like_the_instrument_s(n: int) -> None:
    grid = nominal_visit_grid(n)
    assert grid.n_pixels == 3 * n
    assert grid.chips == ((0, n), (n, 2 * n), (2 * n, 3 * n))
    for (start, stop), centre in zip(grid.chips, (15486, 16157, 16725), strict=True):
        chip = grid.wavelength[start:stop]
        assert chip[n // 2] == pytest.approx(centre, abs=2)
        step = np.diff(chip) / chip[1:] * 299792.458 * n / 4096
        assert 1.8 < step.min() < step.max() < 3.5


def test_nominal_grid_agrees_with_a_real_visit(real_visit: Path) -> None:
    real = read_apvisit(real_visit).grid
    assert real.chips == nominal_visit_grid().chips
    assert np.abs(real.wavelength - nominal_visit_grid().wavelength).max() < 0.15


@pytest.mark.parametrize("release", ["dr16", "dr17", "dr19"])
@pytest.mark.parametrize("n", [64, 2048])
def test_round_trip(write_visit: Callable[..., Path], release: str, n: int) -> None:
    lsf = GaussHermite(nominal_visit_lsf().coefficients[0] * [[1.0], [1.0], [1.0]])
    bitmask = np.arange(3 * n) % 2**15
    meta = {"telescope": "apo1m", "plate": "7", "fiber": 99, "mjd": 57000, "ra": 99.0, "starflag": 8}
    source = make_spectrum(n, lsf=lsf, meta=meta)
    back = read_apvisit(write_visit(source=source, release=release, bitmask=bitmask), reject=0)
    np.testing.assert_array_equal(back.grid.wavelength, source.grid.wavelength)
    np.testing.assert_array_equal(back.flux, source.flux.astype(np.float32))
    np.testing.assert_allclose(back.ivar, source.ivar, rtol=3e-7)
    np.testing.assert_array_equal(back.bitmask, bitmask)  # type: ignore[arg-type]
    np.testing.assert_array_equal(back.lsf.coefficients, lsf.coefficients)
    assert back.grid.chips == source.grid.chips
    assert back.id == source.id
    assert back.frame == "observatory"
    assert meta.items() <= back.meta.items()
    assert back.meta["n_pairs"] == (0 if n == 2048 else 5)
    expected = {"dr16": ("header", "DR13-DR16"), "dr17": ("table", "DR17"), "dr19": ("astropy", "SDSS-V")}
    assert (back.meta["v_correction_source"], back.meta["release"]) == expected[release]
    if release != "dr19":
        assert back.v_correction == source.v_correction


@pytest.mark.parametrize("release", ["dr16", "dr17", "dr19"])
def test_layout_is_the_survey_s(write_visit: Callable[..., Path], release: str) -> None:
    with fits.open(write_visit(release=release)) as hdus:
        assert [hdu.header["BITPIX"] for hdu in hdus[1:11]] == [
            -32,
            -32,
            16,
            -64,
            -32,
            -32,
            -32,
            -32,
            -64,
            -64,
        ]
        assert [hdu.data.shape for hdu in hdus[1:11]] == [(3, 64)] * 8 + [(3, 14), (3, 26)]
        assert len(hdus) == 12
        assert hdus[0].data is None
        assert len(hdus[11].data) == 1
        assert hdus[1].header["BUNIT"] == "Flux (10^-17 erg/s/cm^2/Ang)"
        wavelength = hdus[4].data
        assert np.all(np.diff(wavelength, axis=1) < 0)
        assert wavelength[0].min() > wavelength[1].max() > wavelength[2].max()
        assert ("BC" in hdus[0].header) == (release == "dr16")
        assert ("BC" in hdus[11].columns.names) == (release == "dr17")
        assert ("AP1DVISIT" in str(hdus[0].header.get("HISTORY", ""))) == (release != "dr19")
        assert (hdus[0].header["SURVEY"] == "SDSS-V") == (release == "dr19")
        names = [hdu.name for hdu in hdus[1:5]]
        assert names == (["FLUX", "ERROR", "MASK", "WAVELENGTH"] if release == "dr19" else [""] * 4)


def test_pixels_out_of_use_stay_so(write_visit: Callable[..., Path]) -> None:
    source = make_spectrum()
    ivar = source.ivar.copy()
    ivar[::3] = 0
    ivar[:64] = 0
    back = read_apvisit(write_visit(source=replace(source, ivar=ivar)))
    np.testing.assert_array_equal(back.good, ivar > 0)
    assert set(back.bitmask[~back.good]) == {bits("BADERR")}  # type: ignore[index]
    with fits.open(back.path) as hdus:
        assert hdus[2].data.max() > 1e4 * np.median(source.ivar**-0.5)


def test_default_lsf_is_written(write_visit: Callable[..., Path]) -> None:
    lsf = read_apvisit(write_visit()).lsf
    assert isinstance(lsf, GaussHermite)
    expected = [[2, 2048, 2.2775, 11.916], [2, 2048, 2.5397, 9.6645], [2, 2048, 4.5105, 9.638]]
    np.testing.assert_allclose(lsf.coefficients[:, [0, 1, 9, 25]], expected)


def test_real_visit_survives_rewriting(real_visit: Path, tmp_path: Path) -> None:
    source = read_apvisit(real_visit)
    write_apvisit(tmp_path / "again.fits", source)
    back = read_apvisit(tmp_path / "again.fits")
    np.testing.assert_array_equal(back.lsf.coefficients, source.lsf.coefficients)
    for name in ("flux", "ivar"):
        np.testing.assert_allclose(getattr(back, name), getattr(source, name), rtol=3e-7)
    assert (back.id, back.v_correction) == (source.id, source.v_correction)
    assert back.meta == source.meta


def test_header_adds_replaces_and_leaves_out(write_visit: Callable[..., Path]) -> None:
    header = fits.getheader(write_visit(header={"OBJID": "other", "NEW": 1, "BC": None}))
    assert (header["OBJID"], header["NEW"], "BC" in header) == ("other", 1, False)


def _wide_mask(source: Spectrum) -> dict[str, Any]:
    return {"bitmask": np.full(source.grid.n_pixels, 2**16)}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (_wide_mask, "32767"),
        (lambda _: {"bitmask": np.zeros(3, int)}, "bitmask of shape"),
        (lambda _: {"release": "dr99"}, "unknown release"),
        (lambda _: {"header": {"BC": float("nan")}}, "cannot be written"),
        (lambda _: {"header": {"OBJID": "é"}}, "cannot be written"),
    ],
)
def test_unfit_options_are_refused(
    spectrum: Spectrum, tmp_path: Path, options: Callable[[Spectrum], dict[str, Any]], message: str
) -> None:
    with pytest.raises(SpectrumError, match=message):
        write_apvisit(tmp_path / "a.fits", spectrum, **options(spectrum))
    assert list(tmp_path.iterdir()) == []


def test_other_grids_and_lsfs_are_refused(spectrum: Spectrum, tmp_path: Path) -> None:
    grid = apstar_grid()
    with pytest.raises(SpectrumError, match="three chips"):
        write_apvisit(tmp_path / "a.fits", Spectrum(grid, np.ones(grid.n_pixels), np.ones(grid.n_pixels)))
    with pytest.raises(SpectrumError, match="line-spread"):
        write_apvisit(
            tmp_path / "a.fits", replace(spectrum, lsf=GaussHermite(nominal_visit_lsf().coefficients[:2]))
        )


def test_nothing_half_written_is_left(
    spectrum: Spectrum, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.fits"
    path.write_bytes(b"before")

    def fail(*_: Any) -> None:
        raise OSError("disk full")

    monkeypatch.setattr("maury.spectra.formats.writers.os.replace", fail)
    with pytest.raises(SpectrumError, match=r"a\.fits: cannot be written \(disk full\)"):
        write_apvisit(path, spectrum)
    assert [p.name for p in tmp_path.iterdir()] == ["a.fits"]
    assert path.read_bytes() == b"before"
    with pytest.raises(SpectrumError, match="cannot be written"):
        write_apvisit(tmp_path / "absent" / "a.fits", spectrum)


def test_gz_is_compressed_and_threads_do_not_collide(spectrum: Spectrum, tmp_path: Path) -> None:
    path = tmp_path / "a.fits.gz"
    threads = [threading.Thread(target=write_apvisit, args=(path, spectrum)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert path.read_bytes()[:2] == b"\x1f\x8b"
    assert [p.name for p in tmp_path.iterdir()] == ["a.fits.gz"]
    np.testing.assert_array_equal(read_apvisit(path).flux, spectrum.flux.astype(np.float32))


@pytest.mark.parametrize("release", ["dr16", "dr17", "dr19"])
def test_numbers_are_big_endian_on_disk(write_visit: Callable[..., Path], release: str) -> None:
    source = make_spectrum()
    path = write_visit(source=source, release=release)
    content = path.read_bytes()
    with fits.open(path) as hdus:
        places = [hdus[hdu].fileinfo()["datLoc"] for hdu in (1, 4)]
    flux = np.frombuffer(content, ">f4", 192, places[0]).reshape(3, 64)
    wavelength = np.frombuffer(content, ">f8", 192, places[1]).reshape(3, 64)
    # Row 0 is red, and the last pixel of a row its bluest.
    np.testing.assert_array_equal(flux[::-1, ::-1].ravel(), source.flux.astype(np.float32))
    np.testing.assert_array_equal(wavelength[::-1, ::-1].ravel(), source.grid.wavelength)
    back = read_apvisit(path)
    assert back.flux.dtype.isnative
    assert back.grid.wavelength.dtype.isnative


def test_simulated_star_survives(visit: Spectrum, tmp_path: Path) -> None:
    write_apvisit(tmp_path / "star.fits", visit)
    back = read_apvisit(tmp_path / "star.fits")
    np.testing.assert_allclose(back.flux, visit.flux, rtol=1e-7)
    np.testing.assert_allclose(back.ivar, visit.ivar, rtol=1e-6)
    np.testing.assert_array_equal(back.grid.wavelength, visit.grid.wavelength)
    assert back.snr == pytest.approx(visit.snr)
