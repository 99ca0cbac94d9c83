"""``maury fetch ...``: observed spectra from public archives."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from maury.commands.console import BAD_INPUT, out, print_error
from maury.commands.progress import counting, stoppable
from maury.errors import MauryError

app = typer.Typer(help="Download observed spectra from public archives.", no_args_is_help=True)


class Release(StrEnum):
    """Releases of the survey."""

    dr17 = "dr17"
    dr19 = "dr19"


@app.command("apogee")
def fetch_apogee(
    output: Annotated[Path, typer.Option(help="Folder; it gets the archive's structure.")],
    release: Annotated[Release, typer.Option(help="Which data release.")] = Release.dr17,
    kind: Annotated[
        str, typer.Option(help="apVisit, apStar or aspcapStar; for dr19 also mwmStar and mwmVisit.")
    ] = "apStar",
    star: Annotated[
        list[str] | None, typer.Option("--id", help="A star: 2M..., or sdss_id. May be given more than once.")
    ] = None,
    field: Annotated[list[str] | None, typer.Option(help="All spectra of a field, such as 150-08.")] = None,
    catalogue: Annotated[
        Path | None,
        typer.Option("--from", help="A table with the columns that the paths need, such as allVisit."),
    ] = None,
    base: Annotated[
        str | None, typer.Option(help="Address of the archive, if not data.sdss.org/sas.")
    ] = None,
    queries: Annotated[str | None, typer.Option(help="Address of SkyServer's SQL search.")] = None,
    jobs: Annotated[int, typer.Option(help="Downloads at the same time.", min=1, max=16)] = 4,
    rate: Annotated[float, typer.Option(help="Requests a second at most; 0 for no limit.", min=0)] = 10.0,
) -> None:
    """Download APOGEE spectra; run it again to go on, or to check what is there.

    Example: maury fetch apogee --release dr17 --id 2M00242666+5341178 --output spectra
    """
    from maury.archive.catalogue import QUERIES, query, read_catalogue
    from maury.archive.fetch import fetch_products
    from maury.archive.products import BASE, product
    from maury.download import Archive

    wanted = product(release.value, kind)
    if not (star or field or catalogue):
        raise MauryError("which spectra? --id, --field or --from CATALOGUE")
    rows = list(query(wanted, star or [], field or [], address=queries or QUERIES))
    if catalogue:
        rows += read_catalogue(catalogue, wanted)
    with (
        stoppable(lambda: f"what was downloaded is in {output}; the same command goes on from there"),
        counting(f"{kind} of {release.value}") as progress,
    ):
        archive = Archive(base or BASE, rate=rate)
        found = fetch_products(output, wanted, rows, archive, jobs=jobs, progress=progress)
    for path in found.missing:
        print_error(f"{path}: not in the archive")
    for error in found.errors:
        print_error(str(error))
    out.print(f"{len(found.files)} files are in {output}", highlight=False, soft_wrap=True)
    if found.errors:
        raise typer.Exit(BAD_INPUT)
