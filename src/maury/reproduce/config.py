"""What an experiment needs to know; a preset each for a laptop and for a GPU."""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from maury.errors import ConfigError
from maury.networks.config import NetworkConfig
from maury.reproduce.priors import of_library
from maury.sampling.chains import ChainConfig
from maury.toml import read_config
from maury.training.config import FitConfig
from maury.training.simulations import ProblemConfig

Experiment = Literal["sine", "three", "five"]
Preset = Literal["try", "laptop", "paper"]


class _Experiment(BaseModel):
    model_config = ConfigDict(extra="forbid")

    training: FitConfig
    chain: ChainConfig = ChainConfig()
    held_out: int = Field(100, gt=0, description="new spectra on which the estimator is judged")
    draws: int = Field(2000, ge=100, description="importance draws of each")
    seed: int = Field(0, ge=0, lt=2**62)


class SineConfig(_Experiment):
    """A sine wave of unknown frequency and phase, sampled evenly, with white noise."""

    number: int = Field(20_000, gt=0, description="simulated waves")
    samples: int = Field(100, gt=3)
    duration: float = Field(10.0, gt=0)
    frequency: tuple[float, float] = (0.1, 1.0)
    sigma: float = Field(0.3, gt=0)
    training: FitConfig = FitConfig(
        name="sine", network=NetworkConfig.model_validate({"featurizer": {"kind": "resnet-gru", "depth": 0}})
    )


class StarsConfig(_Experiment):
    """Spectra of stars."""

    problem: ProblemConfig
    table_1: bool = Field(
        False,
        description="whether the priors are those of the paper's Table 1, as far as the library reaches",
    )
    number: int = Field(gt=0, description="simulated spectra")


def read_experiment(
    experiment: str, preset: str, path: Path | None, library: str | None = None
) -> SineConfig | StarsConfig:
    """Read a preset, or a file in its place.

    Parameters
    ----------
    experiment, preset
        Which.
    path
        The file in the preset's place.
    library
        Name or folder of a model in place of the configuration's; its priors are then those of Table 1.

    Raises
    ------
    ConfigError
        If the file is missing or has an unknown or impossible key, or library and priors do not fit together.
    """
    folder = Path(str(resources.files("maury") / "reproduce" / "presets"))
    file = path or folder / f"{experiment}-{preset}.toml"
    if experiment == "sine":
        if library is not None:
            raise ConfigError("--library: a sine wave has none; leave it out")
        return read_config(file, SineConfig)
    config = read_config(file, StarsConfig)
    problem, table_1 = config.problem, config.table_1
    if library is not None:
        problem, table_1 = problem.model_copy(update={"model": library}), True
    return config.model_copy(update={"problem": of_library(problem, table_1), "table_1": table_1})
