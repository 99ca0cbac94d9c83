"""What is shown of a training: epochs, log density and the time left, and nothing of the libraries beneath."""

from __future__ import annotations

import logging
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from maury.commands.progress import duration, shown
from maury.training.fit import Callback

Tell = Callable[[float, float | None], None]


def _tell_nobody(done: float, total: float | None) -> None:
    pass


@contextmanager
def quiet() -> Iterator[None]:
    """Silence what Lightning says of hardware, workers and its makers' services; errors are told."""
    logger = logging.getLogger("lightning.pytorch")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module=r"lightning|torch")
            yield
    finally:
        logger.setLevel(before)


class Epochs(Callback):
    """Counts epochs, and keeps the validation's log density."""

    def __init__(self) -> None:
        self.epoch, self.epochs = 0, 0
        self.last: float | None = None
        self.best: float | None = None
        self._share = self._first = 0.0
        self._began = time.monotonic()
        self.tell: Tell = _tell_nobody

    def __getstate__(self) -> dict[str, Any]:
        """Leave the terminal behind: other processes of a training have none."""
        return self.__dict__ | {"tell": _tell_nobody}

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Begin to count: what an earlier run did takes no time of this one."""
        self.epochs, self._began = trainer.max_epochs or 0, time.monotonic()
        self._first = self._share = pl_module.progress

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *_: Any) -> None:
        """Count a step."""
        self.epoch, self._share = trainer.current_epoch, pl_module.progress
        self.tell(self.epoch, self.epochs)

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        """Keep what the epoch has come to."""
        if (loss := trainer.callback_metrics.get("val_loss")) is not None:
            self.last = -float(loss)
            self.best = self.last if self.best is None else max(self.best, self.last)
            self.tell(self.epoch + 1, self.epochs)

    def in_words(self) -> str:
        """Write ``log density 3.41 nats (best 3.52), 0:01:20 left``."""
        parts = []
        if self.last is not None and self.best is not None:
            parts.append(f"log density {self.last:.2f} nats (best {self.best:.2f})")
        done = self._share - self._first
        if done > 0:
            parts.append(f"{duration((1 - self._share) / done * (time.monotonic() - self._began))} left")
        return ", ".join(parts)


@contextmanager
def epochs() -> Iterator[Callback]:
    """Show a training as it goes: a bar on a terminal, a line a minute elsewhere."""
    callback = Epochs()
    with shown("epochs", callback.in_words) as callback.tell:
        yield callback
