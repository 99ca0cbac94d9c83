"""The public page: what ``maury.`` completes to, and a new user's first hour."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest

import maury
from maury.models import load_model
from maury.spectra.formats.writers import write_apvisit
from maury.training.demo import TRUTH, simulate_visit

SCRIPT = """
import maury

model = maury.load_model()
print(model)

files = ["visit-1.fits", "visit-2.fits"]
spectra = [maury.read_spectrum(file) for file in files]
spectra[0].plot().savefig("spectrum.png")
print(spectra[0])

gaia = maury.TruncatedNormal(low=0.5, high=5.1, mean=2.61, sigma=0.05)
posterior = maury.infer(spectra[0], model, priors={"logg": gaia}, draws=300)
print(posterior)
posterior.plot_corner().savefig("corner.png")
posterior.save("draws.nc")
frame = maury.load("draws.nc").to_pandas()
print(frame[["teff", "logg", "v_bary"]].describe())

star = maury.infer_visits(spectra, model, priors={"logg": gaia}, draws=500)
print(star)
print("variable" if star.velocity_variation > 5 else "constant")
star.plot_corner().savefig("star.png")
star.to_pandas().to_csv("star.csv", index=False)
assert star.summary()["teff"]["std"] < posterior.summary()["teff"]["std"]
"""


def test_public_names_complete():
    assert dir(maury) == sorted([*maury.__all__, "__version__"])
    assert {"infer", "infer_visits", "read_spectrum", "load", "Uniform", "Posterior", "MauryError"} <= set(
        dir(maury)
    )
    for name in maury.__all__:
        assert getattr(maury, name).__doc__, name
    with pytest.raises(AttributeError, match="no attribute 'inferr'"):
        maury.inferr  # noqa: B018


def test_names_complete_before_anything_is_imported():
    """Torch takes seconds; asking for names must not."""
    code = "import maury, sys; assert 'infer_visits' in dir(maury); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_models_and_spectra_show_themselves():
    model = load_model()
    assert repr(model).startswith("<Model kurucz-apogee: teff 3600..6900 K, logg 0.5..5.1 dex")
    assert "<td>v_rad</td><td>km/s</td><td>-200</td><td>200</td>" in model._repr_html_()
    grid = maury.PixelGrid(np.linspace(15000.0, 16000.0, 100), ((0, 50), (50, 100)))
    spectrum = maury.Spectrum(grid, np.ones(100), np.full(100, 4.0), id="<i>", v_correction=-3.0)
    assert repr(grid) == "<PixelGrid of 100 pixels on 2 chips, 15000.0 to 16000.0 Angstrom>"
    assert "S/N 2" in repr(spectrum)
    assert "-3.000 km/s" in repr(spectrum)
    assert len(repr(spectrum)) < 300
    assert "&lt;i&gt;" in spectrum._repr_html_()
    nameless = maury.Spectrum(grid, np.ones(100), np.zeros(100))
    assert "in memory" in repr(nameless)
    assert len(nameless.plot().axes) == 2


def test_mistakes_of_the_first_hour_are_told():
    wavelength = np.linspace(15000.0, 16000.0, 100)
    with pytest.raises(maury.MauryError, match=r"grid must be a PixelGrid, such as PixelGrid\(wavelength"):
        maury.Spectrum(wavelength, np.ones(100), np.ones(100))
    with pytest.raises(maury.MauryError, match="device 'gpu' is none; use cpu or cuda"):
        maury.load_model(device="gpu")
    assert maury.Normal(2.6, 0.05).mean == 2.6


def test_the_script_of_a_new_user(tmp_path, monkeypatch, capsys):
    """Load, a prior on logg, two visits together, corner plots, pandas: 25 lines."""
    lines = [text for text in SCRIPT.splitlines() if text]
    assert len(lines) <= 25
    for i, v_rad in enumerate((30.0, 34.0), start=1):
        star = simulate_visit(load_model(), TRUTH | {"v_rad": v_rad}, snr=80, seed=i, v_correction=2.0)
        star = replace(star, meta=star.meta | {"jd_mid": 2457729.7 + 20 * i})
        write_apvisit(tmp_path / f"visit-{i}.fits", star)
    monkeypatch.chdir(tmp_path)
    exec(compile(SCRIPT, "script.py", "exec"), {"__name__": "script"})
    said = capsys.readouterr().out
    for part in (
        "<Model kurucz-apogee",
        "<Spectrum ",
        "Posterior of ",
        "v_bary",
        "<JointPosterior of 2 visits",
        "variable\n",
    ):
        assert part in said
    for picture in ("spectrum.png", "corner.png", "star.png"):
        assert matplotlib.image.imread(tmp_path / picture).std() > 0.01
    assert (
        Path("star.csv")
        .read_text(encoding="utf-8")
        .startswith("teff,logg,m_h,alpha_m,v_sini,v_rad_1,v_rad_2,jitter_1,jitter_2\n")
    )
