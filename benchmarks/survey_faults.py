"""A survey that everything happens to, compared with one that nothing happens to.

Run: ``.venv/bin/python benchmarks/survey_faults.py --spectra 5000 --output docs/results/survey/faults.json``. Two workers and a scheduler
are started as processes; the script kills them and starts them again, as a cluster would. The folder lies on a tmpfs that is too
small at first (root is needed to mount it; for others the workers' files are limited in size instead).
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import torch
from survey_cluster import Cluster, survey
from survey_files import corrupt, make

from maury.models import load_model

# Share of the tasks at which it happens; workers are killed evenly from the first to the last.
KILLS_FROM, KILLS_TO, SCHEDULER_AT, CLIENT_AT = 0.25, 0.9, 0.45, 0.7
# Columns that tell of time.
TIMES = ("seconds",)
_POLL = 0.2
_FILE_LIMIT = 20_000


@contextmanager
def small_disk(folder: Path, size: int) -> Iterator[bool]:
    """Mount a tmpfs of so many bytes; yield whether that was permitted."""
    folder.mkdir(parents=True, exist_ok=True)
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    mounted = subprocess.run(command, capture_output=True).returncode == 0
    try:
        yield mounted
    finally:
        if mounted:
            subprocess.run(["umount", "--lazy", str(folder)], check=True)


class Episode:
    """One disturbed run: its cluster, its client, and what was done to them."""

    def __init__(self, cluster: Cluster, arguments: list[str], output: Path, tasks: int, log: Path) -> None:
        self.cluster, self.arguments, self.output, self.tasks, self.log = (
            cluster,
            arguments,
            output,
            tasks,
            log,
        )
        self.events: list[dict[str, Any]] = []
        self.began = time.monotonic()
        self.client = self._start(resume=False)

    def _start(self, resume: bool) -> "subprocess.Popen[bytes]":
        return survey(*self.arguments, *["--resume"] * resume, log=self.log)

    @property
    def done(self) -> float:
        """Share of the tasks that is committed."""
        folder = self.output / "commits"
        return len([n for n in os.listdir(folder) if n[0] != "."]) / self.tasks if folder.exists() else 0.0

    def note(self, what: str) -> None:
        self.events.append(
            {"what": what, "at_s": round(time.monotonic() - self.began, 1), "done": round(self.done, 3)}
        )

    def resume(self) -> None:
        self.client = self._start(resume=True)
        self.note("resumed")

    def wait(self) -> int:
        """Wait for the client; the cluster's machinery starts again what fell."""
        while self.client.poll() is None:
            self.cluster.mend()
            time.sleep(_POLL)
        return int(self.client.returncode)

    def disturb(self, kills: int, rng: np.random.Generator) -> int:
        """Kill workers, scheduler and client as the run goes on, until it is done."""
        todo = [(float(share), "worker") for share in np.linspace(KILLS_FROM, KILLS_TO, kills)]
        todo = sorted([*todo, (SCHEDULER_AT, "scheduler"), (CLIENT_AT, "client")])
        while True:
            code = self.client.poll()
            if code is not None:
                return int(code)
            self.cluster.mend()
            if todo and self.done >= todo[0][0]:
                _, what = todo.pop(0)
                # Not at the instant of a commit, but anywhere within a task.
                time.sleep(rng.uniform(0, 1.0))
                self._kill(what, rng)
            time.sleep(_POLL)

    def _kill(self, what: str, rng: np.random.Generator) -> None:
        if what == "client":
            self.client.send_signal(signal.SIGKILL)
            self.client.wait()
        else:
            process = self.cluster.scheduler
            if what == "worker":
                process = self.cluster.workers[rng.integers(len(self.cluster.workers))]
            assert process is not None
            process.kill()
            process.wait()
        self.note(f"{what} killed")
        if what == "client":
            self.resume()


def undisturbed(arguments: list[str], folder: Path) -> float:
    """Run a survey that nothing happens to; return its seconds."""
    began = time.monotonic()
    with Cluster(folder / "cluster", 2) as cluster:
        client = survey(*arguments, "--scheduler", cluster.address, log=folder / "client.log")
        if client.wait():
            sys.exit((folder / "client.log").read_text())
    return time.monotonic() - began


def disturbed(
    arguments: list[str], folder: Path, size: int, tasks: int, kills: int, seed: int
) -> dict[str, Any]:
    """Run the same survey with everything that may happen; return what did, and what ``verify`` says."""
    rng = np.random.default_rng(seed)
    disk = folder / "disk"
    with small_disk(disk, size) as mounted, Cluster(folder / "cluster", 2) as cluster:
        if not mounted:
            cluster.stop()
            cluster.file_limit = _FILE_LIMIT
            cluster.mend()
        output = disk / "survey"
        log = folder / "client.log"
        complete = [*arguments, "--output", str(output), "--scheduler", cluster.address]
        episode = Episode(cluster, complete, output, tasks, log)
        code = episode.wait()
        episode.note(f"disk full: client ended with {code}")
        told = log.read_text().strip().splitlines()[-1]
        if mounted:
            subprocess.run(["mount", "-o", "remount,size=2g", str(disk)], check=True)
        else:
            cluster.stop()
            cluster.file_limit = None
            cluster.mend()
        episode.resume()
        code = episode.disturb(kills, rng)
        episode.note(f"client ended with {code}")
        seconds = time.monotonic() - episode.began
        verdict = subprocess.run(
            [sys.executable, "-m", "maury.cli", "survey", "verify", str(output)],
            capture_output=True,
            text=True,
        )
        history = output / "history.jsonl"
        return {
            "seconds": round(seconds, 1),
            "disk": "tmpfs" if mounted else "file size limit",
            "disk_full": told,
            "exit": code,
            "events": episode.events,
            "verify": json.loads(verdict.stdout),
            "history": history.read_text().splitlines() if history.exists() else [],
            "tables": {kind: read(output, kind) for kind in ("catalogue", "errors")},
        }


def read(output: Path, kind: str) -> pa.Table:
    """Read a dataset whole, by file and row."""
    table = ds.dataset(output / kind, format="parquet").to_table()
    return table.sort_by([("file", "ascending"), ("row", "ascending")]) if table.num_rows else table


def differences(a: pa.Table, b: pa.Table) -> list[str]:
    """Name the columns that differ in any bit, those of time left out."""
    if a.schema != b.schema or a.num_rows != b.num_rows:
        return [f"{a.num_rows} and {b.num_rows} rows"]
    out = []
    for name in a.column_names:
        x, y = a[name].combine_chunks(), b[name].combine_chunks()
        if pa.types.is_floating(x.type):
            # NaN is equal to itself here.
            kind = np.uint32 if x.type == pa.float32() else np.uint64
            same = x.is_null().equals(y.is_null()) and np.array_equal(
                x.fill_null(0).to_numpy(zero_copy_only=False).view(kind),
                y.fill_null(0).to_numpy(zero_copy_only=False).view(kind),
            )
        else:
            same = x.equals(y)
        if not same and name not in TIMES:
            out.append(name)
    return out


def disk_use(folder: Path) -> int:
    """Bytes of a folder in whole pages, as a tmpfs counts."""
    return sum(-(-path.stat().st_size // 4096) * 4096 for path in folder.rglob("*") if path.is_file())


def trial(
    folder: Path, spectra: int, per_file: float, stage: str, draws: int, per_task: int, kills: int, seed: int
) -> dict[str, Any]:
    """Make files, run both surveys and compare."""
    torch.set_num_threads(1)
    made = make(folder, spectra, per_file, seed, load_model())
    damaged = corrupt(folder, 0.02, seed)
    settings = [str(folder / "files"), "--draws", str(draws), "--files-per-task", str(per_task)]
    settings += ["--flow-only"] * (stage == "flow")
    reference = folder / "undisturbed"
    reference.mkdir()
    calm = undisturbed([*settings, "--output", str(reference / "survey")], reference)
    tasks = sum(1 for _ in (reference / "survey" / "plan.jsonl").open())
    size = round(0.15 * disk_use(reference / "survey")) + 65_536
    found = disturbed(settings, folder / "disturbed", size, tasks, kills, seed)
    tables = found.pop("tables")
    kinds = {kind: read(reference / "survey", kind) for kind in tables}
    return {
        "made": made | {"damaged": len(damaged)},
        "stage": stage,
        "draws": draws,
        "tasks": tasks,
        "tmpfs_bytes": size,
        "undisturbed_seconds": round(calm, 1),
        **found,
        "kills": {
            w: sum(e["what"] == f"{w} killed" for e in found["events"])
            for w in ("worker", "scheduler", "client")
        },
        "rows": {kind: table.num_rows for kind, table in tables.items()},
        "differing_columns": {kind: differences(kinds[kind], table) for kind, table in tables.items()},
        "inputs_exactly_once": found["verify"]["whole"] and found["verify"]["files"] == made["files"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--spectra", type=int, default=5000)
    parser.add_argument("--per-file", type=float, default=10.0)
    parser.add_argument("--verified", action="store_true", help="not the flow alone")
    parser.add_argument("--draws", type=int, default=100)
    parser.add_argument("--files-per-task", type=int, default=5)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=5)
    parser.add_argument("--work", type=Path, help="folder for files and surveys; a temporary one by default")
    parser.add_argument("--output", type=Path, required=True)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="faults-", dir=given.work) as temporary:
        stage = "verified" if given.verified else "flow"
        folder = Path(temporary)
        found = trial(
            folder,
            given.spectra,
            given.per_file,
            stage,
            given.draws,
            given.files_per_task,
            given.kills,
            given.seed,
        )
    text = json.dumps(found, indent=1).replace(temporary, "WORK")
    given.output.parent.mkdir(parents=True, exist_ok=True)
    given.output.write_text(text + "\n")
    for event in found["events"]:
        print(f"{event['at_s']:8.1f} s  {100 * event['done']:5.1f} %  {event['what']}")
    right = (
        found["inputs_exactly_once"] and not any(found["differing_columns"].values()) and found["exit"] == 0
    )
    print(
        f"{found['rows']}, killed {found['kills']}, {found['differing_columns']}: {'as undisturbed' if right else 'WRONG'}"
    )
    sys.exit(0 if right else 1)


if __name__ == "__main__":
    main()
