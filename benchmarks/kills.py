"""Every command that goes on where it was stopped, killed at random and run again: nothing lost, nothing doubled, equal results.

Run: ``.venv/bin/python benchmarks/kills.py --output docs/results/survey/kills.json``. Surveys, verified and of the flow alone, ``infer
--output``, ``simulate``, ``train``, ``models build`` and ``models synthesise`` (by a stand-in for the engine) are run undisturbed, and then
killed (SIGKILL, the whole process group) at random instants and run again until they end; surveys go on with ``--output DIR --resume``
alone. What ``--output`` holds of other kinds is kept (``--only``). Then a survey meets a full and a read-only disk
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
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from astropy.table import Table
from safetensors.numpy import load_file
from survey_cluster import Cluster
from survey_faults import differences, disk_use, read, small_disk

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "libraries" / "synthesis"))

from engine_files import write_engine
from marcs_files import write_collection

import killed
from maury.checks.calibration import simulated_spectra
from maury.libraries.synthesis.compress import CompressedGrid
from maury.libraries.synthesis.grid import Chunk
from maury.models import load_model, shipped
from maury.posterior.store import load
from maury.spectra.formats.writers import write_apvisit
from maury.survey.verify import verify

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
KILLS = {"verified": 10, "flow": 6, "infer": 4, "simulate": 4, "train": 4, "build": 2, "synthesise": 4}
# A grid of a stand-in for the engine: four files of 25 spectra.
GRID = {
    "name": "toy",
    "number": 100,
    "teff": [3900.0, 4500.0],
    "m_h": [-0.5, 0.0],
    "low": 15100.0,
    "high": 15130.0,
}
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


@contextmanager
def said_to(log: Path) -> Iterator[None]:
    """Send what processes say that are forked from this one to a log."""
    before = os.dup(2)
    with log.open("ab") as file:
        os.dup2(file.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(before, 2)
            os.close(before)


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
            return {"kills": done, "exit": code}
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
    told = verify(b)
    return found + ([] if told.whole else [f"verify: {told}"])


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
    with h5py.File(a / "set.h5") as one, h5py.File(b / "set.h5") as other:
        if set(one) != set(other):
            return ["datasets"]
        found = [name for name in one if not np.array_equal(one[name][:], other[name][:])]
    return found + same_names(a, b)


def same_weights(a: Path, b: Path) -> list[str]:
    found = []
    for path in sorted(a.glob("*.safetensors")):
        one, other = load_file(path), load_file(b / path.name)
        found += [f"{path.name}: {k}" for k in one if not np.allclose(one[k], other[k], rtol=1e-4, atol=1e-5)]
    return found + same_names(a, b)


def same_grids(a: Path, b: Path) -> list[str]:
    found = same_names(a / "raw", b / "raw")
    for path in sorted((a / "raw").glob("spectra-*.npz")):
        one, other = Chunk.read(path), Chunk.read(b / "raw" / path.name)
        found += [
            f"{path.name}: {name}"
            for name in vars(one)
            if not np.array_equal(getattr(one, name), getattr(other, name))
        ]
    one, other = CompressedGrid.read(a / "parts"), CompressedGrid.read(b / "parts")
    same = one.known == other.known and np.allclose(one.flux(), other.flux(), atol=3e-4)
    return found + ([] if same else ["compressed parts"])


def same_names(a: Path, b: Path) -> list[str]:
    # A training that goes on keeps the metrics of each part in a file of its own.
    one, other = (
        {path.name for path in folder.iterdir() if not path.name.startswith("metrics.")} for folder in (a, b)
    )
    return sorted(f"only in one: {name}" for name in one ^ other)


class Trial:
    """Runs of one command, undisturbed and killed, in a folder."""

    def __init__(self, folder: Path, files: Path, rng: random.Random, forked: bool) -> None:
        self.folder, self.files, self.rng, self.forked = folder, files, rng, forked

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
            output.mkdir(parents=True, exist_ok=True)
            command = ["simulate", "--number", "3000", "--seed", "3", "--output", str(output / "set.h5")]
        elif kind == "train":
            (self.folder / "train.toml").write_text(TRAINING, encoding="utf-8")
            command = ["train", str(self.folder / "train.toml"), *to]
        elif kind == "synthesise":
            recipe = toy_grid(self.folder)
            parts = ["--output", str(output / "raw"), "--compressed", str(output / "parts")]
            command = ["models", "synthesise", str(recipe), *parts, "--jobs", "2"]
        else:
            command = ["models", "build", str(small_recipe(self.folder)), *to]
        return command, command

    def __call__(self, kind: str, kills: int) -> dict[str, Any]:
        here = self.folder / kind
        calm, log = here / "calm", here / "log.txt"
        here.mkdir(parents=True, exist_ok=True)
        found, outputs = (self._forked if self.forked else self._started)(kind, calm, log, kills)
        if found["exit"]:
            return found | {"log": log.read_text(encoding="utf-8")[-2000:]}
        compare: Callable[[Path, Path], list[str]] = {
            "flow": same_surveys,
            "verified": same_surveys,
            "infer": same_inferences,
            "simulate": same_simulations,
            "train": same_weights,
            "build": same_weights,
            "synthesise": same_grids,
        }[kind]
        return found | {"different": [name for output in outputs for name in compare(calm, output)]}

    def _forked(self, kind: str, calm: Path, log: Path, kills: int) -> tuple[dict[str, Any], list[Path]]:
        """Kill processes that are forked from this one, by changes and by seconds of the processor."""

        def command(output: Path) -> list[str]:
            begin, go_on = self.command(kind, output)
            return go_on if (output / "survey.json").exists() else begin

        with said_to(log):
            ended = killed.run(command(calm), calm)
            if ended.status:
                return {"exit": ended.status}, []
            at, outputs, code = killed.disturb(command, calm.parent, ended, kills, self.rng)
        found = {"undisturbed_core_seconds": round(ended.seconds, 1), "changes": ended.changes}
        return found | {"kills": len(at), "at": at, "runs": len(outputs), "exit": code}, outputs

    def maury(self, arguments: Sequence[str], log: Path) -> int:
        """Run ``maury`` to its end."""
        if not self.forked:
            return maury(arguments, log)
        with said_to(log):
            return int(killed.run(arguments, self.folder).status)

    def _started(self, kind: str, calm: Path, log: Path, kills: int) -> tuple[dict[str, Any], list[Path]]:
        """Kill commands as they are started, with their workers and readers, at random instants of the clock."""
        output = calm.parent / "killed-0"
        began = time.monotonic()
        code = maury(self.command(kind, calm)[0], log)
        seconds = time.monotonic() - began
        if code:
            return {"exit": code}, []
        begin, go_on = self.command(kind, output)
        if kind in ("flow", "verified"):
            # Until there is a plan, a survey is begun, not gone on with.
            first = start(begin, log)
            while not (output / "survey.json").exists() and first.poll() is None:
                time.sleep(0.05)
            os.killpg(first.pid, signal.SIGKILL)
            first.wait()
            begin, kills = go_on, kills - 1
        found = disturbed(begin, go_on, log, kills, seconds, self.rng)
        found["kills"] += kind in ("flow", "verified")
        return {"undisturbed_seconds": round(seconds, 1)} | found, [output]

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
        found["undisturbed"] = self.maury(
            ["survey", str(files), "--output", str(calm), *options, *alone], log
        )
        with small_disk(here / "disk", disk_use(calm) // 2) as mounted:
            output = here / "disk" / "survey"
            go_on = ["survey", "--output", str(output), "--resume", *alone]
            if mounted:
                full = self.maury(["survey", str(files), "--output", str(output), *options, *alone], log)
                told = last_line(log)
                subprocess.run(["mount", "-o", "remount,size=200m", str(here / "disk")], check=True)
                if not (output / "survey.json").exists():
                    go_on = ["survey", str(files), "--output", str(output), *options, *alone]
                found["disk full"] = {"exit": full, "told": told}
                subprocess.run(["mount", "-o", "remount,ro", str(here / "disk")], check=True)
                code = self.maury(go_on, log)
                found["read-only"] = {"exit": code, "told": last_line(log)}
                subprocess.run(["mount", "-o", "remount,rw", str(here / "disk")], check=True)
            gone = sorted(files.glob("*.fits"))[-1]
            gone.rename(here / "away.fits")
            vanished = self.maury(
                go_on if mounted else ["survey", str(files), "--output", str(output), *options, *alone], log
            )
            (here / "away.fits").rename(gone)
            found["input vanished, and came back"] = {"exit": vanished, "then": self.maury(go_on, log)}
            if (calm / "plan.jsonl").read_text() != (output / "plan.jsonl").read_text():
                # Planned while it was away: it is named again.
                found["named again"] = self.maury([*go_on[:1], str(files), *go_on[1:]], log)
            for path in [*files.iterdir(), *output.rglob("*")]:
                os.utime(path, (1e9, 1e9))
            found["clock set back"] = {
                "exit": self.maury(go_on, log),
                "different": same_surveys(calm, output),
            }
            parts = sorted((output / "catalogue").glob("*.parquet"))
            parts[0].write_bytes(parts[0].read_bytes()[:-7])
            parts[1].unlink()
            damaged = self.maury(["survey", "verify", str(output)], log)
            mended = self.maury(["survey", "repair", str(output), *alone], log)
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


def toy_grid(folder: Path) -> Path:
    """Write the recipe of a grid, its atmospheres, and the stand-in for its engine."""
    path = folder / "grid.toml"
    if not path.exists():
        write_collection(folder / "marcs")
        (folder / "lines").write_text("", encoding="ascii")
        places = {"source": write_engine(folder), "atmospheres": folder / "marcs"}
        entries = (
            GRID | {key: str(place) for key, place in places.items()} | {"lines": [str(folder / "lines")]}
        )
        path.write_text("\n".join(f"{k} = {json.dumps(v)}" for k, v in entries.items()), encoding="utf-8")
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


# What commands end with when all is well, where that is not 0.
EXITS = {"disk full": {"exit": 2}, "read-only": {"exit": 2}, "damaged and repaired": {"verify": 2}}


def wrong(found: dict[str, Any]) -> list[str]:
    """Name what was lost or doubled, or ended otherwise than it should."""
    names = [kind for kind in KILLS if kind in found and (found[kind]["exit"] or found[kind]["different"])]
    for name, entry in found.get("mishaps", {}).items():
        if not isinstance(entry, dict):
            names += [name] * bool(entry)
            continue
        ended = {key: code for key, code in entry.items() if key in ("exit", "then", "verify", "repair")}
        due = dict.fromkeys(ended, 0) | EXITS.get(name, {})
        if ended != due or entry.get("exits", [0, 2]) != [0, 2] or entry.get("different"):
            names.append(name)
    return names


def known(output: Path | None) -> dict[str, Any]:
    """Return what an earlier run found."""
    if output is None or not output.exists():
        return {}
    entries: dict[str, Any] = json.loads(output.read_text(encoding="utf-8"))
    return {kind: entries[kind] for kind in (*KILLS, "mishaps") if kind in entries}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--number", type=int, default=10, help="spectra of a survey")
    parser.add_argument("--only", nargs="*", choices=[*KILLS, "mishaps"], help="some of it")
    parser.add_argument(
        "--forked",
        action="store_true",
        help="processes forked from one that has loaded all, in a tenth of the time; workers are threads",
    )
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--work", type=Path, help="folder; a temporary one by default")
    parser.add_argument("--output", type=Path)
    given = parser.parse_args()
    wanted = given.only or [*KILLS, "mishaps"]
    if given.work:
        given.work.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="kills-", dir=given.work) as temporary:
        folder = Path(temporary)
        files = make_files(folder / "files", given.number)
        trial = Trial(folder, files, random.Random(given.seed), given.forked)
        if given.forked:
            killed.stand_ins()
        found = known(given.output)

        def tell(kind: str, entry: dict[str, Any]) -> None:
            found[kind] = entry
            print(kind, json.dumps(entry), flush=True)
            killed = sum(entry.get("kills", 0) for name, entry in found.items() if name != "mishaps")
            text = json.dumps({"kills": killed, "wrong": wrong(found), **found}, indent=1)
            if given.output:
                given.output.parent.mkdir(parents=True, exist_ok=True)
                given.output.write_text(text.replace(temporary, "WORK") + "\n", encoding="utf-8")

        for kind, kills in KILLS.items():
            if kind in wanted:
                tell(kind, trial(kind, kills))
        if "mishaps" in wanted:
            tell("mishaps", trial.mishaps())
    print(f"wrong: {wrong(found) or 'nothing'}")
    sys.exit(bool(wrong(found)))


if __name__ == "__main__":
    main()
