"""Training: it learns, it resumes exactly after being killed, and its checkpoints hold no pickle."""

import json
import os

import pytest
import torch

from maury.errors import ConfigError, ModelError
from maury.models import load_model, shipped
from maury.networks.aligned import AlignedFeaturizer
from maury.report.training import draw_loss
from maury.toml import read_config
from maury.training.checkpoint import OpenCheckpoint, latest
from maury.training.config import PRESETS, TrainConfig, comparable, preset
from maury.training.data import Stored
from maury.training.fit import Training, take_weights
from maury.training.simulations import SimulateConfig, build_simulator, simulate
from maury.training.store import Simulations
from maury.training.train import train
from maury.weights import write_model

TINY = {
    "featurizer": {"kind": "aligned", "width": 16, "blocks": 1, "components": 8, "features": 8},
    "flow": {"kind": "nsf", "transforms": 1, "hidden": [16]},
}


def config(**changes):
    settings = {
        "name": "tiny",
        "batch": 32,
        "epochs": 2,
        "epoch": 4,
        "validation": 32,
        "accelerator": "cpu",
        "network": TINY,
        "novelty": 0,
    }
    if "simulations" not in changes:
        settings["problem"] = {"model": "kurucz-apogee"}
    return TrainConfig(**(settings | changes))


@pytest.fixture(scope="module")
def clean(tmp_path_factory):
    """A file of clean spectra of three labels, the noise of Gupta et al. 2024 to be added."""
    path = tmp_path_factory.mktemp("simulations") / "three.h5"
    observing = {"noise": {"kind": "paper"}, "continuum_spread": 0, "emulator_error": False}
    observing |= {"masked": [0, 0], "gap_probability": 0, "chip_loss_probability": 0}
    fixed = {"logg": 4.0, "m_h": 0.0, "alpha_m": 0.0, "jitter": 0.0}
    settings = {"number": 200, "store": "clean", "observing": observing, "fixed": fixed, "batch": 64}
    simulate(SimulateConfig(**settings), path)
    return path


@pytest.mark.parametrize("source", ["on the fly", "file"])
def test_resumed_training_equals_an_undisturbed_one(tmp_path, monkeypatch, source, clean):
    # Of the file's gradients, the bound follows from those of the epoch before the kill.
    changes = {"simulations": clean, "seed": 3, "gradient_percentile": 50} if source == "file" else {}
    whole = train(config(**changes), tmp_path / "whole")

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
        train(config(**changes), tmp_path / "parts")
    monkeypatch.setattr(Training, "training_step", step)
    parts = train(config(**changes), tmp_path / "parts")

    for (name, a), b in zip(whole.state_dict().items(), parts.state_dict().values(), strict=True):
        torch.testing.assert_close(a, b, msg=name, atol=1e-5, rtol=1e-4)
    assert draw_loss(tmp_path / "parts").exists()
    assert whole.card["validation_nats"] == pytest.approx(parts.card["validation_nats"], abs=1e-4)


def test_trained_estimator_infers_what_it_was_trained_for(tmp_path, clean):
    """Held labels and known continua come back with the model."""
    train(config(simulations=clean), tmp_path)
    model = load_model(tmp_path)
    assert model.estimator.labels.names == ("teff", "v_rad", "v_sini")
    assert model.problem.held == {"logg": 4.0, "m_h": 0.0, "alpha_m": 0.0, "jitter": 0.0}
    assert model.problem.degree is None
    assert model.forward.emulator.card["name"] == "kurucz-apogee"


def test_stored_spectra_get_new_noise_each_epoch_and_come_once(clean):
    file = Simulations.open(clean)
    simulator = build_simulator(SimulateConfig(**file.config))
    source = Stored(file, simulator, (0, 180), 60, seed=1)
    assert source.length == 3
    first, second = ([source.batch(epoch * 3 + i) for i in range(3)] for epoch in (0, 1))
    teff = [torch.cat([b[0][:, 0] for b in epoch]).sort().values for epoch in (first, second)]
    torch.testing.assert_close(*teff)
    assert len(teff[0].unique()) == 180
    assert not torch.equal(first[0][1], second[0][1])
    again = Stored(file, simulator, (0, 180), 60, seed=1).batch(4)
    torch.testing.assert_close(again[1], second[1][1])


def test_another_configuration_is_refused(tmp_path):
    train(config(epochs=1), tmp_path)
    with pytest.raises(
        ConfigError, match=r"another configuration .*learning_rate is 0.001 there and 0.01 here"
    ):
        train(config(epochs=1, learning_rate=1e-2), tmp_path)


@pytest.mark.parametrize("validated", [False, True])
def test_a_loss_that_is_not_finite_stops_and_keeps_the_best(tmp_path, monkeypatch, validated):
    # Packages such as Pyro turn torch's validation on for the whole process.
    monkeypatch.setattr(torch.distributions.Distribution, "_validate_args", validated)
    step = Training.training_step

    def poisoned(self, batch, index):
        return step(self, batch._replace(u=batch.u * float("nan")) if self.global_step == 6 else batch, index)

    monkeypatch.setattr(Training, "training_step", poisoned)
    with pytest.raises(ModelError, match=r"became nan at batch 2 of epoch 1 \(step 6\).*best weights"):
        train(config(), tmp_path)
    card = json.loads((tmp_path / "estimator.json").read_text())
    assert card["validation_nats"] == pytest.approx(card["validation_nats"])
    assert load_model(tmp_path).estimator.labels.names[0] == "teff"


def test_training_stops_early_and_by_the_clock(tmp_path):
    early = config(epochs=40, epoch=1, patience=1, learning_rate=1e-30, schedule="constant")
    train(early, tmp_path / "early")
    seen = json.loads((tmp_path / "early" / "estimator.json").read_text())["spectra_seen"]
    assert seen < 40 * 32
    train(config(epochs=10_000, minutes=0.02), tmp_path / "clock")
    assert json.loads((tmp_path / "clock" / "estimator.json").read_text())["training_minutes"] < 0.5


def test_a_file_cut_short(tmp_path, clean):
    cut = tmp_path / "cut.h5"
    data = clean.read_bytes()
    cut.write_bytes(data[: len(data) // 2])
    with pytest.raises(ModelError, match="cut short"):
        train(config(simulations=cut), tmp_path / "out")
    with pytest.raises(ConfigError, match="too few"):
        train(config(simulations=clean, batch=512), tmp_path / "few")


def test_bf16_and_tensorboard(tmp_path):
    train(config(precision="bf16", tensorboard=True), tmp_path)
    assert list(tmp_path.rglob("events.out.tfevents*"))


@pytest.mark.slow
def test_two_processes_share_the_batches(tmp_path):
    estimator = train(config(devices=2, strategy="ddp_spawn", epoch=8), tmp_path)
    assert estimator.card["spectra_seen"] == 2 * 8 * 32


def test_unknown_keys_and_two_sources_are_refused(tmp_path):
    path = tmp_path / "train.toml"
    path.write_text('name = "x"\n[network.featurizer]\nkind = "aligned"\nwidht = 3\n')
    with pytest.raises(ConfigError, match=r"train.toml: network\.featurizer.*widht"):
        read_config(path, TrainConfig)
    path.write_text('name = "x"\nsimulations = "a.h5"\n[problem]\n')
    with pytest.raises(ConfigError, match="not both"):
        read_config(path, TrainConfig)


@pytest.mark.parametrize("name", PRESETS)
def test_presets_are_valid(name):
    settings = read_config(preset(name), TrainConfig)
    assert settings.batch == 256
    assert settings.network.flow.transforms == 15
    assert settings.network.featurizer.kind == "paper"


def test_gradients_are_cut_at_a_percentile_of_those_before(tmp_path, clean, monkeypatch):
    bounds = []
    cut = torch.nn.utils.clip_grad_norm_
    monkeypatch.setattr(
        torch.nn.utils, "clip_grad_norm_", lambda p, bound: bounds.append(bound) or cut(p, bound)
    )
    train(config(simulations=clean, gradient_percentile=50), tmp_path)
    norms = OpenCheckpoint().load_checkpoint(latest(tmp_path))["norms"]
    steps = len(norms) // 2
    assert bounds[:steps] == [float("inf")] * steps
    assert bounds[steps:] == pytest.approx([float(norms[:steps].double().quantile(0.5))] * steps, rel=1e-6)


def test_a_training_begun_before_percentiles_goes_on():
    assert "gradient_percentile" not in comparable(config())


@pytest.mark.parametrize("name", shipped(estimators=True))
def test_shipped_configurations_are_valid(name):
    assert read_config(shipped()[name] / "train.toml", TrainConfig).problem.model == name


def test_score_starts_from_an_aligned_estimator(tmp_path, clean):
    train(config(simulations=clean, epochs=1), tmp_path / "aligned")
    score = {
        "featurizer": {"kind": "score", "aligned": TINY["featurizer"]},
        "flow": {
            "kind": "nsf",
            "transforms": 1,
            "hidden": [16],
            "located": {"low": 0.1, "high": 3000, "start": 1},
        },
    }
    start = tmp_path / "aligned" / "estimator.safetensors"
    estimator = train(
        config(simulations=clean, epochs=1, network=score, start=start), tmp_path / "score", progress=False
    )
    assert isinstance(estimator.featurizer.aligned, AlignedFeaturizer)
    assert load_model(tmp_path / "score").estimator.labels.names == ("teff", "v_rad", "v_sini")
    assert any(name.startswith("featurizer.aligned.network") for name in take_weights(estimator, start))
    unlike = tmp_path / "unlike.safetensors"
    write_model(unlike, {"x": torch.zeros(1)}, {})
    with pytest.raises(ModelError, match="no weights that fit"):
        take_weights(estimator, unlike)


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


def test_the_latest_checkpoint_is_the_one_of_most_steps(tmp_path):
    """Whatever the clock said, and whatever a killed process left half written."""
    assert latest(tmp_path) is None
    for name, step, time in (("best-step=5", 5, 3e9), ("last", 7, 1e9), ("other", 7, 2e9)):
        OpenCheckpoint().save_checkpoint({"global_step": step}, tmp_path / f"{name}.ckpt")
        os.utime(tmp_path / f"{name}.ckpt", (time, time))
    (tmp_path / ".host-1-2-last.ckpt").write_bytes(b"half")
    (tmp_path / "damaged.ckpt").write_bytes(b"half")
    assert latest(tmp_path) == tmp_path / "last.ckpt"


def test_damaged_checkpoint(tmp_path):
    path = tmp_path / "x.ckpt"
    path.write_bytes(b"junk")
    with pytest.raises(ModelError, match="checkpoint"):
        OpenCheckpoint().load_checkpoint(path)
