"""Simulated visits on the networks' grid, and what is measured of them once."""

from __future__ import annotations

import json
from functools import partial

import pytest
import torch

from maury.errors import ConfigError
from maury.networks.prepare import build_preparation
from maury.training.config import TrainConfig
from maury.training.simulations import Observing, ProblemConfig, build_simulator
from maury.training.train import train
from maury.training.visits import simulator_of

QUIET = {
    "masked": (0, 0),
    "gap_probability": 0,
    "chip_loss_probability": 0,
    "sky_share": 0,
    "emulator_error": False,
}


@pytest.fixture(scope="module")
def simulator():
    observing = Observing(visits=0.5, nuisances="default", **QUIET)
    return simulator_of(ProblemConfig(model="kurucz-apogee", observing=observing))


def test_each_has_a_profile_of_its_own(simulator):
    found = simulator(12, torch.Generator().manual_seed(0))
    assert found.seen.shape[0] == 12
    assert len(found.seen.flatten(1).unique(dim=0)) == 12
    # Light is neither made nor lost.
    torch.testing.assert_close(found.seen[:, :, :, 0, 0], torch.ones(12, *found.seen.shape[1:3]))


def test_nuisances_move_spectra_by_a_few_percent_of_their_lines(simulator):
    theta = simulator.problem.sample(16, torch.Generator().manual_seed(1))
    seen, _ = simulator.draw_profiles(16, torch.Generator().manual_seed(2))
    one, two = (simulator.through(theta, seen, torch.Generator().manual_seed(s)) for s in (3, 4))
    change, depth = (one - two).square().mean().sqrt(), (1 - one).square().mean().sqrt()
    assert 0.003 < float(change / depth) < 0.3


def test_noise_of_visits_is_shared_by_neighbours_and_has_its_power(simulator):
    white = torch.randn(40, simulator.grid.n_pixels, generator=torch.Generator().manual_seed(0))
    chip = simulator.onchips.chips[0].pixels
    noise = simulator._resampled(white)[:, chip]
    assert float((noise[:, 1:] * noise[:, :-1]).mean()) > 0.02
    # Over many pixels it averages as white noise does.
    sums = noise[:, : noise.shape[1] // 50 * 50].unflatten(1, (-1, 50)).mean(2)
    assert float(sums.std()) == pytest.approx(50**-0.5, rel=0.1)


def test_visits_are_on_the_networks_grid_and_in_no_file():
    visits = Observing(visits=0.5)
    with pytest.raises(ConfigError, match=r"observing\.visits: spectra are on"):
        simulator_of(ProblemConfig(model="kurucz-apogee", pixels="native", observing=visits))
    with pytest.raises(ConfigError, match=r"observing\.visits: profiles"):
        build_simulator(ProblemConfig(model="kurucz-apogee", observing=visits))


NETWORK = {
    "featurizer": {
        "kind": "score", "width": 16, "blocks": 1, "features": 8, "steps": 1,
        "aligned": {"width": 16, "blocks": 1, "components": 8, "features": 8},
    },
    "flow": {"kind": "nsf", "transforms": 1, "hidden": [8], "located": {"low": 0.1, "high": 20, "start": 1}},
}  # fmt: skip
TINY = {"name": "tiny", "batch": 16, "epochs": 2, "validation": 16, "accelerator": "cpu", "novelty": 0}


def test_what_was_measured_once_is_read_in_every_epoch(tmp_path, monkeypatch):
    """And a run that was stopped while it measured goes on."""
    monkeypatch.setattr("maury.networks.config.build_preparation", partial(build_preparation, n_spectra=200))
    problem = {"model": "kurucz-apogee", "observing": {"visits": 0.5, "nuisances": "chip_velocity"}}
    aligned = TrainConfig(
        **TINY,
        epoch=2,
        problem=problem,
        network={"featurizer": {"kind": "aligned"} | NETWORK["featurizer"]["aligned"]},
    )
    train(aligned, tmp_path / "aligned", progress=False)
    start = tmp_path / "aligned" / "estimator.safetensors"
    denser = [{"share": 0.3, "within": {"v_sini": [0, 20]}}]
    config = TrainConfig(**TINY, problem=problem, network=NETWORK, start=start, keep=48, denser=denser)
    train(config, tmp_path / "score", progress=False)
    parts = sorted((tmp_path / "score" / "measured").iterdir())
    assert len(parts) == 3
    card = json.loads((tmp_path / "score" / "estimator.json").read_text(encoding="utf-8"))
    assert card["spectra_measured"] == 48
    kept = parts[1].read_bytes()
    parts[1].unlink()
    train(config, tmp_path / "score", progress=False)
    assert parts[1].read_bytes() == kept


def test_what_is_kept_needs_a_guess():
    with pytest.raises(ValueError, match="start"):
        TrainConfig(**TINY, keep=100)
