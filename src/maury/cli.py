"""The command line: parses, calls, prints."""

from __future__ import annotations

import json
import logging
import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from maury import __version__
from maury.errors import Failure, MauryError

if TYPE_CHECKING:
    from maury.posterior.result import Posterior

app = typer.Typer(
    help="A stellar spectrum in, a calibrated and verified posterior over the star's parameters out.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
models_app = typer.Typer(help="List, show and build models.", no_args_is_help=True)
check_app = typer.Typer(help="Evidence that posteriors are right.", no_args_is_help=True)
app.add_typer(models_app, name="models")
app.add_typer(check_app, name="check")

BAD_INPUT, INTERNAL = 2, 1
out, err = Console(), Console(stderr=True)


class Device(StrEnum):
    """Where the forward model runs."""

    cpu = "cpu"
    cuda = "cuda"


class Library(StrEnum):
    """Model libraries that can be fetched."""

    phoenix_aces = "phoenix-aces"


ModelOption = Annotated[str, typer.Option("--model", help="Name of a shipped model, or a folder.")]
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
) -> None:
    """Infer the labels of stars from their spectra; a file may hold many.

    Example: maury infer apVisit-r13-9518-57729-104.fits --output results
    """
    from maury.models import load_model
    from maury.posterior.infer import AUTO, infer_files

    loaded = model if model == AUTO else load_model(model, device.value)
    if output:
        _make_folder(output)
    rows: list[dict[str, Any]] = []
    names = dict(zip(files, _unique_stems(files), strict=True))
    with err.status("reading") as status:
        found = infer_files(files, loaded, draws=draws, seed=seed, progress=status.update)
        for item in found:
            if isinstance(item, Failure):
                _print_error(_with_name(item.path, item.reason))
                rows.append(
                    {
                        "file": str(item.path),
                        "index": item.index,
                        "flag_bad": item.flag,
                        "reason": item.reason,
                    }
                )
                if as_json:
                    _print_json(_failed_json(item, model))
                continue
            if as_json:
                _print_json(item.to_json())
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
                    _print_error(str(error))
    if output:
        from maury.report.tables import write_summary

        write_summary(output / "summary.ecsv", rows)
        err.print(f"written to {output}", highlight=False, soft_wrap=True)
    if all("reason" in row for row in rows):
        raise typer.Exit(BAD_INPUT)


def _print_error(message: str) -> None:
    err.print(f"error: {message}", style="red", highlight=False, soft_wrap=True, markup=False)


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


def _finite(value: Any) -> Any:
    """Replace what JSON cannot hold by null."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, float) and not abs(value) < float("inf"):
        return None
    return value


def _print_json(entry: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(_finite(entry)) + "\n")
    sys.stdout.flush()


def _print_posterior(posterior: Posterior, truth: dict[str, float] | None = None) -> None:
    from maury.report.tables import summary_table

    out.print(summary_table(posterior, truth))


def _make_folder(path: Path) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise MauryError(f"{path}: cannot be made a folder ({error.strerror})") from None


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

    _make_folder(output)
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
        Path, typer.Argument(metavar="CONFIG.toml", help="See assets/kurucz-apogee/train.toml.")
    ],
    output: OutputOption,
) -> None:
    """Train an estimator; run it again to go on where it was stopped."""
    from maury.libraries.build import read_config
    from maury.training.train import TrainConfig
    from maury.training.train import train as run

    run(read_config(config, TrainConfig), output)
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


@models_app.command("list")
def models_list() -> None:
    """List the shipped models."""
    from rich.table import Table

    from maury.libraries.emulator import read_card
    from maury.models import shipped

    table = Table("model", "labels", "library")
    for name, path in shipped().items():
        card = read_card(path / "emulator.safetensors")
        ranges = (f"{x['name']} {x['prior']['low']:g}..{x['prior']['high']:g}" for x in card["labels"])
        table.add_row(name, "\n".join(ranges), card.get("reference", ""))
    out.print(table)


@models_app.command("show")
def models_show(name: Annotated[str, typer.Argument()]) -> None:
    """Print the cards of a model's emulator and estimator as JSON."""
    from maury.libraries.emulator import read_card
    from maury.models import folder

    path = folder(name)
    parts = [part for part in ("emulator", "estimator") if (path / f"{part}.json").exists()] or ["emulator"]
    cards = {part: read_card(path / f"{part}.safetensors") for part in parts}
    sys.stdout.write(json.dumps(cards, indent=1) + "\n")


@models_app.command("build")
def models_build(
    config: Annotated[
        Path, typer.Argument(metavar="CONFIG.toml", help="See assets/kurucz-apogee/emulator.toml.")
    ],
    output: Annotated[Path, typer.Option(help="Folder for emulator.safetensors and its card.")],
) -> None:
    """Compute an emulator from a model library; print its error."""
    from maury.libraries.build import build_from_file

    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    emulator = build_from_file(config)
    emulator.save(output / "emulator.safetensors")
    card = emulator.card
    sys.stdout.write(json.dumps(card.get("leave_one_out") or card["held_out"]) + "\n")


def _range(text: str, option: str) -> tuple[float, float]:
    """Read ``low:high`` or one number."""
    low, _, high = text.partition(":")
    try:
        values = float(low), float(high or low)
    except ValueError:
        values = (1.0, 0.0)
    if not values[0] <= values[1]:
        raise MauryError(f"{option} {text}: needs LOW:HIGH, such as 2300:7000, or one number")
    return values


@models_app.command("fetch")
def models_fetch(
    library: Annotated[Library, typer.Argument(help="Which library.")],
    output: Annotated[Path, typer.Option(help="The grid file, HDF5.")],
    band: Annotated[str, typer.Option(help="Wavelengths, Angstrom in vacuum.")] = "15000:17100",
    teff: Annotated[str, typer.Option(help="K.")] = "2300:7000",
    logg: Annotated[str, typer.Option()] = "0:6",
    m_h: Annotated[str, typer.Option("--m-h")] = "-2:0.5",
    alpha_m: Annotated[str, typer.Option("--alpha-m")] = "0",
    base: Annotated[
        str | None, typer.Option(help="Address of the archive's folder HiResFITS, if not the public one.")
    ] = None,
    jobs: Annotated[int, typer.Option(help="Downloads at the same time.", min=1, max=64)] = 8,
) -> None:
    """Download a model library's spectra, cropped to a band, into one grid file; run it again to go on.

    Example: maury models fetch phoenix-aces --teff 2300:4500 --output phoenix.h5
    """
    from rich.progress import Progress

    from maury.libraries.fetch import ARCHIVE, Archive, fetch
    from maury.libraries.phoenix import nodes_within

    ranges = {
        "teff": _range(teff, "--teff"),
        "logg": _range(logg, "--logg"),
        "m_h": _range(m_h, "--m-h"),
        "alpha_m": _range(alpha_m, "--alpha-m"),
    }
    nodes = nodes_within(ranges)
    with Progress(console=err, disable=not err.is_terminal) as bar:
        task = bar.add_task(f"{library} spectra", total=len(nodes))
        fetch(
            output,
            nodes,
            _range(band, "--band"),
            archive=Archive(base or ARCHIVE),
            jobs=jobs,
            progress=lambda done, total: bar.update(task, completed=done, total=total),
        )
    err.print(f"grid written to {output}", highlight=False, soft_wrap=True)


@check_app.command("calibration")
def check_calibration(
    model: ModelOption = "kurucz-apogee",
    number: Annotated[int, typer.Option(help="Simulated spectra.", min=20)] = 500,
    draws: Annotated[int, typer.Option(help="Importance draws a round.", min=100)] = 1000,
    pixels: Annotated[str, typer.Option(help="'apvisit' (native) or 'apstar'.")] = "apvisit",
    output: Annotated[
        Path | None, typer.Option(help="Folder for the table of all spectra and the rank picture.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the figures as JSON.")] = False,
    seed: Annotated[int, typer.Option()] = 0,
) -> None:
    """Infer spectra simulated from the prior; report efficiency, k-hat, ranks and log density beside the information limit."""
    from rich.progress import track

    from maury.checks.calibration import calibrate, report, write_outcomes
    from maury.models import load_model

    loaded = load_model(model)
    outcomes = list(
        track(
            calibrate(loaded, number, draws=draws, pixels=pixels, seed=seed),
            "inferring",
            number,
            console=err,
            disable=not err.is_terminal,
        )
    )
    figures = report(outcomes, loaded)
    if output:
        _make_folder(output)
        write_outcomes(output, outcomes, figures, loaded)
    if as_json:
        _print_json(figures)
    else:
        out.print_json(data=_finite(figures))


def main() -> None:
    """Run the command line: bad input exits with 2, an internal error with 1, either with one line unless ``--debug``."""
    debug = "--debug" in sys.argv
    try:
        app()
    except MauryError as error:
        if debug:
            raise
        _print_error(str(error))
        sys.exit(BAD_INPUT)
    except Exception as error:
        if debug:
            raise
        message = f"internal error, please report it: {type(error).__name__}: {error}"
        err.print(message, style="red", highlight=False, soft_wrap=True, markup=False)
        sys.exit(INTERNAL)


if __name__ == "__main__":
    main()
