"""``maury models ...``: list, show, build, fetch and tune models."""

from __future__ import annotations

import json
import logging
import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from maury.commands.console import (
    ModelOption,
    SeedOption,
    complete_model,
    err,
    make_folder,
    out,
    print_error,
    read_range,
)
from maury.commands.progress import counted, counting, stoppable
from maury.commands.synthesise import models_calibrate, models_synthesise
from maury.constants import DEFAULT_MODEL
from maury.errors import MauryError
from maury.files import finite

if TYPE_CHECKING:
    from collections.abc import Iterator

    from maury.checks.sky import Star
    from maury.inference.standards import Standard
    from maury.models import Model

app = typer.Typer(help="List, show, fetch, synthesise, build and tune models.", no_args_is_help=True)
app.command("calibrate")(models_calibrate)
app.command("synthesise")(models_synthesise)


class Library(StrEnum):
    """Model libraries that can be fetched."""

    phoenix_aces = "phoenix-aces"
    marcs_maury = "marcs-maury"


@app.command("list")
def models_list() -> None:
    """List the shipped models.

    Example: maury models list
    """
    from rich.table import Table

    from maury.models import shipped
    from maury.weights import read_card

    table = Table("model", "labels", "library")
    for name, path in shipped().items():
        card = read_card(path / "emulator.safetensors")
        ranges = (f"{x['name']} {x['prior']['low']:g}..{x['prior']['high']:g}" for x in card["labels"])
        table.add_row(name, "\n".join(ranges), card.get("reference", ""))
    out.print(table)


@app.command("show")
def models_show(
    name: Annotated[
        str,
        typer.Argument(help="Name of a shipped model, or a folder.", autocompletion=complete_model),
    ],
) -> None:
    """Print the cards of a model's emulator and estimator as JSON.

    Example: maury models show kurucz-apogee
    """
    from maury.models import folder
    from maury.weights import read_card

    path = folder(name)
    parts = [part for part in ("emulator", "estimator") if (path / f"{part}.json").exists()] or ["emulator"]
    cards = {part: read_card(path / f"{part}.safetensors") for part in parts}
    sys.stdout.write(json.dumps(finite(cards), indent=1) + "\n")


@app.command("build")
def models_build(
    config: Annotated[
        Path, typer.Argument(metavar="CONFIG.toml", help="See assets/kurucz-apogee/emulator.toml.")
    ],
    output: Annotated[Path, typer.Option(help="Folder for emulator.safetensors and its card.")],
    instrument: Annotated[
        str | None,
        typer.Option(help="The spectrograph: a name from 'maury instruments list', or a TOML file."),
    ] = None,
    restrict: Annotated[
        bool,
        typer.Option(
            "--restrict", help="Leave out the parts of the instrument that the library does not cover."
        ),
    ] = False,
) -> None:
    """Compute an emulator from a model library; print its error.

    Example: maury models build emulator.toml --instrument igrins-like --restrict --output models/igrins
    """
    from maury.libraries.build import build_from_file, residuals_of

    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    make_folder(output)
    emulator = build_from_file(config, instrument, restrict)
    emulator.save(output / "emulator.safetensors")
    residuals = residuals_of(config)
    if residuals is not None:
        from maury.libraries.synthesis.residual_modes import write_residual_modes

        write_residual_modes(residuals, emulator, output)
    card = emulator.card
    sys.stdout.write(json.dumps(finite(card.get("leave_one_out") or card["held_out"])) + "\n")


@app.command("tune")
def models_tune(
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", help="Observed spectra.")],
    output: Annotated[Path, typer.Option(help="Folder for the model with its learned error.")],
    model: ModelOption = DEFAULT_MODEL,
    seed: SeedOption = 0,
) -> None:
    """Learn a library's error, pixel by pixel, from observed spectra; print its size.

    Example: maury models tune visits/*.fits --output tuned && maury infer --model tuned star.fits
    """
    from maury.inference.tune import save_tuned, tune
    from maury.models import load_model
    from maury.spectra.formats.registry import read_all

    loaded = load_model(model)
    items = counted(read_all(files, loaded.instrument), "spectra", None)
    with stoppable(lambda: "nothing is kept of a tuning that is not complete"):
        tuned = tune(items, loaded, seed=seed)
    for failure in tuned.failures:
        print_error(f"{failure.path}: {failure.reason}")
    save_tuned(tuned, loaded, output)
    sys.stdout.write((output / "learned.json").read_text(encoding="utf-8"))


@app.command("standards")
def models_standards(
    stars: Annotated[
        Path,
        typer.Argument(
            metavar="STARS.csv",
            help="Files of spectra and the labels of their stars that are known, as of 'maury check sky'.",
        ),
    ],
    output: Annotated[Path, typer.Option(help="Folder for the model with what its library leaves on them.")],
    model: ModelOption = DEFAULT_MODEL,
    seed: SeedOption = 0,
) -> None:
    """Learn what a library gets wrong on stars whose labels are known; other spectra may then show the same.

    Example: maury models standards dwarfs.csv --model btsettl-apogee --output models/dwarfs
    """
    from maury.inference.standards import residual_of, save_modes
    from maury.libraries.emulator import MODES
    from maury.models import load_model

    make_folder(output)
    loaded = load_model(model)
    with stoppable(lambda: "nothing is kept of standards that are not complete"):
        found = [residual_of(standard, loaded, seed=seed) for _, standard in _standards(stars, loaded)]
    save_modes(found, loaded, output)
    sys.stdout.write((output / MODES).with_suffix(".json").read_text(encoding="utf-8"))


@app.command("zero-points")
def models_zero_points(
    stars: Annotated[
        Path,
        typer.Argument(
            metavar="STARS.csv",
            help="Files of spectra, and the abundances of their stars: m_h, o_m, mg_m, ..., with errors e_m_h, e_o_m, ...",
        ),
    ],
    output: Annotated[Path, typer.Option(help="Folder of a model, for zero_points.json.")],
    model: ModelOption = DEFAULT_MODEL,
    seed: SeedOption = 0,
) -> None:
    """Measure by how much a library's elements are off, on stars whose abundances are known.

    Example: maury models zero-points standards.csv --output models/mine
    """
    from maury.inference.standards import zero_points_of
    from maury.libraries.zero_points import FILE, ZeroPoints
    from maury.models import load_model

    make_folder(output)
    loaded = load_model(model)
    with stoppable(lambda: "nothing is kept of standards that are not complete"):
        found = {
            star.star: zero_points_of(standard, star.errors, loaded, seed=seed)
            for star, standard in _standards(stars, loaded)
        }
    card = {"model": loaded.name, "standards": list(found), "list": stars.name}
    ZeroPoints.of(list(found.values()), card).save(output)
    sys.stdout.write((output / FILE).read_text(encoding="utf-8"))


def _standards(path: Path, model: Model) -> Iterator[tuple[Star, Standard]]:
    """Read a list of stars and each one's spectrum, telling how many are done."""
    from maury.checks.sky import read_stars, spectrum_of
    from maury.inference.standards import Standard

    for star in counted(read_stars(path), "standards", None):
        yield star, Standard(spectrum_of(path.parent / star.file, star.index, model), star.labels)


@app.command("fetch")
def models_fetch(
    library: Annotated[Library, typer.Argument(help="Which library.")],
    output: Annotated[Path, typer.Option(help="The grid file, HDF5; for marcs-maury a folder.")],
    band: Annotated[str, typer.Option(help="Wavelengths, Angstrom in vacuum.")] = "15000:17100",
    teff: Annotated[str, typer.Option(help="K.")] = "2300:7000",
    logg: Annotated[str, typer.Option()] = "0:6",
    m_h: Annotated[str, typer.Option("--m-h")] = "-3:0.5",
    alpha_m: Annotated[str, typer.Option("--alpha-m")] = "0",
    base: Annotated[
        str | None,
        typer.Option(
            help="Address of the archive's folder HiResFITS, if not the public one; for marcs-maury, of its parts.",
            envvar="MAURY_ARCHIVE",
        ),
    ] = None,
    jobs: Annotated[int, typer.Option(help="Downloads at the same time.", min=1, max=64)] = 8,
) -> None:
    """Download a model library's spectra, cropped to a band, into one grid file; run it again to go on.

    Ranges are for phoenix-aces; the parts of marcs-maury are copied whole.

    Example: maury models fetch phoenix-aces --teff 2300:4500 --output phoenix.h5
    """
    from maury.download import Archive
    from maury.libraries.fetch import ARCHIVE, fetch
    from maury.libraries.phoenix import nodes_within

    ranges = {
        "teff": read_range(teff, "--teff"),
        "logg": read_range(logg, "--logg"),
        "m_h": read_range(m_h, "--m-h"),
        "alpha_m": read_range(alpha_m, "--alpha-m"),
    }
    if library == Library.marcs_maury:
        _fetch_parts(base, output)
        return
    nodes = nodes_within(ranges)
    with (
        stoppable(lambda: f"what was downloaded is in {output}; the same command goes on from there"),
        counting(f"{library} spectra", len(nodes)) as progress,
    ):
        fetch(
            output,
            nodes,
            read_range(band, "--band"),
            archive=Archive(base or ARCHIVE),
            jobs=jobs,
            progress=progress,
        )
    err.print(f"grid written to {output}", highlight=False, soft_wrap=True)


def _fetch_parts(base: str | None, output: Path) -> None:
    from maury.download import Archive
    from maury.libraries.synthesis.parts import fetch_parts

    if base is None:
        raise MauryError(
            "marcs-maury: say with --base, or MAURY_ARCHIVE, where its parts lie; clones of the project have them in grids/marcs-maury"
        )
    make_folder(output)
    fetched = fetch_parts(Archive(base), output)
    err.print(f"{fetched} parts written to {output}", highlight=False, soft_wrap=True)
