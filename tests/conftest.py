"""Fixtures that every layer's tests share: the shipped forward model, its labels and a simulated visit."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from maury import constants

# Before any module takes it: tests of the machinery run on the model of seven labels, a third of the work of the default one, whose own
# tests (test_default.py) run in a process of their own.
constants.DEFAULT_MODEL = "kurucz-apogee"

from browser import browser  # noqa: E402, F401
from maury import cli  # noqa: E402
from maury.forward.model import ForwardModel  # noqa: E402
from maury.labels import LabelSet, label  # noqa: E402
from maury.libraries.emulator import Emulator  # noqa: E402
from maury.models import shipped  # noqa: E402
from maury.priors import LogUniform, Uniform  # noqa: E402
from maury.spectra.formats.writers import nominal_visit_grid  # noqa: E402
from maury.spectra.spectrum import Spectrum  # noqa: E402

TRUTH = {"teff": 4800.0, "logg": 2.6, "m_h": -0.1, "alpha_m": 0.05, "v_rad": 37.0, "v_sini": 8.0}
SNR = 100.0


@pytest.fixture
def run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str, str]]:
    """Run the command line; return its exit status, what it printed and what it said."""

    def call(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["maury", *map(str, arguments)])
        with pytest.raises(SystemExit) as stop:
            cli.main()
        captured = capsys.readouterr()
        return stop.value.code or 0, captured.out, captured.err

    return call


@pytest.fixture(scope="session")
def forward() -> ForwardModel:
    """The forward model on the shipped emulator, without gradients of its weights."""
    emulator = Emulator.load(shipped()["kurucz-apogee"] / "emulator.safetensors")
    return ForwardModel(emulator).requires_grad_(False).eval()


@pytest.fixture(scope="session")
def labels(forward: ForwardModel) -> LabelSet:
    """The forward model's labels, then jitter, with their usual priors."""
    return forward.emulator.labels + LabelSet(
        (
            label("v_rad", Uniform(low=-200, high=200)),
            label("v_sini", Uniform(low=0, high=100)),
            label("jitter", LogUniform(low=5e-4, high=0.1)),
        )
    )


@pytest.fixture(scope="session")
def shared() -> Path:
    """Folder of data that are too large or not ours to ship."""
    path = Path(os.environ.get("MAURY_SHARED", Path(__file__).parents[2] / "shared"))
    if not path.is_dir():
        pytest.skip(f"{path} is absent: set MAURY_SHARED to the folder with the shared data")
    return path


@pytest.fixture(scope="session")
def truth() -> torch.Tensor:
    """Labels of `visit`, without jitter, shape ``(1, 6)``."""
    return torch.tensor([list(TRUTH.values())], dtype=torch.float64)


@pytest.fixture(scope="session")
def visit(forward: ForwardModel, truth: torch.Tensor) -> Spectrum:
    """A visit of a giant that the forward model describes: S/N 100, a sloping continuum on each chip."""
    grid = nominal_visit_grid()
    with torch.no_grad():
        model = forward.sampler(grid)(forward(truth))[0].double().numpy()
    t = np.concatenate([np.linspace(-1, 1, stop - start) for start, stop in grid.chips])
    flux = 500 * (1 - 0.1 * t - 0.05 * t**2) * model
    error = np.full(grid.n_pixels, 500 / SNR)
    noise = np.random.default_rng(7).normal(size=grid.n_pixels)
    return Spectrum(grid, flux + error * noise, error**-2, id="simulated", v_correction=-14.580788)
