"""Runs with real inference, without a browser."""

import time

from fastapi.testclient import TestClient

from maury.serve.app import create_app
from maury.serve.jobs import Jobs
from maury.serve.settings import Settings
from maury.serve.uploads import Uploads
from maury.serve.wanted import choices
from maury.serve.work import worker

ADDRESS = "http://127.0.0.1:8765"


def test_a_run_is_cancelled_in_the_midst_of_nested_sampling(tmp_path, demo_bytes, monkeypatch):
    monkeypatch.setattr("maury.sampling.verification.KHAT_LIMIT", -9.0)
    settings = Settings()
    models = choices(settings.model)
    jobs = Jobs(worker(models), settings)
    app = create_app(settings, models, Uploads(tmp_path, settings), jobs)
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
