"""Commands of maury's in processes that are killed as they work, and run again until one is not.

Processes are forked from this one, which has loaded what all of them need, so that a run takes seconds. They end by signals that nothing
can catch, and that leave no time to clear up: SIGKILL just before a change of the output folder, or SIGPROF after so many seconds of the
processor; at which change and after how many seconds is drawn at random among those of a run that nothing happens to.

Usage: ``killed.py SEED FOLDER KILLS ARGUMENT...``: the undisturbed run's output is ``FOLDER/calm``, the others' ``FOLDER/killed-0`` and so
on; OUTPUT in the arguments stands for each. What is printed is where it was killed, as JSON.
"""

from __future__ import annotations

import json
import os
import random
import resource
import signal
import sys
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import maury.cli

# Events of Python's own that stand for a change, or the beginning of one; the place is the first argument.
CHANGES = ("os.rename", "os.remove", "os.mkdir", "os.rmdir")


@dataclass(frozen=True)
class Ended:
    """How a process ended: its status (negative: by a signal), changes of the folder, seconds of the processor."""

    status: int
    changes: int
    seconds: float


def stand_ins() -> None:
    """Spare each process seconds that have no part in what is tried: workers and readers that start, pictures."""
    from distributed import Client, LocalCluster

    import maury.inference.infer
    import maury.models
    import maury.report.plots
    import maury.survey.run
    import maury.survey.worker
    from maury.spectra.formats import registry

    @contextmanager
    def cluster(*_):
        with (
            LocalCluster(n_workers=1, threads_per_worker=1, processes=False, dashboard_address=None) as local,
            Client(local, set_as_default=False) as client,
        ):
            yield client

    maury.survey.run.cluster = cluster
    maury.survey.worker.isolated.read_all = lambda files, instrument, patience: registry.read_all(
        files, instrument
    )
    maury.survey.worker.isolated.prepare = lambda *_: None
    maury.report.plots.draw_picture = lambda *_: None
    # Processes that are forked from this one have it.
    maury.models.load_model("kurucz-apogee")


def run(arguments: Sequence[str], output: Path, change: int = 0, seconds: float = 0.0) -> Ended:
    """Run a command in a process of its own; it ends before a change of a folder or after seconds of the processor, if they are given."""
    answer, tell = os.pipe()
    process = os.fork()
    if process:
        os.close(tell)
        with os.fdopen(answer, "rb") as said:
            changes = len(said.read())
        _, status, used = os.wait4(process, 0)
        return Ended(os.waitstatus_to_exitcode(status), changes, used.ru_utime + used.ru_stime)
    changes, root, mine = 0, str(output), os.getpid()

    def watch(event: str, given: tuple) -> None:
        nonlocal changes
        writes = event == "open" and isinstance(given[2], int) and given[2] & (os.O_WRONLY | os.O_RDWR)
        if (writes or event in CHANGES) and str(given[0]).startswith(root) and os.getpid() == mine:
            changes += 1
            os.write(tell, b".")
            if changes == change:
                os.kill(mine, signal.SIGKILL)

    try:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        signal.signal(signal.SIGPROF, signal.SIG_DFL)
        signal.setitimer(signal.ITIMER_PROF, seconds)
        sys.addaudithook(watch)
        sys.argv = ["maury", *arguments]
        os.dup2(2, 1)
        maury.cli.main()
    except SystemExit as stop:
        os._exit(int(stop.code or 0))
    finally:
        os._exit(70)


def disturb(
    command: Callable[[Path], Sequence[str]], folder: Path, calm: Ended, kills: int, rng: random.Random
) -> tuple[list[str], list[Path], int]:
    """Kill a command so often; return where it was killed, what it left, and what it ended with.

    Parameters
    ----------
    command
        Gives the arguments that an output folder's present state asks for.
    folder
        Of the outputs. When a run ends by itself, the next kills are those of another output: of a thing that is done nothing can be lost.
    calm
        How the command ended undisturbed.
    kills, rng
        How often, and where.
    """
    at: list[str] = []
    outputs: list[Path] = []
    while len(at) < kills:
        outputs.append(folder / f"killed-{len(outputs)}")
        status = -1
        while status < 0:
            change, seconds = 0, 0.0
            if len(at) < kills and rng.random() < 0.5:
                change = rng.randint(1, calm.changes)
            elif len(at) < kills:
                seconds = rng.uniform(0.02, 0.98) * calm.seconds
            ended = run(command(outputs[-1]), outputs[-1], change, seconds)
            status = ended.status
            if status in (-signal.SIGKILL, -signal.SIGPROF):
                at.append(f"before change {change}" if change else f"after {seconds:.2f} s")
        if status:
            break
    return at, outputs, status


def main() -> None:
    seed, folder, kills = int(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])

    def command(output: Path) -> list[str]:
        if (output / "survey.json").exists():
            return ["survey", "--output", str(output), "--resume"]
        return [str(output) if argument == "OUTPUT" else argument for argument in sys.argv[4:]]

    stand_ins()
    calm = run(command(folder / "calm"), folder / "calm")
    assert calm.status == 0, calm
    at, _, status = disturb(command, folder, calm, kills, random.Random(seed))
    sys.stdout.write(json.dumps(at))
    raise SystemExit(status)


if __name__ == "__main__":
    main()
