"""Throughput, memory and scaling of ``maury survey`` on folders of `survey_files`.

Run: ``.venv/bin/python benchmarks/survey_run.py FOLDER... --stages flow verified --workers 1 2 --output FILE.json``. Scheduler, workers
and client are processes of their own, whose memory is sampled each second.
"""

import argparse
import json
import os
import platform
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import pyarrow.dataset as ds
import pyarrow.parquet as pq
from survey_cluster import Cluster, Watch, survey

LABELS = ("teff", "logg", "m_h", "alpha_m", "v_rad", "v_sini")
MIDDLE = 0.68269


def measure(folder: Path, stage: str, workers: int, draws: int, per_task: int) -> dict[str, Any]:
    """Run a survey of a folder, and tell what it took."""
    with tempfile.TemporaryDirectory(prefix="survey-") as temporary:
        output, watch = Path(temporary) / "survey", Watch()
        arguments = [str(folder / "files"), "--output", str(output), "--draws", str(draws)]
        arguments += ["--files-per-task", str(per_task)] + ["--flow-only"] * (stage == "flow")
        with Cluster(Path(temporary) / "cluster", workers) as cluster:
            began = time.monotonic()
            client = survey(*arguments, "--scheduler", cluster.address, log=Path(temporary) / "client.log")
            assert cluster.scheduler is not None
            named = {"client": client, "scheduler": cluster.scheduler}
            named |= {f"worker{i}": worker for i, worker in enumerate(cluster.workers)}
            while client.poll() is None:
                watch.sample(named)
                time.sleep(1)
            seconds = time.monotonic() - began
        if client.returncode:
            sys.exit((Path(temporary) / "client.log").read_text())
        processes = watch.summary()
        busy = sum(
            sum(processes[f"worker{i}"][f"cpu_{k}_s"] for k in ("user", "system")) for i in range(workers)
        )
        rate, spectra = steady(output)
        return {
            "spectra": spectra,
            "files": json.loads((folder / "made.json").read_text())["files"],
            "stage": stage,
            "workers": workers,
            "draws": draws,
            "files_per_task": per_task,
            "seconds": round(seconds, 1),
            "spectra_per_s": round(rate, 3),
            "worker_cpu_s_per_spectrum": round(busy / spectra, 5),
            "output_bytes": sum(p.stat().st_size for p in output.rglob("*") if p.is_file()),
            "output_files": sum(1 for p in output.rglob("*") if p.is_file()),
            "processes": processes,
            "truth": compare(output, folder / "truth.parquet"),
        }


def steady(output: Path) -> tuple[float, int]:
    """Spectra a second between the first and the last commit, and their number: imports and models are loaded once."""
    commits = sorted((output / "commits").iterdir(), key=lambda path: path.stat().st_mtime)
    counts = [(c["rows"] + c["errors"]) for c in (json.loads(path.read_text()) for path in commits)]
    span = commits[-1].stat().st_mtime - commits[0].stat().st_mtime
    return (sum(counts[1:]) / span if span > 0 else float("nan")), sum(counts)


def compare(output: Path, truth: Path) -> dict[str, Any]:
    """Coverage of the 68 % intervals, and pulls' median and robust width, by label."""
    table = ds.dataset(output / "catalogue").to_table().to_pandas()
    both = table.merge(pq.read_table(truth).to_pandas(), on=["file", "row"], suffixes=("", "_true"))
    out: dict[str, Any] = {"matched": len(both), "rows": len(table)}
    for name in LABELS:
        low, middle, high = (both[f"{name}_{q}"] for q in ("p16", "p50", "p84"))
        pull = (middle - both[name]) / ((high - low) / 2)
        width = (pull.quantile((1 + MIDDLE) / 2) - pull.quantile((1 - MIDDLE) / 2)) / 2
        out[name] = {
            "coverage68": round(float(((both[name] > low) & (both[name] < high)).mean()), 4),
            "pull_median": round(float(pull.median()), 3),
            "pull_width": round(float(width), 3),
        }
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folders", type=Path, nargs="+")
    parser.add_argument("--stages", nargs="+", default=["flow"], choices=["flow", "verified"])
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--draws", type=int, default=400)
    parser.add_argument("--files-per-task", type=int, default=10)
    parser.add_argument("--output", type=Path, required=True)
    given = parser.parse_args()
    runs = []
    for folder in given.folders:
        for stage in given.stages:
            rates = {}
            for workers in given.workers:
                load = os.getloadavg()[0]
                found = measure(folder, stage, workers, given.draws, given.files_per_task)
                rates[workers] = found["spectra_per_s"]
                found["load_before"] = round(load, 2)
                if 1 in rates and workers > 1:
                    found["scaling_efficiency"] = round(rates[workers] / workers / rates[1], 3)
                runs.append(found)
                print(json.dumps(found), flush=True)
                figures = {"machine": platform.platform(), "cores": os.cpu_count(), "runs": runs}
                given.output.parent.mkdir(parents=True, exist_ok=True)
                given.output.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
