"""A catalogue of many spectra that LSDB wrote, read; and the rows of a survey, exported so that LSDB opens them: memory and seconds.

Run: ``.venv/bin/python benchmarks/catalogues.py --folder build/hats --output docs/results/survey/hats.json`` (``--number 100000``;
``--only read`` for one step of several).

The catalogue is written by ``lsdb`` itself, a nested column of 8,575 pixels a row. It is read as a worker of ``maury survey`` reads it: by
pieces, in the process that opens files, spectra handed over. Inference is not part of it. Rows of the survey are as wide as real ones.
"""

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np

PIXELS = 8575
LABELS = ("teff", "logg", "m_h", "alpha_m", "c_m", "n_m", "v_micro", "v_rad", "v_sini", "jitter")
ROWS_OF_A_TASK = 256


def write_spectra(folder: Path, number: int) -> None:
    """Have LSDB write a catalogue of spectra, partition by partition."""
    import dask
    import lsdb
    import nested_pandas as npd
    import pandas as pd
    import pyarrow as pa
    from nested_pandas.series.packer import pack_lists

    rng = np.random.default_rng(0)
    frame = pd.DataFrame(
        {
            "object_id": [f"star {i:07d}" for i in range(number)],
            "ra": rng.uniform(0, 360, number),
            "dec": np.degrees(np.arcsin(rng.uniform(-1, 1, number))),
        }
    )
    wavelength = 10 ** (4.179 + 6e-6 * np.arange(PIXELS))
    some = rng.normal(1, 0.01, (256, PIXELS)).astype("f4")

    def lists(values: np.ndarray, index: pd.Index) -> pd.Series:
        starts = np.arange(0, values.size + 1, PIXELS, dtype=np.int32)
        array = pa.ListArray.from_arrays(starts, values.ravel())
        return pd.Series(array, index=index, dtype=pd.ArrowDtype(array.type))

    def add(part: pd.DataFrame) -> Any:
        n = len(part)
        columns = {
            "wavelength": np.tile(wavelength, (n, 1)),
            "flux": some[np.arange(n) % len(some)],
            "ivar": np.full((n, PIXELS), 1e4, "f4"),
        }
        packed = pack_lists(
            pd.DataFrame({name: lists(values, part.index) for name, values in columns.items()})
        )
        found = npd.NestedFrame(part)
        found["spectrum"] = packed
        return found

    with dask.config.set(scheduler="synchronous"):
        made = lsdb.from_dataframe(frame, partition_rows=2000, margin_threshold=None, catalog_name="spectra")
        meta = add(made.head(2)).head(0)
        made.map_partitions(add, meta=meta).write_catalog(
            folder, catalog_name="spectra", progress_bar=False, as_collection=False
        )


def read_spectra(folder: Path) -> dict[str, Any]:
    """Read all spectra of a catalogue, as a worker does."""
    from maury.spectra.formats import isolated
    from maury.spectra.instrument import apogee
    from maury.survey.inputs import expand

    began, peak = time.perf_counter(), _Peak()
    pieces = list(expand([folder]))
    planned = time.perf_counter() - began
    began, number, total = time.perf_counter(), 0, 0.0
    with peak:
        for item in isolated.read_all(pieces, apogee()):
            number += 1
            total += float(item.flux[0])
    return {
        "spectra": number,
        "pieces": len(pieces),
        "seconds_plan": round(planned, 2),
        "seconds": round(time.perf_counter() - began, 1),
        "core_seconds": round(
            sum(resource.getrusage(who).ru_utime for who in (0, -1)) + peak.readers_seconds, 1
        ),
        "peak_mb_worker": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
        "peak_mb_reader": round(peak.most / 2**20),
    }


class _Peak(threading.Thread):
    """Watches the memory of this process's children."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.most, self.readers_seconds, self._end = 0, 0.0, threading.Event()

    def run(self) -> None:
        import psutil

        me = psutil.Process()
        while not self._end.wait(0.05):
            for child in me.children():
                try:
                    self.most = max(self.most, child.memory_info().rss)
                    self.readers_seconds = max(self.readers_seconds, sum(child.cpu_times()[:2]))
                except psutil.Error:
                    continue

    def __enter__(self) -> "_Peak":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self.join()


def make_survey(folder: Path, number: int) -> None:
    """Write a survey's folder with rows as wide as real ones, in tasks of the usual size."""
    import pyarrow as pa
    from astropy import units
    from astropy_healpix import HEALPix

    from maury.survey.catalogue import HEALPIX, schema
    from maury.survey.store import Commit, InputFile, Store, SurveySettings

    store, rng, known = Store(folder), np.random.default_rng(1), schema(LABELS)
    grid = HEALPix(nside=2**29, order="nested")
    files = [Path(f"/data/{i:07d}.fits") for i in range(number)]
    settings = SurveySettings(model="m", model_version="1", maury_version="0", files_per_task=ROWS_OF_A_TASK)
    store.begin(settings, files)
    for task in store.tasks():
        n = len(task.files)
        ra, dec = rng.uniform(0, 360, n), np.degrees(np.arcsin(rng.uniform(-1, 1, n)))
        columns: dict[str, Any] = {
            "ra": ra,
            "dec": dec,
            HEALPIX: grid.lonlat_to_healpix(ra * units.deg, dec * units.deg),
            "file": list(task.files),
            "id": [Path(file).stem for file in task.files],
            "sha256": [rng.bytes(32).hex() for _ in task.files],
        }
        for field in known:
            if field.name not in columns:
                numbers = rng.normal(size=n) if pa.types.is_floating(field.type) else np.zeros(n, int)
                columns[field.name] = ["word"] * n if pa.types.is_string(field.type) else numbers
        table = pa.table([pa.array(columns[field.name], field.type) for field in known], known)
        parts = {"catalogue": store.write_part("catalogue", task, table)}
        inputs = tuple(InputFile(file, 1, 1, "x", 1, 0) for file in task.files)
        store.commit(task, Commit(task.number, inputs, n, 0, 0, 0.0, parts))
        store.publish(task, store.who)


def export(folder: Path, output: Path) -> dict[str, Any]:
    """Export a survey's catalogue as HATS."""
    from maury.survey.export import export as to_hats

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    began = time.perf_counter()
    rows = to_hats(folder, output)
    return {
        "rows": rows,
        "seconds": round(time.perf_counter() - began, 1),
        "core_seconds": round(resource.getrusage(resource.RUSAGE_SELF).ru_utime, 1),
        "peak_mb_before": round(before),
        "peak_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
        "mb_on_disk": round(sum(path.stat().st_size for path in output.rglob("*.parquet")) / 2**20, 1),
        "partitions": len(list(output.rglob("Npix=*.parquet"))),
    }


def opened(folder: Path, survey: Path) -> dict[str, Any]:
    """Open an export with LSDB, and compare every row with the survey's."""
    import dask
    import lsdb
    import pyarrow.dataset as ds

    with dask.config.set(scheduler="synchronous"):
        rows = lsdb.open_catalog(folder).compute()
    truth = ds.dataset(survey / "catalogue").to_table(columns=["id", "teff_p50"]).to_pandas()
    found = rows.set_index("id").loc[truth["id"], "teff_p50"].to_numpy()
    return {
        "rows": len(rows),
        "equal": bool((found == truth["teff_p50"].to_numpy()).all()),
        "lsdb": lsdb.__version__,
    }


STEPS = {
    "spectra": lambda at, n: write_spectra(at / "spectra", n),
    "read": lambda at, n: read_spectra(at / "spectra"),
    "survey": lambda at, n: make_survey(at / "survey", n),
    "export": lambda at, n: export(at / "survey", at / "stars.hats"),
    "open": lambda at, n: opened(at / "stars.hats", at / "survey"),
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--output", type=Path)
    parser.add_argument("--number", type=int, default=100_000)
    parser.add_argument("--step", choices=STEPS)
    parser.add_argument("--only", choices=STEPS, nargs="+", default=list(STEPS))
    args = parser.parse_args()
    if args.step:
        print(json.dumps(STEPS[args.step](args.folder, args.number)))
        return 0
    args.folder.mkdir(parents=True, exist_ok=True)
    found: dict[str, Any] = {"pixels": PIXELS, "cores": os.cpu_count()}
    if args.output and args.output.exists():
        # Of steps that were done before.
        found |= json.loads(args.output.read_text(encoding="utf-8"))
    for step in args.only:
        # Each in a process of its own, so that its memory is its own; what was written before stays.
        target = args.folder / {"spectra": "spectra", "survey": "survey", "export": "stars.hats"}.get(
            step, "-"
        )
        if step == "export":
            shutil.rmtree(target, ignore_errors=True)
        if target.exists():
            continue
        command = [
            sys.executable,
            __file__,
            "--folder",
            str(args.folder),
            "--number",
            str(args.number),
            "--step",
            step,
        ]
        began = time.perf_counter()
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        told = json.loads(done.stdout.strip().splitlines()[-1])
        print(step, f"{time.perf_counter() - began:.1f} s", told, flush=True)
        if told:
            found[step] = told
    if args.output:
        args.output.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
