"""``maury report``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from maury.commands.console import out, print_error, stages


def report(
    folder: Annotated[
        Path, typer.Argument(metavar="DIR", help="A folder written by maury infer --output or maury survey.")
    ],
    output: Annotated[
        Path | None, typer.Option(help="File of the page; by default index.html in the folder.")
    ] = None,
    stars: Annotated[
        Path | None,
        typer.Option(help="For a survey: folder with pages of its stars; by default DIR/stars."),
    ] = None,
) -> None:
    """Write a report as self-contained HTML pages: one for each star and an index, or one for a survey.

    Example: maury report results
    """
    from maury.report.folder import report as write_report

    with stages("reading") as tell:
        pages = write_report(folder, output, stars, tell, print_error)
    for page in pages[:10]:
        out.print(f"page: {page}", highlight=False, soft_wrap=True)
    if len(pages) > 10:
        out.print(f"and {len(pages) - 10} more beside the first", highlight=False)
