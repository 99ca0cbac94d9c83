"""Model folders and settings of strangers: refused in one line, nothing run, no memory taken for what a card claims."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from maury.errors import ConfigError, ModelError
from maury.models import load_model, shipped
from maury.networks.novelty import Novelty
from maury.toml import read_config, read_toml
from maury.training.config import TrainConfig

SOURCE = shipped()["kurucz-apogee"]


@pytest.fixture
def folder(tmp_path) -> Callable[..., Path]:
    """A model folder whose cards are changed; its weights are the shipped ones."""

    def make(**cards) -> Path:
        for file in SOURCE.iterdir():
            if file.suffix in (".safetensors", ".json"):
                (tmp_path / file.name).symlink_to(file)
        for name, change in cards.items():
            path = tmp_path / f"{name}.json"
            text = change
            if callable(change):
                card = json.loads(path.read_text(encoding="utf-8"))
                change(card)
                text = json.dumps(card)
            path.unlink()
            path.write_text(text, encoding="utf-8")
        return tmp_path

    return make


@pytest.mark.parametrize("name", ["emulator", "estimator", "novelty", "systematic"])
@pytest.mark.parametrize(
    "text", ["", "{}", "[]", "null", "1", '"x"', "[" * 100_000, '{"a":' * 100_000, '{"labels": [null]}']
)
def test_cards_that_are_none(folder, name, text):
    if name == "novelty" and text in ("{}", '{"labels": [null]}'):
        pytest.skip("nothing is read from this card")
    with pytest.raises(ModelError, match=name):
        load_model(folder(**{name: text}))


def put(*way_and_value):
    *way, last, value = way_and_value

    def change(card):
        for step in way:
            card = card[step]
        card[last] = value

    return change


@pytest.mark.parametrize(
    "change",
    [
        put("network", "featurizer", "blocks", 10**9),
        put("network", "featurizer", "width", 10**9),
        put("network", "featurizer", "width", 16_384),
        put("network", "featurizer", "components", 10**4000),
        put("network", "flow", "transforms", 10**9),
        put("network", "flow", "hidden", [10**9]),
        put("network", "flow", "hidden", [8] * 10**5),
        put("network", "flow", "bins", 10**9),
        put("network", "flow", None),
        put("network", []),
        put("network", "featurizer", {"kind": "module", "path": "torch.hub.load", "options": {"repo_or_dir": "."}}),
        put("n_pixels", 10**9),
        put("n_pixels", "8575"),
        put("n_pixels", 8574),
        put("n_pixels", True),
        put("labels", 0, None),
        put("labels", "teff"),
        put("labels", 0, "prior", "low", "cold"),
        put("labels", 0, "prior", "low", float("nan")),
        put("limb_darkening", "0.6"),
        put("limb_darkening", float("nan")),
        put("limb_darkening", None),
        put("problem", None),
        put("problem", "continuum_degree", 10**9),
        put("problem", "continuum_degree", "4"),
        put("problem", "labels", 4, "prior", {"kind": "uniform", "low": -1e9, "high": 1e9}),
        put("problem", "fixed", [1]),
        put("problem", "instrument", {"chips": [{"number": 10**9}]}),
        put("format", "2"),
    ],
)  # fmt: skip
def test_estimators_cards(folder, change):
    with pytest.raises(ModelError):
        load_model(folder(estimator=change))


@pytest.mark.parametrize(
    "change",
    [
        put("grid", "n_pixels", 10**9),
        put("grid", "n_pixels", 2_000_000),
        put("grid", "n_pixels", "8575"),
        put("grid", "log10_start", "4.1"),
        put("grid", "log10_step", float("nan")),
        put("grid", "log10_step", 1.0),
        put("grid", None),
        put("covered", [[0, 10**9]]),
        put("covered", [[-5, 100]]),
        put("covered", [["a", "b"]]),
        put("covered", 5),
        put("network", "width", 10**9),
        put("network", "depth", 10**9),
        put("network", "width", "64"),
        put("network", {"kind": "gaussian-process", "nodes": 10**9}),
        put("error_rms", "small"),
        put("error_rms", float("nan")),
        put("labels", 0, "prior", {}),
    ],
)
def test_emulators_cards(folder, change):
    with pytest.raises(ModelError):
        load_model(folder(emulator=change))


@pytest.mark.parametrize("wrong", ["nan", "shape", "missing", "text"])
def test_emulators_weights(folder, wrong):
    path = folder() / "emulator.safetensors"
    tensors = load_file(path)
    path.unlink()
    if wrong == "nan":
        tensors["scale"] = torch.full_like(tensors["scale"], torch.nan)
    elif wrong == "shape":
        tensors["mean"] = tensors["mean"][:-1].clone()
    elif wrong == "missing":
        del tensors["components"]
    if wrong == "text":
        path.write_text("no weights", encoding="utf-8")
    else:
        save_file(tensors, path)
    with pytest.raises(ModelError, match=r"emulator\.safetensors"):
        load_model(path.parent)


def test_scores_that_do_not_fit_together(tmp_path):
    path = tmp_path / "novelty.safetensors"
    save_file({k: torch.ones(3) for k in ("mean", "whiten", "scores", "snr")}, path)
    path.with_suffix(".json").write_text("{}", encoding="utf-8")
    with pytest.raises(ModelError, match="do not fit together"):
        Novelty.load(path)


@pytest.mark.parametrize("name", [None, 5, ["kurucz-apogee"]])
def test_what_is_no_name_of_a_model(name):
    with pytest.raises(ModelError, match="a name or a folder"):
        load_model(name)


@pytest.mark.parametrize(
    "text",
    [
        "a = " + "[" * 100_000,
        "a = " + "{b = " * 100_000,
        "a = " + "9" * 100_000,
        "a = 1e999999999\nb = [",
        "\x00",
        "a" * 100,
    ],
)
def test_toml_that_is_none(tmp_path, text):
    path = tmp_path / "config.toml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match=r"config\.toml"):
        read_toml(path)


@pytest.mark.parametrize(
    "text",
    [
        'name = "x"\nseed = 99999999999999999999999999',
        'name = "x"\nbatch = ' + "9" * 4000,
        'name = "x"\nminutes = ' + "9" * 4000,
        'name = "x"\n[network.featurizer]\nkind = "aligned"\nblocks = 1000000000',
    ],
)
def test_settings_that_cannot_be(tmp_path, text):
    path = tmp_path / "config.toml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match=r"config\.toml"):
        read_config(path, TrainConfig)


def test_a_windows_editors_mark_is_read(tmp_path):
    path = tmp_path / "config.toml"
    path.write_bytes(b'\xef\xbb\xbfname = "x"\n')
    assert read_toml(path) == {"name": "x"}
