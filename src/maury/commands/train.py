"""``maury train``, ``maury simulate`` and ``maury reproduce``."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from maury.commands.console import TrustOption, complete_model, err, make_folder, stages
from maury.commands.progress import counting, stoppable
from maury.errors import MauryError


class Experiment(StrEnum):
    """Experiments of Gupta et al. 2024."""

    sine = "sine"
    three = "three"
    five = "five"


class Preset(StrEnum):
    """How much time an experiment is given."""

    # A name that is no keyword of Python.
    try_ = "try"
    laptop = "laptop"
    paper = "paper"


def train(
    config: Annotated[
        Path,
        typer.Argument(
            metavar="CONFIG.toml", help="A file such as assets/kurucz-apogee/train.toml, or 'paper'."
        ),
    ],
    output: Annotated[Path, typer.Option(help="Folder to write to.")],
    trust_code: TrustOption = False,
) -> None:
    """Train an estimator; run it again to go on where it was stopped.

    Example: maury train train.toml --output models/mine
    """
    from maury.commands.epochs import epochs, quiet
    from maury.report.training import draw_loss
    from maury.toml import read_config
    from maury.training.config import PRESETS, TrainConfig, preset
    from maury.training.train import train as run

    make_folder(output)
    file = preset(str(config)) if str(config) in PRESETS else config
    with _stoppable_training(output), quiet(), epochs() as shown:
        try:
            run(read_config(file, TrainConfig), output, progress=shown, trust_code=trust_code)
        finally:
            # Of a run that was stopped as well.
            if (output / "estimator.safetensors").exists():
                draw_loss(output)
    err.print(f"The estimator and its loss curve are in {output}", highlight=False, soft_wrap=True)


@contextmanager
def _stoppable_training(output: Path) -> Iterator[None]:
    """Let Ctrl-C end a training in one line; Lightning turns it into an exit of the program, and then ignores the signal."""
    handler = signal.getsignal(signal.SIGINT)
    with stoppable(
        lambda: f"the last epoch that was complete is in {output}; the same command goes on from there"
    ):
        try:
            yield
        except SystemExit:
            raise KeyboardInterrupt from None
        finally:
            if threading.current_thread() is threading.main_thread():
                signal.signal(signal.SIGINT, handler)


def simulate(
    output: Annotated[Path, typer.Option(help="The HDF5 file to write.")],
    number: Annotated[int | None, typer.Option(help="Number of spectra.", min=1)] = None,
    model: Annotated[
        str | None,
        typer.Option(help="Name of a shipped model, or a folder.", autocompletion=complete_model),
    ] = None,
    prior: Annotated[Path | None, typer.Option(help=r"TOML file with \[priors] and \[fixed].")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of all random draws.", min=0, max=2**62 - 1)] = None,
    config: Annotated[
        Path | None, typer.Option(help="TOML file with all settings: pixels, noise, masks, continua.")
    ] = None,
) -> None:
    """Simulate spectra for training, into a file; run it again to go on where it was stopped.

    Example: maury simulate --number 50000 --output training.h5
    """
    from maury.toml import read_toml, validate
    from maury.training.simulations import PriorConfig, SimulateConfig
    from maury.training.simulations import simulate as run

    entries = read_toml(config) if config else {}
    if prior:
        validate(prior, read_toml(prior), PriorConfig)
        entries |= read_toml(prior)
    given = {"number": number, "model": model, "seed": seed}
    entries |= {key: value for key, value in given.items() if value is not None}
    if "number" not in entries:
        raise MauryError("how many spectra? --number N")
    settings = validate(config or Path("simulate"), entries, SimulateConfig)
    with (
        stoppable(
            lambda: f"the spectra so far are kept beside {output}; the same command goes on from there"
        ),
        counting("spectra", settings.number) as progress,
    ):
        run(settings, output, progress=progress)
    err.print(f"{settings.number} spectra are in {output}", highlight=False, soft_wrap=True)


def reproduce(
    experiment: Annotated[Experiment, typer.Argument(help="Which of their experiments to run.")],
    output: Annotated[Path, typer.Option(help="Folder for reports and pictures.")],
    preset: Annotated[
        Preset,
        typer.Option(help="try: all parts in a minute or two; laptop: two cores, 20 minutes; paper: a GPU."),
    ] = Preset.laptop,
    config: Annotated[Path | None, typer.Option(help="TOML file in place of the preset.")] = None,
    library: Annotated[
        str | None,
        typer.Option(
            help="Name or folder of the model in place of the preset's, with the priors of Table 1.",
            autocompletion=complete_model,
        ),
    ] = None,
) -> None:
    """Repeat an experiment of Gupta et al. 2024: simulate, train, infer, and compare with MCMC; run it again to go on.

    Example: maury reproduce three --output runs/three
    """
    from maury.commands.epochs import quiet
    from maury.reproduce.config import SineConfig, read_experiment
    from maury.reproduce.sine import run_sine
    from maury.reproduce.stars import run_stars

    settings = read_experiment(experiment.value, preset.value, config, library)
    with _stoppable_training(output), quiet(), stages("reading") as tell:
        if isinstance(settings, SineConfig):
            run_sine(settings, output, progress=tell)
        else:
            run_stars(experiment.value, settings, output, progress=tell)
    err.print(f"{output / 'report.md'}", highlight=False, soft_wrap=True)
