"""``maury check ...``: evidence that posteriors are right, and that wrong models are noticed."""

from __future__ import annotations

import itertools
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from maury.commands.console import (
    AutoModelOption,
    ModelOption,
    NuisancesOption,
    SeedOption,
    check_rate,
    err,
    make_folder,
    out,
    print_json,
    read_range,
)
from maury.commands.progress import counted, counting, stoppable
from maury.constants import DEFAULT_MODEL, FALSE_ALARM
from maury.errors import MauryError
from maury.files import finite, write_json, writing


def _kept(output: Path | None) -> str:
    if output is None:
        return "nothing was kept: with --output DIR, what is done is kept and the next run goes on"
    return f"what is done is in {output}; the same command goes on from there"


app = typer.Typer(
    help="Check that posteriors are right and that wrong models are noticed.", no_args_is_help=True
)


class Reference(StrEnum):
    """Samplers that verified posteriors are compared with."""

    nested = "nested"
    emcee = "emcee"
    nuts = "nuts"


@app.command("calibration")
def check_calibration(
    model: ModelOption = DEFAULT_MODEL,
    number: Annotated[int, typer.Option(help="Number of simulated spectra.", min=20)] = 500,
    draws: Annotated[int, typer.Option(help="Importance draws per round.", min=100)] = 1000,
    pixels: Annotated[
        str, typer.Option(help="Simulate on 'native' detector pixels, or on the 'network' grid.")
    ] = "native",
    output: Annotated[
        Path | None, typer.Option(help="Folder for the page, the table of all spectra and the pictures.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the figures as JSON.")] = False,
    jobs: Annotated[int, typer.Option(help="Number of processes.", min=1)] = 1,
    seed: SeedOption = 0,
) -> None:
    """Infer spectra simulated from the prior; report efficiency, k-hat, ranks and log density beside the information limit.

    Example: maury check calibration --number 500 --jobs 2 --output calibration
    """
    from maury.checks.calibration import calibrate
    from maury.checks.calibration_report import report, write_outcomes
    from maury.models import load_model

    loaded = load_model(model)
    store = None
    if output:
        make_folder(output)
        store = output / "outcomes.jsonl"
    everything = calibrate(loaded, number, draws=draws, pixels=pixels, seed=seed, jobs=jobs, store=store)
    with stoppable(lambda: _kept(output)):
        outcomes = list(counted(everything, "spectra", number))
    figures = report(outcomes, loaded)
    if output:
        write_outcomes(output, outcomes, figures, loaded)
    if as_json:
        print_json(figures)
    else:
        out.print_json(data=finite(figures))


@app.command("exact")
def check_exact(
    model: ModelOption = DEFAULT_MODEL,
    number: Annotated[int, typer.Option(help="Number of simulated spectra.", min=1)] = 50,
    reference: Annotated[
        list[Reference] | None, typer.Option(help="nested, emcee or nuts; may be given more than once.")
    ] = None,
    snr: Annotated[str, typer.Option(help="Range of S/N, LOW:HIGH.")] = "10:300",
    live: Annotated[int, typer.Option(help="Live points of nested sampling.", min=50)] = 2000,
    ess: Annotated[
        float, typer.Option(help="Effective draws that nested sampling aims for.", min=100)
    ] = 10_000,
    output: Annotated[
        Path | None, typer.Option(help="Folder for exact.json and exact.jsonl; an interrupted run goes on.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object per comparison.")] = False,
    jobs: Annotated[int, typer.Option(help="Number of processes.", min=1)] = 1,
    seed: SeedOption = 0,
) -> None:
    """Compare verified posteriors with nested sampling, emcee or NUTS on the same likelihood.

    Example: maury check exact --number 10 --reference nested --reference emcee
    """
    from maury.checks.exact import compare, summary
    from maury.files import write_json
    from maury.models import load_model

    kinds: list[Any] = [kind.value for kind in reference or [Reference.nested]]
    store = None
    if output:
        make_folder(output)
        store = output / "exact.jsonl"
    everything = compare(
        load_model(model), number, references=kinds, snr=read_range(snr, "--snr"), live=live, ess=ess,
        seed=seed, jobs=jobs, store=store,
    )  # fmt: skip
    found = []
    with stoppable(lambda: _kept(output)):
        for item in counted(everything, "comparisons", number * len(kinds)):
            found.append(item)
            if as_json:
                print_json(asdict(item))
    figures = summary(found)
    if output:
        write_json(output / "exact.json", finite(figures))
    if not as_json:
        out.print_json(data=finite(figures))


@app.command("misfit")
def check_misfit(
    model: ModelOption = DEFAULT_MODEL,
    number: Annotated[int, typer.Option(help="Spectra for each fault and strength.", min=1)] = 20,
    clean: Annotated[
        int | None, typer.Option(help="Spectra without a fault, to measure the rate of false alarms.")
    ] = None,
    fault: Annotated[
        list[str] | None, typer.Option(help="A fault; may be given more than once. All by default.")
    ] = None,
    curves: Annotated[
        bool, typer.Option("--curves/--default-strengths", help="All strengths, or only the default one.")
    ] = True,
    false_alarm: Annotated[
        float, typer.Option(help="Share of good spectra that may be flagged by chance.")
    ] = FALSE_ALARM,
    output: Annotated[
        Path | None, typer.Option(help="Folder for misfit.json and pictures; an interrupted run goes on.")
    ] = None,
    jobs: Annotated[int, typer.Option(help="Number of processes.", min=1)] = 1,
    seed: SeedOption = 0,
) -> None:
    """Spoil simulated spectra in known ways, and see whether the fault is noticed and what it does to the labels.

    Example: maury check misfit --fault fringes --fault companion --number 10
    """
    from maury.checks.gap import FAULTS, NONE, OPTIONS, spoil
    from maury.checks.misfit import check_impostors, detection, labels_under, needed, write
    from maury.models import load_model
    from maury.names import meant

    for name in fault or []:
        if name not in FAULTS:
            raise MauryError(f"--fault {name}: {meant(name, FAULTS)}")
    check_rate(false_alarm)
    n_clean = needed(false_alarm) if clean is None else clean
    if n_clean < needed(false_alarm):
        err.print(
            f"a rate of {false_alarm:g} is measured well by {needed(false_alarm)} spectra, not by {n_clean}"
        )
    loaded = load_model(model)
    chosen = [FAULTS[name] for name in fault or FAULTS]
    tried = [(f, s) for f in chosen for s in (f.strengths if curves else (f.default,))]
    clean_store = spoilt_store = None
    if output:
        make_folder(output)
        clean_store, spoilt_store = output / "clean.jsonl", output / "results.jsonl"
    everything = itertools.chain(
        spoil(loaded, [(NONE, 0.0)], n_clean, options=["auto"], seed=seed, jobs=jobs, store=clean_store),
        spoil(loaded, tried, number, seed=seed + 1, jobs=jobs, store=spoilt_store),
    )
    with stoppable(lambda: _kept(output)):
        results = list(counted(everything, "posteriors", len(OPTIONS) * number * len(tried) + n_clean))
    single = [r for r in results if r.options == "auto"]
    figures = {
        "model": model,
        "false_alarm": false_alarm,
        "detection": detection(single, false_alarm),
        "labels": labels_under(results),
        "impostors": check_impostors(loaded, false_alarm),
        "meaning": {f.name: f.meaning for f in chosen},
    }
    if output:
        write(output, figures)
    out.print_json(data=finite(figures))


@app.command("sky")
def check_sky(
    labels: Annotated[
        Path,
        typer.Argument(
            metavar="LABELS.csv", help="Table of spectrum files and literature labels of their stars."
        ),
    ],
    model: AutoModelOption = "auto",
    draws: Annotated[int, typer.Option(help="Importance draws per round.", min=100)] = 1000,
    chips: Annotated[bool, typer.Option("--chips", help="Also infer each chip by itself.")] = False,
    labels_of: Annotated[
        str,
        typer.Option("--labels", help="What is inferred: basic, cno, elements, or names, as in maury infer."),
    ] = "basic",
    nuisances: NuisancesOption = "default",
    output: Annotated[
        Path | None,
        typer.Option(help="Folder for the page, sky.json and the picture; an interrupted run goes on."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the figures as JSON.")] = False,
    jobs: Annotated[int, typer.Option(help="Number of processes.", min=1)] = 1,
    seed: SeedOption = 0,
) -> None:
    """Infer real spectra; report bias, scatter and scatter in units of the stated errors, and compare repeats and chips.

    Example: maury check sky labels.csv --chips --output sky
    """
    from maury.checks.sky import figures_of, look, read_stars, write
    from maury.inference.infer import AUTO
    from maury.inference.options import Options
    from maury.models import load_model

    options = Options(draws=draws, seed=seed, nuisances=nuisances, labels=labels_of)
    stars, loaded = read_stars(labels), None if model == AUTO else load_model(model)
    store = None
    if output:
        make_folder(output)
        store = output / "seen.jsonl"
    everything = look(stars, loaded, labels.parent, options, chips=chips, jobs=jobs, store=store)
    with stoppable(lambda: _kept(output)):
        seen = list(counted(everything, "stars", len(stars)))
    figures = figures_of(stars, seen, model)
    if output:
        write(output, figures, stars, seen)
    if as_json:
        print_json(figures)
    else:
        out.print_json(data=finite(figures))


@app.command("synthesis")
def check_synthesis(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A spectrum.")],
    config: Annotated[
        Path, typer.Option(help="Engine, lines and atmospheres, as for maury models synthesise (TOML).")
    ],
    work: Annotated[Path, typer.Option(help="Folder for the spectra; an interrupted run goes on.")],
    model: ModelOption = DEFAULT_MODEL,
    labels: Annotated[str, typer.Option(help="What is inferred, as in maury infer.")] = "basic",
    number: Annotated[int, typer.Option(help="Number of draws to synthesise.", min=20)] = 100,
    jobs: Annotated[int, typer.Option(help="Number of syntheses at the same time.", min=1)] = 1,
    seed: SeedOption = 0,
) -> None:
    """Infer a spectrum and verify the emulator against the physics: synthesise draws of the posterior anew, and weigh them.

    Example: maury check synthesis visit.fits --config grid.toml --work visit-syntheses
    """
    from maury.checks.synthesis import synthesised
    from maury.inference.infer import infer
    from maury.libraries.synthesis.atmospheres import MarcsCollection
    from maury.libraries.synthesis.grid import SynthesisConfig
    from maury.models import load_model
    from maury.toml import read_config

    read = read_config(config, SynthesisConfig)
    make_folder(work)
    engine, atmospheres = read.make_engine(work), MarcsCollection(read.atmospheres)
    with stoppable(lambda: f"spectra that are done are in {work}; the same command goes on from there"):
        posterior = infer(file, load_model(model), labels=labels, seed=seed)
        with counting("spectra", number) as progress:
            found = synthesised(
                posterior, engine, atmospheres, work, number=number, seed=seed, jobs=jobs, progress=progress
            )
    out.print_json(data=finite(asdict(found)))


@app.command("libraries")
def check_libraries(
    output: Annotated[
        Path, typer.Option(help="Folder for libraries.json, a table, and each model's systematic.json.")
    ],
    number: Annotated[int, typer.Option(help="Stars for each pair of libraries.", min=1)] = 40,
    phoenix: Annotated[
        Path | None, typer.Option(help="Folder of quadratic PHOENIX models, as in apogee_tools.")
    ] = None,
    seed: SeedOption = 100,
) -> None:
    """Compare the shipped libraries: fit spectra of each one with the others.

    Example: maury check libraries --number 40 --output libraries
    """
    from maury.checks.libraries import Compared, compare, libraries, own, systematic, table
    from maury.libraries.systematic import FEWEST

    make_folder(output)
    known = libraries(phoenix)
    pairs = [(a, b) for a in known if not a.startswith("phoenix") for b in known if a != b]
    found: list[Compared] = []
    with stoppable(lambda: "nothing is kept of a comparison that is not complete"):
        for a, b in counted(pairs, "pairs of libraries", len(pairs)):
            found += compare(known[a], known[b], number, seed)
    write_json(output / "libraries.json", [asdict(one) for one in found])
    with writing(output / "libraries.md") as temporary:
        temporary.write_text(table(found) + "\n", encoding="utf-8")
    for name in known:
        if sum(own(one, name) for one in found) >= FEWEST:
            folder = output / name
            make_folder(folder)
            systematic(found, name).save(folder)
    out.print(table(found), markup=False)
