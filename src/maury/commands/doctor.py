"""``maury doctor``: whether the installation is sound."""

from __future__ import annotations

from typing import Annotated

import typer

from maury.commands.console import BAD_INPUT, out, print_json

_COLOURS = {"ok": "green", "note": "yellow", "broken": "red"}


def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on standard output.")] = False,
) -> None:
    """Check the installation: versions, devices, models, folders and extras; exit with 2 if something is broken.

    Example: maury doctor --json > doctor.json
    """
    from dataclasses import asdict

    from rich.table import Table
    from rich.text import Text

    import maury
    from maury.checks.doctor import examine

    found = examine()
    broken = [finding.name for finding in found if finding.state == "broken"]
    if as_json:
        entry = {"maury": maury.__version__, "broken": broken, "findings": [asdict(f) for f in found]}
        print_json(entry)
    else:
        table = Table(box=None, pad_edge=False, header_style="bold")
        for column in ("", "what", "state", "found"):
            table.add_column(column, overflow="fold")
        part = ""
        for finding in found:
            shown = "" if finding.part == part else finding.part
            part = finding.part
            state = Text(finding.state, style=_COLOURS[finding.state])
            # A path in brackets is no markup.
            table.add_row(shown, Text(finding.name), state, Text(finding.text))
        out.print(table)
        out.print(f"broken: {', '.join(broken)}" if broken else "maury is fine", highlight=False)
    if broken:
        raise typer.Exit(BAD_INPUT)
