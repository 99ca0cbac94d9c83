"""Train an estimator on spectra made on the fly: ``maury train CONFIG.toml --output DIR``."""

from __future__ import annotations

import csv
import logging
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

# Lightning asks the network for its newest version otherwise.
os.environ.setdefault("PYTORCH_LIGHTNING_DISABLE_VERSION_CHECK", "1")

import lightning
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

import maury
from maury.errors import ConfigError
from maury.forward.model import ForwardModel
from maury.labels import LabelSet, LogUniform, Uniform, label
from maury.libraries.emulator import Emulator
from maury.networks.estimator import Estimator, NetworkConfig
from maury.networks.prepare import build_preparation
from maury.report.plots import loss_figure, save_figure
from maury.spectra.spectrum import apstar_grid
from maury.training.checkpoint import OpenCheckpoint, latest
from maury.training.simulations import Observing, Simulator

log = logging.getLogger(__name__)

Batch = tuple[Tensor, Tensor, Tensor]


class TrainConfig(BaseModel):
    """What `train` needs to know."""

    model_config = ConfigDict(extra="forbid")

    name: str
    emulator: Path = Field(description="the emulator's .safetensors")
    limb_darkening: float = Field(0.6, ge=0, le=1)
    v_rad: tuple[float, float] = (-200.0, 200.0)
    v_sini: tuple[float, float] = (0.0, 100.0)
    jitter: tuple[float, float] = Field(
        (5e-4, 0.1), description="fractional model error, log-uniform; a nuisance label"
    )
    observing: Observing = Observing()
    network: NetworkConfig = NetworkConfig()
    batch: int = Field(512, gt=1)
    steps: int = Field(6000, gt=0)
    epoch: int = Field(250, gt=0, description="steps between validations and checkpoints")
    validation: int = Field(2048, gt=0, description="spectra in the fixed validation set")
    learning_rate: float = Field(1e-3, gt=0)
    warmup: float = Field(0.02, ge=0, lt=1, description="share of the steps in which the learning rate rises")
    gradient_clip: float = Field(5.0, gt=0)
    seed: int = 0
    accelerator: str = "cpu"

    def label_set(self, emulator: Emulator) -> LabelSet:
        """Return the emulator's labels, the velocities, and the nuisance label."""
        return emulator.labels + LabelSet(
            (
                label("v_rad", Uniform(low=self.v_rad[0], high=self.v_rad[1])),
                label("v_sini", Uniform(low=self.v_sini[0], high=self.v_sini[1])),
                label("jitter", LogUniform(low=self.jitter[0], high=self.jitter[1])),
            )
        )


class OnTheFly(IterableDataset[Batch]):
    """Batches of new spectra; batch ``i`` depends on the seed and on ``i`` alone, so that training resumes exactly.

    ``first`` is the number of the next batch; each pass yields ``length`` of them.
    """

    def __init__(self, simulator: Simulator, batch: int, length: int, seed: int) -> None:
        self.simulator, self.batch, self.length, self.seed, self.first = simulator, batch, length, seed, 0

    def __len__(self) -> int:
        return self.length

    def __iter__(self) -> Iterator[Batch]:
        for i in range(self.first, self.first + self.length):
            generator = torch.Generator().manual_seed((self.seed << 32) + i)
            simulation = self.simulator(self.batch, generator)
            labels = self.simulator.labels
            u = labels.to_normal(simulation.labels)[
                :, [labels.index(n) for n in self.simulator.model.label_names]
            ]
            yield u, simulation.flux, simulation.ivar


class Training(lightning.LightningModule):
    """Maximum likelihood of the labels given the spectra."""

    def __init__(self, estimator: Estimator, config: TrainConfig, data: OnTheFly) -> None:
        super().__init__()
        self.estimator, self.config, self.data = estimator, config, data

    def _loss(self, batch: Batch) -> Tensor:
        u, flux, ivar = batch
        context, v_align = self.estimator.context(flux, ivar)
        return -self.estimator.flow_log_prob(u, context, v_align).mean()

    def training_step(self, batch: Batch, _: int) -> Tensor:
        """Return the batch's negative log density."""
        loss = self._loss(batch)
        self.log("train_loss", loss, on_step=False, on_epoch=True, batch_size=len(batch[0]))
        return loss

    def validation_step(self, batch: Batch, _: int) -> None:
        """Log the validation set's negative log density."""
        self.log("val_loss", self._loss(batch), batch_size=len(batch[0]))

    def on_train_epoch_end(self) -> None:
        """Move on to batches that have not been seen."""
        self.data.first = self.global_step

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Continue where the checkpoint's data ended."""
        self.data.first = int(checkpoint["global_step"])

    def configure_optimizers(self) -> Any:
        """Adam, with a warm-up and a cosine decay over all steps."""
        optimizer = torch.optim.Adam(self.estimator.parameters(), lr=self.config.learning_rate)
        warmup = max(1, int(self.config.warmup * self.config.steps))

        def factor(step: int) -> float:
            progress = min(1.0, (step - warmup) / max(1, self.config.steps - warmup))
            return (step + 1) / warmup if step < warmup else 0.5 * (1 + math.cos(math.pi * progress)) + 1e-3

        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def validation_curve(files: list[Path]) -> tuple[list[int], list[float]]:
    """Read steps and validation log density (nats) from the loggers' CSV files, in order."""
    points: dict[int, float] = {}
    for file in files:
        with file.open(newline="") as lines:
            for row in csv.DictReader(lines):
                if row.get("val_loss"):
                    points[int(row["step"]) + 1] = -float(row["val_loss"])
    steps = sorted(points)
    return steps, [points[step] for step in steps]


def train(config: TrainConfig, output: Path, *, progress: bool = True) -> Estimator:
    """Train, or go on training if ``output`` holds a checkpoint; write the estimator, its card and its loss curve there.

    Raises
    ------
    ConfigError
        If ``output`` holds the checkpoint of another configuration.
    """
    output.mkdir(parents=True, exist_ok=True)
    settings = output / "config.json"
    if settings.exists() and settings.read_text() != config.model_dump_json(indent=1):
        raise ConfigError(f"{output}: holds a training with another configuration; choose a new --output")
    settings.write_text(config.model_dump_json(indent=1))

    lightning.seed_everything(config.seed, verbose=False)
    model = ForwardModel(Emulator.load(config.emulator), config.limb_darkening)
    labels = config.label_set(model.emulator)
    grid = apstar_grid()
    preparation = build_preparation(model, labels, n_components=config.network.components, seed=config.seed)
    estimator = Estimator(labels.select(model.label_names), preparation, config.network)
    simulator = Simulator(model, labels, grid, config.observing)
    data = OnTheFly(simulator, config.batch, config.epoch, config.seed + 1)
    # At least one batch, however small the set: a mean over nothing is NaN.
    held_out = OnTheFly(
        simulator, min(256, config.validation), max(1, config.validation // 256), config.seed + 2
    )
    validation = list(held_out)

    module = Training(estimator, config, data)
    checkpoints = ModelCheckpoint(
        output,
        filename="best-{step}",
        monitor="val_loss",
        save_top_k=1,
        save_last=True,
        enable_version_counter=False,
    )
    trainer = lightning.Trainer(
        max_steps=config.steps,
        accelerator=config.accelerator,
        devices=1,
        gradient_clip_val=config.gradient_clip,
        logger=CSVLogger(output, name="", version="", flush_logs_every_n_steps=1),
        callbacks=[checkpoints],
        plugins=[OpenCheckpoint()],
        enable_progress_bar=progress,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        log_every_n_steps=50,
        use_distributed_sampler=False,
    )
    resume = latest(output)
    curve = output / "metrics.csv"
    if curve.exists():
        # The logger starts its file anew.
        curve.rename(output / f"metrics.until-{len(list(output.glob('metrics.until-*'))):03d}.csv")
    if resume:
        log.info("resuming from %s", resume)
    trainer.fit(
        module,
        DataLoader(data, batch_size=None),
        DataLoader(validation, batch_size=None),  # type: ignore[arg-type]
        ckpt_path=resume,
    )
    estimator.card.update(
        {
            "name": config.name,
            "kind": "estimator",
            "maury": maury.__version__,
            "emulator": model.emulator.card.get("name", config.emulator.stem),
            "limb_darkening": config.limb_darkening,
            "jitter": labels["jitter"].to_dict(),
            "training": config.model_dump(mode="json", exclude={"network"}),
            "spectra_seen": config.batch * trainer.global_step,
            "validation_nats": -float(trainer.callback_metrics["val_loss"]),
        }
    )
    estimator.save(output / "estimator.safetensors")
    parts = [*sorted(output.glob("metrics.until-*.csv")), curve]
    steps, nats = validation_curve(parts)
    save_figure(loss_figure(steps, nats), output / "loss.png")
    return estimator.eval()
