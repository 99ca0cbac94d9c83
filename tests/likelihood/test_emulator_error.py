"""Cool BT-Settl stars: the emulator's error changes with the labels, trades against jitter, and shapes the posterior."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from maury.batching import alone, together
from maury.checks.calibration import simulated_spectra
from maury.inference.infer import infer
from maury.inference.options import Options
from maury.inference.refine import refine, start_from
from maury.inference.ridge import along_jitter
from maury.labels import LabelSet
from maury.likelihood.residuals import fit_residuals, residual_fit
from maury.likelihood.target import Target
from maury.likelihood.ties import Tied
from maury.models import Model, load_model
from maury.sampling.modes import Modes, climb_beside, find_modes
from maury.sampling.proposal import StudentT
from maury.spectra.spectrum import Spectrum


@pytest.fixture(scope="module")
def model() -> Model:
    return load_model("btsettl-apogee")


@pytest.fixture(scope="module")
def star(model: Model) -> tuple[Spectrum, Tensor]:
    """Of 2150 K and S/N 29: the emulator's error there is as large as the noise, 0.04, and halves in 200 K."""
    spectrum, theta, _ = next(simulated_spectra(model, 1, "native", 7))
    assert theta[0] < 2200
    return spectrum, theta


@pytest.fixture(scope="module")
def target(model: Model, star: tuple[Spectrum, Tensor]) -> Target[Tied]:
    spectrum, theta = star
    labels: LabelSet = model.problem.inferred
    return Target(model.problem.likelihood(spectrum).with_reference_continuum(theta), labels)


def test_gradient_is_the_slope(target: Target[Tied], star: tuple[Spectrum, Tensor]) -> None:
    theta = star[1].clone()
    theta[-1] = 0.01
    curvature = target.likelihood.curvature(theta[None])
    gradient, scale = curvature.gradient[0], curvature.fisher[0].diagonal().sqrt()
    steps = torch.diag(0.1 / scale)
    up, down = (target.likelihood.log_prob(theta + sign * steps) for sign in (1, -1))
    numeric = (up - down) / 0.2
    assert float((gradient / scale - numeric).abs().max()) < 0.05 * float(numeric.abs().max()) + 0.3
    # Taken for known, the error's part is missed by far.
    known = replace(target.likelihood.pixels, error_known=True).curvature(theta[None]).gradient[0]
    assert abs(float(known[0] / scale[0] - numeric[0])) > 1


def test_information_pairs_jitter_and_labels(target: Target[Tied], star: tuple[Spectrum, Tensor]) -> None:
    theta = star[1].clone()
    theta[-1] = 0.01
    fisher = target.likelihood.curvature(theta[None]).fisher[0]
    torch.testing.assert_close(fisher, fisher.T, rtol=1e-6, atol=1e-3)
    assert (torch.linalg.eigvalsh(fisher) > 0).all()
    scale = fisher.diagonal().sqrt()
    assert float((fisher[-1, :3] / scale[-1] / scale[:3]).abs().max()) > 0.1


def test_climbing_beside_keeps_one_label(target: Target[Tied], star: tuple[Spectrum, Tensor]) -> None:
    labels = target.labels
    theta = star[1].clone()
    theta[-1] = 0.003
    mode = find_modes(target, labels.to_normal(theta)[None])
    starts = mode.u[:1].repeat(3, 1)
    starts[:, -1] += torch.tensor([-0.5, 0.0, 0.5])
    found = alone(climb_beside(target, starts, len(labels) - 1))
    assert torch.equal(found.u[:, -1], starts[:, -1])
    assert (found.log_prob >= target.log_prob(starts) - 1e-6).all()
    assert (found.log_prob <= mode.log_prob[0] + 0.1).all()
    assert torch.equal(found.factor[:, -1, -1], torch.ones(3, dtype=torch.float64))


@pytest.mark.parametrize("jitter", [0.03, 0.000501])
def test_other_jitters_are_found_wherever_the_best_is(
    target: Target[Tied], star: tuple[Spectrum, Tensor], jitter: float
) -> None:
    theta = star[1].clone()
    theta[-1] = jitter
    u = target.labels.to_normal(theta)[None]
    modes = Modes(u, target.log_prob(u), 0.1 * torch.eye(u.shape[1], dtype=torch.float64)[None], 0)
    ridge = alone(along_jitter(target, modes, u.shape[1] - 1))
    along = ridge.along
    assert len(along.u) >= 2
    assert along.u.isfinite().all()
    assert torch.equal(along.factor[:, -1, -1], torch.full((len(along.u),), 0.5, dtype=torch.float64))
    # Taken for known, the emulator's error tells nothing of the labels: they are less certain.
    _, precision = target.newton(u)
    assert ridge.broad[0].diagonal().log().sum() > -0.5 * torch.linalg.slogdet(precision[0])[1]


def test_the_jitter_may_stand_anywhere_among_the_labels(model: Model, star: tuple[Spectrum, Tensor]) -> None:
    problem, (spectrum, theta) = model.problem, star
    pixels = problem.likelihood(spectrum).with_reference_continuum(theta).pixels
    names = problem.inferred.names
    found = []
    for order in (names, ("teff", "jitter", *(name for name in names if name not in ("teff", "jitter")))):
        labels = problem.labels.select(order)
        tied = Tied.holding(pixels, torch.zeros_like(theta), problem.columns(labels))
        u = labels.to_normal(theta[problem.columns(labels)]).clamp(-3, 3)
        stars = [i for i, name in enumerate(order) if name != "jitter"]
        flow = StudentT(u[stars], 0.3 * torch.eye(len(stars), dtype=torch.float64))
        generator = torch.Generator().manual_seed(1)
        start = alone(start_from(tied, labels, flow, 500, generator))
        verified = alone(refine(start, Options(draws=500, noise="independent"), generator))
        assert verified.khat < 0.7
        _, residuals, _ = fit_residuals(
            verified.target, labels.to_normal(theta[problem.columns(labels)]), "auto"
        )
        found.append((verified.log_evidence, residuals.gain))
    (one, gain), (other, gained) = found
    assert other == pytest.approx(one, abs=0.3)
    assert gained == pytest.approx(gain, abs=0.2)


def test_residual_fits_beside_each_other_are_those_of_each(
    target: Target[Tied], star: tuple[Spectrum, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    u = target.labels.to_normal(star[1]).clamp(-3, 3)
    points = [u, u + 0.1]
    each = [fit_residuals(target, point, "correlated") for point in points]
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    beside = together([residual_fit(target, point, "correlated") for point in points])
    for (_, one, moved), found in zip(each, beside, strict=True):
        assert not isinstance(found, Exception)
        assert found[1] == one
        assert torch.equal(found[2], moved)


def test_evidence_of_few_draws_is_that_of_many(model: Model, star: tuple[Spectrum, Tensor]) -> None:
    few = [infer(star[0], model, draws=500, seed=i) for i in range(3)]
    many = infer(star[0], model, draws=8000, seed=9)
    assert max(p.evaluations for p in few) < 2500
    differences = [p.log_evidence - many.log_evidence for p in few]
    # The noise is that of the mode about which nuisances are linear; each run climbs to its own, a few hundredths of sigma apart.
    assert sum(differences) / 3 == pytest.approx(0, abs=0.25)
