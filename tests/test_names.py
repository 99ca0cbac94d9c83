"""What was meant by a mistyped name, wherever it is given."""

import pytest

from maury import cli
from maury.errors import ConfigError, LabelError, ModelError
from maury.labels import LabelSet, label
from maury.libraries.build import validate
from maury.models import folder
from maury.names import meant, nearest, shipped
from maury.priors import Uniform
from maury.reproduce.config import StarsConfig
from maury.training.config import TrainConfig


@pytest.mark.parametrize(
    ("name", "near"), [("tef", "teff"), ("TEFF", "teff"), ("alpham", "alpha_m"), ("colour", None), ("", None)]
)
def test_nearest(name, near):
    assert nearest(name, ["teff", "logg", "alpha_m"]) == near


def test_many_names_are_not_listed_beside_the_one_that_was_meant():
    many = [f"name{i}" for i in range(20)]
    assert meant("nme7", many) == "did you mean 'name7'?"
    assert meant("zzz", many).startswith("known are name0, name1")
    assert meant("a", []) == "known are none"


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"epoch_s": 3}, r"file.toml: epoch_s: no such key; did you mean 'epochs'\?"),
        ({"network": {"flw": {}}}, r"network.flw: no such key; known are .*did you mean 'flow'\?"),
        ({"network": {"featurizer": {"kind": "alignd"}}}, r"no 'alignd'; .*did you mean 'aligned'\?"),
        (
            {"network": {"featurizer": {"kind": "aligned", "widht": 3}}},
            r"network.featurizer.aligned.widht: .*did you mean 'width'\?",
        ),
        ({"network": {"flow": {"hidden": [16]}}}, "network.flow: does not say which kind it is"),
        ({"optimizer": "adm"}, r"optimizer: no 'adm'; known are adam, adamw; did you mean 'adam'\?"),
        (
            {"problem": {"priors": {"teff": {"kind": "uniform", "low": 1, "hgh": 2}}}},
            r"file.toml: problem.priors.teff.hgh: .*known are low, high, kind; did you mean 'high'\?",
        ),
        (
            {
                "problem": {
                    "priors": {
                        "logg": {"kind": "truncated-normal", "low": 1, "high": 2, "mean": 1, "sgma": 1}
                    }
                }
            },
            r"problem.priors.logg.sgma: .*did you mean 'sigma'\?",
        ),
        ({"problem": {"observing": {"sn": 3}}}, r"problem.observing.sn: .*did you mean 'snr'\?"),
    ],
)
def test_keys_of_a_configuration(entries, message, tmp_path):
    with pytest.raises(ConfigError, match=message):
        validate("file.toml", {"name": "x", **entries}, TrainConfig)


def test_keys_of_an_experiment():
    with pytest.raises(ConfigError, match="did you mean 'held_out'"):
        validate("file.toml", {"heldout": 3}, StarsConfig)


def test_labels_and_models():
    labels = LabelSet((label("teff", Uniform(low=1, high=2)), label("v_sini", Uniform(low=1, high=2))))
    with pytest.raises(LabelError, match="did you mean 'v_sini'"):
        labels.with_priors({"vsini": Uniform(low=1, high=2)})
    with pytest.raises(ModelError, match="did you mean 'btsettl-apogee'"):
        folder("btsettl_apogee")
    assert {"kurucz-apogee", "btsettl-apogee"} <= set(shipped(estimators=True))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["reproduce", "sien", "--output", "x"], "did you mean 'sine'?"),
        (["fetch", "apogee", "--release", "dr16", "--output", "x"], "did you mean 'dr1"),
        (
            ["fetch", "apogee", "--kind", "apStr", "--id", "x", "--output", "x"],
            "did you mean 'apStar of dr17'?",
        ),
        (["infer", "x.fits", "--noise", "corelated"], "did you mean 'correlated'?"),
        (["check", "misfit", "--fault", "fringe"], "did you mean 'fringes'?"),
        (["models", "show", "kurucz"], "did you mean 'kurucz-apogee'?"),
        (["modles"], "Did you mean 'models'?"),
        (["models", "lst"], "Did you mean 'list'?"),
        (["infer", "--modle", "x"], "--model"),
    ],
)
def test_command_line(arguments, message, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["maury", *arguments])
    monkeypatch.setenv("COLUMNS", "200")
    with pytest.raises(SystemExit) as stop:
        cli.main()
    assert stop.value.code == 2
    assert message in " ".join(capsys.readouterr().err.replace("│", " ").split())
