"""PHOENIX: names both ways, the mesh, and a tree of files as a grid."""

from __future__ import annotations

from dataclasses import astuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from phoenix_tree import NODES, WAVELENGTH, truth, write_node, write_tree

from maury.errors import LabelError, ModelError
from maury.libraries import phoenix
from maury.libraries.open import open_grid
from maury.libraries.phoenix import AXES, Node, nodes_within, parse_name


@given(*(st.sampled_from(axis) for axis in AXES.values()))
def test_names_both_ways(teff, logg, m_h, alpha_m):
    node = Node(teff, logg, m_h, alpha_m)
    assert parse_name(node.file) == node
    assert node.file.startswith(f"lte{teff:05.0f}-")
    # No label is a negative zero, which would make two nodes of one.
    assert not any(np.signbit(x) and x == 0 for x in astuple(parse_name(node.file)))


@pytest.mark.parametrize(
    ("node", "path"),
    [
        (Node(5500, 4.5, 0), "Z-0.0/lte05500-4.50-0.0.PHOENIX-ACES-AGSS-COND-2011-HiRes.fits"),
        (Node(12000, 0, 0.5), "Z+0.5/lte12000-0.00+0.5.PHOENIX-ACES-AGSS-COND-2011-HiRes.fits"),
        (
            Node(6000, 4.5, -1, 0.8),
            "Z-1.0.Alpha=+0.80/lte06000-4.50-1.0.Alpha=+0.80.PHOENIX-ACES-AGSS-COND-2011-HiRes.fits",
        ),
        (
            Node(6000, 4.5, 0, -0.2),
            "Z-0.0.Alpha=-0.20/lte06000-4.50-0.0.Alpha=-0.20.PHOENIX-ACES-AGSS-COND-2011-HiRes.fits",
        ),
    ],
)
def test_names_as_the_archive_writes_them(node, path):
    assert str(node.path) == f"PHOENIX-ACES-AGSS-COND-2011/{path}"
    assert str(Node(node.teff, node.logg, -0.0 if node.m_h == 0 else node.m_h, node.alpha_m).path) == str(
        node.path
    )


@pytest.mark.parametrize("name", ["lte05500-4.50-0.0.fits", phoenix.WAVELENGTH_FILE, "", "readme"])
def test_other_names(name):
    assert parse_name(name) is None


def test_mesh():
    assert AXES["teff"][:2] + AXES["teff"][46:49] + AXES["teff"][-1:] == (2300, 2400, 6900, 7000, 7200, 12000)
    paper = nodes_within({"teff": (2300, 7000), "logg": (2.5, 6), "m_h": (-2, 0.5)})
    assert len(paper) == len(set(paper)) == 48 * 8 * 6
    assert {node.alpha_m for node in paper} == {0.0}
    assert [
        n.alpha_m
        for n in nodes_within({"teff": (5000, 5000), "logg": (4, 4), "m_h": (0, 0), "alpha_m": (0, 0.4)})
    ] == [
        0,
        0.2,
        0.4,
    ]
    with pytest.raises(LabelError, match="teff: no node from 2310 to 2390"):
        nodes_within({"teff": (2310, 2390)})
    with pytest.raises(LabelError, match="no label 'feh'"):
        nodes_within({"feh": (0, 0)})


def test_tree_as_a_grid(tmp_path):
    root = write_tree(tmp_path / "HiResFITS")
    z = root / phoenix.NAME / "Z-0.0"
    for path, number in ((tmp_path, 18), (root, 18), (root / phoenix.NAME, 18), (z, 6)):
        grid = open_grid(path)
        assert grid.n_nodes == number
        np.testing.assert_allclose(grid.wavelength, WAVELENGTH)
    grid = open_grid(tmp_path)
    assert grid.labels == ("teff", "logg", "m_h")
    assert grid.shape == (3, 2, 3)
    for i, node in enumerate(grid.nodes):
        np.testing.assert_allclose(grid.flux([i])[0], truth(Node(*node)), rtol=2e-7)
    cropped = grid.crop(15000, 15010)
    np.testing.assert_array_equal(
        cropped.flux([4]), grid.flux([4])[:, (WAVELENGTH >= 15000) & (WAVELENGTH <= 15010)]
    )
    assert grid.is_complete([3050, 4.75, 0.1])[0]


def test_alpha_becomes_a_label_where_it_varies(tmp_path):
    write_tree(tmp_path)
    write_node(tmp_path, Node(3000, 4.5, 0, 0.4))
    grid = open_grid(tmp_path)
    assert grid.labels == ("teff", "logg", "m_h", "alpha_m")
    assert grid.n_nodes == 19
    np.testing.assert_array_equal(grid.fix(alpha_m=0).nodes, np.array([astuple(n)[:3] for n in NODES]))


def test_files_are_read_only_when_asked_for(tmp_path):
    write_tree(tmp_path)
    broken = tmp_path / NODES[3].path
    broken.write_bytes(broken.read_bytes()[:3000])
    grid = open_grid(tmp_path)
    assert grid.flux([2, 4]).shape == (2, 400)
    with pytest.raises(ModelError, match=NODES[3].file.replace("+", r"\+")):
        grid.flux([3])


@pytest.mark.parametrize(
    ("keywords", "word"),
    [
        ({"BUNIT": "Jy"}, "BUNIT is 'Jy'"),
        ({"PHXTEFF": 3100}, "PHXTEFF is 3100"),
        ({"PHXALPHA": 0.4}, "alpha_m is 0"),
        ({"flux": np.ones(300)}, "300 pixels"),
        ({"flux": np.ones((2, 200))}, "one row"),
        ({"flux": np.zeros(400)}, "the flux is 0"),
    ],
)
def test_unfit_file_is_named(tmp_path, keywords, word):
    write_tree(tmp_path)
    write_node(tmp_path, NODES[0], **keywords)
    with pytest.raises(ModelError, match=word):
        open_grid(tmp_path).flux([0])


def test_interpolated_files_without_unit_or_keywords_are_taken(tmp_path):
    write_tree(tmp_path)
    write_node(tmp_path, NODES[0], BUNIT=None, PHXTEFF=None, PHXLOGG=None, PHXM_H=None, PHXALPHA=None)
    np.testing.assert_allclose(open_grid(tmp_path).flux([0])[0], truth(NODES[0]), rtol=2e-7)


def test_tree_without_wavelengths_or_spectra(tmp_path):
    write_node(tmp_path, NODES[0])
    folder = (tmp_path / NODES[0].path).parent
    with pytest.raises(ModelError, match="WAVE_PHOENIX"):
        open_grid(folder)
    write_tree(tmp_path / "empty", [])
    with pytest.raises(ModelError, match="no spectra such as"):
        open_grid(tmp_path / "empty")
