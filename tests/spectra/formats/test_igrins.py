"""IGRINS' orders as its pipeline writes them: cut where they meet, with errors of the file or of those beside it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits

from maury.errors import SpectrumError
from maury.spectra import read_spectrum
from maury.spectra.linespread import Gaussian

ORDERS, PIXELS = 3, 2048
STEM = "SDCH_20170106_0094"


def orders() -> dict[str, np.ndarray]:
    """Orders from red to blue, 10 % of each shared with the next."""
    low = 1.60 - 0.018 * np.arange(ORDERS)
    wavelength = low[:, None] + 0.02 * np.linspace(0, 1, PIXELS)
    standard = np.ones((ORDERS, PIXELS))
    standard[1, 1000:1010] = 0.05
    target = np.full((ORDERS, PIXELS), 2.0)
    ratio = target / standard
    ratio[:, :4] = np.nan
    mask = np.zeros((ORDERS, PIXELS), dtype="i4")
    mask[0, 500] = 1
    return {
        "SPEC_DIVIDE_A0V": ratio, "WAVELENGTH": wavelength, "TGT_SPEC": target, "A0V_SPEC": standard,
        "VEGA_SPEC": np.ones_like(target), "MASK": mask,
    }  # fmt: skip


def write(folder: Path, images: dict[str, np.ndarray], name: str = f"{STEM}.spec_a0v.fits") -> Path:
    made = [fits.ImageHDU(image, name=key) for key, image in images.items()]
    first = fits.PrimaryHDU(made[0].data)
    first.header["EXTNAME"], first.header["OBJECT"], first.header["INSTRUME"] = (
        next(iter(images)),
        "GJ281",
        "IGRINS",
    )
    found = fits.HDUList([first, *made[1:]])
    if "A0V_SPEC" in images:
        found["A0V_SPEC"].header["OBSID"] = 98
    found.writeto(folder / name)
    return folder / name


def test_version_3_tells_its_own_errors(tmp_path: Path) -> None:
    images = orders()
    images["SPEC_DIVIDE_A0V_VARIANCE"] = np.full((ORDERS, PIXELS), 0.01)
    found = read_spectrum(write(tmp_path, images))
    assert (found.id, found.frame, found.lsf) == ("GJ281", "observatory", Gaussian(45_000.0))
    assert found.meta["band"] == "H"
    assert len(found.grid.chips) == ORDERS
    # Orders meet in the middle of what they share.
    for (_, stop), (start, _) in zip(found.grid.chips[:-1], found.grid.chips[1:], strict=True):
        assert stop == start
        assert found.grid.wavelength[start] - found.grid.wavelength[stop - 1] < 0.2
    np.testing.assert_allclose(found.ivar[found.good], 100.0)
    opaque = images["WAVELENGTH"][1, 1000:1010] * 1e4
    assert not found.good[np.searchsorted(found.grid.wavelength, opaque)].any()
    assert not found.good[np.searchsorted(found.grid.wavelength, images["WAVELENGTH"][0, 500] * 1e4)]
    assert found.good.mean() > 0.98


def test_errors_beside_the_file(tmp_path: Path) -> None:
    images = orders()
    path = write(tmp_path, images)
    with pytest.raises(
        SpectrumError, match=f"neither {STEM}.variance.fits nor {STEM}.sn.fits lies beside it"
    ):
        read_spectrum(path)
    pixels = images["WAVELENGTH"] / 40_000 / np.gradient(images["WAVELENGTH"], axis=1)
    per_element = 2.0 / 0.1 * np.sqrt(pixels)
    write(tmp_path, {"SN": per_element, "X": per_element}, f"{STEM}.sn.fits")
    by_sn = read_spectrum(path)
    write(tmp_path, {"VARIANCE": np.full((ORDERS, PIXELS), 0.01), "X": per_element}, f"{STEM}.variance.fits")
    by_variance = read_spectrum(path)
    # Of 2 counts with an error of 0.1, divided by 1.
    np.testing.assert_allclose(by_variance.ivar[by_variance.good], 100.0)
    np.testing.assert_allclose(by_sn.ivar, by_variance.ivar)


def test_a_star_that_is_not_divided_yet(tmp_path: Path) -> None:
    images = orders()
    raw = write(tmp_path, {"TGT": images["TGT_SPEC"], "WVL": images["WAVELENGTH"]}, f"{STEM}.spec.fits")
    with pytest.raises(
        SpectrumError, match=rf"is not divided by an A0 standard.*{STEM}.spec_a0v.fits beside it"
    ):
        read_spectrum(raw)
    images["SPEC_DIVIDE_A0V_VARIANCE"] = np.full((ORDERS, PIXELS), 0.01)
    divided = write(tmp_path, images)
    found = read_spectrum(raw)
    assert found.path == str(divided)
    np.testing.assert_array_equal(found.flux, read_spectrum(divided).flux)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda images: images.update(WAVELENGTH=images["WAVELENGTH"][:, ::-1]), "do not rise"),
        (
            lambda images: images.update(SPEC_DIVIDE_A0V_VARIANCE=np.ones((2, PIXELS))),
            r"shape \(2, 2048\), not \(3, 2048\)",
        ),
    ],
)
def test_damage(tmp_path: Path, damage, message: str) -> None:
    images = orders() | {"SPEC_DIVIDE_A0V_VARIANCE": np.ones((ORDERS, PIXELS))}
    damage(images)
    with pytest.raises(SpectrumError, match=message):
        read_spectrum(write(tmp_path, images))
