"""The commands beside inference: ``maury models ...`` and ``maury check ...``."""

from __future__ import annotations

import itertools
import json
import logging
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from maury.console import ModelOption, err, finite, make_folder, out, print_error, print_json
from maury.errors import MauryError

models_app = typer.Typer(help="List, show, fetch and build models.", no_args_is_help=True)
check_app = typer.Typer(help="Evidence that posteriors are right.", no_args_is_help=True)


class Library(StrEnum):
    """Model libraries that can be fetched."""

    phoenix_aces = "phoenix-aces"


class Reference(StrEnum):
    """Samplers that verified posteriors are compared with."""

    nested = "nested"
    emcee = "emcee"
    nuts = "nuts"


class Experiment(StrEnum):
    """The paper's experiments."""

    sine = "sine"
    three = "three"
    five = "five"


class Preset(StrEnum):
    """How much time an experiment is given."""

    laptop = "laptop"
    paper = "paper"


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


@models_app.command("tune")
def models_tune(
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", help="Observed spectra.")],
    output: Annotated[Path, typer.Option(help="Folder for the model with its learned error.")],
    model: ModelOption = "kurucz-apogee",
    seed: Annotated[int, typer.Option()] = 0,
) -> None:
    """Learn a library's error, pixel by pixel, from observed spectra; print its size.

    Example: maury models tune visits/*.fits --output tuned && maury infer --model tuned star.fits
    """
    from rich.progress import track

    from maury.models import load_model
    from maury.posterior.tune import save_tuned, tune
    from maury.spectra.registry import read_all

    loaded = load_model(model)
    items = track(read_all(files), "fitting", None, console=err, disable=not err.is_terminal)
    tuned = tune(items, loaded, seed=seed)
    for failure in tuned.failures:
        print_error(f"{failure.path}: {failure.reason}")
    save_tuned(tuned, loaded, output)
    sys.stdout.write((output / "learned.json").read_text())


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

    from maury.checks.calibration import calibrate
    from maury.checks.calibration_report import report, write_outcomes
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
        make_folder(output)
        write_outcomes(output, outcomes, figures, loaded)
    if as_json:
        print_json(figures)
    else:
        out.print_json(data=finite(figures))


def reproduce(
    experiment: Annotated[Experiment, typer.Argument(help="Which of the paper's experiments.")],
    output: Annotated[Path, typer.Option(help="Folder for reports and pictures.")],
    preset: Annotated[
        Preset, typer.Option(help="laptop: two cores, 20 minutes; paper: a GPU.")
    ] = Preset.laptop,
    config: Annotated[Path | None, typer.Option(help="TOML file in place of the preset.")] = None,
) -> None:
    """Repeat an experiment of the paper: simulate, train, infer, and compare with MCMC.

    Example: maury reproduce three --output runs/three
    """
    from maury.reproduce.config import SineConfig, read_experiment
    from maury.reproduce.sine import run_sine
    from maury.reproduce.stars import run_stars

    settings = read_experiment(experiment.value, preset.value, config)
    with err.status("reading") as status:
        if isinstance(settings, SineConfig):
            run_sine(settings, output, progress=status.update)
        else:
            run_stars(experiment.value, settings, output, progress=status.update)
    err.print(f"{output / 'report.md'}", highlight=False, soft_wrap=True)


@check_app.command("exact")
def check_exact(
    model: ModelOption = "kurucz-apogee",
    number: Annotated[int, typer.Option(help="Simulated spectra.", min=1)] = 50,
    reference: Annotated[
        list[Reference] | None, typer.Option(help="nested, emcee or nuts; may be given more than once.")
    ] = None,
    snr: Annotated[str, typer.Option(help="Range of the S/N.")] = "10:300",
    output: Annotated[Path | None, typer.Option(help="Folder for exact.json and exact.jsonl.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object a comparison.")] = False,
    seed: Annotated[int, typer.Option()] = 0,
) -> None:
    """Compare verified posteriors with nested sampling, emcee or NUTS on the same likelihood.

    Example: maury check exact --number 10 --reference nested --reference emcee
    """
    from rich.progress import track

    from maury.checks.exact import compare, rows, summary
    from maury.files import writing
    from maury.models import load_model

    kinds: list[Any] = [kind.value for kind in reference or [Reference.nested]]
    found = []
    everything = compare(load_model(model), number, references=kinds, snr=_range(snr, "--snr"), seed=seed)
    for item in track(everything, "comparing", number * len(kinds), console=err, disable=not err.is_terminal):
        found.append(item)
        if as_json:
            print_json(rows([item])[0])
    figures = summary(found)
    if output:
        make_folder(output)
        with writing(output / "exact.json") as temporary:
            temporary.write_text(json.dumps(finite(figures), indent=1) + "\n")
        with writing(output / "exact.jsonl") as temporary:
            temporary.write_text("".join(json.dumps(finite(row)) + "\n" for row in rows(found)))
    if not as_json:
        out.print_json(data=finite(figures))


@check_app.command("misfit")
def check_misfit(
    model: ModelOption = "kurucz-apogee",
    number: Annotated[int, typer.Option(help="Spectra a fault and strength.", min=1)] = 20,
    clean: Annotated[
        int | None, typer.Option(help="Spectra without fault, for the rate of false alarms.")
    ] = None,
    fault: Annotated[
        list[str] | None, typer.Option(help="Which faults; all by default. May be given more than once.")
    ] = None,
    curves: Annotated[
        bool, typer.Option("--curves/--default-strengths", help="All strengths, or the common one alone.")
    ] = True,
    false_alarm: Annotated[float, typer.Option(help="Share of good spectra that may be flagged.")] = 0.01,
    output: Annotated[Path | None, typer.Option(help="Folder for misfit.json and pictures.")] = None,
    seed: Annotated[int, typer.Option()] = 0,
) -> None:
    """Spoil simulated spectra in known ways; tell whether it is noticed, and what becomes of the labels.

    Example: maury check misfit --fault fringes --fault companion --number 10
    """
    from rich.progress import track

    from maury.checks.gap import FAULTS, NONE, run
    from maury.checks.misfit import check_impostors, detection, labels_under, needed, write
    from maury.models import load_model

    unknown = set(fault or []) - set(FAULTS)
    if unknown:
        raise MauryError(f"--fault {', '.join(sorted(unknown))}: known are {', '.join(FAULTS)}")
    if not 0 < false_alarm < 1:
        raise MauryError(f"--false-alarm must lie between 0 and 1, not {false_alarm:g}")
    n_clean = needed(false_alarm) if clean is None else clean
    if n_clean < needed(false_alarm):
        err.print(
            f"a rate of {false_alarm:g} is measured well by {needed(false_alarm)} spectra, not by {n_clean}"
        )
    loaded = load_model(model)
    chosen = [FAULTS[name] for name in fault or FAULTS]
    tried = [(f, s) for f in chosen for s in (f.strengths if curves else (f.default,))]
    total = 2 * number * len(tried) + n_clean
    results = []
    for item in track(
        itertools.chain(
            run(loaded, [(NONE, 0.0)], n_clean, noises=["auto"], seed=seed),
            run(loaded, tried, number, seed=seed + 1),
        ),
        "inferring",
        total,
        console=err,
        disable=not err.is_terminal,
    ):
        results.append(item)
    robust = [r for r in results if r.noise == "auto"]
    figures = {
        "model": model,
        "false_alarm": false_alarm,
        "detection": detection(robust, false_alarm),
        "labels": labels_under(results),
        "impostors": check_impostors(loaded, false_alarm),
        "meaning": {f.name: f.meaning for f in chosen},
    }
    if output:
        make_folder(output)
        write(output, figures, results)
    out.print_json(data=finite(figures))
