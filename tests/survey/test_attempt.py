"""On which device a worker computes, and whose fault an error is."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from maury.errors import MauryError
from maury.survey import attempt as module
from maury.survey.store import Task


@pytest.mark.parametrize(
    ("wanted", "gpus", "number", "expected"),
    [
        ("auto", 0, 0, "cpu"),
        ("auto", 1, 3, "cuda"),
        ("auto", 2, 3, "cuda:1"),
        ("cuda", 4, 2, "cuda:2"),
        ("cuda", 0, 0, "cuda"),
        ("cpu", 4, 1, "cpu"),
    ],
)
def test_devices(monkeypatch, wanted, gpus, number, expected):
    monkeypatch.setattr("torch.cuda.device_count", lambda: gpus)
    monkeypatch.setattr(module, "_number", lambda: number)
    assert module._device(wanted) == expected


def test_errors_name_the_host(tmp_path):
    with pytest.raises(MauryError, match=f"worker on {socket.gethostname()}: .* holds no survey"):
        module.attempt(str(tmp_path), Task(0, ("a.fits",)), "cpu")


def test_tasks_for_gpus_go_to_workers_that_have_them():
    from maury.survey.run import Progress, _Drive
    from maury.survey.store import Store

    class Client:
        def __init__(self, *resources):
            self.resources = resources

        def scheduler_info(self, **_):
            return {"workers": {str(i): {"resources": r} for i, r in enumerate(self.resources)}}

    def resources(device, *workers):
        return _Drive(Store(Path()), Client(*workers), Progress(1), device, 1)._resources()

    assert resources("cuda", {}, {"GPU": 1}) == {"GPU": 1}
    assert resources("cuda", {}, {}) is None
    assert resources("auto", {"GPU": 1}) is None
