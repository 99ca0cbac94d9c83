"""Train an estimator on spectra made on the fly or simulated before: ``maury train CONFIG.toml --output DIR``."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import lightning
import torch
from lightning.pytorch.callbacks import Callback
from rich.progress import Progress
from torch import Tensor

from maury.errors import ConfigError
from maury.models import problem_card
from maury.networks.config import Setting
from maury.networks.estimator import Estimator
from maury.networks.novelty import Novelty
from maury.training.config import TrainConfig, comparable
from maury.training.data import Batch, MeasuredBatch, OnTheFly, Source, Stored, spectra
from maury.training.fit import fit, take_weights
from maury.training.measured import FOLDER, Kept, measure, measured, side_by_side
from maury.training.simulations import ProblemConfig, SimulateConfig, Simulator, build_simulator
from maury.training.store import Simulations, differing
from maury.training.visits import simulator_of


def _sources(config: TrainConfig) -> tuple[Simulator, ProblemConfig, Source, list[Batch]]:
    """Return the simulator, what describes it, the training batches, and the validation set."""
    if config.simulations is None:
        problem = config.problem or ProblemConfig()
        simulator = simulator_of(problem)
        draw, labels = spectra(simulator), simulator.problem.stellar
        denser = spectra(simulator, config.denser) if config.denser else draw
        source: Source = OnTheFly(denser, labels, config.batch, config.epoch, config.seed + 1)
        # At least one batch, however small the set: a mean over nothing is NaN.
        size, number = min(256, config.validation), max(1, config.validation // 256)
        held_out = OnTheFly(draw, labels, size, number, config.seed + 2)
        return simulator, problem, source, [held_out.batch(i) for i in range(number)]
    file = Simulations.open(config.simulations)
    problem = SimulateConfig(**file.config)
    simulator = build_simulator(problem)
    n = len(file)
    first = n - max(1, round(config.validation_share * n))
    if first < config.batch:
        raise ConfigError(f"{file.path}: {n} spectra are too few for batches of {config.batch}")
    source = Stored(file, simulator, (0, first), config.batch, config.seed + 1)
    held = Stored(file, simulator, (first, n), min(256, n - first), config.seed + 3)
    return simulator, problem, source, [held.batch(i) for i in range(held.length)]


def train(
    config: TrainConfig, output: Path, *, progress: Callback | None = None, trust_code: bool = False
) -> Estimator:
    """Train, or go on training if ``output`` holds a checkpoint; write the estimator, its card and its loss curve there.

    Parameters
    ----------
    config
        What to train, and on what.
    output
        Folder.
    progress
        Told what goes on, as Lightning tells its callbacks.
    trust_code
        Whether a featurizer of the user's, which the configuration names, may be imported: that runs its code.

    Raises
    ------
    ConfigError
        If ``output`` holds the checkpoint of another configuration.
    ModelError
        If a file of simulations cannot be read, or the loss is not finite any more.
    """
    output.mkdir(parents=True, exist_ok=True)
    settings = output / "config.json"
    wanted = comparable(config)
    if settings.exists():
        stored = json.loads(settings.read_text(encoding="utf-8"))
        if stored != wanted:
            raise ConfigError(
                f"{output}: holds a training with another configuration ({differing(stored, wanted)}); choose a new --output"
            )
    settings.write_text(json.dumps(wanted, indent=1), encoding="utf-8")

    lightning.seed_everything(config.seed, verbose=False)
    simulator, described, source, validation = _sources(config)
    problem = simulator.problem
    setting = Setting(problem, simulator.grid.n_pixels, seed=config.seed, trust_code=trust_code)
    card = {
        "emulator": described.model,
        "limb_darkening": described.limb_darkening,
        "problem": problem_card(problem),
        "training": config.model_dump(mode="json", exclude={"network"}),
    }
    estimator = Estimator(problem.stellar, config.network, setting, card)
    if config.keep and config.start is not None:
        source, kept = _kept(estimator, config, source, validation, output, progress is not None)
        trained = fit(estimator, config, source, kept, output, progress=progress)
        trained.card["spectra_measured"] = len(source.whole.u)
        trained.save(output / "estimator.safetensors")
    else:
        trained = fit(estimator, config, source, validation, output, progress=progress)
    if config.novelty:
        novelty_of(trained, simulator, config.novelty, config.seed).save(output / "novelty.safetensors")
    return trained


def _kept(
    estimator: Estimator,
    config: TrainConfig,
    source: Source,
    validation: list[Batch],
    output: Path,
    progress: bool,
) -> tuple[Kept, list[MeasuredBatch]]:
    """Measure spectra to train on, and the validation set, with the guess of the estimator that training starts from."""
    assert isinstance(source, OnTheFly)
    assert config.start is not None
    take_weights(estimator, config.start)
    if config.accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available():
        estimator.to("cuda")
    held_out = list(side_by_side(partial(measured, estimator.eval()), validation))
    number = max(1, config.keep // config.batch)
    with Progress(disable=not progress) as bar:
        task = bar.add_task("measured", total=number)
        files = measure(
            estimator, source, number, output / FOLDER, config.keep_minutes,
            lambda done, total: bar.update(task, completed=done, total=total),
        )  # fmt: skip
    estimator.train()
    return Kept.read(files, config.batch, config.seed + 5), held_out


def novelty_of(estimator: Estimator, simulator: Simulator, number: int = 12_000, seed: int = 0) -> Novelty:
    """Compute the out-of-distribution score of an estimator from new simulations."""

    def draw(n: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor | None]:
        simulation = simulator(n, generator)
        return simulation.flux, simulation.ivar, simulation.seen

    return Novelty.of(estimator, draw, number, seed + 4)
