"""The comparison with real stars: what it makes of a list, and of what inference said."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from maury.checks import sky
from maury.checks.sky import (
    Seen,
    Star,
    Told,
    against_literature,
    between_chips,
    figures_of,
    read_stars,
    repeats,
)
from maury.errors import ConfigError
from maury.models import load_model
from maury.training.demo import write_demo


def star(name: str = "a", index: int = 0, file: str = "a.fits", **labels: float) -> Star:
    return Star(file, index, name, "apVisit", labels, {})


def seen(std: float = 10.0, total: float = 20.0, **labels: float) -> Seen:
    return Seen({name: Told(value, std, total) for name, value in labels.items()}, verdict="verified")


@pytest.fixture
def a_list(tmp_path: Path):
    def write(text: str) -> Path:
        (tmp_path / "a.fits").touch()
        path = tmp_path / "labels.csv"
        path.write_text(text, encoding="utf-8")
        return path

    return write


def test_a_list_is_read(a_list) -> None:
    path = a_list("file,index,star_id,kind,teff,e_teff,logg,note\na.fits,2,HD 1,apVisit,4500,50,,a remark\n")
    assert read_stars(path) == [Star("a.fits", 2, "HD 1", "apVisit", {"teff": 4500.0}, {"teff": 50.0})]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("teff\n4500\n", "has no column file"),
        ("file,tefff\na.fits,4500\n", r"column 'tefff' is no label; .*did you mean 'teff'"),
        ("file,e_nothing\na.fits,1\n", "column 'e_nothing' is no label"),
        ("file,teff\n", "names no stars"),
        ("file,teff\nb.fits,4500\n", "line 2: no file 'b.fits'"),
        ("file,teff\na.fits,hot\n", "line 2: teff: 'hot' is no number"),
        ("file,index\na.fits,one\n", "line 2: index: 'one' is no number"),
    ],
)
def test_a_bad_list_is_told(a_list, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        read_stars(a_list(text))


def test_a_missing_list_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read as a list of stars"):
        read_stars(tmp_path / "none.csv")


def test_differences_are_judged_by_their_errors() -> None:
    rng = np.random.default_rng(0)
    stars = [star(teff=3200.0 + (i % 2) * 1000) for i in range(400)]
    found = [seen(teff=s.labels["teff"] + 5 + 20 * rng.normal()) for s in stars]
    figures = against_literature(stars, found)["teff"]
    assert set(figures) == {"all", "3000-3600 K", "3600-4500 K"}
    assert figures["all"]["number"] == 400
    assert figures["all"]["bias"] == pytest.approx(5, abs=3)
    assert figures["all"]["scatter"] == pytest.approx(20, abs=3)
    assert figures["all"]["over_statistical"] == pytest.approx(2.0, abs=0.3)
    assert figures["all"]["over_total"] == pytest.approx(1.0, abs=0.15)
    assert figures["all"]["within_two"] == pytest.approx(0.94, abs=0.04)


def test_repeats_are_compared_with_each_other_alone() -> None:
    rng = np.random.default_rng(1)
    stars, found = [], []
    for name in range(100):
        for index in range(4):
            stars.append(star(str(name), index, f"{name}.fits"))
            # The combination is wrong on purpose.
            found.append(seen(logg=9.0 if index == 0 else 10 * rng.normal() + name))
    figures = repeats(stars, found)
    assert figures["logg"]["number"] == 300
    assert figures["logg"]["ratio"] == pytest.approx(1.0, abs=0.15)
    assert repeats([star()], [seen(teff=1.0)]) == {}


def test_chips_are_compared() -> None:
    chips = tuple(
        {"teff": Told(v, 10.0, 10.0), "v_rad": Told(0.0, 1.0, 1.0)} for v in (4500.0, 4510.0, 4520.0)
    )
    (entry,) = between_chips([star()], [Seen(chips=chips)])
    assert entry["chi2"] == pytest.approx(2.0)
    assert entry["freedom"] == 4


def test_real_spectra_are_inferred_and_reported(tmp_path: Path, run, monkeypatch) -> None:
    model = load_model()
    truth = write_demo(tmp_path / "demo.fits", model)
    (tmp_path / "broken.fits").write_text("no spectrum", encoding="utf-8")
    labels = tmp_path / "labels.csv"
    labels.write_text(
        f"file,star_id,teff,v_rad\ndemo.fits,demo,{truth['teff']},54.04\nbroken.fits,broken,5000,\n",
        encoding="utf-8",
    )
    # A chip by itself is inferred as the whole is: once is enough to see.
    monkeypatch.setattr(
        sky, "_chips", lambda *_: ({"teff": Told(1.0, 1.0, 1.0)}, {"teff": Told(1.0, 1.0, 1.0)})
    )
    output = tmp_path / "sky"
    status, text, _ = run(
        "check", "sky", labels, "--model", model.name, "--draws", 200, "--chips", "--output", output, "--json"
    )
    assert status == 0
    figures = json.loads(text)
    assert figures["spectra"] == 2
    assert [one["file"] for one in figures["failed"]] == ["broken.fits"]
    assert abs(figures["labels"]["teff"]["all"]["bias"]) < 60
    assert abs(figures["labels"]["v_rad"]["all"]["bias"]) < 1
    assert figures["chips"][0]["chi2"] == 0
    page = (output / "sky.html").read_text(encoding="utf-8")
    assert "Against the literature" in page
    assert "Not inferred" in page
    assert (output / "differences.png").exists()
    # What was done is not done again.
    monkeypatch.setattr(sky, "_infer", None)
    stars = read_stars(labels)
    again = list(
        sky.look(stars, model, tmp_path, sky.Options(draws=200), chips=True, store=output / "seen.jsonl")
    )
    assert figures_of(stars, again, model.name) == figures
    status, _, error = run("check", "sky", tmp_path / "none.csv")
    assert status == 2
    assert "none.csv" in error
