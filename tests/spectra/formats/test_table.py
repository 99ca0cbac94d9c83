"""Spectra in plain tables."""

from types import SimpleNamespace

import numpy as np
import pytest
from astropy import units
from astropy.table import Table

from maury.errors import SpectrumError
from maury.spectra import (
    PixelGrid,
    Spectrum,
    from_specutils,
    read_spectra,
    read_spectrum,
    read_table,
    write_table,
)
from maury.spectra.formats.table import to_vacuum
from maury.spectra.linespread import Gaussian

W = np.concatenate([np.linspace(15_200, 15_700, 400), np.linspace(15_900, 16_400, 400)])


def table(**columns):
    base = {"wavelength": W * units.AA, "flux": np.ones(800), "error": np.full(800, 0.1)}
    made = Table({k: v for k, v in (base | columns).items() if v is not None})
    made.meta = {"medium": "vacuum", "frame": "barycentric", "id": "HD 1", "resolution": 50_000}
    return made


def write(made, path):
    made.write(path, format="ascii.ecsv" if path.suffix == ".ecsv" else None, overwrite=True)
    return path


@pytest.mark.parametrize("suffix", [".ecsv", ".fits", ".parquet"])
def test_round_trip(tmp_path, suffix):
    if suffix == ".parquet":
        pytest.importorskip("pyarrow", reason="Parquet needs pyarrow")
    ivar = np.linspace(1, 2, 800)
    ivar[3:7] = 0
    source = Spectrum(
        PixelGrid(W, ((0, 400), (400, 800))),
        np.linspace(1, 3, 800),
        ivar,
        "HD 1",
        frame="rest",
        v_correction=-12.25,
        lsf=Gaussian(50_000),
    )
    path = tmp_path / f"star{suffix}"
    write_table(path, source)
    back = read_spectrum(path)
    for name in ("flux", "ivar"):
        np.testing.assert_allclose(getattr(back, name), getattr(source, name), rtol=1e-12)
    np.testing.assert_allclose(back.grid.wavelength, W, rtol=1e-12)
    assert back.grid.chips == source.grid.chips
    assert (back.id, back.frame, back.v_correction, back.lsf) == ("HD 1", "rest", -12.25, Gaussian(50_000))
    assert len(list(read_spectra(path))) == 1


@pytest.mark.parametrize("unit", ["nm", "micron", "m"])
def test_units_are_honoured(tmp_path, unit):
    path = write(table(wavelength=(W * units.AA).to(unit)), tmp_path / "a.ecsv")
    np.testing.assert_allclose(read_table(path).grid.wavelength, W, rtol=1e-12)


@pytest.mark.parametrize(
    ("column", "value", "unit"), [("error", 500.0, "uJy"), ("ivar", 4e-6, "uJy-2"), ("error", 0.5, None)]
)
def test_errors_in_units_of_their_own(tmp_path, column, value, unit):
    noise = np.full(800, value)
    changed = {"error": None, column: noise if unit is None else noise * units.Unit(unit)}
    path = write(table(flux=np.ones(800) * units.mJy, **changed), tmp_path / "a.ecsv")
    found = read_table(path)
    np.testing.assert_allclose(found.ivar, 4.0)
    assert found.meta == {"flux_unit": "mJy"}


def test_wavenumbers_are_sorted(tmp_path):
    path = write(table(wavelength=(W * units.AA).to("1/cm", units.spectral())), tmp_path / "a.ecsv")
    np.testing.assert_allclose(read_table(path).grid.wavelength, W, rtol=1e-12)


def test_shuffled_rows_are_sorted(tmp_path):
    order = np.random.default_rng(0).permutation(800)
    path = write(table(flux=W.copy())[order], tmp_path / "a.ecsv")
    spectrum = read_table(path)
    np.testing.assert_allclose(spectrum.flux, spectrum.grid.wavelength)


def test_air_is_converted(tmp_path):
    made = table()
    made.meta["medium"] = "air"
    found = read_table(write(made, tmp_path / "a.ecsv")).grid.wavelength
    # 82 km/s: n - 1 = 2.73e-4 in the H band.
    np.testing.assert_allclose(found / W - 1, 2.733e-4, atol=5e-7)


def test_vacuum_inverts_ciddor():
    vacuum = np.array([3000.0, 5000.0, 16_000.0])
    s2 = (1e4 / vacuum) ** 2
    air = vacuum / (1 + 0.05792105 / (238.0185 - s2) + 0.00167917 / (57.362 - s2))
    np.testing.assert_allclose(to_vacuum(air), vacuum, atol=1e-8, rtol=0)


def test_medium_may_be_an_argument(tmp_path):
    made = table()
    del made.meta["medium"]
    path = write(made, tmp_path / "a.ecsv")
    with pytest.raises(SpectrumError, match="air or vacuum"):
        read_table(path)
    np.testing.assert_allclose(read_table(path, medium="vacuum").grid.wavelength, W)


def test_bad_pixels(tmp_path):
    flux, error, mask = np.ones(800), np.full(800, 0.1), np.zeros(800, int)
    flux[1], error[2:5], mask[5] = np.nan, (0, -1, np.nan), 3
    good = read_table(write(table(flux=flux, error=error, mask=mask), tmp_path / "a.ecsv")).good
    assert not good[1:6].any()
    assert good[6:].all()


@pytest.mark.parametrize(
    ("change", "meta", "message"),
    [
        ({"flux": None}, {}, "column flux"),
        ({"error": None}, {}, "ivar or error"),
        ({"wavelength": W}, {}, "no unit"),
        ({"wavelength": W * units.kg}, {}, "none of a wavelength"),
        ({"wavelength": np.where(np.arange(800) == 5, W[4], W) * units.AA}, {}, "occurs twice"),
        ({"wavelength": np.where(np.arange(800) == 5, np.nan, W) * units.AA}, {}, "finite"),
        ({"flux": np.array(["x"] * 800)}, {}, "does not hold numbers"),
        (
            {"flux": np.ones(800) * units.Jy, "error": np.ones(800) * units.K},
            {},
            "flux in Jy, uncertainty in K",
        ),
        ({}, {"medium": "water"}, "neither"),
        ({}, {"frame": "galactic"}, "frame"),
        ({}, {"resolution": "high"}, "no number"),
        ({}, {"resolution": -5}, "resolving power"),
    ],
)
def test_bad_tables_are_told(tmp_path, change, meta, message):
    made = table(**change)
    made.meta.update(meta)
    path = write(made, tmp_path / "a.ecsv")
    with pytest.raises(SpectrumError, match=message):
        read_table(path)


def test_nested_metadata_are_not_unfolded(tmp_path):
    """Nine lists of ten references each: 1 kB, of which a text would have gigabytes."""
    made = table()
    del made.meta["id"]
    path = write(made, tmp_path / "a.ecsv")
    bomb = ["#   a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    bomb += [f"#   a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 10)]
    text = path.read_text()
    assert "# meta: !!omap\n" in text
    bomb = [line.replace("#   ", "# - ") for line in [*bomb, "#   id: *a9"]]
    path.write_text(text.replace("# meta: !!omap\n", "# meta: !!omap\n" + "\n".join(bomb) + "\n"))
    assert read_table(path).id == "a"


def test_files_that_are_no_tables(tmp_path):
    (tmp_path / "a.ecsv").write_text("# %ECSV 1.0\n# ---\n# datatype: [\n1 2\n")
    with pytest.raises(SpectrumError, match="cannot be read as a table"):
        read_spectrum(tmp_path / "a.ecsv")
    with pytest.raises(SpectrumError, match="no such file"):
        read_table(tmp_path / "b.ecsv")
    with pytest.raises(SpectrumError, match="ends with none"):
        write_table(tmp_path / "a.txt", read_table(write(table(), tmp_path / "c.ecsv")))


def specutils_like(kind="std", meta=None, mask=None):
    return SimpleNamespace(
        spectral_axis=W * units.AA,
        flux=np.ones(800) * units.Jy,
        uncertainty=SimpleNamespace(array=np.full(800, 0.5), uncertainty_type=kind),
        mask=mask,
        meta={"medium": "vacuum"} if meta is None else meta,
    )


@pytest.mark.parametrize(("kind", "ivar"), [("std", 4.0), ("var", 2.0), ("ivar", 0.5)])
def test_specutils(kind, ivar):
    np.testing.assert_allclose(from_specutils(specutils_like(kind)).ivar, ivar)


def test_specutils_must_say_all(tmp_path):
    with pytest.raises(SpectrumError, match="air or vacuum"):
        from_specutils(specutils_like(meta={}))
    with pytest.raises(SpectrumError, match="type 'unknown'"):
        from_specutils(specutils_like("unknown"))
    bare = specutils_like()
    bare.uncertainty = None
    with pytest.raises(SpectrumError, match="no uncertainty"):
        from_specutils(bare)
