"""One attempt at a task, in a worker: on which device, whose fault an error is, and memory given back afterwards."""

from __future__ import annotations

import ctypes
import gc
import socket
from pathlib import Path

from maury.errors import MauryError
from maury.survey.store import Store, Task

# What a Dask worker with a GPU is started with: dask worker --resources GPU=1.
GPU = "GPU"


def attempt(folder: str, task: Task, device: str = "auto", threads: int | None = 1) -> str:
    """Do a task; return the name under which the worker staged it.

    Parameters
    ----------
    folder
        The survey's.
    task
        Some files.
    device
        ``"auto"`` for a GPU where the worker has one; ``"cpu"``; ``"cuda"``.
    threads
        Of the worker.

    Raises
    ------
    MauryError
        What `maury.survey.worker.run_task` raises, with the worker's host.
    """
    # Half a second and 300 MB: not for the process that only hands out tasks.
    from maury.survey.worker import run_task

    try:
        run_task(folder, task, _device(device), threads)
    except MauryError as error:
        raise MauryError(f"worker on {socket.gethostname()}: {error}") from None
    finally:
        _give_back()
    return Store(Path(folder)).who


def _device(wanted: str) -> str:
    """Choose a device; workers of one host that see several GPUs take one each, by their number."""
    import torch

    count = torch.cuda.device_count() if wanted in ("auto", "cuda") else 0
    if wanted == "auto":
        wanted = "cuda" if count else "cpu"
    return f"cuda:{_number() % count}" if wanted == "cuda" and count > 1 else wanted


def _number() -> int:
    """Return this worker's number in a local cluster; 0 in others, which give each worker its GPU by themselves."""
    from distributed import get_worker

    try:
        name = get_worker().name
    except ValueError:
        return 0
    return int(name) if str(name).isdigit() else 0


def _give_back() -> None:
    """Return freed memory to the system; glibc would keep what a large task needed once."""
    import pyarrow as pa

    gc.collect()
    pa.default_memory_pool().release_unused()
    try:
        ctypes.CDLL(None).malloc_trim(0)
    except (OSError, AttributeError):
        # Another C library.
        return
