"""Long runs of a check: spread over processes, and kept on disk as they go."""

from __future__ import annotations

import json
import multiprocessing
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import torch

from maury.errors import ConfigError
from maury.files import writing
from maury.models import Model

# What tells one piece of a run from another, and what is computed of it; both plain values of JSON.
Key = list[Any]
Task = Callable[[Model, Key], Any]


def run(
    model: Model,
    task: Task,
    keys: Sequence[Key],
    *,
    jobs: int = 1,
    store: Path | None = None,
    settings: Mapping[str, Any] | None = None,
) -> Iterator[Any]:
    """Yield ``task(model, key)`` for each key, in order.

    Parameters
    ----------
    model
        Given to every task.
    task
        A function that processes can be given, of a key; what it returns is plain.
    keys
        Lists of plain values.
    jobs
        Processes; the results are the same, whatever their number.
    store
        A file that every result is added to, and from which an interrupted run goes on.
    settings
        What the results depend on beside their keys.

    Raises
    ------
    ConfigError
        If ``store`` is of other settings.
    """
    done = _read(store, settings or {}) if store else {}
    missing = [key for key in keys if json.dumps(key) not in done]
    fresh = _in_processes(model, task, missing, jobs) if jobs > 1 else (task(model, key) for key in missing)
    for key in keys:
        name = json.dumps(key)
        if name in done:
            yield done[name]
            continue
        result = next(fresh)
        if store:
            with store.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"key": key, "result": result}) + "\n")
        yield result


def _read(store: Path, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Read results by their keys; begin the file if there is none."""
    if not store.exists():
        with writing(store) as temporary:
            temporary.write_text(json.dumps(settings) + "\n", encoding="utf-8")
        return {}
    whole, _, cut = store.read_text(encoding="utf-8").rpartition("\n")
    if cut:
        # Killed while it was written: that piece is done again.
        store.write_text(whole + "\n", encoding="utf-8")
    head, *lines = whole.splitlines()
    if json.loads(head) != json.loads(json.dumps(settings)):
        raise ConfigError(f"{store}: holds results of other settings ({head}); choose another --output")
    return {json.dumps(entry["key"]): entry["result"] for entry in map(json.loads, lines)}


_model: Model | None = None


def _take_model(model: Model, threads: int) -> None:
    global _model
    # Ctrl-C reaches every process of a terminal; the one that has begun the others ends them.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(threads)
    _model = model


def _with_model(key: Key, task: Task) -> Any:
    assert _model is not None
    return task(_model, key)


def _in_processes(model: Model, task: Task, keys: Sequence[Key], jobs: int) -> Iterator[Any]:
    threads = max(1, torch.get_num_threads() // jobs)
    before = set(multiprocessing.active_children())
    with ProcessPoolExecutor(
        jobs, multiprocessing.get_context("spawn"), initializer=_take_model, initargs=(model, threads)
    ) as pool:
        try:
            yield from pool.map(partial(_with_model, task=task), keys)
        except (KeyboardInterrupt, GeneratorExit):
            # Nobody waits for what they are at.
            for process in set(multiprocessing.active_children()) - before:
                process.terminate()
            pool.shutdown(wait=False, cancel_futures=True)
            raise
