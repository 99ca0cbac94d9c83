"""Each experiment runs whole on a small scale, and leaves its reports, pictures and configuration."""

import json

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from maury.cli import app
from maury.errors import ConfigError
from maury.networks.flows import MixtureMAF
from maury.reproduce.config import SineConfig, StarsConfig, read_experiment
from maury.reproduce.sine import SineTarget, _labels, run_sine, wave
from maury.reproduce.stars import run_stars

PICTURES = ("corner.png", "fit.png", "mcmc_corner.png", "mcmc_walkers.png", "training/loss.png")
CHAIN = {"walkers": 16, "steps": 60, "look": 30}


def check_reports(folder):
    report = json.loads((folder / "report.json").read_text())
    text = (folder / "report.md").read_text()
    for picture in PICTURES:
        assert (folder / picture).stat().st_size > 5_000
        assert picture in text
    assert (folder / "config.json").exists()
    assert report["mcmc"]["evaluations"] == 16 * 60
    assert "| quantity | here | the paper |" in text
    return report


@pytest.fixture(scope="module")
def stars(tmp_path_factory):
    """The five-label experiment in miniature, run twice over the same folder."""
    folder = tmp_path_factory.mktemp("five")
    preset = read_experiment("five", "laptop", None).model_dump()
    preset |= {"number": 400, "held_out": 20, "draws": 200, "chain": CHAIN}
    preset["training"] |= {"minutes": None, "epochs": 2, "batch": 64, "accelerator": "cpu"}
    preset["training"]["network"] = {
        "featurizer": {"kind": "aligned", "width": 32, "blocks": 1, "components": 8, "features": 16},
        "flow": {"kind": "nsf", "transforms": 1, "hidden": [16]},
    }
    config = StarsConfig.model_validate(preset)
    first = run_stars("five", config, folder)
    before = (folder / "training" / "estimator.safetensors").stat().st_mtime_ns
    run_stars("five", config, folder)
    assert (folder / "training" / "estimator.safetensors").stat().st_mtime_ns == before
    return folder, first


def test_five_labels(stars):
    folder, figures = stars
    report = check_reports(folder)
    assert list(report["labels"]) == ["teff", "logg", "m_h", "v_rad", "v_sini"]
    assert report["fixed"] == {"alpha_m": 0.0, "jitter": 0.0}
    assert report["held_out"]["khat_below_limit"] > 0.7
    assert figures["held_out"]["flow_log_density_mean"] < figures["held_out"]["information_limit_mean"]
    text = (folder / "report.md").read_text()
    assert "9.8 nats" in text
    assert "0.014-0.028" in text
    assert "not those of the paper's Table 1" in text


def test_a_changed_experiment_does_not_overwrite(stars):
    folder, _ = stars
    config = read_experiment("three", "laptop", None)
    with pytest.raises(ConfigError, match="made with another configuration"):
        run_stars("three", config, folder)


def test_sine(tmp_path):
    preset = read_experiment("sine", "try", None).model_dump()
    preset["training"] |= {"accelerator": "cpu"}
    run_sine(SineConfig.model_validate(preset), tmp_path)
    report = check_reports(tmp_path)
    assert report["held_out_log_density"] < report["exact_log_density"]


def test_evidence_of_a_sine_wave_is_exact():
    """The grid's integral against plain Monte Carlo over the prior, where few samples make that feasible."""
    config = SineConfig.model_validate({"samples": 8, "sigma": 0.8, "training": {"name": "x"}})
    labels, t = _labels(config), torch.linspace(0, 4, 8, dtype=torch.float64)
    truth = torch.tensor([[0.4, 2.0]], dtype=torch.float64)
    noise = torch.randn(1, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    target = SineTarget((wave(truth, t) + 0.8 * noise)[0], t, 0.8, labels)
    u = torch.randn(200_000, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    by_chance = float(torch.logsumexp(target.log_likelihood(u), 0)) - np.log(len(u))
    assert target.log_evidence() == pytest.approx(by_chance, abs=0.02)


@pytest.mark.parametrize("preset", ["try", "laptop", "paper"])
@pytest.mark.parametrize("experiment", ["sine", "three", "five"])
def test_presets(experiment, preset):
    config = read_experiment(experiment, preset, None)
    if preset == "paper":
        assert config.training.network.flow == MixtureMAF()
        assert config.training.network.featurizer.kind == "paper"
        assert config.training.gradient_percentile == 85
        assert (config.training.epochs, config.training.batch, config.training.patience) == (100, 256, 20)
        assert config.training.learning_rate == 1e-4
    if experiment != "sine":
        assert config.number == ({"three": 20_000, "five": 50_000}[experiment] if preset != "try" else 1000)
        assert config.table_1 == (preset == "paper")
        assert config.problem.observing.noise.largest == 0.05
        assert set(config.problem.fixed) >= {"alpha_m", "jitter"}


def test_command_line_names_an_unknown_key(tmp_path):
    path = tmp_path / "five.toml"
    path.write_text("numbr = 3\n")
    result = CliRunner().invoke(
        app, ["reproduce", "five", "--config", str(path), "--output", str(tmp_path / "o")]
    )
    assert isinstance(result.exception, ConfigError)
    assert "numbr" in str(result.exception)
