"""The command line: parses, calls, prints."""

from __future__ import annotations

import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from maury import __version__
from maury.commands import check_app, models_app, reproduce
from maury.console import ModelOption, err, make_folder, out, print_error, print_json
from maury.errors import Failure, MauryError

if TYPE_CHECKING:
    from maury.posterior.result import Posterior

app = typer.Typer(
    help="A stellar spectrum in, a calibrated and verified posterior over the star's parameters out.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(models_app, name="models")
app.add_typer(check_app, name="check")
app.command()(reproduce)

BAD_INPUT, INTERNAL = 2, 1


class Device(StrEnum):
    """Where the forward model runs."""

    cpu = "cpu"
    cuda = "cuda"


class NoiseModel(StrEnum):
    """How residuals scatter."""

    auto = "auto"
    independent = "independent"
    correlated = "correlated"


OutputOption = Annotated[Path, typer.Option("--output", help="Folder to write to.")]


def _version(show: bool) -> None:
    if show:
        out.print(f"maury {__version__}", highlight=False)
        raise typer.Exit


@app.callback()
def _root(
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    pass


@app.command()
def infer(
    files: Annotated[
        list[Path],
        typer.Argument(metavar="FILE...", help="apVisit, apStar, aspcapStar, mwmVisit, mwmStar or a table."),
    ],
    model: Annotated[
        str, typer.Option(help="Name of a shipped model, a folder, or 'auto': the evidence chooses.")
    ] = "kurucz-apogee",
    draws: Annotated[int, typer.Option(help="Importance draws a round.", min=100)] = 1000,
    output: Annotated[Path | None, typer.Option(help="Folder for draws, table and pictures.")] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="One JSON object a spectrum on standard output.")
    ] = False,
    device: Annotated[Device, typer.Option(help="Where the forward model runs.")] = Device.cpu,
    seed: Annotated[int, typer.Option(help="Seed of all random draws.")] = 0,
    noise: Annotated[
        NoiseModel, typer.Option(help="Residuals: auto lets the spectrum say whether they hang together.")
    ] = NoiseModel.auto,
    false_alarm: Annotated[
        float, typer.Option(help="Share of good spectra that may be flagged misfit, or novel.")
    ] = 0.01,
) -> None:
    """Infer the labels of stars from their spectra; a file may hold many.

    Example: maury infer apVisit-r13-9518-57729-104.fits --output results
    """
    from maury.models import load_model
    from maury.posterior.infer import AUTO, infer_files

    if not 0 < false_alarm < 1:
        raise MauryError(f"--false-alarm must lie between 0 and 1, not {false_alarm:g}")
    loaded = model if model == AUTO else load_model(model, device.value)
    if output:
        make_folder(output)
    rows: list[dict[str, Any]] = []
    names = dict(zip(files, _unique_stems(files), strict=True))
    with err.status("reading") as status:
        found = infer_files(
            files, loaded, draws=draws, seed=seed, noise=noise.value, false_alarm=false_alarm,
            progress=status.update,
        )  # fmt: skip
        for item in found:
            if isinstance(item, Failure):
                print_error(_with_name(item.path, item.reason))
                rows.append(
                    {
                        "file": str(item.path),
                        "index": item.index,
                        "flag_bad": item.flag,
                        "reason": item.reason,
                    }
                )
                if as_json:
                    print_json(_failed_json(item, model))
                continue
            if as_json:
                print_json(item.to_json())
            else:
                _print_posterior(item)
            rows.append(item.row())
            if output:
                index = item.spectrum.index
                name = names[Path(item.spectrum.path)] + (f"-{index}" if index else "")
                try:
                    _write_posterior(item, output, name)
                except (MauryError, OSError) as error:
                    # The table and the other stars' files are still worth having.
                    print_error(str(error))
    if output:
        from maury.report.tables import write_summary

        write_summary(output / "summary.ecsv", rows)
        err.print(f"written to {output}", highlight=False, soft_wrap=True)
    if all("reason" in row for row in rows):
        raise typer.Exit(BAD_INPUT)


def _with_name(file: Path, reason: str) -> str:
    return reason if str(file) in reason else f"{file}: {reason}"


def _failed_json(failure: Failure, model: str) -> dict[str, Any]:
    empty = (
        "labels",
        "v_bary",
        "jitter",
        "rchi2",
        "ess",
        "draws",
        "efficiency",
        "khat",
        "log_evidence",
        "method",
        "seconds",
    )
    start: dict[str, Any] = {"file": str(failure.path), "index": failure.index, "id": None, "model": model}
    return (
        start
        | dict.fromkeys(empty)
        | {"flag_warn": [], "flag_bad": [failure.flag], "error": _with_name(failure.path, failure.reason)}
    )


def _print_posterior(posterior: Posterior, truth: dict[str, float] | None = None) -> None:
    from maury.report.tables import summary_table

    out.print(summary_table(posterior, truth))


def _write_posterior(
    posterior: Posterior, folder: Path, name: str, truth: dict[str, float] | None = None
) -> list[Path]:
    from maury.report.plots import save_figure

    pictures = [folder / f"{name}_corner.png", folder / f"{name}_fit.png"]
    posterior.save(folder / f"{name}.nc")
    save_figure(posterior.plot_corner(truth), pictures[0])
    save_figure(posterior.plot_fit(), pictures[1])
    return pictures


def _unique_stems(files: list[Path]) -> list[str]:
    """File stems, numbered where two files share one."""
    seen: dict[str, int] = {}
    names = []
    for file in files:
        stem = file.name.split(".fits")[0]
        seen[stem] = seen.get(stem, 0) + 1
        names.append(stem if seen[stem] == 1 else f"{stem}_{seen[stem]}")
    return names


@app.command()
def demo(
    output: OutputOption = Path("demo"),
    model: ModelOption = "kurucz-apogee",
    seed: Annotated[int, typer.Option()] = 1,
) -> None:
    """Simulate an APOGEE visit, infer it, and show the truth beside the posterior."""
    from maury.demo import write_demo
    from maury.models import load_model
    from maury.posterior.infer import infer as infer_spectrum

    make_folder(output)
    loaded = load_model(model)
    path = output / "apVisit-demo.fits"
    truth = write_demo(path, loaded, seed)
    posterior = infer_spectrum(path, loaded, seed=seed)
    _print_posterior(posterior, truth)
    pictures = _write_posterior(posterior, output, "apVisit-demo", truth)
    out.print(f"spectrum: {path}", highlight=False, soft_wrap=True)
    for picture in pictures:
        out.print(f"picture:  {picture}", highlight=False, soft_wrap=True)


@app.command()
def train(
    config: Annotated[
        Path,
        typer.Argument(
            metavar="CONFIG.toml", help="A file such as assets/kurucz-apogee/train.toml, or 'paper'."
        ),
    ],
    output: OutputOption,
) -> None:
    """Train an estimator; run it again to go on where it was stopped."""
    from maury.libraries.build import read_config
    from maury.training.config import PRESETS, TrainConfig, preset
    from maury.training.train import train as run

    file = preset(str(config)) if str(config) in PRESETS else config
    run(read_config(file, TrainConfig), output)
    err.print(f"estimator and loss curve are in {output}", highlight=False, soft_wrap=True)


@app.command()
def simulate(
    output: Annotated[Path, typer.Option(help="The file, HDF5.")],
    number: Annotated[int | None, typer.Option(help="Spectra.", min=1)] = None,
    model: Annotated[str | None, typer.Option(help="Name of a shipped model, or a folder.")] = None,
    prior: Annotated[Path | None, typer.Option(help="TOML file with [priors] and [fixed].")] = None,
    seed: Annotated[int | None, typer.Option(min=0)] = None,
    config: Annotated[
        Path | None, typer.Option(help="TOML file with all of it: pixels, noise, masks, continua.")
    ] = None,
) -> None:
    """Simulate spectra into a file, to train on; run it again to go on where it was stopped.

    Example: maury simulate --number 50000 --output training.h5
    """
    from rich.progress import Progress

    from maury.libraries.build import read_toml, validate
    from maury.training.simulate import PriorConfig, SimulateConfig
    from maury.training.simulate import simulate as run

    entries = read_toml(config) if config else {}
    if prior:
        validate(prior, read_toml(prior), PriorConfig)
        entries |= read_toml(prior)
    given = {"number": number, "model": model, "seed": seed}
    entries |= {key: value for key, value in given.items() if value is not None}
    if "number" not in entries:
        raise MauryError("how many spectra? --number N")
    settings = validate(config or Path("simulate"), entries, SimulateConfig)
    with Progress(console=err, disable=not err.is_terminal) as bar:
        task = bar.add_task("spectra", total=settings.number)
        run(settings, output, progress=lambda done, total: bar.update(task, completed=done, total=total))
    err.print(f"{settings.number} spectra are in {output}", highlight=False, soft_wrap=True)


def main() -> None:
    """Run the command line: bad input exits with 2, an internal error with 1, either with one line unless ``--debug``."""
    debug = "--debug" in sys.argv
    try:
        app()
    except MauryError as error:
        if debug:
            raise
        print_error(str(error))
        sys.exit(BAD_INPUT)
    except Exception as error:
        if debug:
            raise
        message = f"internal error, please report it: {type(error).__name__}: {error}"
        err.print(message, style="red", highlight=False, soft_wrap=True, markup=False)
        sys.exit(INTERNAL)


if __name__ == "__main__":
    main()
