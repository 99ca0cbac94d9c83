"""The emulator: files, damage, the shipped card, and its error against the library it was made from."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from maury.errors import ModelError
from maury.forward.model import ForwardModel
from maury.labels import LabelSet, label
from maury.libraries import kurucz
from maury.libraries.build import APSTAR, correct_zero_point, pseudo_continuum
from maury.libraries.coefficients import LabelNetwork
from maury.libraries.emulator import Emulator, LogGrid
from maury.models import shipped
from maury.priors import Uniform

FOLDER = shipped()["kurucz-apogee"]


@pytest.fixture(scope="module")
def small() -> Emulator:
    """An emulator of two labels, three components and two covered ranges, with random weights."""
    torch.manual_seed(0)
    labels = LabelSet((label("teff", Uniform(low=3000, high=7000)), label("logg", Uniform(low=0, high=5))))
    covered = [(30, 80), (140, 200)]
    mean, components = 1 - 0.2 * torch.rand(110), 0.1 * torch.randn(3, 110)
    network = LabelNetwork(2, 3, 16, 2)
    grid = LogGrid(4.179, 6e-6, 240)
    return Emulator(labels, grid, covered, mean, components, torch.ones(3), network, {"name": "small"}).eval()


@pytest.fixture
def saved(small: Emulator, tmp_path: Path) -> Path:
    path = tmp_path / "models" / "small.safetensors"
    small.save(path)
    return path


def points(labels: LabelSet, n: int, seed: int = 0) -> torch.Tensor:
    return labels.sample(n, torch.Generator().manual_seed(seed))


@torch.no_grad()
def test_file_gives_the_same_flux(small: Emulator, saved: Path, tmp_path: Path) -> None:
    back = Emulator.load(saved)
    labels = points(small.labels, 20)
    # Components are kept in half precision: what was read once no longer changes.
    torch.testing.assert_close(back(labels), small(labels), atol=2e-4, rtol=0)
    back.save(tmp_path / "again.safetensors")
    again = Emulator.load(tmp_path / "again.safetensors")
    torch.testing.assert_close(again(labels), back(labels), atol=1e-6, rtol=0)
    assert (again.labels, again.grid, again.covered) == (small.labels, small.grid, small.covered)
    assert again.card["name"] == "small"
    assert {path.name for path in saved.parent.iterdir()} == {"small.safetensors", "small.json"}


@torch.no_grad()
def test_shipped_emulator_survives_rewriting(forward: ForwardModel, tmp_path: Path) -> None:
    forward.emulator.save(tmp_path / "copy.safetensors")
    labels = points(forward.emulator.labels, 10)
    back = Emulator.load(tmp_path / "copy.safetensors")
    torch.testing.assert_close(back(labels), forward.emulator(labels), atol=1e-6, rtol=0)


@torch.no_grad()
def test_flux_fades_to_the_continuum_outside_the_coverage(small: Emulator) -> None:
    flux = small(points(small.labels, 5))
    outside = ~small.covered_mask()
    assert float((flux[:, 108:112] - 1).abs().max()) < 1e-6
    assert float((flux[:, [0, 239]] - 1).abs().max()) < 1e-6
    inside_edge, outside_edge = flux[:, 79], flux[:, 80]
    torch.testing.assert_close(outside_edge - 1, (inside_edge - 1) * math.cos(math.pi / 50) ** 2)
    assert int(outside.sum()) == 240 - 110


def test_covered_mask_shrinks_by_its_margins(small: Emulator) -> None:
    assert small.covered_mask().sum() == 110
    mask = small.covered_mask(5, 3)
    assert np.flatnonzero(mask)[[0, -1]].tolist() == [35, 196]
    assert mask.sum() == 110 - 16
    assert small.covered_mask(40, 40).sum() == 0


# Damage


def edit(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    def apply(path: Path) -> None:
        card = json.loads(path.with_suffix(".json").read_text())
        change(card)
        path.with_suffix(".json").write_text(json.dumps(card))

    return apply


def text(content: bytes) -> Callable[[Path], None]:
    return lambda path: path.with_suffix(".json").write_bytes(content) and None


DAMAGE: dict[str, Callable[[Path], Any]] = {
    "no card": lambda path: path.with_suffix(".json").unlink(),
    "no weights": lambda path: path.unlink(),
    "empty card": text(b""),
    "cut card": text(b'{"name": "small", "labels": ['),
    "binary card": text(b"\xff\xfe\x00"),
    "list for card": text(b"[]"),
    "empty weights": lambda path: path.write_bytes(b""),
    "cut weights": lambda path: path.write_bytes(path.read_bytes()[:-100]),
    "text weights": lambda path: path.write_bytes(b"not a model at all"),
    "no labels": edit(lambda card: card.pop("labels")),
    "no grid": edit(lambda card: card.pop("grid")),
    "no step": edit(lambda card: card["grid"].pop("log10_step")),
    "text for pixels": edit(lambda card: card["grid"].update(n_pixels="many")),
    "fewer labels": edit(lambda card: card["labels"].pop()),
    "names for labels": edit(lambda card: card.update(labels=["teff", "logg"])),
    "bounds swapped": edit(lambda card: card["labels"][0]["prior"].update(low=9000)),
    "same label twice": edit(lambda card: card["labels"][1].update(name="teff")),
    "other width": edit(lambda card: card["network"].update(width=17)),
    "other depth": edit(lambda card: card["network"].update(depth=1)),
    "unknown network": edit(lambda card: card["network"].update(kind="resnet")),
    "other coverage": edit(lambda card: card["covered"][0].reverse()),
    "shorter coverage": edit(lambda card: card.update(covered=[[30, 80]])),
    "triple coverage": edit(lambda card: card.update(covered=[[30, 80, 90]])),
    "coverage off the grid": edit(lambda card: card.update(covered=[[30, 80], [200, 260]])),
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_damage_is_told(saved: Path, damage: Callable[[Path], Any]) -> None:
    damage(saved)
    with pytest.raises(ModelError, match=r"small\.(json|safetensors)"):
        Emulator.load(saved)


# The shipped emulator


def test_shipped_card_says_how_good_it_is(forward: ForwardModel) -> None:
    held_out = forward.emulator.card["held_out"]
    assert held_out["spectra"] >= 1000
    assert held_out["rms"] < 1e-3
    assert held_out["p999"] < 1e-2
    assert "Kurucz" in forward.emulator.card["reference"]


def test_shipped_file_is_small() -> None:
    assert (FOLDER / "emulator.safetensors").stat().st_size < 5_000_000


def test_shipped_grid_is_the_survey_s(forward: ForwardModel) -> None:
    grid = forward.emulator.grid
    assert (grid.start, grid.step) == (4.179, 6e-6)
    assert float(grid.wavelength[0]) == pytest.approx(15100.802, abs=1e-3)
    assert forward.emulator.labels.names == kurucz.LABELS


@torch.no_grad()
def test_shipped_emulator_is_its_library(forward: ForwardModel, shared: Path) -> None:
    source = shared / "data/grids/kurucz_apogee_nn/NN_unnormalized_spectra.npz"
    if not source.is_file():
        pytest.skip(f"{source} is absent")
    emulator = forward.emulator
    labels = points(emulator.labels, 300, seed=99)
    log_flux = kurucz.KuruczNetworks.load(source).flux(labels).log()
    pixels = torch.cat([torch.arange(start, stop) for start, stop in kurucz.CHIPS])
    flux = (log_flux - pseudo_continuum(log_flux, APSTAR.wavelength.log()[pixels])).exp()
    expected = correct_zero_point(flux, emulator.card["velocity_offset_removed"])
    inside = emulator.covered_mask()
    error = emulator(labels)[:, inside] - expected[:, inside[pixels]]
    assert float(error.square().mean().sqrt()) < 1e-3
    assert float(error.mean().abs()) < 1e-4
