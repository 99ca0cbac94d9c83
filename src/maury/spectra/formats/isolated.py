"""Read files of strangers in a process of their own, which is ended when it takes too long or too much.

The readers refuse what they know to be hostile. What they do not know ends here: another process opens the file, with limits of processor
time and memory that the kernel keeps, without leave to write, to start programs or to reach the network, and hands arrays back; nothing
that it says is executed. It stays for further files, since it takes a second to start.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Generator, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import IO, Any

import numpy as np

from maury.errors import Failure, SpectrumError
from maury.spectra.formats import registry
from maury.spectra.instrument import Instrument, of_card
from maury.spectra.linespread import ChipGaussians, GaussHermite, Gaussian, LineSpread, Tabulated
from maury.spectra.spectrum import PixelGrid, Spectrum

__all__ = ["Limits", "close_all", "prepare", "read_all", "read_spectra", "read_spectrum"]


@dataclass(frozen=True)
class Limits:
    """What reading one file may take.

    Parameters
    ----------
    seconds
        Of the processor.
    memory
        Bytes that the reading process may have in all.
    patience
        Seconds of the clock, for files that wait on a disk or network that does not answer.
    """

    seconds: float = 5.0
    memory: int = 2**30
    patience: float = 60.0


LIMITS = Limits()


def read_spectra(
    path: str | os.PathLike[str],
    *,
    reject: int | None = None,
    instrument: Instrument | None = None,
    limits: Limits = LIMITS,
) -> Generator[Spectrum, None, None]:
    """Yield every spectrum of a file as `maury.spectra.read_spectra` does, read in another process.

    Threads may read at the same time, each with a process of its own.

    Parameters
    ----------
    path, reject, instrument
        As there.
    limits
        What it may take; the file is refused where it takes more.

    Raises
    ------
    SpectrumError
        As there, and if a limit is reached or the process ends.

    Examples
    --------
    >>> for spectrum in read_spectra("upload.fits", limits=Limits(seconds=2)):  # doctest: +SKIP
    ...     print(spectrum.id)
    """
    request = {
        "path": os.fspath(path),
        "reject": reject,
        "instrument": None if instrument is None else instrument.card(),
    }
    reader = _take(limits)
    try:
        yield from reader.spectra(request)
    finally:
        _give_back(reader)


def read_spectrum(
    path: str | os.PathLike[str],
    index: int = 0,
    *,
    reject: int | None = None,
    instrument: Instrument | None = None,
    limits: Limits = LIMITS,
) -> Spectrum:
    """Read one spectrum as `maury.spectra.read_spectrum` does, in another process.

    Raises
    ------
    SpectrumError
        As `read_spectra` does, and if the file holds fewer spectra.
    """
    if index < 0:
        raise SpectrumError(f"{path}: spectra count from 0, not from {index}")
    with contextlib.closing(
        read_spectra(path, reject=reject, instrument=instrument, limits=limits)
    ) as spectra:
        for spectrum in islice(spectra, index, None):
            return spectrum
    raise SpectrumError(f"{path}: has no spectrum {index}: it holds fewer")


def read_all(
    files: Iterable[str | os.PathLike[str]], instrument: Instrument | None = None, *, limits: Limits = LIMITS
) -> Iterator[Spectrum | Failure]:
    """Yield every spectrum of some files as `maury.spectra.formats.registry.read_all` does, read in another process."""
    return registry.read_all(
        files, instrument, lambda path: read_spectra(path, instrument=instrument, limits=limits)
    )


# The side that asks

_START = "import sys; sys.path[:] = {path!r}; from {module} import _serve; _serve()"
# Bytes of a reply's description, and files after which a process is replaced: whatever they left in its memory goes.
_MOST_HEAD, _FILES = 2**22, 500
_ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
# Seconds for Python and its packages to start on a busy machine.
_STARTING = 120.0


class _Ended(Exception):
    """The other process ended, or was ended: why."""


class _Reader:
    """A process that reads, seen from the one that asks."""

    def __init__(self, limits: Limits) -> None:
        self.limits, self.owner, self.files = limits, os.getpid(), 0
        code = _START.format(path=sys.path, module=__name__)
        self._process = subprocess.Popen(
            [sys.executable, "-c", code, json.dumps([limits.seconds, limits.memory])],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=os.environ | _ONE_THREAD,
            bufsize=0,
        )
        self._busy = False
        self._ready = False

    def spectra(self, request: Mapping[str, Any]) -> Iterator[Spectrum]:
        """Yield the spectra of a file.

        Raises
        ------
        SpectrumError
            As the reader does, or for the process's end.
        """
        path, self.files = request["path"], self.files + 1
        try:
            if not self._ready:
                self._receive(_STARTING)
                self._ready = True
            self._send({**request, "cwd": os.getcwd()})
            self._busy = True
            while True:
                head, arrays = self._receive(self.limits.patience)
                if head["kind"] == "end":
                    self._busy = False
                    return
                if head["kind"] == "error":
                    self._busy = False
                    raise SpectrumError(head["message"])
                if head["kind"] == "fault":
                    self._busy = False
                    raise RuntimeError(head["message"])
                try:
                    yield _unpacked(head["spectrum"], arrays)
                except GeneratorExit:
                    self._send({"next": False})
                    self._busy = False
                    raise
                self._send({"next": True})
        except _Ended as ended:
            raise SpectrumError(f"{path}: {ended}") from None

    def _send(self, message: Mapping[str, Any]) -> None:
        assert self._process.stdin is not None
        try:
            _write(self._process.stdin, message)
        except OSError:
            raise _Ended(self._why()) from None

    def _receive(self, patience: float) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        end = time.monotonic() + patience
        size = int.from_bytes(self._bytes(8, end), "big")
        if size > _MOST_HEAD:
            raise _Ended(self._stop("its reader gave no sensible answer"))
        head = json.loads(bytes(self._bytes(size, end)))
        shapes = {name: (np.dtype(kind), tuple(shape)) for name, kind, shape in head.get("arrays", [])}
        sizes = {
            name: kind.itemsize * int(np.prod(shape, dtype=object)) for name, (kind, shape) in shapes.items()
        }
        if sum(sizes.values()) > self.limits.memory or any(kind.hasobject for kind, _ in shapes.values()):
            raise _Ended(self._stop("its reader gave no sensible answer"))
        return head, {
            name: np.frombuffer(self._bytes(sizes[name], end), kind).reshape(shape)
            for name, (kind, shape) in shapes.items()
        }

    def _bytes(self, number: int, end: float) -> bytearray:
        assert self._process.stdout is not None
        out, descriptor = bytearray(), self._process.stdout.fileno()
        while len(out) < number:
            if not select.select([descriptor], [], [], max(end - time.monotonic(), 0))[0]:
                raise _Ended(self._stop(f"not read within {self.limits.patience:g} s; does the disk answer?"))
            part = os.read(descriptor, min(number - len(out), 2**20))
            if not part:
                raise _Ended(self._why())
            out += part
        return out

    def _stop(self, reason: str) -> str:
        self.close()
        return reason

    def _why(self) -> str:
        """Say why the process ended."""
        code = self._process.wait()
        self.close()
        if code == -signal.SIGPROF:
            return f"takes more than {self.limits.seconds:g} s of the processor to read; it is damaged or hostile"
        if code == _NO_MEMORY:
            return (
                f"takes more than {self.limits.memory >> 20} MiB of memory to read; it is damaged or hostile"
            )
        name = signal.Signals(-code).name if code < 0 else f"status {code}"
        return f"its reader ended ({name}); it is damaged or hostile"

    @property
    def ready(self) -> bool:
        """Whether it has started: it would answer at once."""
        assert self._process.stdout is not None
        return self._ready or bool(select.select([self._process.stdout.fileno()], [], [], 0)[0])

    @property
    def usable(self) -> bool:
        """Whether it may be asked for another file, by this process."""
        return (
            not self._busy
            and self._process.poll() is None
            and self.files < _FILES
            and self.owner == os.getpid()
        )

    def kill(self) -> None:
        """End the process; whoever waits for it is told."""
        if self.owner == os.getpid() and self._process.poll() is None:
            self._process.kill()
            self._process.wait()

    def close(self) -> None:
        """End the process and forget it."""
        self.kill()
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                with contextlib.suppress(OSError):
                    stream.close()


_idle: list[_Reader] = []
_busy: list[_Reader] = []
_lock = threading.Lock()


def prepare(number: int, limits: Limits = LIMITS) -> None:
    """Start processes ahead, until there are so many with those at work: the next file need not wait for its own to start."""
    with _lock:
        _idle[:] = [reader for reader in _idle if reader.usable]
        missing = number - sum(
            reader.limits == limits and reader.owner == os.getpid() for reader in _idle + _busy
        )
        _idle.extend(_Reader(limits) for _ in range(missing))


def _take(limits: Limits) -> _Reader:
    with _lock:
        usable = [reader for reader in reversed(_idle) if reader.limits == limits and reader.usable]
        if usable:
            reader = next((reader for reader in usable if reader.ready), usable[0])
            _idle.remove(reader)
        else:
            reader = _Reader(limits)
        _busy.append(reader)
        return reader


def _give_back(reader: _Reader) -> None:
    with _lock:
        _busy.remove(reader)
        if reader.usable:
            _idle.append(reader)
            return
    reader.close()


@atexit.register
def close_all() -> None:
    """End all processes; those who wait for one are told that it has ended."""
    with _lock:
        while _idle:
            _idle.pop().close()
        for reader in _busy:
            reader.kill()


# What is sent: a length, a description in JSON, arrays as they are


def _write(
    stream: IO[bytes], head: Mapping[str, Any], arrays: Mapping[str, np.ndarray] | None = None
) -> None:
    arrays = {name: np.ascontiguousarray(values) for name, values in (arrays or {}).items()}
    listed = [[name, values.dtype.str, values.shape] for name, values in arrays.items()]
    text = json.dumps({**head, "arrays": listed}).encode()
    parts: list[bytes] = [
        len(text).to_bytes(8, "big"),
        text,
        *(values.tobytes() for values in arrays.values()),
    ]
    for part in parts:
        view = memoryview(part)
        while view:
            view = view[stream.write(view) :]


def _packed(spectrum: Spectrum) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    arrays: dict[str, np.ndarray] = {
        "wavelength": spectrum.grid.wavelength,
        "flux": spectrum.flux,
        "ivar": spectrum.ivar,
    }
    if spectrum.bitmask is not None:
        arrays["bitmask"] = spectrum.bitmask
    lsf: dict[str, Any] | None = None
    if isinstance(spectrum.lsf, Gaussian):
        lsf = {"resolution": spectrum.lsf.resolution, "integrate": spectrum.lsf.integrate}
    elif isinstance(spectrum.lsf, ChipGaussians):
        lsf = {"resolutions": spectrum.lsf.resolutions, "integrate": spectrum.lsf.integrate}
    elif isinstance(spectrum.lsf, GaussHermite):
        arrays["coefficients"] = spectrum.lsf.coefficients
    elif isinstance(spectrum.lsf, Tabulated):
        arrays["kernels"] = spectrum.lsf.kernels
    head = {name: getattr(spectrum, name) for name in ("id", "frame", "v_correction", "path", "index")}
    plain = {k: v.item() if isinstance(v, np.generic) else v for k, v in spectrum.meta.items()}
    return head | {
        "chips": [[int(a), int(b)] for a, b in spectrum.grid.chips],
        "lsf": lsf,
        "meta": plain,
    }, arrays


def _unpacked(head: dict[str, Any], arrays: dict[str, np.ndarray]) -> Spectrum:
    told = {name: head[name] for name in ("id", "frame", "v_correction", "path", "index", "meta")}
    grid = PixelGrid(arrays["wavelength"], tuple((a, b) for a, b in head["chips"]))
    lsf: LineSpread | None = None
    if head["lsf"] is not None:
        known = head["lsf"]
        lsf = (
            Gaussian(**known)
            if "resolution" in known
            else ChipGaussians(tuple(known["resolutions"]), known["integrate"])
        )
    elif "coefficients" in arrays:
        lsf = GaussHermite(arrays["coefficients"])
    elif "kernels" in arrays:
        lsf = Tabulated(arrays["kernels"])
    return Spectrum(grid, arrays["flux"], arrays["ivar"], bitmask=arrays.get("bitmask"), lsf=lsf, **told)


# The side that reads

_NO_MEMORY = 77
# What Python's own events of these kinds would do has no place in a reader.
_FORBIDDEN = (
    "socket.",
    "subprocess.",
    "os.system",
    "os.exec",
    "os.fork",
    "os.spawn",
    "os.posix_spawn",
    "urllib.",
    "ctypes.dlopen",
)
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT


def _guard(event: str, arguments: tuple[Any, ...]) -> None:
    if event.startswith(_FORBIDDEN) or (
        event == "open" and isinstance(arguments[2], int) and arguments[2] & _WRITING
    ):
        raise PermissionError(f"a reader may not do this: {event}")


def _serve() -> None:
    """Read files as they are asked for, until nobody asks any more."""
    seconds, memory = json.loads(sys.argv[1])
    _prepare()
    _limit(memory)
    questions, answers = os.fdopen(0, "rb", 0, closefd=False), os.fdopen(os.dup(1), "wb", 0)
    # Whatever prints must not disturb the answers.
    os.dup2(2, 1)
    sys.dont_write_bytecode = True
    sys.addaudithook(_guard)
    _write(answers, {"kind": "ready"})
    while (request := _question(questions)) is not None:
        if "path" not in request:
            continue
        _time_limit(seconds)
        try:
            if not _read_one(request, questions, answers):
                return
        except MemoryError:
            os._exit(_NO_MEMORY)
        _time_limit(0)


def _prepare() -> None:
    """Load what some files need and takes long: it shall not count as theirs."""
    from maury.spectra.barycentric import barycentric_correction

    barycentric_correction(0.0, 0.0, 2457729.0, "apo25m")


def _limit(memory: int) -> None:
    """Have the kernel keep the limits; on systems without them the clock remains."""
    try:
        import resource
    except ImportError:
        return
    # Of what a process writes to; address space alone costs nothing.
    for kind, value in (
        (resource.RLIMIT_DATA, memory),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_FSIZE, 0),
    ):
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(kind, (value, value))


def _time_limit(seconds: float) -> None:
    """End this process after so much time of the processor, whatever it does then: no handler that a library could catch."""
    if hasattr(signal, "setitimer"):
        signal.signal(signal.SIGPROF, signal.SIG_DFL)
        signal.setitimer(signal.ITIMER_PROF, seconds)


def _question(stream: IO[bytes]) -> dict[str, Any] | None:
    def exactly(number: int) -> bytes:
        out = b""
        while len(out) < number and (part := stream.read(number - len(out))):
            out += part
        return out

    size = exactly(8)
    if len(size) < 8:
        return None
    return dict(json.loads(exactly(int.from_bytes(size, "big"))))


def _read_one(request: dict[str, Any], questions: IO[bytes], answers: IO[bytes]) -> bool:
    """Answer with the spectra of a file, each when it is asked for; False if nobody asks any more."""
    try:
        with contextlib.suppress(OSError):
            os.chdir(request["cwd"])
        instrument = None if request["instrument"] is None else of_card(request["instrument"])
        for spectrum in registry.read_spectra(
            request["path"], reject=request["reject"], instrument=instrument
        ):
            head, arrays = _packed(spectrum)
            _write(answers, {"kind": "spectrum", "spectrum": head}, arrays)
            question = _question(questions)
            if question is None:
                return False
            if not question["next"]:
                return True
        _write(answers, {"kind": "end"})
    except SpectrumError as error:
        _write(answers, {"kind": "error", "message": str(error)})
    except MemoryError:
        raise
    except Exception as error:
        _write(answers, {"kind": "fault", "message": f"{type(error).__name__}: {error}"})
    return True
