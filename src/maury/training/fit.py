"""The training loop: Lightning's, with checkpoints in open formats, exact resume, and an eye on the loss."""

from __future__ import annotations

import contextlib
import csv
import logging
import math
import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

# Lightning asks the network for its newest version otherwise.
os.environ.setdefault("PYTORCH_LIGHTNING_DISABLE_VERSION_CHECK", "1")

import lightning
import numpy as np
import torch
from lightning.pytorch.callbacks import Callback, EarlyStopping, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger
from torch import Tensor
from torch.distributions import Distribution
from torch.utils.data import DataLoader

import maury
from maury.errors import ModelError
from maury.networks.context import Context
from maury.networks.estimator import Estimator
from maury.training.checkpoint import OpenCheckpoint, latest
from maury.training.config import FitConfig
from maury.training.data import AnyBatch, Batch, Batches, Source
from maury.weights import read_model

log = logging.getLogger(__name__)


@contextlib.contextmanager
def unvalidated() -> Iterator[None]:
    """Let distributions take NaN, which the loop reports with its batch.

    zuko turns torch's validation off for the whole process, and other packages (Pyro) turn it on again.
    """
    before = Distribution._validate_args
    Distribution.set_default_validate_args(False)
    try:
        yield
    finally:
        Distribution.set_default_validate_args(before)


class Training(lightning.LightningModule):
    """The labels' likelihood given the spectra, or what else the flow learns by."""

    def __init__(self, estimator: Estimator, config: FitConfig, data: Batches, output: Path) -> None:
        super().__init__()
        self.estimator, self.config, self.data, self.output = estimator, config, data, output
        self.steps = config.epochs * len(data)
        self.seconds = 0.0
        # Norms of all gradients so far, where a percentile of them is the bound.
        self._norms: list[float] = []
        self._bound = math.inf
        self._began = time.monotonic()

    def on_fit_start(self) -> None:
        """Tell the data which process this is, and start the clock where it stopped."""
        self.data.rank, self.data.world = self.global_rank, self.trainer.world_size
        self._began = time.monotonic() - self.seconds

    @property
    def progress(self) -> float:
        """Share of the training that is done, by steps or by the clock."""
        share = self.global_step / self.steps
        if self.config.minutes:
            share = max(share, (time.monotonic() - self._began) / (60 * self.config.minutes))
        return min(1.0, share)

    def training_step(self, batch: AnyBatch, index: int) -> Tensor:
        """Return the batch's loss.

        Raises
        ------
        ModelError
            If it is not finite.
        """
        with unvalidated():
            loss = self.estimator.loss(batch.u, self._context(batch))
            loss = (loss if batch.weight is None else batch.weight * loss).mean()
        if not bool(loss.isfinite()):
            best = self.output / "estimator.safetensors"
            raise ModelError(
                f"{self.output}: the loss became {float(loss)} at batch {index} of epoch {self.current_epoch} "
                f"(step {self.global_step}); the best weights until then are in {best}. Try a lower learning_rate"
            )
        self.log("train_loss", loss, on_step=False, on_epoch=True, batch_size=len(batch.u))
        return loss

    def validation_step(self, batch: AnyBatch, _: int) -> None:
        """Log the validation set's negative log density."""
        nats = self.estimator.flow_log_prob(batch.u, self._context(batch)).mean()
        self.log("val_loss", -nats, batch_size=len(batch.u), sync_dist=self.trainer.world_size > 1)

    def _context(self, batch: AnyBatch) -> Context:
        if isinstance(batch, Batch):
            return self.estimator.context(batch.flux, batch.ivar, batch.seen)
        return batch.context(self.estimator)

    def on_train_epoch_start(self) -> None:
        """Find by what this epoch's gradients are cut, from all before it."""
        if self._norms and self.config.gradient_percentile is not None:
            self._bound = float(np.percentile(self._norms, self.config.gradient_percentile))

    def configure_gradient_clipping(
        self,
        optimizer: Any,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Cut gradients at the configuration's norm, or at the percentile of those of the epochs before."""
        if self.config.gradient_percentile is None:
            self.clip_gradients(optimizer, gradient_clip_val, gradient_clip_algorithm)
            return
        norm = torch.nn.utils.clip_grad_norm_(self.estimator.parameters(), self._bound)
        self._norms.append(float(norm))

    def on_train_epoch_end(self) -> None:
        """Move on to batches that have not been seen."""
        self.data.first = self.global_step * self.data.world

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the time spent, and the norms by which gradients are cut."""
        checkpoint["seconds"] = time.monotonic() - self._began
        if self._norms:
            checkpoint["norms"] = torch.tensor(self._norms)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Continue where the checkpoint's data and clock stopped."""
        self.data.first = int(checkpoint["global_step"]) * self.trainer.world_size
        self.seconds = float(checkpoint["seconds"])
        if "norms" in checkpoint:
            self._norms = checkpoint["norms"].tolist()

    def configure_optimizers(self) -> Any:
        """Adam or AdamW; the learning rate rises, then stays or falls as a cosine."""
        kind = torch.optim.AdamW if self.config.optimizer == "adamw" else torch.optim.Adam
        optimizer = kind(
            self.estimator.parameters(), lr=self.config.learning_rate, weight_decay=self.config.weight_decay
        )
        warmup = self.config.warmup

        def factor(_: int) -> float:
            share = self.progress
            if share < warmup:
                return (share + 1 / self.steps) / warmup
            if self.config.schedule == "constant":
                return 1.0
            return 0.5 * (1 + math.cos(math.pi * (share - warmup) / (1 - warmup))) + 1e-3

        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


class _Deadline(Callback):
    """Stops a training whose minutes are over, and validates what it has come to."""

    def on_train_batch_end(self, trainer: lightning.Trainer, module: Any, *_: Any) -> None:
        if module.config.minutes and module.progress >= 1:
            trainer.should_stop = True


def take_weights(estimator: Estimator, path: Path) -> list[str]:
    """Copy the weights of an earlier estimator into those of the same names and shapes; return the names.

    A `score` featurizer takes those of an `aligned` one, and for its guess those by which that one's flow is located.

    Raises
    ------
    ModelError
        If nothing fits.
    """
    tensors, _ = read_model(path)
    own = estimator.state_dict()
    guesses = any(name.startswith("featurizer.guess.") for name in own)
    # Another featurizer's flow works in other coordinates.
    as_guess = guesses and not any(name.startswith("featurizer.guess.") for name in tensors)
    found = {}
    for name, value in tensors.items():
        target = name
        if as_guess:
            target = name.replace("featurizer.", "featurizer.aligned.", 1).replace(
                "flow.head.", "featurizer.guess.", 1
            )
        if (
            target in own
            and own[target].shape == value.shape
            and not (as_guess and target.startswith("flow."))
        ):
            found[target] = value
    if not found:
        raise ModelError(f"start: {path} has no weights that fit this network")
    estimator.load_state_dict(found, strict=False)
    return sorted(found)


def validation_curve(output: Path) -> tuple[list[int], list[float]]:
    """Read steps and validation log density (nats) from the CSV files that training left in a folder, in order."""
    files = [*sorted(output.glob("metrics.until-*.csv")), output / "metrics.csv"]
    points: dict[int, float] = {}
    for file in filter(Path.exists, files):
        with file.open(newline="", encoding="utf-8") as lines:
            for row in csv.DictReader(lines):
                if row.get("val_loss"):
                    points[int(row["step"]) + 1] = -float(row["val_loss"])
    steps = sorted(points)
    return steps, [points[step] for step in steps]


def fit(
    estimator: Estimator,
    config: FitConfig,
    source: Source,
    validation: Sequence[AnyBatch],
    output: Path,
    *,
    progress: Callback | None = None,
) -> Estimator:
    """Train an estimator, or go on if ``output`` holds a checkpoint; the best weights end in ``estimator.safetensors`` there.

    Raises
    ------
    ModelError
        If the loss is not finite any more; what was best until then is written.
    """
    data = Batches(source)
    module = Training(estimator, config, data, output)
    checkpoints = ModelCheckpoint(
        output,
        filename="best-{step}",
        monitor="val_loss",
        save_top_k=1,
        save_last=True,
        enable_version_counter=False,
    )
    callbacks: list[Callback] = [checkpoints, _Deadline(), *([progress] if progress else [])]
    if config.patience:
        callbacks.append(EarlyStopping("val_loss", patience=config.patience))
    loggers: list[Logger] = [CSVLogger(output, name="", version="", flush_logs_every_n_steps=1)]
    if config.tensorboard:
        loggers.append(TensorBoardLogger(output, name="", version="tensorboard"))
    trainer = lightning.Trainer(
        max_epochs=config.epochs,
        accelerator=config.accelerator,
        devices=config.devices,
        num_nodes=config.nodes,
        strategy=config.strategy,
        precision="bf16-mixed" if config.precision == "bf16" else "32-true",
        gradient_clip_val=config.gradient_clip,
        logger=loggers,
        callbacks=callbacks,
        plugins=[OpenCheckpoint()],
        enable_progress_bar=False,
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
    elif config.start:
        log.info("%d arrays from %s", len(take_weights(estimator, config.start)), config.start)
    try:
        trainer.fit(
            module,
            DataLoader(data, batch_size=None),
            DataLoader(validation, batch_size=None),  # type: ignore[arg-type]
            ckpt_path=resume,
        )
    finally:
        best = checkpoints.best_model_path
        if best and trainer.is_global_zero:
            _restore(estimator, Path(best))
            estimator.card.update(
                {
                    "name": config.name,
                    "kind": "estimator",
                    "maury": maury.__version__,
                    "spectra_seen": config.batch * trainer.global_step * trainer.world_size,
                    "training_minutes": round((time.monotonic() - module._began) / 60, 2),
                    "validation_nats": -float(checkpoints.best_model_score or math.nan),
                }
            )
            estimator.save(output / "estimator.safetensors")
    return estimator.eval().requires_grad_(False)


def _restore(estimator: Estimator, checkpoint: Path) -> None:
    """Load the weights of a checkpoint into the estimator it is of."""
    state = OpenCheckpoint().load_checkpoint(checkpoint)["state_dict"]
    prefix = "estimator."
    estimator.load_state_dict({key.removeprefix(prefix): value for key, value in state.items()})
