"""Table 1's priors on a library: what of them it has, and what becomes of labels that the experiments lack."""

import pytest

from maury.errors import ConfigError
from maury.reproduce.config import read_experiment
from maury.reproduce.priors import HELD, TABLE_1, Library, of_library, words
from maury.training.simulations import ProblemConfig


def ends(config):
    return {name: (prior.low, prior.high) for name, prior in config.problem.priors.items()}


def test_five_labels_of_a_hot_library():
    config = read_experiment("five", "paper", None, "marcs-apogee")
    assert ends(config) == {
        "teff": (3500, 7000),
        "logg": (2.5, 5.5),
        "m_h": (-2.12, 0.5),
        "v_rad": (-200, 200),
        "v_sini": (0, 100),
    }
    assert config.problem.fixed == {"alpha_m": 0, "c_m": 0, "n_m": 0, "v_micro": 1.2, "jitter": 0}
    assert "`marcs-apogee` has stars in 59 %" in words(config.problem)


def test_five_labels_of_a_cool_library():
    """It has no alpha_m: nothing to be held."""
    config = read_experiment("five", "laptop", None, "btsettl-apogee")
    assert ends(config)["teff"] == (2300, 3500)
    assert config.problem.fixed == {"jitter": 0}
    assert config.table_1
    assert "has stars in 18 %" in words(config.problem)


def test_three_labels_hold_the_others():
    config = read_experiment("three", "paper", None, "btsettl-apogee")
    assert set(ends(config)) == {"teff", "v_rad", "v_sini"}
    assert config.problem.fixed == {"logg": 4, "m_h": 0, "jitter": 0}


def test_the_laptop_keeps_its_librarys_ranges():
    config = read_experiment("five", "laptop", None)
    assert not config.problem.priors
    assert config.problem.fixed == {"alpha_m": 0, "jitter": 0}


def test_priors_of_the_callers_stay():
    given = ProblemConfig.model_validate(
        {"model": "kurucz-apogee", "priors": {"teff": {"kind": "uniform", "low": 4000, "high": 5000}}}
    )
    assert of_library(given, True).priors["teff"].high == 5000


def test_nothing_of_table_1(monkeypatch):
    monkeypatch.setitem(TABLE_1, "teff", (9000.0, 9500.0))
    with pytest.raises(ConfigError, match="knows teff from 3600 to 6900, and Table 1 asks for 9000 to 9500"):
        read_experiment("five", "paper", None, "kurucz-apogee")


def test_a_label_that_nothing_is_known_of(monkeypatch):
    monkeypatch.delitem(HELD, "alpha_m")
    with pytest.raises(ConfigError, match="has the label alpha_m; hold it"):
        of_library(ProblemConfig(model="kurucz-apogee"), True)


def test_a_misspelt_label_is_not_dropped():
    given = ProblemConfig(model="btsettl-apogee", fixed={"alpham": 0.0})
    assert "alpham" in of_library(given, True).fixed


def test_a_sine_wave_has_no_library():
    with pytest.raises(ConfigError, match="has none"):
        read_experiment("sine", "laptop", None, "kurucz-apogee")


def test_coverage_of_both_shipped_libraries():
    shares = [Library.read(name).coverage({}) for name in ("marcs-apogee", "btsettl-apogee")]
    assert shares == pytest.approx([0.585, 0.182], abs=0.01)
