"""Servers of the page: one without inference for its rules, one with it for a browser."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from starlette.testclient import TestClient

from maury.models import load_model
from maury.serve.app import create_app
from maury.serve.jobs import Jobs, Progress, Run
from maury.serve.readers import Readers
from maury.serve.results import DRAWS, FIT, NUMBERS, REPORT, ROW
from maury.serve.server import configured, listen
from maury.serve.settings import ServerSettings
from maury.serve.uploads import Uploads
from maury.serve.wanted import choices
from maury.serve.worker import Worker
from maury.training.demo import write_demo

ADDRESS = "http://127.0.0.1:8765"
REQUEST = {"model": "kurucz-apogee", "draws": 200}


@pytest.fixture(scope="session")
def demo_bytes(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The demonstration's apVisit file."""
    path = tmp_path_factory.mktemp("demo") / "apVisit-demo.fits"
    write_demo(path, load_model())
    return path.read_bytes()


def numbers(teff: float) -> dict[str, Any]:
    """What a run returns, for a star whose rotation is an upper limit."""
    teff_ = {"p50": teff, "std": 20.0, "total": 90.0, "unit": "K"}
    v_sini = {"p50": 2.0, "std": 1.0, "total": 1.0, "unit": "km/s"}
    said = {
        "title": "Verified, but flagged", "sentence": "Believe it, but take v_sini as an upper limit.", "advice": "",
        "reasons": [["average_lsf", "What average_lsf means."]],
    }  # fmt: skip
    return {
        "labels": {"teff": teff_, "v_sini": v_sini}, "limits": {"v_sini": 4.5}, "said": said, "verdict": "flagged", "names": {},
        "flag_bad": [], "flag_warn": ["average_lsf"], "method": "refined", "khat": 0.1, "ess": 190.0, "draws": 220,
        "rchi2_jitter": 1.0, "log_evidence": -5.0,
    }  # fmt: skip


@dataclass
class Fake:
    """Work that takes as long as the test lets it: a run waits at its second stage until ``gate`` is set."""

    gate: threading.Event = field(default_factory=threading.Event)
    error: Exception | None = None
    seen: list[str] = field(default_factory=list)

    def prepare(self) -> None: ...

    def stop(self) -> None: ...

    def __call__(self, run: Run, progress: Progress) -> dict[str, Any]:
        self.seen.append(run.id)
        progress("reading")
        progress("flow")
        # In steps, so that what is cancelled ends.
        while not self.gate.wait(0.02):
            progress("flow")
        if self.error:
            raise self.error
        run.folder.mkdir()
        for name in (REPORT, NUMBERS, DRAWS):
            (run.folder / name).write_text(f"{name} of run {run.number}")
        teff = 4000.0 + 100 * len(self.seen)
        (run.folder / ROW).write_text(json.dumps({"file": run.upload.name, "teff": teff}))
        (run.folder / FIT).write_text(json.dumps({"wavelength": [], "flux": [], "scale": 1.0, "panels": []}))
        return numbers(teff)


@dataclass
class Desk:
    """A server without inference, and a client of it."""

    client: TestClient
    work: Fake
    jobs: Jobs
    root: Path

    def browser(self) -> TestClient:
        """Another client, with a session of its own."""
        client = TestClient(self.client.app, base_url=ADDRESS, raise_server_exceptions=False)
        client.get("/")
        return client

    def send(self, content: bytes, name: str = "star.fits", client: TestClient | None = None) -> Any:
        """Upload a file."""
        return (client or self.client).post("/api/files", params={"name": name}, content=content)

    def run(self, file: str, client: TestClient | None = None, **more: Any) -> Any:
        """Ask for a run."""
        return (client or self.client).post("/api/runs", json=REQUEST | {"upload": file} | more)


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Callable[..., Desk]]:
    """Make a server with settings of the test's."""
    opened: list[TestClient] = []

    def make(**settings: Any) -> Desk:
        chosen = ServerSettings(**settings)
        work, root = Fake(), tmp_path / "kept"
        root.mkdir()
        jobs, readers = Jobs(work, chosen), Readers(chosen)
        app = create_app(chosen, choices(chosen.model), readers, Uploads(root, chosen, readers), jobs)
        client = TestClient(app, base_url=ADDRESS, raise_server_exceptions=False)
        client.__enter__()
        opened.append(client)
        client.get("/")
        return Desk(client, work, jobs, root)

    yield make
    for client in opened:
        client.__exit__(None, None, None)


@dataclass
class Served:
    """A server with inference, on a port of its own."""

    address: str
    jobs: Jobs
    root: Path


@pytest.fixture(scope="session")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """The real thing, in a thread; a page that is closed is given half a second to come back."""
    root = tmp_path_factory.mktemp("served")
    opened = listen("127.0.0.1", 0)
    settings = ServerSettings(port=opened.getsockname()[1], grace=0.5)
    jobs, readers = Jobs(Worker(settings), settings), Readers(settings)
    app = create_app(settings, choices(settings.model), readers, Uploads(root, settings, readers), jobs)
    server = uvicorn.Server(configured(app, settings))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [opened]}, daemon=True)
    thread.start()
    yield Served(f"http://127.0.0.1:{settings.port}", jobs, root)
    server.should_exit = True
    thread.join(15)
    opened.close()


@pytest.fixture
def quick(tmp_path: Path) -> Iterator[tuple[str, Fake]]:
    """A server for a browser, on which runs are done at once, and what does them."""
    opened = listen("127.0.0.1", 0)
    settings = ServerSettings(port=opened.getsockname()[1], model="kurucz-apogee")
    work = Fake()
    work.gate.set()
    jobs, readers = Jobs(work, settings), Readers(settings)
    app = create_app(settings, choices(settings.model), readers, Uploads(tmp_path, settings, readers), jobs)
    running = uvicorn.Server(configured(app, settings))
    thread = threading.Thread(target=running.run, kwargs={"sockets": [opened]}, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{settings.port}", work
    running.should_exit = True
    thread.join(15)
    opened.close()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Callable[..., int]]:
    """Start a server without inference on real sockets, with settings of the test's; return its port."""
    ends: list[tuple[uvicorn.Server, threading.Thread, socket.socket]] = []

    def make(**settings: Any) -> int:
        opened = listen("127.0.0.1", 0)
        chosen = ServerSettings(port=opened.getsockname()[1], **settings)
        jobs, readers = Jobs(Fake(), chosen), Readers(chosen)
        app = create_app(chosen, choices(chosen.model), readers, Uploads(tmp_path, chosen, readers), jobs)
        running = uvicorn.Server(configured(app, chosen))
        thread = threading.Thread(target=running.run, kwargs={"sockets": [opened]}, daemon=True)
        thread.start()
        ends.append((running, thread, opened))
        return chosen.port

    yield make
    for running, thread, opened in ends:
        running.should_exit = True
        thread.join(15)
        opened.close()
        assert not thread.is_alive()
