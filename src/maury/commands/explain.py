"""``maury explain``."""

from __future__ import annotations

from typing import Annotated

import typer

from maury.commands.console import err, out, print_json
from maury.errors import MauryError


def complete_flag(incomplete: str) -> list[str]:
    """Return the flags that a shell may complete a name to."""
    from maury.posterior.flags import FLAGS

    return [name for name in FLAGS if name.startswith(incomplete)]


def explain(
    flags: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[FLAG]...",
            help="As tables write them: misfit, at_bound:teff, khat[2]; without any, all are explained.",
            autocompletion=complete_flag,
        ),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="One JSON object per flag on standard output.")
    ] = False,
) -> None:
    """Explain flags: what they mean, how serious they are, and when they are raised.

    Example: maury explain average_lsf
    """
    from rich.table import Table
    from rich.text import Text

    from maury.posterior.flags import FLAGS, SEVERITIES, find_flag

    written = [flag for text in flags or FLAGS for flag in text.split(",") if flag]
    if not written:
        raise MauryError("no flag is named")
    found = [find_flag(flag) for flag in written]
    if as_json:
        for raised in found:
            print_json(raised.to_json())
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("flag", "column", "meaning"):
        table.add_column(column, overflow="fold")
    for raised in found:
        table.add_row(Text(raised.written), Text(raised.flag.severity.column), Text(raised.meaning))
    out.print(table)
    for severity in dict.fromkeys(raised.flag.severity for raised in found):
        err.print(f"{severity}: {SEVERITIES[severity]}", highlight=False, markup=False)
