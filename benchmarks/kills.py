"""Every command that goes on where it was stopped, killed at random and run again: nothing lost, nothing doubled, equal results.

Run: ``.venv/bin/python benchmarks/kills.py --output docs/results/survey/kills.json``. Surveys, verified and of the flow alone, ``infer
--output``, ``simulate``, ``train`` and ``models build`` are run undisturbed, and then killed (SIGKILL, the whole process group) at random
instants and run again until they end; surveys go on with ``--output DIR --resume`` alone. Then a survey meets a full and a read-only disk
(a tmpfs, which root alone may mount), inputs that vanish, a clock that was set back, a second run in its folder, a scheduler that is
killed, and damaged parts that ``survey repair`` mends.
"""

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from astropy.table import Table
from safetensors.numpy import load_file
from survey_cluster import Cluster
from survey_faults import differences, read, small_disk

from maury.checks.calibration import simulated_spectra
from maury.models import load_model, shipped
from maury.posterior.store import load
from maury.spectra.formats.writers import write_apvisit

TRAINING = """name = "tiny"
batch = 32
epochs = 3
epoch = 6
validation = 32
accelerator = "cpu"
novelty = 0
[problem]
model = "kurucz-apogee"
[network.featurizer]
kind = "aligned"
width = 16
blocks = 1
components = 8
features = 8
[network.flow]
kind = "nsf"
transforms = 1
hidden = [16]
"""
# Changes that make the recipe of the shipped emulator a matter of seconds.
SMALL = {"components": 20, "width": 32, "depth": 2, "spectra": 512, "held_out": 64, "steps": 60, "batch": 64}
# What kills each command gets by default: thirty in all.
KILLS = {"verified": 10, "flow": 6, "infer": 4, "simulate": 4, "train": 4, "build": 2}
# The chances that a run is given to end by itself are counted: after so many kills it is left alone.
_PATIENCE = 3600.0


def start(arguments: Sequence[str], log: Path) -> "subprocess.Popen[bytes]":
    """Start ``maury`` in a process group of its own."""
    with log.open("ab") as file:
        return subprocess.Popen(
            [sys.executable, "-m", "maury.cli", *arguments],
            stdout=file,
            stderr=file,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            start_new_session=True,
        )


def maury(arguments: Sequence[str], log: Path) -> int:
    """Run ``maury`` to its end."""
    return start(arguments, log).wait(_PATIENCE)


def disturbed(
    arguments: Sequence[str], again: Sequence[str], log: Path, kills: int, seconds: float, rng: random.Random
) -> dict[str, Any]:
    """Kill a command so often, each time within the seconds that it takes undisturbed; then let it end."""
    done, ended_early, at = 0, 0, []
    command = arguments
    while done < kills:
        process = start(command, log)
        wait = rng.uniform(0.15, 0.95) * seconds
        try:
            code = process.wait(wait)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            done += 1
            at.append(round(wait, 1))
            command = again
            continue
        if code:
            return {"kills": done, "exit": code, "log": log.read_text(encoding="utf-8")[-2000:]}
        # What is left takes less time than the whole: kill sooner.
        ended_early += 1
        seconds *= 0.6
        if ended_early > 8:
            break
    return {"kills": done, "at_s": at, "exit": maury(again, log)}


# What two runs left, compared: an empty list if it is the same.


def same_surveys(a: Path, b: Path) -> list[str]:
    found = []
    for kind in ("catalogue", "errors"):
        found += [f"{kind}: {name}" for name in differences(read(a, kind), read(b, kind))]
    told = subprocess.run(
        [sys.executable, "-m", "maury.cli", "survey", "verify", str(b)], capture_output=True, text=True
    )
    return found + ([] if told.returncode == 0 else [f"verify: {told.stdout}{told.stderr}"])


def same_inferences(a: Path, b: Path) -> list[str]:
    found = same_names(a, b)
    for path in sorted(a.glob("*.nc")):
        one, other = load(path), load(b / path.name)
        found += [] if np.array_equal(one.draws, other.draws) else [f"{path.name}: draws"]
        found += [] if np.array_equal(one.log_weights, other.log_weights) else [f"{path.name}: weights"]
    tables = [Table.read(folder / "summary.ecsv") for folder in (a, b)]
    # How long it took is no result.
    for name in set(tables[0].colnames) - {"seconds"}:
        same = np.array_equal(
            np.ma.filled(tables[0][name], 0),
            np.ma.filled(tables[1][name], 0),
            equal_nan=tables[0][name].dtype.kind == "f",
        )
        found += [] if same else [f"summary: {name}"]
    return found


def same_simulations(a: Path, b: Path) -> list[str]:
    with h5py.File(a) as one, h5py.File(b) as other:
        if set(one) != set(other):
            return ["datasets"]
        found = [name for name in one if not np.array_equal(one[name][:], other[name][:])]
    left = [path.name for path in b.parent.iterdir() if path not in (a, b)]
    return found + left


def same_weights(a: Path, b: Path) -> list[str]:
    found = []
    for path in sorted(a.glob("*.safetensors")):
        one, other = load_file(path), load_file(b / path.name)
        found += [f"{path.name}: {k}" for k in one if not np.allclose(one[k], other[k], rtol=1e-4, atol=1e-5)]
    return found + same_names(a, b)


def same_names(a: Path, b: Path) -> list[str]:
    # A training that goes on keeps the metrics of each part in a file of its own.
    one, other = (
        {path.name for path in folder.iterdir() if not path.name.startswith("metrics.")} for folder in (a, b)
    )
    return sorted(f"only in one: {name}" for name in one ^ other)


class Trial:
    """Runs of one command, undisturbed and killed, in a folder."""

    def __init__(self, folder: Path, files: Path, rng: random.Random) -> None:
        self.folder, self.files, self.rng = folder, files, rng

    def command(self, kind: str, output: Path) -> tuple[list[str], list[str]]:
        """Arguments that begin, and those that go on."""
        to = ["--output", str(output)]
        if kind in ("flow", "verified"):
            more = ["--workers", "1", "--files-per-task", "2", "--draws", "100"]
            begin = ["survey", str(self.files), *to, *more, *["--flow-only"] * (kind == "flow")]
            return begin, ["survey", *to, "--resume", "--workers", "1"]
        if kind == "infer":
            names = [str(path) for path in sorted(self.files.glob("*.fits"))[:3]]
            command = ["infer", *names, "--draws", "200", *to]
        elif kind == "simulate":
            command = ["simulate", "--number", "3000", "--seed", "3", "--output", str(output / "set.h5")]
        elif kind == "train":
            (self.folder / "train.toml").write_text(TRAINING, encoding="utf-8")
            command = ["train", str(self.folder / "train.toml"), *to]
        else:
            command = ["models", "build", str(small_recipe(self.folder)), *to]
        return command, command

    def __call__(self, kind: str, kills: int) -> dict[str, Any]:
        here = self.folder / kind
        calm, killed, log = here / "calm", here / "killed", here / "log.txt"
        for path in (calm, killed):
            if kind == "simulate":
                path.mkdir(parents=True)
        here.mkdir(parents=True, exist_ok=True)
        began = time.monotonic()
        code = maury(self.command(kind, calm)[0], log)
        seconds = time.monotonic() - began
        if code:
            return {"exit": code, "log": log.read_text(encoding="utf-8")[-2000:]}
        begin, go_on = self.command(kind, killed)
        if kind in ("flow", "verified"):
            # Until there is a plan, a survey is begun, not gone on with.
            first = start(begin, log)
            while not (killed / "survey.json").exists() and first.poll() is None:
                time.sleep(0.05)
            os.killpg(first.pid, signal.SIGKILL)
            first.wait()
            begin, kills = go_on, kills - 1
        found = disturbed(begin, go_on, log, kills, seconds, self.rng)
        found["kills"] += kind in ("flow", "verified")
        if found["exit"] == 0:
            compare: Callable[[Path, Path], list[str]] = {
                "flow": same_surveys,
                "verified": same_surveys,
                "infer": same_inferences,
                "train": same_weights,
                "build": same_weights,
            }.get(kind, lambda a, b: same_simulations(a / "set.h5", b / "set.h5"))
            found["different"] = compare(calm, killed)
        return {"undisturbed_seconds": round(seconds, 1)} | found

    # -- a survey and what else may happen to it

    def mishaps(self) -> dict[str, Any]:
        """Let a survey meet what may happen to it besides kills: disks, inputs, clocks, another run, its scheduler, damaged parts."""
        here = self.folder / "mishaps"
        here.mkdir()
        files, log = Path(shutil.copytree(self.files, here / "files")), here / "log.txt"
        options = ["--flow-only", "--draws", "64", "--files-per-task", "2"]
        alone = ["--workers", "1"]
        found: dict[str, Any] = {}
        calm = self.folder / "flow-reference"
        found["undisturbed"] = maury(["survey", str(files), "--output", str(calm), *options, *alone], log)
        with small_disk(here / "disk", 150_000) as mounted:
            output = here / "disk" / "survey"
            go_on = ["survey", "--output", str(output), "--resume", *alone]
            if mounted:
                full = maury(["survey", str(files), "--output", str(output), *options, *alone], log)
                told = last_line(log)
                subprocess.run(["mount", "-o", "remount,size=200m", str(here / "disk")], check=True)
                if not (output / "survey.json").exists():
                    go_on = ["survey", str(files), "--output", str(output), *options, *alone]
                found["disk full"] = {"exit": full, "told": told}
                subprocess.run(["mount", "-o", "remount,ro", str(here / "disk")], check=True)
                code = maury(go_on, log)
                found["read-only"] = {"exit": code, "told": last_line(log)}
                subprocess.run(["mount", "-o", "remount,rw", str(here / "disk")], check=True)
            gone = sorted(files.glob("*.fits"))[-1]
            gone.rename(here / "away.fits")
            vanished = maury(
                go_on if mounted else ["survey", str(files), "--output", str(output), *options, *alone], log
            )
            (here / "away.fits").rename(gone)
            found["input vanished, and came back"] = {"exit": vanished, "then": maury(go_on, log)}
            if (calm / "plan.jsonl").read_text() != (output / "plan.jsonl").read_text():
                # Planned while it was away: it is named again.
                found["named again"] = maury([*go_on[:1], str(files), *go_on[1:]], log)
            for path in [*files.iterdir(), *output.rglob("*")]:
                os.utime(path, (1e9, 1e9))
            found["clock set back"] = {"exit": maury(go_on, log), "different": same_surveys(calm, output)}
            one = start(["survey", "verify", str(output)], log)
            one.wait()
            parts = sorted((output / "catalogue").glob("*.parquet"))
            parts[0].write_bytes(parts[0].read_bytes()[:-7])
            parts[1].unlink()
            damaged = maury(["survey", "verify", str(output)], log)
            mended = maury(["survey", "repair", str(output), *alone], log)
            found["damaged and repaired"] = {
                "verify": damaged,
                "repair": mended,
                "different": same_surveys(calm, output),
            }
        twice = here / "twice"
        command = ["survey", str(files), "--output", str(twice), *options, *alone]
        runs = [start(command, log), start(command, log)]
        codes = sorted(process.wait(_PATIENCE) for process in runs)
        found["two runs in one folder"] = {"exits": codes, "different": same_surveys(calm, twice)}
        lost = here / "lost"
        with Cluster(here / "cluster", 1) as cluster:
            client = start(
                ["survey", str(files), "--output", str(lost), *options, "--scheduler", cluster.address], log
            )
            killed = False
            while client.poll() is None:
                commits = lost / "commits"
                if (
                    not killed
                    and commits.is_dir()
                    and any(commits.iterdir())
                    and cluster.scheduler is not None
                ):
                    cluster.scheduler.kill()
                    cluster.scheduler.wait()
                    killed = True
                    time.sleep(1)
                cluster.mend()
                time.sleep(0.1)
        found["scheduler killed"] = {
            "killed": killed,
            "exit": client.returncode,
            "different": same_surveys(calm, lost),
        }
        return found


def last_line(log: Path) -> str:
    return log.read_text(encoding="utf-8").strip().splitlines()[-1]


def small_recipe(folder: Path) -> Path:
    """Write the recipe of a small emulator, from the library's own grid of networks."""
    import tomllib

    shared = Path(os.environ.get("MAURY_SHARED", Path(__file__).parents[2] / "shared"))
    recipe = tomllib.loads((shipped()["kurucz-apogee"] / "emulator.toml").read_text(encoding="utf-8")) | SMALL
    recipe["source"] = str(shared / "data/grids/kurucz_apogee_nn/NN_unnormalized_spectra.npz")
    lines = [f"{key} = {json.dumps(value)}" for key, value in recipe.items() if not isinstance(value, dict)]
    lines += ["[range]", *(f"{key} = {json.dumps(value)}" for key, value in recipe["range"].items())]
    path = folder / "emulator.toml"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def make_files(folder: Path, number: int) -> Path:
    """Write visits, and one file that is none."""
    folder.mkdir(parents=True)
    for i, (spectrum, _, _) in enumerate(simulated_spectra(load_model(), number, "apvisit", 3)):
        write_apvisit(
            folder / f"apVisit-{i:02d}.fits", replace(spectrum, meta={"ra": 10.0 + i, "dec": -20.0})
        )
    (folder / "bad.fits").write_text("garbage", encoding="utf-8")
    return folder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--number", type=int, default=10, help="spectra of a survey")
    parser.add_argument("--only", nargs="*", choices=[*KILLS, "mishaps"], help="some of it")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--work", type=Path, help="folder; a temporary one by default")
    parser.add_argument("--output", type=Path)
    given = parser.parse_args()
    wanted = given.only or [*KILLS, "mishaps"]
    if given.work:
        given.work.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="kills-", dir=given.work) as temporary:
        folder = Path(temporary)
        trial = Trial(folder, make_files(folder / "files", given.number), random.Random(given.seed))
        found: dict[str, Any] = {}
        for kind, kills in KILLS.items():
            if kind in wanted:
                found[kind] = trial(kind, kills)
                print(kind, json.dumps(found[kind]), flush=True)
        if "mishaps" in wanted:
            found["mishaps"] = trial.mishaps()
            print("mishaps", json.dumps(found["mishaps"], indent=1), flush=True)
    killed = sum(entry.get("kills", 0) for name, entry in found.items() if name != "mishaps")
    wrong = [
        name for name, entry in found.items() if name != "mishaps" and (entry["exit"] or entry["different"])
    ]
    wrong += [
        name
        for name, entry in found.get("mishaps", {}).items()
        if isinstance(entry, dict) and entry.get("different")
    ]
    text = json.dumps({"kills": killed, "wrong": wrong, **found}, indent=1).replace(temporary, "WORK")
    if given.output:
        given.output.parent.mkdir(parents=True, exist_ok=True)
        given.output.write_text(text + "\n", encoding="utf-8")
    print(f"{killed} kills, wrong: {wrong or 'nothing'}")
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
