"""A second star in the spectrum: found where there is one, and left out where there is none."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from maury.checks.gap import FAULTS, Bed
from maury.errors import InferenceError
from maury.inference import companion
from maury.inference.companion import with_companion
from maury.inference.infer import infer
from maury.inference.options import Options
from maury.models import Model, load_model
from maury.posterior.result import Posterior
from maury.posterior.store import load
from maury.report.star import star_page
from maury.sampling.nested import nested_sampling
from maury.spectra import write_table
from maury.training.demo import write_demo

AUTO = Options(seed=3, companion="auto")
YES = Options(seed=3, companion="yes")


@pytest.fixture(scope="module")
def model() -> Model:
    return load_model()


@pytest.fixture(scope="module")
def star(model: Model) -> tuple[Posterior, Tensor]:
    """A star with a companion of 0.3 of its light, inferred as one star, and its labels."""
    spectrum, truth = Bed(model, (100.0, 101.0)).spectrum(FAULTS["companion"], 0.3, 1, 1)
    return infer(spectrum, model, seed=3), truth


@pytest.fixture(scope="module")
def pair(model: Model, star: tuple[Posterior, Tensor]) -> Posterior:
    return with_companion(star[0], model, AUTO)


def test_the_companion_is_found(model: Model, star: tuple[Posterior, Tensor], pair: Posterior) -> None:
    single, truth = star
    assert "companion" in pair.flag_warn
    assert "misfit" in single.flag_warn
    assert "misfit" not in pair.flag_warn
    assert pair.diagnostics.companion.gain > 100
    assert pair.khat < 0.7
    found = pair.summary()
    for name, value in zip(single.stellar.names, truth.tolist(), strict=False):
        assert abs(found[name]["mean"] - value) < 4 * found[name]["std"], name
    assert found["flux_ratio"]["mean"] == pytest.approx(0.3, abs=4 * found["flux_ratio"]["std"])


def test_it_is_saved_told_and_drawn(pair: Posterior, tmp_path: Path) -> None:
    pair.save(tmp_path / "pair.nc")
    again = load(tmp_path / "pair.nc")
    assert again.labels == pair.labels
    np.testing.assert_array_equal(again.draws, pair.draws)
    np.testing.assert_array_equal(again.flow_draws, pair.flow_draws)
    assert again.to_json()["labels"]["teff_2"] == pair.to_json()["labels"]["teff_2"]
    pair.plot_corner().savefig(tmp_path / "corner.png", dpi=40)
    pair.plot_fit().savefig(tmp_path / "fit.png", dpi=40)
    assert "Effective temperature of the companion" in star_page(pair)
    axis = pair.plot_companion(15735, 15775).axes[0]
    both, first, second = (line.get_ydata() for line in axis.lines[1:])
    # Nuisances are in the fit, not in the stars.
    np.testing.assert_allclose(both, first + second, atol=0.005)
    with pytest.raises(InferenceError, match="no pixel of the spectrum was used between 10 and 20"):
        pair.plot_companion(10, 20)
    with pytest.raises(InferenceError, match="comes from a file"):
        again.plot_companion(15735, 15775)


def test_draws_are_weighed_by_the_exact_posterior(pair: Posterior) -> None:
    at = pair.draws[:20]
    np.testing.assert_allclose(
        pair.log_prob(at), pair.log_likelihood[:20] + pair.log_prior[:20], rtol=1e-7, atol=0.05
    )


def test_a_good_star_is_not_looked_at(model: Model, tmp_path: Path) -> None:
    write_demo(tmp_path / "star.fits", model, 1)
    posterior = infer(tmp_path / "star.fits", model, seed=1, companion="auto")
    assert posterior.diagnostics.companion is None
    assert "teff_2" not in posterior.labels.names


def test_one_at_the_same_velocity_is_not_believed(
    model: Model, star: tuple[Posterior, Tensor], pair: Posterior, monkeypatch: pytest.MonkeyPatch
) -> None:
    draws = pair.draws.copy()
    draws[:, pair.labels.index("v_rad_2")] = draws[:, pair.labels.index("v_rad")] + 1.0

    monkeypatch.setattr(companion, "_two_stars", lambda *_: (replace(pair, draws=draws), None))
    kept = with_companion(star[0], model, AUTO)
    assert kept.labels == star[0].labels
    assert kept.diagnostics.companion.used is False
    shown = with_companion(star[0], model, YES)
    assert shown.labels == pair.labels


def test_models_that_hold_labels_are_refused(model: Model, star: tuple[Posterior, Tensor]) -> None:
    held = replace(star[0], held={"m_h": 0.0})
    with pytest.raises(InferenceError, match="holds labels"):
        with_companion(held, model, YES)
    with pytest.raises(InferenceError, match="companion: no 'maybe'"):
        infer(star[0].spectrum, model, companion="maybe")  # type: ignore[arg-type]


def test_nested_sampling_takes_over_where_weights_fail(
    model: Model, star: tuple[Posterior, Tensor], pair: Posterior, monkeypatch: pytest.MonkeyPatch
) -> None:
    nested = replace(pair, khat=0.9, method="nested")
    monkeypatch.setattr(companion, "_two_stars", lambda *_: (replace(pair, khat=0.9), lambda: nested))
    assert with_companion(star[0], model, AUTO).method == "nested"
    monkeypatch.setattr(companion, "_two_stars", lambda *_: (replace(pair, khat=0.5), lambda: nested))
    assert with_companion(star[0], model, AUTO).method == pair.method


def test_command_line(pair: Posterior, run: Callable[..., tuple[int, str, str]], tmp_path: Path) -> None:
    write_table(tmp_path / "pair.ecsv", replace(pair.spectrum, meta={}))
    status, out, error = run("infer", tmp_path / "pair.ecsv", "--companion", "yes", "--draws", 300, "--json")
    assert status == 0, error
    assert {"teff_2", "flux_ratio"} <= set(json.loads(out)["labels"])
    status, _, error = run("infer", "a.fits", "b.fits", "--joint", "--companion", "auto")
    assert status == 2
    assert "--joint knows one star" in error


def test_labels_of_a_single_star_come_first(pair: Posterior, star: tuple[Posterior, Tensor]) -> None:
    n = len(star[0].stellar)
    assert pair.labels.names[:n] == star[0].stellar.names
    assert torch.equal(pair.labels.low[:n], star[0].labels.low[:n])


@pytest.mark.slow
def test_nested_sampling_agrees(pair: Posterior) -> None:
    assert pair.target is not None
    nested = nested_sampling(pair.target, torch.Generator().manual_seed(0), live=500, ess=2000)
    assert nested.log_evidence == pytest.approx(pair.log_evidence, abs=0.3)
    theta = pair.labels.from_normal(nested.draws.u)
    mean = nested.log_weights.exp() @ theta
    std = (nested.log_weights.exp() @ (theta - mean).square()).sqrt()
    summary = pair.summary()
    for i, name in enumerate(pair.labels.names):
        assert abs(summary[name]["mean"] - float(mean[i])) < 0.2 * float(std[i]), name
        assert summary[name]["std"] == pytest.approx(float(std[i]), rel=0.2), name
