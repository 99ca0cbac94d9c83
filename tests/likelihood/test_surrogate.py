"""The quadratic surrogate and the look at all of the prior, against the exact likelihood that they stand for."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from maury.forward.model import ForwardModel
from maury.labels import LabelSet
from maury.libraries.coefficients import quadratics
from maury.likelihood.noise import Correlation
from maury.likelihood.nuisances import chosen
from maury.likelihood.pixels import Likelihood
from maury.likelihood.screen import Screen
from maury.likelihood.surrogate import surrogate
from maury.likelihood.target import Target
from maury.likelihood.ties import Tied
from maury.quantities import Role
from maury.sampling.modes import Modes, find_modes
from maury.sampling.proposal import Mixture, around
from maury.sampling.rejection import rejected
from maury.spectra.spectrum import Spectrum

Case = tuple[Target[Tied], Modes]


@pytest.fixture(scope="module", params=["independent", "correlated", "held", "slow"])
def case(
    request: pytest.FixtureRequest, visit: Spectrum, forward: ForwardModel, labels: LabelSet, truth: Tensor
) -> Case:
    """A posterior with its nuisances linear, and its mode."""
    star = torch.cat([truth[0], torch.tensor([0.003], dtype=torch.float64)])
    pixels = Likelihood.of(visit, forward, labels)
    if request.param == "slow":
        star[labels.index("v_sini")] = 0.5
        clean = pixels.spectra(star[None])[0] * pixels.reference
        noise = torch.randn(len(clean), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        pixels = replace(pixels, flux=clean + noise * pixels.variance.sqrt())
    pixels = replace(pixels, nuisances=chosen("default", forward, labels.names))
    pixels = pixels.with_reference_continuum(star).linearised(star)
    if request.param == "correlated":
        depth = (1 - pixels.spectra(star[None])[0]).numpy()
        pixels = replace(pixels, correlation=Correlation(0.004, 0.01, 12.0, depth))
    tied, kept = Tied.free(pixels, len(labels)), labels
    if request.param == "held":
        free = [i for i, one in enumerate(labels) if one.role is not Role.nuisance and one.name != "logg"]
        tied, kept = Tied.holding(pixels, star, free), labels.select(labels.names[i] for i in free)
    target = Target(tied, kept)
    start = kept.to_normal(star[[labels.index(name) for name in kept.names]]).clamp(-3, 3)
    return target, find_modes(target, start[None])


def test_it_is_the_exact_likelihood_within_hundredths(case: Case) -> None:
    target, modes = case
    found = surrogate(target, modes.u[0], modes.factor[0], torch.Generator().manual_seed(0))
    dim = len(found.places)
    assert found.evaluations == quadratics(torch.zeros(1, dim)).shape[1]
    assert (found.jitter is None) == (target.labels.place(Role.nuisance) is None)
    base = Mixture(around(modes.u[:1], modes.factor[:1]), torch.ones(1, dtype=torch.float64))
    cheap = rejected(found.log_prob, base, torch.Generator().manual_seed(1))
    assert cheap is not None
    u = cheap.sample(150, torch.Generator().manual_seed(2))
    exact = target.log_prob(u)
    off = found.log_prob(u) - exact
    assert float(off.std()) < 0.1
    assert float(off.mean().abs()) < 0.15
    # Draws of its posterior are nearly all of the exact one's.
    weights = (exact - cheap.log_prob(u)).softmax(0)
    assert 1 / float(weights.square().sum()) > 0.95 * len(u)
    # And its integral is the evidence.
    evidence = float(torch.logsumexp(exact - cheap.log_prob(u), 0)) - math.log(len(u))
    assert cheap.log_integral == pytest.approx(evidence, abs=0.2)


def test_it_knows_nothing_far_from_the_mode(case: Case) -> None:
    target, modes = case
    found = surrogate(target, modes.u[0], modes.factor[0], torch.Generator().manual_seed(0))
    far = modes.u[:1] + 20 * modes.factor[0].norm(dim=1)
    assert float(found.log_prob(far)) == -math.inf


@pytest.fixture
def screened(
    visit: Spectrum, forward: ForwardModel, labels: LabelSet, truth: Tensor
) -> tuple[Target[Tied], Screen, Tensor]:
    star = torch.cat([truth[0], torch.tensor([0.003], dtype=torch.float64)])
    pixels = Likelihood.of(visit, forward, labels)
    pixels = replace(pixels, nuisances=chosen("default", forward, labels.names))
    pixels = pixels.with_reference_continuum(star).linearised(star)
    depth = (1 - pixels.spectra(star[None])[0]).numpy()
    pixels = replace(pixels, correlation=Correlation(0.01, 0.02, 12.0, depth))
    target = Target(Tied.free(pixels, len(labels)), labels)
    u = labels.to_normal(star)
    free = [i for i, name in enumerate(labels.names) if name in forward.emulator.labels.names]
    return target, Screen(target, u, free), u


def test_a_screen_is_near_the_likelihood_where_it_matters(
    screened: tuple[Target[Tied], Screen, Tensor],
) -> None:
    target, screen, u = screened
    at = u[screen.free]
    points = at + 0.1 * torch.randn(30, screen.dim, generator=torch.Generator().manual_seed(0)).double()
    exact, cheap = target.log_likelihood(screen.whole(points)), screen.log_likelihood(points)
    spread = float(exact.std())
    assert spread > 10
    assert float((cheap - exact).std()) < 0.1 * spread


def test_a_screen_s_slopes_are_its_own(screened: tuple[Target[Tied], Screen, Tensor]) -> None:
    _, screen, u = screened
    at = (u[screen.free] + 0.02)[None]
    gradient, precision = screen.newton(at)
    step = 2e-3 * torch.eye(screen.dim, dtype=torch.float64)
    numeric = (screen.log_prob(at + step) - screen.log_prob(at - step)) / 4e-3
    assert torch.allclose(gradient[0], numeric, rtol=0.02, atol=0.02 * float(gradient.abs().max()))
    assert bool((torch.linalg.eigvalsh(precision[0]) > 0).all())
    modes = find_modes(screen, at)
    assert float(modes.log_prob[0]) >= float(screen.log_prob(at))
