"""All results of a session as one file, laid out as ``maury infer --output`` leaves a folder."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from maury.files import distinct
from maury.serve.jobs import Run
from maury.serve.results import DRAWS, NUMBERS, REPORT, ROW

# Draws are compressed already; of a page a fifth is left.
_LEVEL = 3


def bundle(runs: Sequence[Run], path: Path) -> None:
    """Write the results of runs into a zip file: of each its draws, report and numbers, and a table of all.

    ``maury report`` takes the folder that it unpacks to.

    Parameters
    ----------
    runs
        Those that are done.
    path
        Of the zip file.

    Raises
    ------
    OSError
        If results have been deleted meanwhile, or it cannot be written.
    """
    from maury.report.tables import write_summary

    names = distinct([f"{run.upload.file.stem}-run{run.number}" for run in runs], ["summary"])
    rows = [json.loads((run.folder / ROW).read_text(encoding="utf-8")) for run in runs]
    with (
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=_LEVEL) as packed,
        TemporaryDirectory(dir=path.parent) as folder,
    ):
        table = Path(folder) / "summary.ecsv"
        write_summary(table, rows)
        packed.write(table, table.name)
        for run, name in zip(runs, names, strict=True):
            for result in (DRAWS, REPORT, NUMBERS):
                kept = run.folder / result
                packed.write(kept, name + kept.suffix)
