"""The design of a grid: the same star whatever the number, inside its ranges, where stars are."""

from __future__ import annotations

import numpy as np

from maury.libraries.synthesis.design import LABELS, Design, star_of


def test_more_stars_begin_with_the_same():
    np.testing.assert_array_equal(Design().labels(500)[:200], Design().labels(200))


def test_every_label_varies_over_its_range():
    labels = dict(zip(LABELS, Design().labels(4096).T, strict=True))
    ranges = {
        "teff": (3400, 8000),
        "m_h": (-2.5, 0.7),
        "v_micro": (0.3, 4),
        "c12_c13": (3, 90),
        "c_m": (-1, 1),
        "nd_m": (-1, 1),
    }
    for name, (low, high) in ranges.items():
        assert low <= labels[name].min() < low + 0.05 * (high - low)
        assert high - 0.07 * (high - low) < labels[name].max() <= high
    assert len(LABELS) == 25


def test_labels_are_varied_at_once():
    labels = Design().labels(4096)
    elements = labels[
        :,
        [
            i
            for i, name in enumerate(LABELS)
            if name in ("na_m", "al_m", "v_m", "mn_m", "ni_m", "ce_m", "n_m")
        ],
    ]
    assert np.abs(np.corrcoef(elements.T) - np.eye(elements.shape[1])).max() < 0.05


def test_stars_are_where_stars_are():
    labels = dict(zip(LABELS, Design().labels(4096).T, strict=True))
    hot = labels["teff"] > 7000
    assert labels["logg"][hot].min() > 2
    dwarfs = (labels["logg"] > 4) & (labels["teff"] < 6500)
    giants = (labels["logg"] < 3.3) & (labels["teff"] < 5300)
    assert dwarfs.mean() > 0.2
    assert giants.mean() > 0.35


def test_no_carbon_stars_where_molecules_form():
    labels = dict(zip(LABELS, Design().labels(4096).T, strict=True))
    cool = labels["teff"] < 4800
    assert (labels["c_m"] - labels["o_m"])[cool].max() <= 0.2 + 1e-12


def test_a_row_becomes_a_star():
    row = Design().labels(4)[3]
    star = star_of(row)
    assert star.teff == row[0]
    assert star.abundances["Mg"] == row[LABELS.index("mg_m")]
    assert star.c12_c13 == row[-1]


def test_later_stars_are_more_like_real_ones():
    few, many = Design().labels(1400), Design().labels(4096)
    np.testing.assert_array_equal(few, many[:1400])
    for name in ("m_h", "c_m", "na_m", "ce_m"):
        i = LABELS.index(name)
        assert many[1400:, i].std() < 0.8 * few[:, i].std()
