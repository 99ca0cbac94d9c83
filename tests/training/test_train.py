"""Training: it learns, it resumes exactly after being killed, and its checkpoints hold no pickle."""

import pytest
import torch

from maury.errors import ConfigError, ModelError
from maury.models import shipped
from maury.training.checkpoint import OpenCheckpoint
from maury.training.train import TrainConfig, train


def config(**changes):
    settings = {
        "name": "tiny",
        "emulator": shipped()["kurucz-apogee"] / "emulator.safetensors",
        "batch": 32,
        "steps": 8,
        "epoch": 4,
        "validation": 32,
        "network": {
            "width": 16,
            "blocks": 1,
            "components": 8,
            "features": 8,
            "transforms": 1,
            "hidden": [16],
        },
    }
    return TrainConfig(**(settings | changes))


def test_resumed_training_equals_an_undisturbed_one(tmp_path, monkeypatch):
    whole = train(config(), tmp_path / "whole", progress=False)

    from maury.training.train import Training

    count = 0
    step = Training.training_step

    def killed(self, batch, index):
        nonlocal count
        count += 1
        if count == 6:
            raise KeyError("killed")
        return step(self, batch, index)

    monkeypatch.setattr(Training, "training_step", killed)
    with pytest.raises(KeyError):
        train(config(), tmp_path / "parts", progress=False)
    monkeypatch.setattr(Training, "training_step", step)
    parts = train(config(), tmp_path / "parts", progress=False)

    for (name, a), b in zip(whole.state_dict().items(), parts.state_dict().values(), strict=True):
        torch.testing.assert_close(a, b, msg=name, atol=1e-5, rtol=1e-4)
    assert (tmp_path / "parts" / "loss.png").exists()
    assert parts.card["spectra_seen"] == 256


def test_another_configuration_is_refused(tmp_path):
    train(config(steps=4), tmp_path, progress=False)
    with pytest.raises(ConfigError, match="another configuration"):
        train(config(steps=5), tmp_path, progress=False)


def test_checkpoint_round_trip(tmp_path):
    checkpoint = {
        "state": {0: {"exp_avg": torch.arange(3.0), "step": torch.tensor(4.0)}},
        "betas": (0.9, 0.999),
        "none": None,
        "nested": [{"a": 1, "b": "x", "c": True, "d": 1.5}],
    }
    path = tmp_path / "x.ckpt"
    OpenCheckpoint().save_checkpoint(checkpoint, path)
    again = OpenCheckpoint().load_checkpoint(path)
    torch.testing.assert_close(again["state"][0]["exp_avg"], checkpoint["state"][0]["exp_avg"])
    assert again["betas"] == (0.9, 0.999)
    assert again["nested"] == checkpoint["nested"]


def test_damaged_checkpoint(tmp_path):
    path = tmp_path / "x.ckpt"
    path.write_bytes(b"junk")
    with pytest.raises(ModelError, match="checkpoint"):
        OpenCheckpoint().load_checkpoint(path)
