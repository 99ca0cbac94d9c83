"""BT-Settl: the text files reproduce the HDF5 file, and either opens as a grid."""

from __future__ import annotations

import h5py
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from maury.errors import LabelError, ModelError
from maury.libraries import btsettl
from maury.libraries.grid import Grid
from maury.libraries.open import open_grid


@given(
    st.integers(400, 70_000),
    st.integers(0, 12).map(lambda i: i / 2),
    st.integers(-8, 2).map(lambda i: i / 2),
    st.integers(-1, 6).map(lambda i: i / 5),
)
def test_names_both_ways(teff, logg, m_h, alpha_m):
    assert btsettl.parse_name(btsettl.file_name(teff, logg, m_h, alpha_m)) == (teff, logg, m_h, alpha_m)


def test_names_as_the_library_writes_them():
    assert btsettl.file_name(3000, 5, 0) == "btsettl08_t3000_g5.00_z-0.00_en0.00_APOGEE-RAW.txt"
    assert btsettl.file_name(3000, 5, 0.5) == "btsettl08_t3000_g5.00_z0.50_en0.00_APOGEE-RAW.txt"
    assert btsettl.parse_name("lte030-5.0-0.5.BT-Settl.7.txt") is None


def test_text_files_reproduce_the_hdf5_file(shared):
    folder = open_grid(shared / "data/grids/btsettl08_raw_sample")
    whole = open_grid(shared / "data/grids/btsettl08_apogee.h5")
    assert folder.labels == whole.labels == ("teff", "logg", "m_h")
    np.testing.assert_allclose(folder.wavelength, whole.wavelength, rtol=1e-12)
    assert folder.nodes.tolist() == [[3000, 5, 0], [3000, 5, 0.5]]
    for number, node in enumerate(folder.nodes):
        same = np.flatnonzero((whole.nodes == node).all(axis=1))
        # Float32 on both sides.
        np.testing.assert_allclose(folder.flux([number]), whole.flux(same), rtol=1.3e-7)


def test_library_of_335_spectra(shared):
    path = shared / "data/grids/btsettl08_apogee.h5"
    grid = open_grid(path)
    assert (grid.n_nodes, grid.n_pixels, grid.shape) == (335, 20501, (16, 6, 7))
    assert grid.wavelength[[0, -1]] == pytest.approx([15000, 17050])
    with h5py.File(path) as file:
        np.testing.assert_array_equal(grid.flux([0, 200]), file["flux"][[0, 200]])
    assert grid.is_complete([3050, 4.75, 0.25])[0]
    assert not grid.is_complete([2050, 3.25, 0.25])[0]
    flux = grid.crop(16000, 16100).interpolate([3050, 4.75, 0.25])
    corners = grid.crop(16000, 16100).flux(grid.neighbours([3050, 4.75, 0.25])[0])
    assert ((corners.min(axis=0) <= flux) & (flux <= corners.max(axis=0))).all()
    with pytest.raises(LabelError, match="2000 to 3500"):
        grid.interpolate([4000, 4.5, 0])


def test_interpolation_foretells_a_node_that_is_left_out(shared):
    grid = open_grid(shared / "data/grids/btsettl08_apogee.h5").crop(15200, 15300).fix(logg=5, m_h=0)
    keep = np.delete(np.arange(grid.n_nodes), np.flatnonzero(grid.nodes[:, 0] == 3000))
    truth = grid.interpolate([3000])
    without = Grid.from_arrays(grid.labels, grid.nodes[keep], grid.wavelength, grid.flux(keep))
    error = {m: np.std(np.log(without.interpolate([3000], m) / truth)) for m in ("linear", "cubic")}
    assert error["cubic"] < error["linear"] < 0.03


def write_text(folder, teff, m_h=0.0, alpha_m=0.0, step=0.1, n=51, start=15000.0):
    wavelength = start + step * np.arange(n)
    flux = 1e9 * (1 + 0.5 * np.sin(wavelength) + 0.1 * m_h + teff / 1e4)
    path = folder / btsettl.file_name(teff, 5, m_h, alpha_m)
    np.savetxt(path, np.stack([wavelength / 1e4, flux], axis=1), fmt="%.10f", delimiter="\t")
    return wavelength, flux


def test_fine_sampling_is_smoothed_and_decimated(tmp_path):
    write_text(tmp_path, 3000)
    wavelength, flux = write_text(tmp_path, 3100, step=0.05, n=101)
    grid = open_grid(tmp_path)
    np.testing.assert_allclose(grid.wavelength, wavelength[::2], rtol=1e-9)
    smooth = np.convolve(flux, [0.25, 0.5, 0.25], mode="same")
    smooth[[0, -1]] = flux[[0, -1]]
    np.testing.assert_allclose(grid.flux([1])[0], smooth[::2], rtol=1e-6)


def test_alpha_is_a_label_only_where_it_is_free(tmp_path):
    write_text(tmp_path, 3000, -0.5, 0.2)
    write_text(tmp_path, 3000, -1, 0.4)
    assert open_grid(tmp_path).labels == ("teff", "logg", "m_h")
    write_text(tmp_path, 3000, -1, 0.2)
    grid = open_grid(tmp_path)
    assert grid.labels == ("teff", "logg", "m_h", "alpha_m")
    assert grid.shape == (1, 1, 2, 2)


def test_folder_without_a_library(tmp_path):
    (tmp_path / "notes.txt").write_text("1 2\n")
    with pytest.raises(ModelError, match="no model library"):
        open_grid(tmp_path)
    with pytest.raises(ModelError, match="no such file"):
        open_grid(tmp_path / "nothing.h5")


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ("words", "not two columns"),
        ("columns", "two columns"),
        ("order", "rising"),
        ("step", "known are 0.1 and 0.05"),
        ("cut", "differ from those of btsettl08_t3000"),
        ("empty", "two columns"),
    ],
)
@pytest.mark.filterwarnings("ignore:loadtxt")
def test_damaged_text_file_is_named(tmp_path, change, word):
    write_text(tmp_path, 3000)
    if change == "step":
        write_text(tmp_path, 3100, step=0.2)
    else:
        write_text(tmp_path, 3100)
    path = tmp_path / btsettl.file_name(3100, 5, 0)
    lines = path.read_text().splitlines()
    changed = {
        "words": [*lines[:9], "1.5 x", *lines[9:]],
        "columns": [line + "\t1" for line in lines],
        "order": lines[::-1],
        "step": lines,
        "cut": lines[:-3],
        "empty": [],
    }
    path.write_text("\n".join(changed[change]))
    grid = open_grid(tmp_path)
    with pytest.raises(ModelError, match=rf"t3100.*{word}"):
        grid.flux([1])


@pytest.mark.parametrize(("key", "value"), [("unit", "nm"), ("medium", "air"), ("medium", None)])
def test_hdf5_must_state_vacuum_micron(tmp_path, key, value):
    path = tmp_path / "library.h5"
    with h5py.File(path, "w") as file:
        for name in ("teff", "logg", "m_h", "en_alpha"):
            file[name] = np.ones(1)
        file["wavelength"], file["flux"] = np.array([1.5, 1.6]), np.ones((1, 2))
        file["wavelength"].attrs.update({"unit": "micron", "medium": "vacuum"})
        if value is None:
            del file["wavelength"].attrs[key]
        else:
            file["wavelength"].attrs[key] = value
    with pytest.raises(ModelError, match=r"library\.h5.*wavelength"):
        open_grid(path)
