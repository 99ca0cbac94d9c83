"""What an experiment needs to know; a preset each for a laptop and for a GPU."""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from maury.networks.config import NetworkConfig
from maury.sampling.chains import ChainConfig
from maury.toml import read_config
from maury.training.config import FitConfig
from maury.training.simulations import ProblemConfig

Experiment = Literal["sine", "three", "five"]
Preset = Literal["laptop", "paper"]


class _Experiment(BaseModel):
    model_config = ConfigDict(extra="forbid")

    training: FitConfig
    chain: ChainConfig = ChainConfig()
    held_out: int = Field(100, gt=0, description="new spectra on which the estimator is judged")
    draws: int = Field(2000, ge=100, description="importance draws of each")
    seed: int = Field(0, ge=0)


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
    number: int = Field(gt=0, description="simulated spectra")


def read_experiment(experiment: str, preset: str, path: Path | None) -> SineConfig | StarsConfig:
    """Read a preset, or a file in its place.

    Raises
    ------
    ConfigError
        If the file is missing or has an unknown or impossible key.
    """
    folder = Path(str(resources.files("maury") / "reproduce" / "presets"))
    file = path or folder / f"{experiment}-{preset}.toml"
    return read_config(file, SineConfig) if experiment == "sine" else read_config(file, StarsConfig)
