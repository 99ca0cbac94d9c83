"""The recipe of docs/reproduce.md, line by line, on a tree of files shaped as the PHOENIX archive: from the download to the report."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from scipy.special import voigt_profile
from typer.testing import CliRunner

from archive_server import serving
from maury.cli import app
from maury.constants import C_KMS
from maury.libraries.phoenix import WAVELENGTH_FILE, nodes_within

DOCS = Path(__file__).parents[2] / "docs" / "reproduce.md"
# Sampled as the archive's H band, R 500,000; lines of some hundred transitions of atoms of iron's mass.
WAVELENGTH = np.exp(np.arange(np.log(14_800), np.log(17_300), 2e-6))
LINES, WINDOW = 150, 3000
H, K, C = 6.626e-27, 1.381e-16, 2.998e10
TEFF, LOGG, M_H = (2300, 3500, 4900, 7000), (2.5, 4.0, 6.0), (-3, -2, -1, 0, 0.5)


def planck(wavelength, teff):
    """erg/s/cm2/cm of the surface, wavelength in Angstrom."""
    w = wavelength * 1e-8
    return 2 * np.pi * H * C**2 / w**5 / np.expm1(H * C / (w * K * teff))


def spectrum(node):
    """A Milne-Eddington atmosphere: lines of Boltzmann's strengths, Doppler cores and wings that grow with gravity."""
    rng = np.random.default_rng(0)
    places = rng.integers(WINDOW, len(WAVELENGTH) - WINDOW, LINES)
    energy, strength = rng.uniform(0, 5, LINES), 10 ** rng.uniform(0, 3, LINES)
    tau = np.zeros(len(WAVELENGTH))
    # In km/s: thermal and microturbulent, and collisional.
    sigma = np.hypot(np.sqrt(K * node.teff / (56 * 1.66e-24)) / 1e5, 1.2) / np.sqrt(2)
    gamma = 0.3 * 10 ** (0.3 * (node.logg - 4))
    around = np.arange(-WINDOW, WINDOW) * 2e-6 * C_KMS
    profile = voigt_profile(around, sigma, gamma)
    for place, e, s in zip(places, energy, strength, strict=True):
        # Weaker where the continuum's opacity is larger.
        level = s * 10 ** (node.m_h - 0.3 * (node.logg - 4)) * np.exp(-e * 11604.5 / node.teff)
        tau[place - WINDOW : place + WINDOW] += 30 * level * profile
    source = 1.5
    return planck(WAVELENGTH, node.teff) * (1 + source / (1 + tau)) / (1 + source)


@pytest.fixture
def archive(tmp_path):
    root = tmp_path / "HiResFITS"
    root.mkdir()
    fits.PrimaryHDU(WAVELENGTH).writeto(root / WAVELENGTH_FILE, checksum=True)
    for node in nodes_within({"teff": (2300, 7000), "logg": (2.5, 6), "m_h": (-3, 0.5)}):
        if node.teff in TEFF and node.logg in LOGG and node.m_h in M_H:
            path = root / node.path
            path.parent.mkdir(parents=True, exist_ok=True)
            hdu = fits.PrimaryHDU(spectrum(node).astype(np.float32))
            told = {"PHXTEFF": node.teff, "PHXLOGG": node.logg, "PHXM_H": node.m_h, "PHXALPHA": 0.0}
            hdu.header.update({"BUNIT": "erg/s/cm^2/cm"} | told)
            hdu.writeto(path, checksum=True)
    with serving(root) as server:
        yield server


def recipe():
    """The recipe's commands, and its TOML file."""
    section = DOCS.read_text(encoding="utf-8").split("## With PHOENIX")[1].split("\n## ")[0]
    toml, commands = (re.search(rf"```{kind}\n(.*?)```", section, re.DOTALL)[1] for kind in ("toml", "sh"))
    lines = [line.split("  #")[0].strip() for line in commands.splitlines()]
    return toml, [shlex.split(line) for line in lines if line]


def test_the_recipe_is_there():
    toml, commands = recipe()
    assert "[range]" in toml
    assert [command[:3] for command in commands] == [
        ["maury", "models", "fetch"],
        ["maury", "models", "build"],
        ["maury", "reproduce", "five"],
        ["maury", "reproduce", "five"],
    ]
    assert commands[2][-2:] == ["--preset", "try"]


@pytest.mark.slow
def test_from_the_archive_to_the_report(archive, tmp_path, monkeypatch):
    toml, commands = recipe()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MAURY_ARCHIVE", archive.base)
    Path("phoenix.toml").write_text(toml, encoding="utf-8")
    # The last takes hours; the one before goes through the same parts.
    for command in commands[:-1]:
        result = CliRunner().invoke(app, command[1:], catch_exceptions=False)
        assert result.exit_code == 0, result.output
    folder = Path(commands[2][commands[2].index("--output") + 1])
    report = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    assert report["labels"] == {
        "teff": [2300, 7000],
        "logg": [2.5, 6],
        "m_h": [-2.12, 0.5],
        "v_rad": [-200, 200],
        "v_sini": [0, 100],
    }
    assert report["fixed"] == {"jitter": 0}
    text = (folder / "report.md").read_text(encoding="utf-8")
    assert "These are the priors of the paper's Table 1." in text
    assert "mcmc_corner.png" in text
