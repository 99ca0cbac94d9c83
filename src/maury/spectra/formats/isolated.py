"""Read files of strangers in a process of their own, which is ended when it takes too long or too much.

The readers refuse what they know to be hostile. What they do not know ends here: another process opens the file, with limits of processor
time and memory that the kernel keeps, without leave to write, to start programs or to reach the network, and hands arrays back; nothing
that it says is executed. It stays for further files, since it takes a second to start.

Its end is held against a file only if it is the file's doing: a process that somebody else ended, or that ended after it had read other
files, is replaced, and the file is read again.
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
from pathlib import Path
from typing import IO, Any

import numpy as np

from maury.errors import Failure, ReaderError, SpectrumError
from maury.files import split_rows
from maury.spectra.formats import registry
from maury.spectra.instrument import Instrument, apogee, of_card
from maury.spectra.linespread import ChipGaussians, GaussHermite, Gaussian, LineSpread, Resampled, Tabulated
from maury.spectra.spectrum import PixelGrid, Spectrum

__all__ = ["Limits", "close_all", "prepare", "read_all", "read_each", "read_spectra", "read_spectrum"]


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

    @classmethod
    def of_file(cls, path: str | os.PathLike[str], patience: float = 60.0) -> Limits:
        """Return the usual limits for a file: of time and memory so many times more as it has times 64 MiB.

        Parameters
        ----------
        path
            The file; one that cannot be looked at gets those of a small one, and rows of one (``FILE[0:256]``) its time alone.
        patience
            As above.
        """
        file, rows = split_rows(path)
        try:
            parts = max(1, -(-file.stat().st_size // _PART))
        except (OSError, ValueError):
            parts = 1
        # Rows are read a few at a time: those before may take time, and no more memory.
        return cls(parts * cls.seconds, cls.memory if rows else parts * cls.memory, patience)


# Bytes of a file for which the usual limits are made.
_PART = 2**26
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
    ReaderError
        If no process can be started.

    Examples
    --------
    >>> for spectrum in read_spectra("upload.fits", limits=Limits(seconds=2)):  # doctest: +SKIP
    ...     print(spectrum.id)
    """
    for item in read_each(path, reject=reject, instrument=instrument, limits=limits):
        yield registry.spectrum_of(item)


def read_each(
    path: str | os.PathLike[str],
    *,
    reject: int | None = None,
    instrument: Instrument | None = None,
    limits: Limits = LIMITS,
) -> Generator[Spectrum | Failure, None, None]:
    """Do as `read_spectra`, but go on after a row of a catalogue that holds no spectrum, with a failure in its place."""
    return _read(path, reject, instrument, limits, _AHEAD)


def _read(
    path: str | os.PathLike[str],
    reject: int | None,
    instrument: Instrument | None,
    limits: Limits,
    ahead: int,
) -> Generator[Spectrum | Failure, None, None]:
    """Do as `read_each`; so many spectra may be read ahead of those that were asked for."""
    request = {
        "path": os.fspath(path),
        "reject": reject,
        "instrument": None if instrument is None else instrument.card(),
        "ahead": ahead,
    }
    yielded, again = 0, False
    while True:
        reader = _take(limits, fresh=again)
        try:
            with contextlib.closing(reader.spectra(request)) as spectra:
                # Those that were yielded before a process ended are passed over.
                for item in islice(spectra, yielded, None):
                    yield item
                    yielded += 1
            return
        except _Ended as ended:
            if again or not ended.innocent:
                raise SpectrumError(f"{path}: {ended}") from None
            again = True
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
    with contextlib.closing(_read(path, reject, instrument, limits, index)) as spectra:
        for item in islice(spectra, index, None):
            return registry.spectrum_of(item)
    raise SpectrumError(f"{path}: has no spectrum {index}: it holds fewer")


def read_all(
    files: Iterable[str | os.PathLike[str]], instrument: Instrument | None = None, *, patience: float = 60.0
) -> Iterator[Spectrum | Failure]:
    """Yield every spectrum of some files as `maury.spectra.formats.registry.read_all` does, read in another process.

    Parameters
    ----------
    files, instrument
        As there.
    patience
        Seconds of the clock that a disk has to answer; the other limits are those of `Limits.of_file`.

    Raises
    ------
    ReaderError
        If no process can be started: no file has a part in that.
    """
    return registry.read_all(
        files,
        instrument,
        lambda path: read_each(path, instrument=instrument, limits=Limits.of_file(path, patience)),
    )


# The side that asks

# Ctrl-C is for whoever asks, who ends this process then.
_START = (
    "import signal, sys; signal.signal(signal.SIGINT, signal.SIG_IGN); sys.path[:] = {path!r}; "
    "from {module} import _serve; _serve()"
)
# Bytes of a reply's description, and files after which a process is replaced: whatever they left in its memory goes. One that may take
# more memory than usual is not kept at all.
_MOST_HEAD, _FILES = 2**22, 500
_PIPE = 2**20
# Spectra that are read while those before are worked on.
_AHEAD = 8
_ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
# Seconds for Python and its packages to start on a busy machine, and for a process to be gone that has closed its output.
_STARTING, _ENDING = 300.0, 10.0
# Signals by which others end a process: whoever shuts down a machine, or its kernel for want of memory.
_OF_OTHERS = {
    -getattr(signal, name) for name in ("SIGKILL", "SIGTERM", "SIGINT", "SIGHUP") if hasattr(signal, name)
}


class _Ended(Exception):
    """The other process ended, or was ended: why, and whether the file that it read may have no part in it."""

    def __init__(self, reason: str, innocent: bool = False) -> None:
        super().__init__(reason)
        self.innocent = innocent


class _Reader:
    """A process that reads, seen from the one that asks."""

    def __init__(self, limits: Limits) -> None:
        self.limits, self.owner, self.files = limits, os.getpid(), 0
        code = _START.format(path=sys.path, module=__name__)
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-c", code, json.dumps([limits.seconds, limits.memory])],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env=os.environ | _ONE_THREAD,
                bufsize=0,
            )
        except OSError as error:
            raise ReaderError(f"a process that reads files cannot be started ({error.strerror})") from None
        _widen(self._process.stdout)
        # Whether its answer to the last request has not come to an end, and whether nobody wants the rest.
        self._busy = self._unwanted = False
        self._ready = False
        self._killed = False

    def spectra(self, request: Mapping[str, Any]) -> Generator[Spectrum | Failure, None, None]:
        """Yield the spectra of a file, and failures of single rows.

        Raises
        ------
        SpectrumError
            As the reader does.
        _Ended
            If the process ends.
        """
        self.start()
        self.files += 1
        try:
            while self._unwanted:
                self._answer()
        except _Ended as ended:
            raise _Ended(str(ended), innocent=True) from None
        self._send({**request, "cwd": os.getcwd()})
        self._busy = True
        while True:
            head, arrays = self._answer()
            if head["kind"] == "end":
                return
            if head["kind"] == "error":
                raise SpectrumError(head["message"])
            if head["kind"] == "fault":
                raise RuntimeError(head["message"])
            try:
                yield _failure(head) if head["kind"] == "failure" else _unpacked(head["spectrum"], arrays)
            except GeneratorExit:
                # What it has read ahead is passed over when it is asked again.
                self._unwanted = True
                with contextlib.suppress(_Ended):
                    self._send({"next": False})
                raise
            self._send({"next": True})

    def _answer(self) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """Return the next part of its answer; only the last is neither a spectrum nor a row that holds none."""
        head, arrays = self._receive(self.limits.patience)
        if head["kind"] not in ("spectrum", "failure"):
            self._busy = self._unwanted = False
        return head, arrays

    def start(self) -> None:
        """Wait until it answers.

        Raises
        ------
        ReaderError
            If it does not.
        """
        if self._ready:
            return
        try:
            self._receive(_STARTING)
        except _Ended as ended:
            raise ReaderError(f"a process that reads files did not start: {ended}") from None
        self._ready = True

    def _send(self, message: Mapping[str, Any]) -> None:
        assert self._process.stdin is not None
        try:
            _write(self._process.stdin, message)
        except OSError:
            raise self._ended() from None

    def _receive(self, patience: float) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        end = time.monotonic() + patience
        size = int.from_bytes(self._bytes(8, end, patience), "big")
        if size > _MOST_HEAD:
            raise _Ended(self._stop("its reader gave no sensible answer"))
        head = json.loads(bytes(self._bytes(size, end, patience)))
        shapes = {name: (np.dtype(kind), tuple(shape)) for name, kind, shape in head.get("arrays", [])}
        sizes = {
            name: kind.itemsize * int(np.prod(shape, dtype=object)) for name, (kind, shape) in shapes.items()
        }
        if sum(sizes.values()) > self.limits.memory or any(kind.hasobject for kind, _ in shapes.values()):
            raise _Ended(self._stop("its reader gave no sensible answer"))
        return head, {
            name: np.frombuffer(self._bytes(sizes[name], end, patience), kind).reshape(shape)
            for name, (kind, shape) in shapes.items()
        }

    def _bytes(self, number: int, end: float, patience: float) -> bytearray:
        assert self._process.stdout is not None
        out, descriptor = bytearray(number), self._process.stdout.fileno()
        left = memoryview(out)
        while left:
            if not select.select([descriptor], [], [], max(end - time.monotonic(), 0))[0]:
                raise _Ended(self._stop(f"not read within {patience:g} s; does the disk answer?"))
            got = os.readv(descriptor, [left])
            if not got:
                raise self._ended()
            left = left[got:]
        return out

    def _stop(self, reason: str) -> str:
        self.close()
        return reason

    def _ended(self) -> _Ended:
        """Say why the process ended."""
        mine = self._killed
        try:
            code = self._process.wait(_ENDING)
        except subprocess.TimeoutExpired:
            return _Ended(self._stop("its reader fell silent; it is damaged or hostile"))
        self.close()
        if code == -signal.SIGPROF:
            return _Ended(
                f"takes more than {self.limits.seconds:g} s of the processor to read; it is damaged or hostile"
            )
        # What it had read before may have left too little memory, or worse.
        used = self.files > 1
        if code == _NO_MEMORY:
            most = self.limits.memory >> 20
            return _Ended(f"takes more than {most} MiB of memory to read; it is damaged or hostile", used)
        name = signal.Signals(-code).name if code < 0 else f"status {code}"
        if code in _OF_OTHERS:
            return _Ended(f"its reader was ended ({name}); is there enough memory?", not mine)
        return _Ended(f"its reader ended ({name}); it is damaged or hostile", used)

    @property
    def ready(self) -> bool:
        """Whether it has started: it would answer at once."""
        assert self._process.stdout is not None
        return self._ready or bool(select.select([self._process.stdout.fileno()], [], [], 0)[0])

    @property
    def usable(self) -> bool:
        """Whether it may be asked for another file, by this process."""
        return (
            (self._unwanted or not self._busy)
            and self._process.poll() is None
            and self.files < _FILES
            and self.limits.memory <= LIMITS.memory
            and self.owner == os.getpid()
        )

    def kill(self) -> None:
        """End the process; whoever waits for it is told."""
        self._killed = True
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


def _take(limits: Limits, fresh: bool = False) -> _Reader:
    """Return a process that is not at work; a new one, if a fresh one is wanted."""
    with _lock:
        usable = [reader for reader in reversed(_idle) if reader.limits == limits and reader.usable]
        if usable and not fresh:
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


def _widen(pipe: IO[bytes] | None) -> None:
    """Let a spectrum pass at once, where the system can: else the two processes wait for each other eight times."""
    with contextlib.suppress(ImportError, AttributeError, OSError):
        import fcntl

        fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, _PIPE)  # type: ignore[arg-type]


def _write(
    stream: IO[bytes], head: Mapping[str, Any], arrays: Mapping[str, np.ndarray] | None = None
) -> None:
    arrays = {name: np.ascontiguousarray(values) for name, values in (arrays or {}).items()}
    listed = [[name, values.dtype.str, values.shape] for name, values in arrays.items()]
    text = json.dumps({**head, "arrays": listed}).encode()
    parts = [memoryview(len(text).to_bytes(8, "big") + text)]
    parts += [values.reshape(-1).view(np.uint8).data for values in arrays.values()]
    for view in parts:
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
    elif isinstance(spectrum.lsf, Resampled):
        # The only one that readers know is the survey's usual fibre.
        lsf = {"assumed": True}
    head = {name: getattr(spectrum, name) for name in ("id", "frame", "v_correction", "path", "index")}
    plain = {k: v.item() if isinstance(v, np.generic) else v for k, v in spectrum.meta.items()}
    return head | {
        "chips": [[int(a), int(b)] for a, b in spectrum.grid.chips],
        "lsf": lsf,
        "meta": plain,
    }, arrays


def _failure(head: dict[str, Any]) -> Failure:
    return Failure(Path(head["path"]), head["index"], head["flag"], head["reason"])


def _unpacked(head: dict[str, Any], arrays: dict[str, np.ndarray]) -> Spectrum:
    told = {name: head[name] for name in ("id", "frame", "v_correction", "path", "index", "meta")}
    grid = PixelGrid(arrays["wavelength"], tuple((a, b) for a, b in head["chips"]))
    lsf: LineSpread | None = None
    if head["lsf"] is not None:
        known = head["lsf"]
        if "assumed" in known:
            lsf = apogee().assumed_lsf
        elif "resolution" in known:
            lsf = Gaussian(**known)
        else:
            lsf = ChipGaussians(tuple(known["resolutions"]), known["integrate"])
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
    "os.kill",
    "urllib.",
    "ctypes.dlopen",
    "os.mkdir",
    "os.rename",
    "os.remove",
    "os.rmdir",
    "os.link",
    "os.symlink",
    "os.truncate",
    "os.chmod",
    "os.chown",
    "os.utime",
    "shutil.",
    "tempfile.",
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
    """Answer with the spectra of a file, no further ahead than may be; False if nobody asks any more."""
    ahead = request["ahead"]
    try:
        with contextlib.suppress(OSError):
            os.chdir(request["cwd"])
        instrument = None if request["instrument"] is None else of_card(request["instrument"])
        for item in registry.read_each(request["path"], reject=request["reject"], instrument=instrument):
            if isinstance(item, Failure):
                told = {"path": str(item.path), "index": item.index, "flag": item.flag, "reason": item.reason}
                _write(answers, {"kind": "failure"} | told)
            else:
                head, arrays = _packed(item)
                _write(answers, {"kind": "spectrum", "spectrum": head}, arrays)
            ahead -= 1
            while ahead < 0 or select.select([questions], [], [], 0)[0]:
                question = _question(questions)
                if question is None:
                    return False
                if not question["next"]:
                    _write(answers, {"kind": "end"})
                    return True
                ahead += 1
        _write(answers, {"kind": "end"})
    except SpectrumError as error:
        _write(answers, {"kind": "error", "message": str(error)})
    except MemoryError:
        raise
    except Exception as error:
        _write(answers, {"kind": "fault", "message": f"{type(error).__name__}: {error}"})
    return True
