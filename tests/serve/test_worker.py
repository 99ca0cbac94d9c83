"""The process that infers: its stages, its errors, its death, and how it is ended."""

import contextlib
import os
import signal
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest
import stub_work as stub

from maury.errors import InferenceError, ModelError
from maury.serve.child import Child, Ended
from maury.serve.jobs import Run
from maury.serve.settings import ServerSettings
from maury.serve.uploads import Upload
from maury.serve.wanted import Wanted
from maury.serve.worker import Worker

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")


@pytest.fixture
def worker(monkeypatch):
    """A worker whose process is the stub."""
    made = []
    monkeypatch.setenv("PYTHONPATH", f"{Path(__file__).parent}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    monkeypatch.setattr("maury.serve.worker._MODULE", "stub_work")

    def make(**settings):
        made.append(Worker(ServerSettings(**settings)))
        return made[-1]

    yield make
    for one in made:
        one.stop()


def run(seed, number=1):
    upload = Upload("key", "owner", "star.fits", Path("/nowhere"), 1)
    return Run(f"run{number}", "owner", upload, number, Wanted(upload="key", model="m", seed=seed), {})


def test_a_run_tells_its_stages_and_its_numbers(worker):
    worker = worker()
    worker.load()
    worker.prepare()
    stages = []
    assert worker(run(stub.RESULT), stages.append) == {"pid": worker.pid}
    assert list(dict.fromkeys(stages)) == ["reading", "flow"]


def test_a_model_that_cannot_be_loaded(worker):
    with pytest.raises(ModelError, match="no such model"):
        worker(model="broken").load()


def test_what_makes_the_first_run_slow_is_logged(worker, caplog):
    worker = worker(model="slow")
    worker.load()
    worker.prepare()
    assert "no compiler" in caplog.text


def test_a_process_that_dies_takes_its_run_alone(worker, caplog):
    worker = worker()
    worker.load()
    first = worker.pid
    with pytest.raises(InferenceError, match="ended with status 3"):
        worker(run(stub.DIES), lambda _: None)
    assert worker(run(stub.RESULT, 2), lambda _: None)["pid"] != first
    os.kill(worker.pid, signal.SIGKILL)
    # Whether it is noticed before or after the run is sent, the one after that is done.
    with contextlib.suppress(InferenceError):
        worker(run(stub.RESULT, 3), lambda _: None)
    assert worker(run(stub.RESULT, 4), lambda _: None)["pid"]


def test_what_it_has_started_ends_with_it(worker):
    """Its reader stayed behind, at work on a file that nobody waited for."""
    worker()
    child = Child("stub_work", "m")
    child.send({"do": "run", "run": "1", "wanted": {"seed": stub.STARTS}})
    while "started" not in (message := child.receive(30.0)):
        pass
    helper = psutil.Process(message["started"])
    child.kill()
    end = time.monotonic() + 10
    # One that nobody has asked how it ended is dead all the same.
    while helper.is_running() and helper.status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < end
        time.sleep(0.01)


@pytest.mark.parametrize(("seed", "error"), [(stub.ERROR, InferenceError), (stub.FAILS, RuntimeError)])
def test_what_goes_wrong_with_a_run_leaves_the_process_alive(worker, seed, error):
    worker = worker()
    worker.load()
    before = worker.pid
    with pytest.raises(error):
        worker(run(seed), lambda _: None)
    assert worker(run(stub.RESULT, 2), lambda _: None) == {"pid": before}


class _Unwanted(Exception):
    pass


def unwanted(stage):
    if stage == "flow":
        raise _Unwanted


def test_a_run_that_is_no_longer_wanted_is_ended(worker):
    worker = worker()
    worker.load()
    before = worker.pid
    with pytest.raises(_Unwanted):
        worker(run(stub.LISTENS), unwanted)
    assert worker(run(stub.RESULT, 2), lambda _: None) == {"pid": before}


def test_a_process_that_does_not_listen_is_replaced(worker, monkeypatch):
    monkeypatch.setattr("maury.serve.worker._GRACE", 0.2)
    worker = worker()
    worker.load()
    before = worker.pid
    with pytest.raises(_Unwanted):
        worker(run(stub.DEAF), unwanted)
    assert worker(run(stub.RESULT, 2), lambda _: None)["pid"] != before


def test_a_run_has_an_end(worker, monkeypatch):
    monkeypatch.setattr("maury.serve.worker._GRACE", 0.1)
    worker = worker(longest_run=0.3)
    worker.load()
    with pytest.raises(InferenceError, match="minutes"):
        worker(run(stub.DEAF), lambda _: None)


def test_a_server_that_ends_does_not_wait_for_a_run(worker):
    worker = worker()
    worker.load()
    threading.Timer(0.2, worker.stop).start()
    with pytest.raises(InferenceError, match="the server is ending"):
        worker(run(stub.DEAF), lambda _: None)


def test_a_process_ends_with_its_server(worker):
    worker = worker()
    worker.load()
    child = Child("stub_work", "model")
    child.send({"do": "load"})
    assert child.receive(30) == {"loaded": True}
    assert child.receive(30) == {"ready": True, "trouble": ""}
    child._process.stdin.close()
    with pytest.raises(Ended, match="status 0"):
        child.receive(30)
    assert not child.alive
