"""Read a file in a process of its own, which the kernel ends when it takes too long: what became of it, time, memory."""

import faulthandler
import json
import os
import re
import resource
import select
import signal
import time
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np

from maury.errors import MauryError
from maury.spectra import Spectrum

# Of the processor, bytes, and of the clock: a busy machine gives a process little of itself.
SECONDS, MEMORY, PATIENCE = 5.0, 2**30, 1800.0

Read = Callable[[Path], Iterable[Spectrum]]


def attempt(
    path: Path, read: Read, prepare: Callable[[], Any] = lambda: None, seconds: float = SECONDS
) -> dict[str, Any]:
    """Return what becomes of a file: ``{"found", "seconds", "peak_MB"}``; ``prepare`` is done before, in the same process."""
    answer, question = os.pipe()
    process = os.fork()
    if process == 0:
        os.close(answer)
        try:
            _child(path, read, prepare, seconds, question)
        finally:
            # A fault of this harness's own.
            os._exit(99)
    os.close(question)
    known = b""
    end = time.monotonic() + PATIENCE
    while select.select([answer], [], [], max(end - time.monotonic(), 0))[0]:
        part = os.read(answer, 65536)
        if not part:
            break
        known += part
    else:
        os.kill(process, signal.SIGKILL)
    os.close(answer)
    _, status, used = os.wait4(process, 0)
    if known:
        return dict(json.loads(known))
    code = os.waitstatus_to_exitcode(status)
    hang = code in (-signal.SIGPROF, -signal.SIGKILL)
    found = f"hang: more than {seconds:g} s" if hang else f"the process ended with {code}"
    return {"found": found, "seconds": used.ru_utime + used.ru_stime, "peak_MB": used.ru_maxrss / 1024}


def _child(path: Path, read: Read, prepare: Callable[[], Any], seconds: float, answer: int) -> None:
    """Read, and tell what came of it; never returns."""
    # Before anything else: Arrow sets a whole gigabyte aside where it may, which would leave the reader none.
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    prepare()
    faulthandler.disable()
    # No handler: a catch-all cannot swallow it.
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    began = time.process_time()
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            check(read(path))
        found, said = "read", ""
    except MauryError as error:
        found, said = "MauryError", str(error)
        if not said.isprintable():
            found = f"a message that is not printable: {error!a}"
    except BaseException as error:
        found, said = f"{type(error).__name__}: {error}"[:200], ""
    signal.setitimer(signal.ITIMER_PROF, 0)
    status = Path("/proc/self/status").read_text(encoding="ascii")
    peak = int(re.findall(r"VmHWM:\s*(\d+)", status)[0]) / 1024
    told = {"found": found, "seconds": time.process_time() - began, "peak_MB": peak, "said": said}
    os.write(answer, json.dumps(told).encode())
    os._exit(0)


def check(spectra: Iterable[Spectrum]) -> None:
    """Look at spectra as whoever infers them would: fluxes are finite where they are used, names and words can be printed."""
    for spectrum in spectra:
        assert spectrum.flux.shape == spectrum.ivar.shape
        assert np.isfinite(spectrum.flux).all()
        assert np.isfinite(spectrum.ivar).all()
        words = [spectrum.id, *(value for value in spectrum.meta.values() if isinstance(value, str))]
        assert all(word.isprintable() for word in words), "a word that is not printable"
