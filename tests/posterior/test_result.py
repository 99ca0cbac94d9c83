"""First impressions: how a posterior shows itself, and what it gives to others."""

import builtins

import numpy as np
import pytest

from maury.errors import MauryError


def in_words(entry):
    return f"{entry['mean']:.0f} ± {entry['std']:.0f} K"


def test_it_shows_itself_in_a_line(made):
    shown = repr(made)
    assert len(shown) < 400
    assert "\n" not in shown
    for part in (
        "2M <b>",
        f"teff {in_words(made.summary()['teff'])}",
        "jitter",
        "flagged, refined, k-hat 0.21, ESS 350 of 400; average_lsf, at_bound:teff",
    ):
        assert part in shown
    lines = str(made).splitlines()
    assert len(lines) == 8
    assert lines[1].startswith("This star may lie outside the model: teff")


def test_and_as_html_without_trusting_names(made):
    html = made._repr_html_()
    assert "2M &lt;b&gt;" in html
    assert "<b>" not in html
    assert f"<td>teff</td><td>{in_words(made.summary()['teff'])}</td>" in html


def test_samples_are_equally_weighted(made):
    draws = made.sample(20_000, seed=3)
    assert draws.shape == (20_000, 5)
    np.testing.assert_array_equal(draws, made.sample(20_000, seed=3))
    assert draws[:, 0].mean() == pytest.approx(made.summary()["teff"]["mean"], abs=0.3)


def test_pandas(made, monkeypatch):
    frame = made.to_pandas()
    assert list(frame) == [*made.labels.names, "v_bary", "log_likelihood", "log_prior", "log_proposal"]
    assert len(frame) == 400
    assert frame.attrs["units"]["v_bary"] == "km/s"
    assert frame.attrs["draws"].startswith("equally weighted")
    assert (frame["v_bary"] - frame["v_rad"]).mean() == pytest.approx(12, abs=0.01)
    assert len(made.to_pandas(number=50, seed=2)) == 50
    weighted = made.to_pandas(weighted=True)
    np.testing.assert_array_equal(weighted["teff"], made.draws[:, 0])
    assert weighted["weight"].sum() == pytest.approx(1)

    real = builtins.__import__

    def without(name, *rest, **more):
        if name == "pandas":
            raise ImportError(name)
        return real(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(MauryError, match="pip install pandas"):
        made.to_pandas()
