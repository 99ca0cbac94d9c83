"""``maury survey ...``: a catalogue from many files."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from maury.console import BAD_INPUT, ModelOption, NoiseModel, NoiseOption, err, out, print_error

if TYPE_CHECKING:
    from maury.survey.run import Progress
    from maury.survey.store import Settings


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
    int | None, typer.Option(help="Workers of the local cluster; one a core by default.", min=1)
]
DeviceOption = Annotated[str, typer.Option(help="cpu or cuda, for each worker.")]


@app.command("run")
def survey_run(
    inputs: Annotated[
        list[str] | None, typer.Argument(metavar="INPUT...", help="Files, patterns, folders, lists (.txt).")
    ] = None,
    output: Annotated[Path, typer.Option(help="Folder of the survey.")] = Path("survey"),
    catalogue: Annotated[
        list[Path] | None, typer.Option("--from", help="A table with a column of paths.")
    ] = None,
    model: ModelOption = "kurucz-apogee",
    scheduler: Scheduler = None,
    workers: Workers = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the survey in the folder.")] = False,
    flow_only: Annotated[
        bool, typer.Option("--flow-only", help="The flow's posterior, not verified: much faster.")
    ] = False,
    draws: Annotated[int, typer.Option(help="Draws of each spectrum.", min=100)] = 256,
    keep: Annotated[int, typer.Option(help="Draws of each spectrum that are kept.", min=0)] = 0,
    noise: NoiseOption = NoiseModel.auto,
    files_per_task: Annotated[
        int, typer.Option(help="Files that are done and committed together.", min=1)
    ] = 50,
    device: DeviceOption = "cpu",
    seed: Annotated[int, typer.Option(min=0)] = 0,
) -> None:
    """Infer every spectrum of many files into a catalogue (Parquet); run it again with --resume to go on.

    Example: maury survey 'visits/**/*.fits' --output my-survey
    """
    import maury
    from maury.models import folder as model_folder
    from maury.survey.inputs import expand
    from maury.survey.run import cluster, prepare
    from maury.survey.store import Settings, model_version

    settings = Settings(
        model=model,
        model_version=model_version(model_folder(model)),
        maury_version=maury.__version__,
        draws=draws,
        noise=noise.value,
        stage="flow" if flow_only else "verified",
        seed=seed,
        keep=keep,
        files_per_task=files_per_task,
    )  # fmt: skip
    tasks = prepare(output, settings, lambda: expand(inputs or [], catalogue or []), resume)
    with cluster(scheduler, workers or os.cpu_count() or 1) as client:
        _show(output, client, tasks, settings, device)


def _show(folder: Path, client: object, tasks: int, settings: Settings, device: str) -> None:
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    from maury.survey.run import run

    columns = (
        TextColumn("tasks"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), TextColumn("{task.description}"),
    )  # fmt: skip
    with Bar(*columns, console=err, disable=not err.is_terminal) as bar:
        line = bar.add_task("", total=tasks)

        def show(progress: Progress) -> None:
            text = (
                f"{progress.rows} rows, {progress.flagged} flagged, {progress.errors} failed, "
                f"{progress.rate:.1f} spectra/s  {progress.dashboard}"
            )
            bar.update(line, completed=progress.done, description=text)

        found = run(folder, client, show, tasks=tasks, device=device)  # type: ignore[arg-type]
    out.print(
        f"{found.rows} rows ({found.flagged} flagged) and {found.errors} failures are in {folder}; "
        f"{found.fresh} spectra by this run, {found.rate:.2f} a second",
        highlight=False,
        soft_wrap=True,
    )


@app.command("verify")
def survey_verify(folder: Folder) -> None:
    """Prove that every input is accounted for exactly once and every part is as it was written.

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
    device: DeviceOption = "cpu",
) -> None:
    """Do again what is missing, damaged or changed.

    Example: maury survey repair my-survey
    """
    from maury.survey.run import cluster
    from maury.survey.store import Store
    from maury.survey.verify import repair, verify

    found = verify(folder)
    for number, reason in found.damaged.items():
        print_error(f"task {number}: {reason}")
    again = repair(folder, found)
    if again:
        with cluster(scheduler, workers or os.cpu_count() or 1) as client:
            _show(folder, client, found.tasks, Store(folder).settings, device)
    out.print(f"{again} tasks were done again", highlight=False)


@app.command("export")
def survey_export(
    folder: Folder,
    output: Annotated[Path, typer.Argument(metavar="FILE", help="Ends in .fits, .vot or .xml.")],
) -> None:
    """Write the catalogue as one FITS file or VOTable, units and UCDs kept.

    Example: maury survey export my-survey catalogue.fits
    """
    from maury.survey.export import export

    out.print(f"{export(folder, output)} rows are in {output}", highlight=False, soft_wrap=True)
