"""``maury instruments ...``: the spectrographs that models are built for."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from maury.commands.console import out

app = typer.Typer(help="List and show spectrographs.", no_args_is_help=True)


@app.command("list")
def instruments_list() -> None:
    """List the spectrographs that come with the package.

    Example: maury instruments list
    """
    from rich.table import Table

    from maury.spectra.instrument import read_instrument, shipped_instruments

    table = Table("instrument", "chips, Angstrom in vacuum", "R", "description")
    for name in shipped_instruments():
        one = read_instrument(name)
        chips = [f"{one.chip_name(i)} {a:.0f}-{b:.0f}" for i, (a, b) in enumerate(one.ranges)]
        # Where the survey states an average, it is that.
        given = one.layout.resolution
        powers = [f"{power:,.0f}" for power in ([given] if given else one.resolving_powers)]
        table.add_row(name, "\n".join(chips), "\n".join(powers), one.description)
    out.print(table)


@app.command("show")
def instruments_show(
    name: Annotated[str, typer.Argument(help="A name from 'maury instruments list', or a TOML file.")],
    toml: Annotated[
        bool, typer.Option("--toml", help="Print the file itself, as a start for one of your own.")
    ] = False,
) -> None:
    """Check a spectrograph's file, and show what is made of it.

    Example: maury instruments show igrins-like --toml > mine.toml
    """
    from pathlib import Path

    from rich.table import Table

    from maury.spectra.instrument import read_instrument, shipped_instruments

    one = read_instrument(name)
    if toml:
        sys.stdout.write(shipped_instruments().get(name, Path(name)).read_text(encoding="utf-8"))
        return
    table = Table("chip", "Angstrom in vacuum", "pixels", "R, pixel included", title=one.description or None)
    for i, ((a, b), (start, stop)) in enumerate(zip(one.ranges, one.pixels.chips, strict=True)):
        table.add_row(
            one.chip_name(i), f"{a:.2f}-{b:.2f}", str(stop - start), f"{one.resolving_powers[i]:,.0f}"
        )
    out.print(table)
    at, usual = one.layout, one.training
    mask = "any bit" if one.mask.reject is None else ", ".join(map(str, one.mask.reject)) or "none"
    for line in (
        f"frame {one.frame}, wavelengths in {one.unit} of {one.medium}",
        f"grid of the networks: {at.number} pixels from log10 {at.log10_start:g}, step {at.log10_step:g}",
        f"emulators: step {one.model_step:.3g}",
        f"mask bits that reject a pixel: {mask}",
        f"training: S/N {usual.snr[0]:g}-{usual.snr[1]:g}, v_rad {usual.v_rad[0]:g} to {usual.v_rad[1]:g} km/s, "
        f"v_sini {usual.v_sini[0]:g}-{usual.v_sini[1]:g} km/s, continuum of degree {usual.continuum_degree}",
    ):
        out.print(line, highlight=False, soft_wrap=True)
