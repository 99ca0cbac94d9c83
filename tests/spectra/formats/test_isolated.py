"""Reading in another process: the same spectra, and an end to whatever takes too long or too much."""

import os
import signal
import threading
from dataclasses import replace

import numpy as np
import pytest
from fixtures13 import at_rest, kernels, visit

from maury.errors import Failure, ReaderError, SpectrumError
from maury.spectra import read_spectra, write_apstar, write_apvisit, write_table
from maury.spectra.formats import isolated
from maury.spectra.formats.isolated import Limits
from maury.spectra.instrument import apogee
from maury.spectra.linespread import ChipGaussians, Gaussian

SHORT = Limits(seconds=0.3, patience=60.0)
# Of these tests alone: a page's server that other tests left running keeps processes with the usual limits.
OWN = Limits(seconds=4.5)


def idle():
    return [reader for reader in isolated._idle if reader.limits == OWN]


@pytest.fixture(scope="module", autouse=True)
def ended():
    yield
    isolated.close_all()
    assert idle() == []


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("isolated")
    write_apvisit(folder / "visit.fits", visit(2048), release="dr16")
    write_apstar(
        folder / "star.fits", [replace(at_rest(v), lsf=kernels()) for v in (1.0, 2.0)], release="dr16"
    )
    write_table(folder / "table.ecsv", replace(at_rest(3.0), lsf=Gaussian(50_000)))
    return folder


def same(one, other):
    assert (one.id, one.frame, one.v_correction, one.index, one.path, one.meta) == (
        other.id, other.frame, other.v_correction, other.index, other.path, other.meta,
    )  # fmt: skip
    assert one.grid.chips == other.grid.chips
    for name in ("flux", "ivar", "bitmask"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
    np.testing.assert_array_equal(one.grid.wavelength, other.grid.wavelength)
    assert type(one.lsf) is type(other.lsf)
    np.testing.assert_allclose(
        one.lsf.resolving_power(one.grid), other.lsf.resolving_power(other.grid), rtol=1e-12
    )


@pytest.mark.parametrize("name", ["visit.fits", "star.fits", "table.ecsv"])
def test_the_same_spectra(files, name):
    found, expected = list(isolated.read_spectra(files / name)), list(read_spectra(files / name))
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        same(one, other)


def test_all_kinds_of_line_spread_survive(files):
    spectrum = next(read_spectra(files / "table.ecsv"))
    for lsf in (None, Gaussian(2e4, integrate=False), ChipGaussians((1e4, 2e4, 3e4))):
        head, arrays = isolated._packed(replace(spectrum, lsf=lsf))
        assert isolated._unpacked(head, arrays).lsf == lsf
    head, arrays = isolated._packed(replace(spectrum, lsf=apogee().assumed_lsf))
    assert isolated._unpacked(head, arrays).lsf is apogee().assumed_lsf


def test_errors_are_those_of_the_file(files, tmp_path):
    with pytest.raises(SpectrumError, match=r"absent\.fits: no such file"):
        list(isolated.read_spectra(tmp_path / "absent.fits"))
    with pytest.raises(SpectrumError, match="count from 0"):
        isolated.read_spectrum(files / "visit.fits", -1)
    with pytest.raises(SpectrumError, match="has no spectrum 1"):
        isolated.read_spectrum(files / "visit.fits", 1)
    found = list(isolated.read_all([tmp_path / "absent.fits", files / "visit.fits"]))
    assert isinstance(found[0], Failure)
    assert found[0].flag == "unreadable"
    assert found[1].id == "star"


def test_one_process_reads_many_files_and_relative_paths(files, monkeypatch):
    isolated.close_all()
    monkeypatch.chdir(files)
    assert isolated.read_spectrum("star.fits", 1, limits=OWN).v_correction == pytest.approx(1.0)
    (reader,) = idle()
    # The rest of the file is not asked for: the process is free for the next.
    assert isolated.read_spectrum("visit.fits", instrument=apogee(), limits=OWN).path == "visit.fits"
    assert idle() == [reader]


def test_threads_have_processes_of_their_own(files):
    found = {}

    def read(number):
        found[number] = len(list(isolated.read_spectra(files / "star.fits")))

    threads = [threading.Thread(target=read, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {0: 3, 1: 3}


def misled(monkeypatch, body):
    """Have the other process read as a file would have it, that had its way with the readers."""
    start = "import sys; sys.path[:] = @path; import @module as here; from @module import _serve, registry\nhere._prepare = lambda: None\n"
    text = (start + body + "\n_serve()").replace("{", "{{").replace("}", "}}")
    monkeypatch.setattr(isolated, "_START", text.replace("@path", "{path!r}").replace("@module", "{module}"))


HANG = """
def read(*a, **k):
    while True:
        try:
            while True: pass
        except BaseException: continue
registry.read_each = read"""
GREEDY = """
import numpy
def read(*a, **k):
    yield numpy.ones(2**28)
registry.read_each = read"""
CRASH = """
import signal
def read(*a, **k):
    signal.raise_signal(signal.SIGSEGV)
registry.read_each = read"""
SLEEPS = """
import time
def read(*a, **k):
    time.sleep(100)
registry.read_each = read"""
CALLS = """
import socket
def read(*a, **k):
    socket.create_connection(("127.0.0.1", 9))
registry.read_each = read"""
WRITES = """
def read(*a, **k):
    open("written", "w")
registry.read_each = read"""
DELETES = """
import os
def read(*a, **k):
    os.remove("visit.fits")
registry.read_each = read"""
STARTS = """
import subprocess
def read(*a, **k):
    subprocess.run(["true"])
registry.read_each = read"""


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="limits are those of Unix")
@pytest.mark.parametrize(
    ("body", "limits", "error", "message"),
    [
        (HANG, SHORT, SpectrumError, "more than 0.3 s of the processor"),
        (GREEDY, Limits(), SpectrumError, "more than 1024 MiB of memory"),
        (CRASH, Limits(), SpectrumError, "SIGSEGV"),
        (SLEEPS, Limits(patience=0.5), SpectrumError, "not read within 0.5 s"),
        (CALLS, Limits(), RuntimeError, "may not do this: socket"),
        (WRITES, Limits(), RuntimeError, "may not do this: open"),
        (DELETES, Limits(), RuntimeError, "may not do this: os.remove"),
        (STARTS, Limits(), RuntimeError, "may not do this: subprocess"),
    ],
)
def test_what_a_file_may_not_do(files, monkeypatch, body, limits, error, message):
    isolated.close_all()
    monkeypatch.chdir(files)
    with monkeypatch.context() as patched:
        misled(patched, body)
        with pytest.raises(error, match=message):
            list(isolated.read_spectra("visit.fits", limits=limits))
    isolated.close_all()
    assert not (files / "written").exists()


# The second file that a process reads brings it to its end; one that is killed by somebody is so whatever it reads.
TIRED = """
import signal
good, number = registry.read_each, 0
def read(*a, **k):
    global number
    number += 1
    if number == 2: signal.raise_signal(signal.SIGSEGV)
    yield from good(*a, **k)
registry.read_each = read"""
SHOT = """
import os, signal
good, first = registry.read_each, os.path.exists("shoot")
def read(*a, **k):
    for number, spectrum in enumerate(good(*a, **k)):
        if first and number == 2: signal.raise_signal(signal.SIGKILL)
        yield spectrum
registry.read_each = read"""


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="limits are those of Unix")
def test_a_file_is_not_blamed_for_those_before_it(files, monkeypatch):
    isolated.close_all()
    misled(monkeypatch, TIRED)
    for name, number in (("visit.fits", 1), ("star.fits", 3)):
        assert len(list(isolated.read_spectra(files / name, limits=OWN))) == number
    isolated.close_all()


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="limits are those of Unix")
def test_a_reader_that_somebody_ends_is_replaced_in_the_midst_of_a_file(files, monkeypatch):
    isolated.close_all()
    monkeypatch.chdir(files)
    misled(monkeypatch, SHOT)
    (files / "shoot").touch()
    real = isolated._take

    def take(limits, fresh=False):
        if fresh:
            (files / "shoot").unlink()
        return real(limits, fresh)

    monkeypatch.setattr(isolated, "_take", take)
    found = list(isolated.read_spectra("star.fits", limits=OWN))
    assert [spectrum.index for spectrum in found] == [0, 1, 2]
    assert not (files / "shoot").exists()
    (files / "shoot").touch()
    monkeypatch.setattr(isolated, "_take", real)
    isolated.close_all()
    with pytest.raises(SpectrumError, match=r"star\.fits: its reader was ended \(SIGKILL\); is there enough"):
        list(isolated.read_spectra("star.fits", limits=OWN))
    isolated.close_all()


@pytest.mark.parametrize("start", ["import sys; sys.exit(3)", None])
def test_that_no_process_starts_is_no_files_fault(files, monkeypatch, start):
    isolated.close_all()

    def refuses(*_, **__):
        raise OSError(11, "Resource temporarily unavailable")

    if start is None:
        monkeypatch.setattr(isolated.subprocess, "Popen", refuses)
    else:
        monkeypatch.setattr(isolated, "_START", start)
    with pytest.raises(ReaderError, match="process that reads files"):
        list(isolated.read_all([files / "visit.fits"]))


def test_the_rest_of_a_file_is_passed_over(files):
    """What was read ahead of those that were asked for is not taken for the next file's."""
    for _ in range(2):
        spectra = isolated.read_spectra(files / "star.fits", limits=OWN)
        next(spectra)
        spectra.close()
        assert [s.path for s in isolated.read_spectra(files / "visit.fits", limits=OWN)] == [
            str(files / "visit.fits")
        ]
    assert len(idle()) == 1


SLOW = """
good = registry.read_each
def read(path, **k):
    for number, spectrum in enumerate(good(path, **k)):
        while number and "star" in path: pass
        yield spectrum
registry.read_each = read"""


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="limits are those of Unix")
def test_what_nobody_waits_for_is_not_held_against_the_next_file(files, monkeypatch):
    isolated.close_all()
    misled(monkeypatch, SLOW)
    spectra = isolated.read_spectra(files / "star.fits", limits=SHORT)
    next(spectra)
    spectra.close()
    assert len(list(isolated.read_spectra(files / "visit.fits", limits=SHORT))) == 1
    isolated.close_all()


def test_large_files_may_take_more(tmp_path):
    with (tmp_path / "large.fits").open("wb") as file:
        file.truncate(200 * 2**20)
    assert Limits.of_file(tmp_path / "large.fits", 7.0) == Limits(20.0, 4 * 2**30, 7.0)
    assert Limits.of_file(tmp_path / "absent.fits") == Limits()


def test_an_interrupted_process_is_replaced(files):
    isolated.close_all()
    spectra = isolated.read_spectra(files / "star.fits", limits=OWN)
    next(spectra)
    spectra.close()
    (reader,) = idle()
    os.kill(reader._process.pid, signal.SIGKILL)
    reader._process.wait()
    assert len(list(isolated.read_spectra(files / "star.fits", limits=OWN))) == 3
