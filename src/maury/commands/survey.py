"""``maury survey ...``: a catalogue from many files."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from maury.commands.choices import (
    InstrumentOption,
    LabelsOption,
    MaskOption,
    PriorOption,
    priors_for,
    read_masks,
    read_priors,
)
from maury.commands.console import (
    BAD_INPUT,
    BudgetOption,
    ModelOption,
    NoiseModel,
    NoiseOption,
    NuisancesOption,
    SeedOption,
    err,
    out,
    print_error,
)
from maury.commands.progress import stoppable
from maury.constants import BUDGET, DEFAULT_MODEL
from maury.errors import MauryError

if TYPE_CHECKING:
    from maury.survey.run import Progress
    from maury.survey.store import SurveySettings


# Seconds between lines of a log that no terminal shows, and between looks at tasks that are not done yet.
_LOG_EVERY, _LOOK_EVERY = 60.0, 5.0


class Device(StrEnum):
    """Where workers compute."""

    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"


# Draws of each spectrum, and of one that is not verified.
_DRAWS, _FLOW_DRAWS = 256, 64


class _RunByDefault(TyperGroup):
    """``maury survey INPUT...`` is ``maury survey run INPUT...``."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Put ``run`` before what is no command."""
        if args and args[0] not in (*self.commands, "--help", "-h"):
            args = ["run", *args]
        return super().parse_args(ctx, args)


app = typer.Typer(
    help="Infer many spectra into a catalogue: maury survey INPUT... --output DIR.",
    no_args_is_help=True,
    cls=_RunByDefault,
)

Folder = Annotated[Path, typer.Argument(metavar="DIR", help="A survey's folder.")]
Scheduler = Annotated[
    str | None,
    typer.Option(help="Address of a Dask scheduler; by default a cluster of this machine's cores."),
]
Workers = Annotated[
    int | None,
    typer.Option(
        help="Workers of the local cluster; by default one for each GPU, or one for each core.", min=1
    ),
]
DeviceOption = Annotated[
    Device,
    typer.Option(
        help="auto uses a GPU where a worker has one; cuda sends tasks only to workers with the Dask resource GPU."
    ),
]


@app.command("run")
def survey_run(
    context: typer.Context,
    inputs: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="INPUT...",
            help="Files, patterns, folders, HATS catalogues of spectra, lists (.txt), tables of paths (.csv, allVisit*).",
        ),
    ] = None,
    output: Annotated[Path, typer.Option(help="Folder of the survey.")] = Path("survey"),
    catalogue: Annotated[
        list[Path] | None, typer.Option("--from", help="A table with a column of paths.")
    ] = None,
    model: ModelOption = DEFAULT_MODEL,
    scheduler: Scheduler = None,
    workers: Workers = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue the survey in the folder.")] = False,
    flow_only: Annotated[
        bool,
        typer.Option("--flow-only", help="Only the network's posterior, without verification: much faster."),
    ] = False,
    conformal: Annotated[
        bool,
        typer.Option(
            "--conformal",
            help="With --flow-only: recalibrate the intervals so that they hold the stated share of truths.",
        ),
    ] = False,
    draws: Annotated[
        int | None,
        typer.Option(
            help="Draws for each spectrum; by default 256, or 64 evenly spread ones with --flow-only.", min=16
        ),
    ] = None,
    keep: Annotated[int, typer.Option(help="Draws to keep of each spectrum.", min=0)] = 0,
    noise: NoiseOption = NoiseModel.auto,
    nuisances: NuisancesOption = "default",
    prior: PriorOption = None,
    mask: MaskOption = None,
    labels: LabelsOption = "basic",
    instrument: InstrumentOption = None,
    files_per_task: Annotated[
        int, typer.Option(help="Files in each task; a task is finished and committed as a whole.", min=1)
    ] = 50,
    budget: BudgetOption = BUDGET,
    device: DeviceOption = Device.auto,
    seed: SeedOption = 0,
) -> None:
    """Infer every spectrum of many files into a catalogue (Parquet). To go on with it: --output DIR --resume.

    Example: maury survey 'visits/**/*.fits' --output my-survey
    """
    import maury
    from maury.inference.abundances import tied_labels
    from maury.inference.options import FEWEST_DRAWS
    from maury.models import folder as model_folder
    from maury.models import load_model
    from maury.networks.conformal import FILE as CONFORMAL
    from maury.survey.inputs import FEWEST_ROWS, expand
    from maury.survey.run import prepare
    from maury.survey.store import Store, SurveySettings, model_version

    stored = Store(output).settings if resume and (output / "survey.json").exists() else None
    if stored is not None:
        model = model if _given(context, "model") else stored.model
        flow_only = flow_only if _given(context, "flow_only") else stored.stage == "flow"
        conformal = conformal if _given(context, "conformal") else stored.conformal
    path = model_folder(model)
    if conformal and not flow_only:
        raise MauryError("--conformal recalibrates the flow's intervals: it goes with --flow-only")
    if conformal and not (path / CONFORMAL).exists():
        raise MauryError(
            f"--conformal: {model} has no {CONFORMAL}; maury check calibration --output DIR writes one, to be copied into its folder"
        )
    draws = draws or (_FLOW_DRAWS if flow_only else _DRAWS)
    if not flow_only and draws < FEWEST_DRAWS:
        raise MauryError(f"--draws {draws}: verification needs {FEWEST_DRAWS} to judge its weights")
    priors = read_priors(prior or [])
    if priors and flow_only:
        raise MauryError("--flow-only knows no priors but the model's: leave --prior out, or --flow-only")
    if labels != "basic" and flow_only:
        raise MauryError("--flow-only gives the network's labels: leave --labels out, or --flow-only")
    if priors:
        priors = priors_for(load_model(path), priors)
    if labels != "basic":
        # Names that the library does not have are told before anything is begun.
        tied_labels(labels, load_model(path).problem)
    wanted = SurveySettings(
        # Workers may run in another folder.
        model=str(path.absolute()) if path == Path(model) else model,
        model_version=model_version(path),
        maury_version=maury.__version__,
        draws=draws,
        noise=noise.value,
        nuisances=nuisances,
        stage="flow" if flow_only else "verified",
        conformal=conformal,
        budget=budget,
        seed=seed,
        keep=keep,
        files_per_task=files_per_task,
        priors=priors,
        masks=tuple(read_masks(mask or [])),
        labels=labels,
        instrument="" if instrument is None else _instrument(instrument),
    )
    settings = wanted if stored is None else _as_begun(context, stored, wanted)
    pieces = max(settings.files_per_task, FEWEST_ROWS)
    files = (lambda: expand(inputs or [], catalogue or [], pieces)) if inputs or catalogue else None
    tasks = prepare(output, settings, files, resume)
    _run(output, tasks, scheduler, workers, device)


# Fields of a survey's settings by the option that sets them.
_OPTIONS = {
    "model": "model",
    "draws": "draws",
    "noise": "noise",
    "nuisances": "nuisances",
    "stage": "flow_only",
    "conformal": "conformal",
    "budget": "budget",
    "seed": "seed",
    "keep": "keep",
    "files_per_task": "files_per_task",
    "priors": "prior",
    "masks": "mask",
    "labels": "labels",
    "instrument": "instrument",
}


def _instrument(name: str) -> str:
    """Return the name of an instrument, or its file as workers in other folders find it; one that cannot be read is refused."""
    from maury.spectra.instrument import read_instrument, shipped_instruments

    read_instrument(name)
    return name if name in shipped_instruments() else str(Path(name).absolute())


def _given(context: typer.Context, option: str) -> bool:
    source = context.get_parameter_source(option)
    return source is not None and source.name != "DEFAULT"


def _as_begun(context: typer.Context, stored: SurveySettings, wanted: SurveySettings) -> SurveySettings:
    """Return the settings that a survey was begun with, but for those that the command line names, and for the versions of now."""
    now = {field: getattr(wanted, field) for field, option in _OPTIONS.items() if _given(context, option)}
    now |= {field: getattr(wanted, field) for field in ("model_version", "maury_version")}
    return stored.model_copy(update=now)


def _run(folder: Path, tasks: int, scheduler: str | None, workers: int | None, device: Device) -> None:
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
    from rich.progress import Progress as Bar

    from maury.survey.run import Progress as SurveyProgress
    from maury.survey.run import cluster, supervise
    from maury.survey.store import Store

    store = Store(folder)
    command = f"maury survey --output {folder} --resume"
    columns = (TextColumn("tasks"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}"))
    with (
        stoppable(lambda: f"tasks that are done are in {folder}; {command} goes on"),
        Bar(*columns, console=err, disable=not err.is_terminal) as bar,
    ):
        line, told, latest = bar.add_task("", total=tasks), time.monotonic(), SurveyProgress(tasks)

        def show(progress: Progress) -> None:
            nonlocal told, latest
            latest, text = progress, _text(progress)
            bar.update(line, completed=progress.done, description=text)
            if not err.is_terminal and time.monotonic() - told > _LOG_EVERY:
                told = time.monotonic()
                err.print(f"{progress.done}/{tasks} tasks, {text}", highlight=False, soft_wrap=True)

        def look() -> None:
            """Tell how far tasks are that are not done yet."""
            latest.underway = store.underway()
            show(latest)

        with _every(_LOOK_EVERY, look):
            found = supervise(
                folder,
                lambda: cluster(scheduler, workers or _local_workers(device)),
                show,
                tasks=tasks,
                device=device.value,
            )
    out.print(
        f"{found.rows} rows ({found.flagged} flagged) and {found.errors} failures are in {folder}; "
        f"{found.fresh} spectra by this run, {found.rate:.2f} a second",
        highlight=False,
        soft_wrap=True,
    )


@contextmanager
def _every(seconds: float, call: Callable[[], None]) -> Iterator[None]:
    """Call something now and then, beside whatever else is done."""
    end = threading.Event()

    def repeat() -> None:
        while not end.wait(seconds):
            call()

    thread = threading.Thread(target=repeat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        end.set()
        thread.join()


def _text(progress: Progress) -> str:
    left = progress.left
    rate = progress.rate
    pace = f"{rate:.1f} stars/s" if rate >= 1 else f"{1 / rate:.0f} s a star" if rate > 0 else ""
    parts = (
        f"{progress.rows + progress.underway} done, {progress.errors} failed, {progress.flagged} flagged",
        pace,
        "" if left is None else f"{timedelta(seconds=round(left))} left",
        progress.dashboard,
        progress.note,
    )
    return "  ".join(part for part in parts if part)


def _local_workers(device: Device) -> int:
    import torch

    gpus = 0 if device is Device.cpu else torch.cuda.device_count()
    return gpus or os.cpu_count() or 1


@app.command("verify")
def survey_verify(folder: Folder) -> None:
    """Check that every input is accounted for exactly once and that every part is as it was written.

    Example: maury survey verify my-survey
    """
    from dataclasses import asdict

    from maury.survey.verify import verify

    found = verify(folder)
    out.print_json(data={**asdict(found), "whole": found.whole})
    if not found.whole:
        raise typer.Exit(BAD_INPUT)


@app.command("repair")
def survey_repair(
    folder: Folder,
    scheduler: Scheduler = None,
    workers: Workers = None,
    device: DeviceOption = Device.auto,
) -> None:
    """Infer again what is missing, damaged or changed.

    Example: maury survey repair my-survey
    """
    from maury.survey.verify import repair, verify

    found = verify(folder)
    for number, reason in found.damaged.items():
        print_error(f"task {number}: {reason}")
    again = repair(folder, found)
    if again:
        _run(folder, found.tasks, scheduler, workers, device)
    out.print(f"{again} tasks were done again", highlight=False)


@app.command("export")
def survey_export(
    folder: Folder,
    output: Annotated[
        Path,
        typer.Argument(
            metavar="FILE", help="Ends in .fits, .vot, .xml or .parquet; .hats is a folder for LSDB."
        ),
    ],
    positioned: Annotated[
        bool, typer.Option("--positioned", help="Only rows whose position is known.")
    ] = False,
) -> None:
    """Write the catalogue as one file (FITS, VOTable, Parquet) or for LSDB (HATS), units and UCDs kept.

    Example: maury survey export my-survey catalogue.fits
    """
    from maury.survey.export import export

    out.print(f"{export(folder, output, positioned)} rows are in {output}", highlight=False, soft_wrap=True)
