"""What a survey of 10^8 spectra would take: from measured costs, by a simulation of workers that fail.

Run: ``.venv/bin/python benchmarks/scale.py measure FOLDER`` (of `survey_files`; writes docs/results/survey/measured.json), then
``.venv/bin/python benchmarks/scale.py simulate`` (writes docs/results/survey/scale.json and the tables of docs/scale.md).
"""

import argparse
import heapq
import json
import math
import os
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).parents[1] / "docs"
RESULTS = ROOT / "results" / "survey"
SPECTRA = 10**8


@dataclass(frozen=True)
class Fleet:
    """Machines, and what is assumed of them.

    ``rate`` is spectra/s of one worker where the measured core's does not apply; ``price`` dollars a worker-hour; ``lost`` workers lost
    per worker-hour (preemption); ``back`` seconds until another is there, model loaded; ``reads`` bytes/s that the storage gives them all.
    """

    name: str
    stage: str
    workers: int
    price: float
    spectra_per_task: int
    rate: float | None = None
    lost: float = 0.05
    back: float = 180.0
    reads: float = 5e9


# Dollars an hour: 16 vCPUs (8 cores) for 0.68, half of it where they may be taken away; 3.5 for a GPU.
FLEETS = (
    Fleet("flow, 1,000 cores", "flow", 1000, 0.0425, 2000),
    Fleet("verified, 1,000 cores", "verified", 1000, 0.0425, 200),
    Fleet("verified, 10,000 cores", "verified", 10_000, 0.0425, 200),
    Fleet("verified, 10,000 cores, tasks of 2,000", "verified", 10_000, 0.0425, 2000),
    Fleet("flow, 16 GPUs (2,000/s assumed)", "flow", 16, 3.5, 20_000, rate=2000.0),
    Fleet("verified, 64 GPUs (200/s assumed)", "verified", 64, 3.5, 5000, rate=200.0),
)


def measure(folder: Path, number: int, verified: int) -> dict[str, Any]:
    """CPU seconds of each stage a spectrum, on one thread; of a task's own, apart from its spectra; and sizes."""
    import pyarrow as pa
    import pyarrow.parquet as pq
    import torch

    from maury.files import sha256
    from maury.inference.flow import amortised
    from maury.inference.infer import infer
    from maury.models import load_model
    from maury.spectra import read_spectra
    from maury.survey import catalogue

    torch.set_num_threads(1)
    files = sorted((folder / "files").rglob("*.fits"), key=lambda path: path.name.split("-")[-1])
    spent: dict[str, float] = {}

    def timed(name: str, call: Any) -> Any:
        began = time.process_time()
        found = call()
        spent[name] = spent.get(name, 0.0) + time.process_time() - began
        return found

    load_model.cache_clear()
    model = timed("model_once", load_model)
    spectra: list[Any] = []
    size, taken = 0, 0
    for file in files:
        if len(spectra) >= number:
            break
        timed("checksum", lambda file=file: sha256(file))
        spectra += timed("read", lambda file=file: list(read_spectra(file)))
        size += file.stat().st_size
        taken += 1
    amortised(spectra[:2], model, 64)
    batches = [spectra[i : i + 64] for i in range(0, len(spectra), 64)]
    for draws in (256, 64):
        found = [
            one
            for batch in batches
            for one in timed(f"flow_{draws}", lambda b=batch, d=draws: amortised(b, model, d))
        ]
    rows = timed("rows", lambda: [catalogue.row_of_flow(one) for one in found])
    table = pa.Table.from_pylist(rows, catalogue.schema(model.problem.stellar.names))
    with tempfile.TemporaryDirectory() as temporary:
        part = Path(temporary) / "p.parquet"
        timed("write", lambda: pq.write_table(table, part, compression="zstd"))
        row_bytes = part.stat().st_size / len(rows)
    infer(spectra[0], model, draws=256)
    seconds, nested = [], 0
    for spectrum in spectra[:: max(1, len(spectra) // verified)][:verified]:
        began = time.process_time()
        nested += infer(spectrum, model, draws=256).method == "nested"
        seconds.append(time.process_time() - began)
    per_task, growth = dispatch()
    share, ratio, calibrated = stragglers()
    n = len(spectra)
    return {
        "note": "CPU seconds on one core",
        "spectra": n,
        "files": taken,
        "per_spectrum_s": {k: v / n for k, v in spent.items() if k != "model_once"},
        "model_once_s": spent["model_once"],
        "verified_s": sorted(round(s, 3) for s in seconds),
        "verified_nested": nested,
        "nested_share": share,
        "nested_over_median": ratio,
        "calibrated": calibrated,
        "dispatch_s_per_task": per_task,
        "dispatch_rss_growth_bytes_per_task": growth,
        "input_bytes_per_spectrum": size / n,
        "row_bytes": row_bytes,
    }


def stragglers() -> tuple[float, float, int]:
    """Share of spectra that needed nested sampling in a calibration, how much longer than the others' median they took, and all spectra."""
    from astropy.table import Table

    table = Table.read(ROOT / "results" / "calibration" / "btsettl-apogee" / "calibration.ecsv")
    nested, seconds = np.array(table["method"]) == "nested", np.array(table["seconds"])
    return float(nested.mean()), float(seconds[nested].mean() / np.median(seconds[~nested])), len(table)


def dispatch(number: int = 3000) -> tuple[float, float]:
    """CPU seconds that client, scheduler and commit take for a task, and how much memory stays with them."""
    import dask
    import psutil
    from distributed import Client, LocalCluster

    from maury.survey import run
    from maury.survey.store import Store, SurveySettings

    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "survey"
        store = Store(folder)
        settings = SurveySettings(model="m", model_version="1", maury_version="0", files_per_task=50)
        tasks = store.begin(settings, (Path(f"/data/{i:09d}.fits") for i in range(50 * number)))
        real, run.attempt = run.attempt, _nothing
        memory: list[int] = []
        process = psutil.Process()
        try:
            with (
                dask.config.set(run.LOGS),
                LocalCluster(
                    n_workers=2, threads_per_worker=1, processes=False, dashboard_address=None
                ) as local,
                Client(local, set_as_default=False) as client,
            ):
                began = time.process_time()
                run.run(folder, client, lambda _: memory.append(process.memory_info().rss), tasks=tasks)
                spent = time.process_time() - began
        finally:
            run.attempt = real
    # The first third fills the logs that Dask keeps a fixed length of.
    third = len(memory) // 3
    growth = (np.median(memory[-100:]) - np.median(memory[third : third + 100])) / (len(memory) - third)
    return spent / number, float(growth)


def _nothing(folder: str, task: Any, device: str, threads: int) -> str:
    """Leave a task's parts as a worker does, without a spectrum."""
    import pyarrow as pa

    from maury.survey.store import Commit, InputFile, Store

    store = Store(Path(folder))
    table = pa.table(
        {"file": list(task.files), "row": [0] * len(task.files), "sha256": ["x"] * len(task.files)}
    )
    files = tuple(InputFile(f, 0, 0, "x", 1, 0) for f in task.files)
    parts = {"catalogue": store.write_part("catalogue", task, table)}
    store.commit(task, Commit(task.number, files, len(files), 0, 0, 0.0, parts))
    return store.who


def stars(measured: dict[str, Any], fleet: Fleet) -> tuple[np.ndarray, float]:
    """Seconds of a spectrum on one worker: a sample to draw from, and those that nested sampling adds where it is needed."""
    per = measured["per_spectrum_s"]
    common = per["checksum"] + per["read"] + per["rows"] + per["write"]
    base = np.array([per["flow_64"]]) if fleet.stage == "flow" else np.array(measured["verified_s"])
    nested = measured["nested_over_median"] * float(np.median(base)) if fleet.stage == "verified" else 0.0
    if fleet.rate is not None:
        # The shape of the distribution is kept: stragglers stay stragglers, unless they go to cores.
        scale = 1 / fleet.rate / float(base.mean())
        return base * scale, nested * scale
    return base + common, nested


def simulate(measured: dict[str, Any], fleet: Fleet, seed: int = 0) -> dict[str, Any]:
    """Follow every task through a queue of workers that are lost and replaced; one process hands tasks out."""
    rng = np.random.default_rng(seed)
    one, nested = stars(measured, fleet)
    tasks = math.ceil(SPECTRA / fleet.spectra_per_task)
    # Sums of many draws of the sample; few enough that chance shows.
    n = fleet.spectra_per_task
    lengths = rng.normal(n * one.mean(), math.sqrt(n) * one.std(), tasks).clip(0.2 * n * one.mean())
    lengths += nested * rng.binomial(n, measured["nested_share"], tasks)
    io = fleet.reads / fleet.workers / measured["input_bytes_per_spectrum"]
    lengths = np.maximum(lengths, n / io)
    hand = measured["dispatch_s_per_task"]
    free, clock = 0.0, 0.0
    idle = [(rng.uniform(0, fleet.back), worker) for worker in range(fleet.workers)]
    heapq.heapify(idle)
    losses, wasted, ends = 0, 0.0, []
    queue, again = iter(lengths), []
    done = 0
    while done < tasks:
        at, worker = heapq.heappop(idle)
        length = again.pop() if again else next(queue, None)
        if length is None:
            continue
        begins = free = max(free, at) + hand
        lives = rng.exponential(3600 / fleet.lost)
        if lives < length:
            losses += 1
            wasted += lives
            again.append(length)
            heapq.heappush(idle, (begins + lives + fleet.back, worker))
            continue
        clock = max(clock, begins + length)
        ends.append(begins + length)
        done += 1
        heapq.heappush(idle, (begins + length, worker))
    ends.sort()
    hours = clock / 3600
    useful = float(lengths.sum())
    return {
        **asdict(fleet),
        "seconds_per_spectrum": float(one.mean()) + nested * measured["nested_share"],
        "tasks": tasks,
        "hours": hours,
        "spectra_per_s": SPECTRA / clock,
        "utilisation": useful / (clock * fleet.workers),
        "workers_lost": losses,
        "work_lost": wasted / useful,
        "tail_hours": (ends[-1] - ends[int(0.99 * len(ends))]) / 3600,
        "handing_out": tasks * hand / clock,
        "reads_share": SPECTRA * measured["input_bytes_per_spectrum"] / clock / fleet.reads,
        "input_tb": SPECTRA * measured["input_bytes_per_spectrum"] / 1e12,
        "catalogue_gb": SPECTRA * measured["row_bytes"] / 1e9,
        "files_written": 2 * tasks,
        "dollars": hours * fleet.workers * fleet.price,
    }


def tables(measured: dict[str, Any], runs: list[dict[str, Any]]) -> str:
    """Write the page's tables."""
    per, verified = measured["per_spectrum_s"], np.array(measured["verified_s"])
    stages = [
        ("checksum of the file", per["checksum"]),
        ("reading", per["read"]),
        ("flow, 64 draws", per["flow_64"]),
        ("flow, 256 draws", per["flow_256"]),
        ("verified one by one, 256 draws: mean", verified.mean()),
        ("verified: median", np.median(verified)),
        ("verified: slowest of the sample", verified.max()),
        ("row of the catalogue", per["rows"]),
        ("writing, compressed", per["write"]),
    ]
    out = ["| stage | CPU ms a spectrum |", "|---|---|"]
    out += [f"| {name} | {1000 * value:.3g} |" for name, value in stages]
    out += [
        "",
        f"Nested sampling, which {100 * measured['nested_share']:.2g} % of a calibration's {measured['calibrated']:,} spectra needed, "
        f"takes {measured['nested_over_median']:.0f} times as long as the median.",
        f"Of {measured['spectra']} spectra ({len(verified)} verified, {measured['verified_nested']} by nested sampling). A worker's model:",
        f"{measured['model_once_s']:.1f} s once. Handing out, publishing and counting a task of 50 files: "
        f"{1000 * measured['dispatch_s_per_task']:.1f} ms, memory that stays: {measured['dispatch_rss_growth_bytes_per_task']:.0f} bytes.",
        f"Input {measured['input_bytes_per_spectrum'] / 1e3:.0f} kB and catalogue {measured['row_bytes']:.0f} bytes a spectrum.",
        "",
        "| 10^8 spectra | hours | spectra/s | busy | workers lost | work lost | last 1 % (h) | handing out | storage read at | dollars |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for r in runs:
        out.append(
            f"| {r['name']} | {r['hours']:.3g} | {r['spectra_per_s']:,.0f} | {100 * r['utilisation']:.0f} % | {r['workers_lost']:,} "
            f"| {100 * r['work_lost']:.2f} % | {r['tail_hours']:.2f} | {100 * r['handing_out']:.1f} % "
            f"| {100 * r['reads_share']:.0f} % of {r['reads'] / 1e9:.0f} GB/s "
            f"| {r['dollars']:,.0f} |"
        )
    first = runs[0]
    out += ["", f"Input {first['input_tb']:.0f} TB; catalogue {first['catalogue_gb']:.0f} GB."]
    return "\n".join(out)


def write_page(page: Path, text: str) -> None:
    """Put the tables between their marks."""
    begin, end = "<!-- tables of benchmarks/scale.py -->", "<!-- end of tables -->"
    head, _, rest = page.read_text().partition(begin)
    page.write_text(f"{head}{begin}\n{text}\n{end}{rest.partition(end)[2]}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["measure", "simulate"])
    parser.add_argument("folder", type=Path, nargs="?")
    parser.add_argument("--number", type=int, default=300)
    parser.add_argument("--verified", type=int, default=60)
    given = parser.parse_args()
    RESULTS.mkdir(parents=True, exist_ok=True)
    file = RESULTS / "measured.json"
    if given.what == "measure":
        found = measure(given.folder, given.number, given.verified) | {"load": os.getloadavg()[0]}
        file.write_text(json.dumps(found, indent=1) + "\n")
    else:
        measured = json.loads(file.read_text())
        runs = [simulate(measured, fleet) for fleet in FLEETS]
        (RESULTS / "scale.json").write_text(json.dumps(runs, indent=1) + "\n")
        write_page(ROOT / "scale.md", tables(measured, runs))


if __name__ == "__main__":
    main()
