"""Grids: exact where they must be, errors that name the node, files that come back, and bounded memory."""

from __future__ import annotations

import itertools

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from maury.errors import LabelError, MauryError, ModelError
from maury.libraries import gridfile
from maury.libraries.grid import Grid, write_grid
from maury.libraries.open import open_grid

LABELS = ("teff", "logg", "m_h")
# Unequal steps, as in PHOENIX: teff above 7000 K and m_h below -2.
AXES = ([6800, 6900, 7000, 7200, 7400], [3.5, 4, 4.5, 5], [-4, -3, -2, -1.5, -1])
MESH = np.array(list(itertools.product(*AXES)), dtype=float)
WAVELENGTH = 15000 + 0.1 * np.arange(7)
SCALE = np.array([1000.0, 1.0, 2.0])
CENTRE = np.array([7000.0, 4.0, -2.0])


def unit(labels):
    return (np.atleast_2d(labels) - CENTRE) / SCALE


def multilinear(labels, seed=0):
    """Exp of all products of labels, each with its own spectrum of coefficients."""
    x, rng = unit(labels), np.random.default_rng(seed)
    log_flux = np.zeros((len(x), len(WAVELENGTH)))
    for power in itertools.product((0, 1), repeat=3):
        log_flux += np.prod(x**power, axis=1)[:, None] * rng.normal(size=len(WAVELENGTH))
    return np.exp(log_flux)


def quadratic(labels, seed=0):
    x, rng = unit(labels), np.random.default_rng(seed)
    log_flux = np.zeros((len(x), len(WAVELENGTH)))
    for power in itertools.product((0, 1, 2), repeat=3):
        log_flux += np.prod(x**power, axis=1)[:, None] * rng.normal(size=len(WAVELENGTH))
    return np.exp(log_flux)


def grid_of(function, nodes=MESH):
    return Grid.from_arrays(LABELS, nodes, WAVELENGTH, function(nodes))


@st.composite
def points(draw):
    """Labels within the mesh: any place in a cell, its faces and corners more often."""
    out = []
    for axis in AXES:
        cell = draw(st.integers(0, len(axis) - 2))
        t = draw(st.one_of(st.sampled_from([0.0, 1.0]), st.integers(1, 999).map(lambda i: i / 1000)))
        out.append(axis[cell] + t * (axis[cell + 1] - axis[cell]))
    return out


@given(points())
def test_linear_reproduces_exp_of_a_multilinear_function(labels):
    np.testing.assert_allclose(grid_of(multilinear).interpolate(labels), multilinear(labels), rtol=1e-11)


@given(points())
def test_cubic_reproduces_exp_of_a_quadratic_on_unequal_steps(labels):
    np.testing.assert_allclose(grid_of(quadratic).interpolate(labels, "cubic"), quadratic(labels), rtol=1e-10)


@given(st.integers(0, len(MESH) - 1), st.sampled_from(["linear", "cubic"]))
def test_nodes_are_reproduced(node, method):
    flux = np.exp(np.random.default_rng(1).normal(20, 3, (len(MESH), len(WAVELENGTH))))
    grid = Grid.from_arrays(LABELS, MESH, WAVELENGTH, flux)
    np.testing.assert_allclose(grid.interpolate(MESH[node], method)[0], flux[node], rtol=1e-13)


@settings(max_examples=30)
@given(points(), st.sets(st.integers(0, len(MESH) - 1), min_size=1, max_size=40))
def test_completeness_foretells_what_interpolates(labels, absent):
    nodes = np.delete(MESH, sorted(absent), axis=0)
    grid = grid_of(multilinear, nodes)
    if not all(a[0] <= x <= a[-1] for a, x in zip(grid.axes, labels, strict=True)):
        assert not grid.is_complete(labels)[0]
        return
    for method in ("linear", "cubic"):
        if grid.is_complete(labels, method)[0]:
            grid.interpolate(labels, method)
        else:
            with pytest.raises(LabelError, match="lacks"):
                grid.interpolate(labels, method)
    if grid.is_complete(labels)[0] and grid.shape == tuple(map(len, AXES)):
        np.testing.assert_allclose(grid.interpolate(labels), multilinear(labels), rtol=1e-11)


def test_cubic_is_smooth_where_linear_has_a_kink():
    axis = np.arange(6.0)[:, None]
    grid = Grid.from_arrays(["x"], axis, WAVELENGTH, np.exp(np.sin(axis) + 0 * WAVELENGTH))
    h = 1e-3
    near = {m: np.log(grid.interpolate([[3 - h], [3], [3 + h]], m)[:, 0]) for m in ("linear", "cubic")}
    kink = {method: abs(y[2] - 2 * y[1] + y[0]) / h for method, y in near.items()}
    assert kink["cubic"] < 0.01 < 0.1 < kink["linear"]


def test_batch_equals_one_by_one():
    grid = grid_of(quadratic)
    labels = np.random.default_rng(3).uniform([6800, 3.5, -4], [7400, 5, -1], (50, 3))
    for method in ("linear", "cubic"):
        one_by_one = np.concatenate([grid.interpolate(row, method) for row in labels])
        np.testing.assert_allclose(grid.interpolate(labels, method), one_by_one, rtol=1e-13)
    assert grid.interpolate(np.empty((0, 3))).shape == (0, len(WAVELENGTH))
    assert grid.flux([]).shape == (0, len(WAVELENGTH))


def test_label_off_a_node_by_float32_needs_no_corner_beyond():
    nodes = np.array([[a, b] for a in (0.0, 0.2, 0.4) for b in (1.0, 2.0) if (a, b) != (0.4, 1.0)])
    grid = Grid.from_arrays(["a", "b"], nodes, WAVELENGTH, np.ones((5, 7)))
    assert grid.is_complete([np.float32(0.2), 1.0])[0]
    assert grid.interpolate([np.float32(0.4), 2.0]).shape == (1, 7)


@pytest.mark.parametrize("value", [7400.1, 6799, np.nan, np.inf])
def test_label_outside_is_named(value):
    grid = grid_of(multilinear)
    with pytest.raises(LabelError, match=r"teff = .* covers 6800 to 7400"):
        grid.interpolate([value, 4, -2])
    with pytest.raises(LabelError, match="teff"):
        grid.neighbours([value, 4, -2])
    assert not grid.is_complete([value, 4, -2])[0]


def test_hole_is_named():
    hole = (MESH == [7000, 4, -2]).all(axis=1)
    grid = grid_of(multilinear, MESH[~hole])
    with pytest.raises(LabelError, match="the node teff = 7000, logg = 4, m_h = -2"):
        grid.interpolate([6950, 3.75, -2.5])
    np.testing.assert_array_equal(
        grid.is_complete([[6950, 3.75, -2.5], [6900, 3.75, -2.5], [7350, 4.75, -1.25]]), [False, True, True]
    )
    # Two nodes away, the cubic stencil still reaches it.
    assert not grid.is_complete([7300, 4, -2], "cubic")[0]
    with pytest.raises(LabelError, match="linear method"):
        grid.interpolate([7300, 4, -2], "cubic")


def test_neighbours_are_the_corners():
    grid = grid_of(multilinear)
    corners = grid.neighbours([7100, 4.2, -1.2])[0]
    expected = list(itertools.product((7000, 7200), (4, 4.5), (-1.5, -1)))
    np.testing.assert_array_equal(grid.nodes[corners], expected)
    without = grid_of(multilinear, np.delete(MESH, corners[3], axis=0))
    np.testing.assert_array_equal(without.neighbours([7100, 4.2, -1.2])[0] < 0, np.arange(8) == 3)


def test_cubic_needs_three_nodes():
    grid = grid_of(multilinear, MESH[MESH[:, 1] < 4.4])
    with pytest.raises(LabelError, match="three nodes along logg"):
        grid.interpolate([7000, 3.7, -2], "cubic")
    with pytest.raises(LabelError, match="known are linear, cubic"):
        grid.interpolate([7000, 3.7, -2], "spline")


def test_label_of_one_node_takes_its_value_alone():
    grid = grid_of(multilinear, MESH[MESH[:, 1] == 4])
    np.testing.assert_allclose(grid.interpolate([7111, 4, -1.9]), multilinear([7111, 4, -1.9]), rtol=1e-12)
    assert grid.neighbours([7111, 4, -1.9]).shape == (1, 4)
    with pytest.raises(LabelError, match="logg"):
        grid.interpolate([7111, 4.1, -1.9])


def test_wrong_number_of_labels():
    with pytest.raises(LabelError, match="teff, logg, m_h"):
        grid_of(multilinear).interpolate([5000, 4])
    with pytest.raises(LabelError, match="numbered 0 to 99"):
        grid_of(multilinear).flux([100])


def test_fix_and_crop():
    grid = grid_of(multilinear).crop(15000.1, 15000.5).fix(logg=4, m_h=-2)
    assert grid.labels == ("teff",)
    assert grid.n_pixels == 5
    np.testing.assert_allclose(grid.interpolate([7123]), multilinear([7123, 4, -2])[:, 1:6], rtol=1e-12)
    again = grid.crop(15000.25, 15000.45)
    np.testing.assert_allclose(again.wavelength, [15000.3, 15000.4])
    np.testing.assert_array_equal(again.flux([2]), grid.flux([2])[:, 2:4])
    with pytest.raises(ModelError, match=r"holds 15000 to 15000\.6"):
        grid_of(multilinear).crop(16000, 17000)
    with pytest.raises(LabelError, match="no label 'alpha_m'"):
        grid.fix(alpha_m=0)
    with pytest.raises(LabelError, match="nothing is left with teff = 5000"):
        grid_of(multilinear).fix(teff=5000)


@pytest.mark.parametrize(
    ("wavelength", "word"),
    [
        (WAVELENGTH[::-1], "rising"),
        (np.where(np.arange(7) == 3, WAVELENGTH[2], WAVELENGTH), "repeated at pixel 3"),
        (np.where(np.arange(7) == 3, np.nan, WAVELENGTH), "finite"),
        (-WAVELENGTH[::-1], "above 0"),
    ],
)
def test_bad_wavelengths(wavelength, word):
    with pytest.raises(ModelError, match=word):
        Grid.from_arrays(LABELS, MESH, wavelength, multilinear(MESH))


@pytest.mark.parametrize(("medium", "word"), [("air", "'air'"), (None, "does not state")])
def test_medium_must_be_vacuum(medium, word, tmp_path):
    with pytest.raises(ModelError, match=word):
        Grid(LABELS, MESH, WAVELENGTH, lambda i, p: multilinear(MESH)[i, p], medium=medium)
    path = tmp_path / "grid.h5"
    write_grid(path, LABELS, MESH, WAVELENGTH, multilinear(MESH), reference="test")
    with h5py.File(path, "a") as file:
        del file.attrs["medium"]
        if medium:
            file.attrs["medium"] = medium
    with pytest.raises(ModelError, match=rf"grid\.h5.*{word}"):
        open_grid(path)


def test_bad_nodes():
    twice = np.concatenate([MESH, MESH[5:6]])
    with pytest.raises(ModelError, match="m_h = -4 is there 2 times"):
        grid_of(multilinear, twice)
    with pytest.raises(ModelError, match="node 2 is not finite"):
        grid_of(multilinear, np.where(np.arange(100)[:, None] == 2, np.nan, MESH))
    with pytest.raises(ModelError, match="distinct"):
        Grid.from_arrays(["a", "a", "b"], MESH, WAVELENGTH, multilinear(MESH))
    scattered, flux = np.random.default_rng(0).random((2000, 7)), np.ones((2000, 7))
    with pytest.raises(ModelError, match="mesh"):
        Grid.from_arrays("abcdefg", scattered, WAVELENGTH, flux)


@pytest.mark.parametrize("value", [np.nan, np.inf, 0, -1])
def test_bad_flux_names_the_node_when_read(value):
    flux = multilinear(MESH)
    flux[7, 2] = value
    grid = Grid.from_arrays(LABELS, MESH, WAVELENGTH, flux)
    assert grid.flux([6]).shape == (1, 7)
    with pytest.raises(ModelError, match=r"teff = 6800, logg = 4, m_h = -2: the flux is .* at 15000.200"):
        grid.flux([6, 7])
    # Outside the band it does no harm.
    assert grid.crop(15000.3, 15001).flux([7]).shape == (1, 4)


def test_file_comes_back(tmp_path):
    path = tmp_path / "grid.h5"
    holes = [[5000, 4, 0]]
    write_grid(path, LABELS, MESH, WAVELENGTH, iter(multilinear(MESH)), reference="R", holes=holes)
    grid = open_grid(path)
    assert (grid.labels, grid.unit, grid.reference) == (LABELS, gridfile.UNIT, "R")
    np.testing.assert_array_equal(grid.nodes, MESH)
    np.testing.assert_array_equal(grid.holes, holes)
    np.testing.assert_array_equal(grid.wavelength, WAVELENGTH)
    np.testing.assert_array_equal(grid.flux([9, 3, 9]), multilinear(MESH)[[9, 3, 9]])
    np.testing.assert_allclose(
        grid.interpolate([7111, 4.1, -1.9]), multilinear([7111, 4.1, -1.9]), rtol=1e-11
    )
    np.testing.assert_array_equal(grid.crop(15000.2, 15000.4).flux([4]), multilinear(MESH)[[4], 2:5])
    assert "100 of 100 nodes" in repr(grid)
    with h5py.File(path) as file:
        assert file["flux"].chunks == (1, 7)
        assert file.attrs["medium"] == "vacuum"


def test_float32_stays_float32(tmp_path):
    write_grid(tmp_path / "g.h5", LABELS, MESH, WAVELENGTH, multilinear(MESH).astype("f4"), reference="R")
    grid = open_grid(tmp_path / "g.h5")
    assert grid.flux([0]).dtype == np.float32
    np.testing.assert_allclose(grid.interpolate(MESH[8]), multilinear(MESH[8]), rtol=1e-6)


def test_bad_flux_is_not_written(tmp_path):
    path = tmp_path / "grid.h5"
    flux = multilinear(MESH)
    flux[7, 2] = 0
    for bad, word in [
        (flux, "m_h = -2"),
        (flux[:5], "5 spectra for 100"),
        (np.ones((101, 7)), "more spectra"),
    ]:
        with pytest.raises(ModelError, match=word):
            write_grid(path, LABELS, MESH, WAVELENGTH, bad, reference="R")
        assert not list(tmp_path.iterdir())


def test_full_disk_leaves_nothing_under_the_name(tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(None, "Can't write data (errno = 28, error message = 'No space left on device')")

    monkeypatch.setattr(gridfile.h5py.Dataset, "__setitem__", full)
    with pytest.raises(MauryError, match=r"grid\.h5: the disk is full"):
        write_grid(tmp_path / "grid.h5", LABELS, MESH, WAVELENGTH, multilinear(MESH), reference="R")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("damage", ["missing", "text", "truncated", "other", "shape", "bits"])
def test_damaged_file(tmp_path, damage):
    path = tmp_path / "grid.h5"
    if damage != "missing":
        write_grid(path, LABELS, MESH, WAVELENGTH, multilinear(MESH), reference="R")
    if damage == "text":
        path.write_text("no grid\n" * 100)
    elif damage == "truncated":
        path.write_bytes(path.read_bytes()[:3000])
    elif damage == "other":
        with h5py.File(path, "w") as file:
            file["x"] = 1
    elif damage == "shape":
        with h5py.File(path, "a") as file:
            del file["wavelength"]
            file["wavelength"] = WAVELENGTH[:-1]
    elif damage == "bits":
        content, row = path.read_bytes(), multilinear(MESH)[4].tobytes()
        assert content.count(row) == 1
        path.write_bytes(content.replace(row, row[:-1] + bytes([row[-1] ^ 1])))
    with pytest.raises(ModelError, match=r"grid\.h5"):
        open_grid(path).flux([4])


def test_memory_is_bounded_and_spectra_are_read_once():
    flux, reads = multilinear(MESH), []

    def read(indices, pixels):
        reads.extend(indices.tolist())
        return flux[indices, pixels]

    grid = Grid(LABELS, MESH, WAVELENGTH, read, cache=10 * flux[0].nbytes)
    for _ in range(3):
        grid.flux(np.arange(8))
    assert reads == list(range(8))
    np.testing.assert_array_equal(grid.flux(np.arange(100)), flux)
    assert len(grid._cache) == 10
    reads.clear()
    grid.flux([99, 90, 89])
    assert reads == [89]
