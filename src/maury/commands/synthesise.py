"""``maury models calibrate`` and ``synthesise``: line lists and grids of synthetic spectra, by an existing engine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from maury.commands.console import err
from maury.commands.progress import counting, stoppable


def models_synthesise(
    config: Annotated[Path, typer.Argument(metavar="CONFIG.toml", help="See docs/libraries.md.")],
    output: Annotated[Path, typer.Option(help="Folder of the grid's files; files that are there are kept.")],
    jobs: Annotated[int, typer.Option(help="Spectra computed at the same time.", min=1, max=256)] = 1,
    compressed: Annotated[
        Path | None,
        typer.Option(
            help="Folder of the grid's compressed parts: what they hold is not computed, what is new is appended."
        ),
    ] = None,
    minutes: Annotated[
        float | None, typer.Option(help="Begin no new spectra after so many minutes.", min=0)
    ] = None,
) -> None:
    """Compute a grid of synthetic spectra with a radiative-transfer code; run it again to go on.

    Example: maury models synthesise marcs-maury.toml --jobs 2 --output grids/marcs-maury
    """
    import numpy as np

    from maury.libraries.synthesis.compress import CompressedGrid, compress
    from maury.libraries.synthesis.grid import SynthesisConfig, synthesise
    from maury.toml import read_config

    settings = read_config(config, SynthesisConfig)
    parts = compressed is not None and any(compressed.glob("part-*.npz"))
    known = CompressedGrid.read(compressed).known if compressed is not None and parts else set()
    with (
        stoppable(lambda: f"the spectra so far are in {output}; the same command goes on from there"),
        counting("spectra", settings.number) as progress,
    ):
        holes = synthesise(
            settings, output, jobs, progress=progress,
            stop_after=None if minutes is None else 60 * minutes, known=known,
        )  # fmt: skip
    if compressed is not None:
        part = compress(output, compressed, (settings.low, settings.step))
        if part is not None:
            err.print(
                f"{len(part.index)} spectra appended to {compressed}: {len(part.steps)} new vectors, "
                f"rms {np.median(part.rms):.1e} of the continuum",
                highlight=False,
                soft_wrap=True,
            )
    err.print(
        f"grid in {output}; {holes} of the spectra computed now are holes", highlight=False, soft_wrap=True
    )


def models_calibrate(
    config: Annotated[Path, typer.Argument(metavar="CONFIG.toml", help="See docs/libraries.md.")],
    output: Annotated[Path, typer.Option(help="Folder of the steps, the list and its card.")],
    jobs: Annotated[int, typer.Option(help="Spectra computed at the same time.", min=1, max=256)] = 1,
) -> None:
    """Fit line strengths and damping to standard stars, and print how well they agree. Run it again to go on.

    Example: maury models calibrate marcs-maury.toml --jobs 2 --output lines
    """
    import logging
    import sys

    from maury.libraries.synthesis.standards import Calibration, CalibrationConfig
    from maury.toml import read_config

    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    settings = read_config(config, CalibrationConfig)
    with stoppable(lambda: f"the steps so far are in {output}; the same command goes on from there"):
        Calibration(settings, output, jobs).run()
    sys.stdout.write((output / f"{settings.name}.json").read_text(encoding="utf-8") + "\n")
