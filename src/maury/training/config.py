"""What training needs to know: ``maury train CONFIG.toml``."""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from maury.networks.config import NetworkConfig
from maury.training.density import Denser
from maury.training.simulations import ProblemConfig


class FitConfig(BaseModel):
    """Networks and their optimisation, whatever the data."""

    model_config = ConfigDict(extra="forbid")

    name: str
    network: NetworkConfig = NetworkConfig()
    batch: int = Field(512, gt=1)
    epochs: int = Field(
        24, gt=0, description="most passes; of spectra made on the fly a pass is ``epoch`` steps"
    )
    epoch: int = Field(250, gt=0, description="steps between validations of spectra made on the fly")
    minutes: float | None = Field(
        None, gt=0, description="most minutes; the learning rate falls with the clock then"
    )
    patience: int | None = Field(None, gt=0, description="epochs without progress after which training stops")
    validation: int = Field(2048, gt=0, description="spectra in the fixed validation set, made on the fly")
    optimizer: Literal["adam", "adamw"] = "adam"
    weight_decay: float = Field(0.0, ge=0)
    learning_rate: float = Field(1e-3, gt=0)
    schedule: Literal["cosine", "constant"] = "cosine"
    warmup: float = Field(
        0.02, ge=0, lt=1, description="share of the training in which the learning rate rises"
    )
    gradient_clip: float = Field(5.0, gt=0, description="norm at which gradients are cut")
    gradient_percentile: float | None = Field(
        None,
        gt=0,
        le=100,
        description="cut them at this percentile of all norms until the last epoch instead, as nbi does; the first epoch's are left",
    )
    start: Path | None = Field(
        None, description="an estimator whose weights of the same names are taken first"
    )
    keep: int = Field(
        0,
        ge=0,
        description="spectra that are simulated and measured once, and read in every epoch (featurizer `score`, whose guess then is that "
        "of ``start``); 0 makes new ones for every batch",
    )
    keep_minutes: float | None = Field(None, gt=0, description="most minutes that this may take")
    seed: int = Field(0, ge=0, lt=2**62)
    precision: Literal["32", "bf16"] = "32"
    accelerator: str = "auto"
    devices: int = Field(1, gt=0)
    nodes: int = Field(1, gt=0)
    strategy: str = Field("auto", description="of Lightning, for several devices; such as ddp")
    tensorboard: bool = False
    novelty: int = Field(
        12_000, ge=0, description="simulations by which unlike spectra are told afterwards; 0 for none"
    )


class TrainConfig(FitConfig):
    """What `train` needs to know."""

    problem: ProblemConfig | None = Field(None, description="spectra made on the fly")
    simulations: Path | None = Field(
        None, description="or a file of `maury simulate`; clean spectra get new noise each epoch"
    )
    denser: tuple[Denser, ...] = Field(
        (), description="where more stars are drawn than the prior has; weights in the loss make up for it"
    )
    validation_share: float = Field(0.1, gt=0, lt=1, description="share of that file's spectra")

    @model_validator(mode="after")
    def _one_source(self) -> TrainConfig:
        if self.problem is not None and self.simulations is not None:
            raise ValueError("give either [problem] or simulations, not both")
        if self.keep and self.start is None:
            raise ValueError(
                "keep: what is measured once needs a guess that is trained: start = an estimator"
            )
        if self.simulations is not None and (self.keep or self.denser):
            raise ValueError("keep and denser are of spectra made on the fly, not of a file of simulations")
        return self


PRESETS = ("paper",)


def preset(name: str) -> Path:
    """Return the configuration file of a preset."""
    return Path(str(resources.files("maury") / "training" / "presets" / f"{name}.toml"))


def comparable(config: BaseModel) -> dict[str, Any]:
    """Return what must not change when a training is resumed: all but how long it runs and on what."""
    settings = config.model_dump(mode="json")
    for key in (
        "devices",
        "nodes",
        "strategy",
        "accelerator",
        "tensorboard",
        "novelty",
        "keep",
        "keep_minutes",
    ):
        settings.pop(key, None)
    # Trainings begun before there was this one do not tell of it.
    if settings["gradient_percentile"] is None:
        del settings["gradient_percentile"]
    return settings
