"""``maury check ...``: evidence that posteriors are right, and that wrong models are noticed."""

from __future__ import annotations

import itertools
import json
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from maury.console import ModelOption, bar, check_rate, err, finite, make_folder, out, print_json, read_range
from maury.errors import MauryError

app = typer.Typer(help="Evidence that posteriors are right.", no_args_is_help=True)


class Reference(StrEnum):
    """Samplers that verified posteriors are compared with."""

    nested = "nested"
    emcee = "emcee"
    nuts = "nuts"


@app.command("calibration")
def check_calibration(
    model: ModelOption = "kurucz-apogee",
    number: Annotated[int, typer.Option(help="Simulated spectra.", min=20)] = 500,
    draws: Annotated[int, typer.Option(help="Importance draws a round.", min=100)] = 1000,
    pixels: Annotated[
        str, typer.Option(help="'native', or 'network': the grid that networks take.")
    ] = "native",
    output: Annotated[
        Path | None, typer.Option(help="Folder for the page, the table of all spectra and the pictures.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the figures as JSON.")] = False,
    jobs: Annotated[int, typer.Option(help="Processes.", min=1)] = 1,
    seed: Annotated[int, typer.Option()] = 0,
) -> None:
    """Infer spectra simulated from the prior; report efficiency, k-hat, ranks and log density beside the information limit."""
    from maury.checks.calibration import calibrate
    from maury.checks.calibration_report import report, write_outcomes
    from maury.models import load_model

    loaded = load_model(model)
    store = None
    if output:
        make_folder(output)
        store = output / "outcomes.jsonl"
    outcomes = list(
        bar(
            calibrate(loaded, number, draws=draws, pixels=pixels, seed=seed, jobs=jobs, store=store),
            "inferring",
            number,
        )
    )
    figures = report(outcomes, loaded)
    if output:
        write_outcomes(output, outcomes, figures, loaded)
    if as_json:
        print_json(figures)
    else:
        out.print_json(data=finite(figures))


@app.command("exact")
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
    from maury.checks.exact import compare, rows, summary
    from maury.files import writing
    from maury.models import load_model

    kinds: list[Any] = [kind.value for kind in reference or [Reference.nested]]
    found = []
    everything = compare(load_model(model), number, references=kinds, snr=read_range(snr, "--snr"), seed=seed)
    for item in bar(everything, "comparing", number * len(kinds)):
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


@app.command("misfit")
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
    from maury.checks.gap import FAULTS, NONE, run
    from maury.checks.misfit import check_impostors, detection, labels_under, needed, write
    from maury.models import load_model

    unknown = set(fault or []) - set(FAULTS)
    if unknown:
        raise MauryError(f"--fault {', '.join(sorted(unknown))}: known are {', '.join(FAULTS)}")
    check_rate(false_alarm)
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
    for item in bar(
        itertools.chain(
            run(loaded, [(NONE, 0.0)], n_clean, noises=["auto"], seed=seed),
            run(loaded, tried, number, seed=seed + 1),
        ),
        "inferring",
        total,
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
