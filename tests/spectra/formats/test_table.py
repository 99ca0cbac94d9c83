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
from maury.spectra.linespread import ChipGaussians, Gaussian

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


# What real tables look like


def fits_file(path, *tables, primary=None):
    from astropy.io import fits

    hdus = [fits.PrimaryHDU()]
    hdus[0].header.update(primary or {})
    for made in tables:
        meta, made.meta = dict(made.meta), {}
        hdu = fits.table_to_hdu(made)
        hdu.header.update({key.upper()[:8]: value for key, value in meta.items()})
        hdus.append(hdu)
    fits.HDUList(hdus).writeto(path, overwrite=True)
    return path


def part(start, stop, **meta):
    wavelength = np.linspace(start, stop, 400)
    made = Table({"wavelength": wavelength * units.AA, "flux": np.ones(400), "error": np.full(400, 0.1)})
    made.meta = {"medium": "vacuum", "resolution": 20_000.0, **meta}
    return made


def test_tables_of_chips_are_one_spectrum(tmp_path):
    path = fits_file(
        tmp_path / "a.fits",
        part(16_000, 16_400),
        part(15_000, 15_400),
        part(15_500, 15_900, resolution=30_000.0),
    )
    (spectrum,) = read_spectra(path)
    assert spectrum.grid.chips == ((0, 400), (400, 800), (800, 1200))
    assert spectrum.grid.wavelength[[0, -1]].tolist() == [15_000, 16_400]
    assert spectrum.lsf == ChipGaussians((20_000.0, 30_000.0, 20_000.0))


def test_tables_of_the_same_wavelengths_are_two_spectra(tmp_path):
    path = fits_file(tmp_path / "a.fits", part(15_000, 15_400), part(15_010, 15_410), part(15_500, 15_900))
    found = list(read_spectra(path))
    assert [s.index for s in found] == [0, 1]
    assert [len(s.grid.chips) for s in found] == [1, 2]
    path = fits_file(tmp_path / "b.fits", part(15_000, 15_400, id="a"), part(15_500, 15_900, id="b"))
    assert [s.id for s in read_spectra(path)] == ["a", "b"]
    assert read_spectrum(path, 1).id == "b"


def test_orders_that_overlap_are_told(tmp_path):
    path = fits_file(tmp_path / "a.fits", part(15_000, 15_400), part(15_390, 15_800))
    with pytest.raises(SpectrumError, match=r"HDU 2: shares 10\.0 Angstrom with HDU 1"):
        list(read_spectra(path))


def test_tables_without_errors_are_no_spectra_beside_one_with(tmp_path):
    model = part(15_000, 15_400)
    del model["error"]
    path = fits_file(tmp_path / "a.fits", model, part(15_000, 15_400))
    assert len(list(read_spectra(path))) == 1
    path = fits_file(tmp_path / "b.fits", model)
    with pytest.raises(SpectrumError, match="HDU 1: needs a column ivar or error"):
        list(read_spectra(path))


def test_a_row_whose_cells_are_arrays_is_a_spectrum(tmp_path):
    """As in ESO's data products, by their names: the medium is in the UCD there, and frames have names of FITS."""
    wave = np.linspace(1500.0, 1540.0, 400)
    made = Table(
        {
            "WAVE": np.tile(wave, (2, 1)) * units.nm,
            "FLUX": np.ones((2, 400)),
            "ERR": np.full((2, 400), 0.1),
            "QUAL": np.zeros((2, 400), int),
        }
    )
    made["QUAL"][0, 7] = 4
    path = fits_file(
        tmp_path / "a.fits",
        made,
        primary={"OBJECT": "HD 1", "SPECSYS": "BARYCENT", "MEDIUM": "vacuum", "SPEC_RES": 40_000},
    )
    found = list(read_spectra(path))
    assert [(s.index, s.id, s.frame, s.lsf) for s in found] == [
        (i, "HD 1", "barycentric", Gaussian(40_000)) for i in (0, 1)
    ]
    assert np.flatnonzero(~found[0].good).tolist() == [7]
    np.testing.assert_allclose(found[1].grid.wavelength, 10 * wave)


@pytest.mark.parametrize(
    "unit",
    [
        "1E-17 erg/cm^2/s/Ang",
        "erg.cm**(-2).s**(-1).angstrom**(-1)",
        "ERG/CM2/S/ANGSTROM",
        "10^-17 erg/s/cm^2/Ang",
        "counts",
        "furlongs",
        "",
    ],
)
def test_units_of_flux_that_need_no_conversion(tmp_path, unit):
    made = part(15_000, 15_400)
    path = fits_file(tmp_path / "a.fits", made)
    from astropy.io import fits

    with fits.open(path, mode="update") as hdus:
        hdus[1].header["TUNIT2"] = hdus[1].header["TUNIT3"] = unit
    spectrum = read_spectrum(path)
    np.testing.assert_allclose(spectrum.ivar, 100)
    assert ("flux_unit" in spectrum.meta) == (unit not in ("furlongs", ""))


@pytest.mark.parametrize(
    ("unit", "factor"),
    [
        ("micron", 1e-4),
        ("MICRONS", 1e-4),
        ("um", 1e-4),
        ("Ang", 1),
        ("ANGSTROMS", 1),
        ("A", 1),
        ("nanometers", 0.1),
        ("NM", 0.1),
        ("m", 1e-10),
    ],
)
def test_units_of_wavelength_as_people_write_them(tmp_path, unit, factor):
    from astropy.io import fits

    made = part(15_000, 15_400)
    made["wavelength"] = np.asarray(made["wavelength"]) * factor
    path = fits_file(tmp_path / "a.fits", made)
    with fits.open(path, mode="update") as hdus:
        hdus[1].header["TUNIT1"] = unit
    np.testing.assert_allclose(read_spectrum(path).grid.wavelength[[0, -1]], [15_000, 15_400])


@pytest.mark.parametrize(
    ("name", "unit"),
    [("loglam", None), ("loglam", "log10(Angstrom)"), ("wavelength", "log(AA)"), ("LOGLAM", "Angstrom")],
)
def test_logarithms_of_wavelengths(tmp_path, name, unit):
    from astropy.io import fits

    made = part(15_000, 15_400)
    made["wavelength"] = np.log10(np.asarray(made["wavelength"]))
    made.rename_column("wavelength", name)
    path = fits_file(tmp_path / "a.fits", made)
    if unit:
        with fits.open(path, mode="update") as hdus:
            hdus[1].header["TUNIT1"] = unit
    np.testing.assert_allclose(read_spectrum(path).grid.wavelength[[0, -1]], [15_000, 15_400])


def test_logarithms_that_are_none_are_told(tmp_path):
    made = part(15_000, 15_400)
    made["wavelength"].unit = None
    made.rename_column("wavelength", "loglam")
    with pytest.raises(SpectrumError, match="should hold log10 of wavelengths in Angstrom, but has 15000"):
        read_spectrum(fits_file(tmp_path / "a.fits", made))


@pytest.mark.parametrize(
    ("meta", "medium"),
    [
        ({"VACUUM": True}, "vacuum"),
        ({"VACUUM": False}, "air"),
        ({"VACUUM": "T"}, "vacuum"),
        ({"AIRORVAC": "vac"}, "vacuum"),
        ({"MEDIUM": "AIR"}, "air"),
    ],
)
def test_ways_to_tell_the_medium(tmp_path, meta, medium):
    made = part(15_000, 15_400)
    del made.meta["medium"]
    shift = read_spectrum(fits_file(tmp_path / "a.fits", made, primary=meta)).grid.wavelength[0] - 15_000
    assert shift == pytest.approx(4.1 if medium == "air" else 0, abs=0.1)


@pytest.mark.parametrize("nothing", [None, "", "None", "null", float("nan")])
def test_metadata_of_nothing_are_not_there(tmp_path, nothing):
    made = table()
    made.meta |= {"id": nothing, "frame": nothing, "v_correction": nothing, "resolution": nothing}
    found = read_table(write(made, tmp_path / "a.ecsv"))
    assert (found.id, found.frame, found.v_correction, found.lsf) == ("a", "observatory", None, None)


@pytest.mark.parametrize(
    ("frame", "found"),
    [
        ("TOPOCENT", "observatory"),
        ("heliocentric", "barycentric"),
        ("Rest", "rest"),
        ("BARYCENTRIC", "barycentric"),
    ],
)
def test_names_of_frames(tmp_path, frame, found):
    made = table()
    made.meta["frame"] = frame
    assert read_table(write(made, tmp_path / "a.ecsv")).frame == found


def test_quantities_in_metadata(tmp_path):
    made = table()
    made.meta["v_correction"] = 12_340.0 * units.m / units.s
    assert read_table(write(made, tmp_path / "a.ecsv")).v_correction == pytest.approx(12.34)


def test_masked_cells(tmp_path):
    from astropy.table import MaskedColumn

    made = table(flux=MaskedColumn(np.ones(800), mask=np.arange(800) == 3))
    assert np.flatnonzero(~read_table(write(made, tmp_path / "a.ecsv")).good).tolist() == [3]
    path = write(made, tmp_path / "b.fits")
    assert np.flatnonzero(~read_table(path).good).tolist() == [3]
    made = table(wavelength=MaskedColumn(W, mask=np.arange(800) == 3, unit="Angstrom"))
    with pytest.raises(SpectrumError, match="1 of 800 wavelengths are missing"):
        read_table(write(made, tmp_path / "c.ecsv"))


def test_a_byte_order_mark_is_no_text(tmp_path):
    path = write(table(), tmp_path / "a.ecsv")
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert read_spectrum(path).id == "HD 1"


def test_commas_between_cells(tmp_path):
    table().write(tmp_path / "a.ecsv", format="ascii.ecsv", delimiter=",")
    assert read_spectrum(tmp_path / "a.ecsv").grid.n_pixels == 800


@pytest.mark.parametrize("form", ["tabledata", "binary2"])
def test_votables(tmp_path, form):
    from astropy.io.votable import from_table

    made = table()
    made.meta = {}
    votable = from_table(made)
    votable.to_xml(str(tmp_path / "a.vot"), tabledata_format=form)
    with pytest.raises(SpectrumError, match="air or vacuum"):
        read_spectrum(tmp_path / "a.vot")
    found = read_table(tmp_path / "a.vot", medium="vacuum")
    np.testing.assert_allclose(found.grid.wavelength, W)
    np.testing.assert_allclose(found.ivar, 100)


def test_a_card_that_nobody_needs(tmp_path):
    path = fits_file(tmp_path / "a.fits", part(15_000, 15_400), primary={"AIRMASS": "1.2"})
    path.write_bytes(path.read_bytes().replace(b"AIRMASS = '1.2     '", b"AIRMASS = '1.2      "))
    assert read_spectrum(path).grid.n_pixels == 400


@pytest.mark.parametrize(
    ("frame", "value", "message"),
    [
        ("observatory", 12_340.0, "is it in m/s"),
        ("observatory", np.inf, "inf"),
        ("rest", -4e5, "below 3000"),
        ("barycentric", 150.0, "below 100"),
    ],
)
def test_corrections_that_nothing_moves_with(tmp_path, frame, value, message):
    made = table()
    made.meta |= {"v_correction": value, "frame": frame}
    with pytest.raises(SpectrumError, match=rf"a\.ecsv: v_correction.*{message}"):
        read_table(write(made, tmp_path / "a.ecsv"))


# The project's own cases

CASES = {
    "three_hdus.fits": [12288],
    "two_spectra.fits": [12288, 12288],
    "unit_ang.fits": [12288],
    "wave_micron.fits": [12288],
    "badcard_hdr.fits": [12288],
    "loglam_none.fits": [12288],
    "name_brackets.fits": [690],
    "vc_ms.fits": "is it in m/s",
    "vc_nan.ecsv": [690],
    "fz_rice.fits.fz": "compressed by tiles",
}


@pytest.mark.parametrize("name", CASES)
def test_cases(shared, name):
    path, expected = shared / "cases" / name, CASES[name]
    if not path.is_file():
        pytest.skip(f"{path} is absent")
    if isinstance(expected, str):
        with pytest.raises(SpectrumError, match=expected):
            list(read_spectra(path))
        return
    found = list(read_spectra(path))
    assert [s.grid.n_pixels for s in found] == expected
    assert all(11_000 < s.grid.wavelength[0] < s.grid.wavelength[-1] < 17_000 for s in found)
    assert found[0].id == ("[/HD] 1" if name == "name_brackets.fits" else path.name.split(".")[0])
    assert found[0].v_correction == (None if name == "vc_nan.ecsv" else 12.34)
