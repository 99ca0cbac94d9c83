"""Runs with real inference, without a browser."""

import time

from starlette.testclient import TestClient

from maury.errors import SpectrumError
from maury.serve import work
from maury.serve.app import create_app
from maury.serve.jobs import Jobs
from maury.serve.readers import Readers
from maury.serve.settings import ServerSettings
from maury.serve.uploads import Uploads
from maury.serve.wanted import choices
from maury.serve.work import Job, do

ADDRESS = "http://127.0.0.1:8765"


def test_a_run_is_cancelled_in_the_midst_of_nested_sampling(tmp_path, demo_bytes, monkeypatch):
    # No weights are good enough, and nested sampling needs no more likelihoods than are left.
    monkeypatch.setattr("maury.sampling.verification.KHAT_LIMIT", -9.0)
    monkeypatch.setattr("maury.inference.refine.NESTED", 0)
    settings = ServerSettings()
    models = choices(settings.model)

    class Here:
        """The work of the process, without the process."""

        def prepare(self): ...

        def stop(self): ...

        def __call__(self, run, progress):
            return do(Job(run.upload.file, run.wanted, run.folder), models, progress)

    jobs, readers = Jobs(Here(), settings), Readers(settings)
    app = create_app(settings, models, readers, Uploads(tmp_path, settings, readers), jobs)
    with TestClient(app, base_url=ADDRESS) as client:
        client.get("/")
        file = client.post("/api/files", params={"name": "star.fits"}, content=demo_bytes).json()["id"]
        wanted = {"upload": file, "model": settings.model, "draws": 100, "noise": "independent"}
        run = client.post("/api/runs", json=wanted).json()["id"]

        def until(key, value):
            end = time.monotonic() + 60
            while (now := client.get(f"/api/runs/{run}").json())[key] != value:
                assert now["state"] in ("queued", "running"), now
                assert time.monotonic() < end
                time.sleep(0.05)
            return now

        until("stage", "nested sampling")
        client.post(f"/api/runs/{run}/cancel")
        assert until("state", "cancelled")["error"] == "cancelled"
    assert [path.name for path in (tmp_path / file).iterdir()] == ["spectrum"]


def test_the_process_tells_how_a_run_ends(monkeypatch):
    ends = {
        "star": lambda progress: progress("flow") or {"teff": 5000},
        "damaged": lambda _: raises(SpectrumError("damaged")),
        "large": lambda _: raises(MemoryError()),
        "odd": lambda _: raises(ZeroDivisionError("secret")),
        "gone": lambda progress: progress("flow"),
    }
    monkeypatch.setattr(work, "do", lambda job, models, progress: ends[job.file.name](progress))
    told = {}
    for name in ends:
        message = {
            "run": name,
            "path": "/kept/spectrum",
            "name": name,
            "folder": "/kept/run",
            "wanted": {"upload": "u", "model": "m"},
        }
        said = []
        work._run(message, {}, {"gone"}, said.append)
        told[name] = said
    assert told["star"] == [{"stage": "flow"}, {"result": {"teff": 5000}}]
    assert told["damaged"] == [{"error": "damaged"}]
    assert "memory" in told["large"][0]["error"]
    assert "ZeroDivisionError: secret" in told["odd"][0]["failed"]
    assert told["gone"] == [{"ended": True}]


def raises(error):
    raise error


def test_the_process_tells_whether_its_model_is_there(monkeypatch):
    monkeypatch.setattr(work, "warm_up", lambda model: raises(OSError("no compiler")))
    monkeypatch.setattr(work, "load_model", lambda path: path)
    monkeypatch.setattr(work.isolated, "prepare", lambda *_: None)
    models, said = {}, []
    work._load("kurucz-apogee", models, said.append)
    assert said[0] == {"loaded": True}
    assert said[1]["ready"]
    assert "no compiler" in said[1]["trouble"]
    assert "kurucz-apogee" in models
    said.clear()
    work._load("kurucz-apogeee", models, said.append)
    assert "did you mean 'kurucz-apogee'" in said[0]["refused"]
