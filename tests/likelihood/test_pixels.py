"""The likelihood against a dense normal density, and what must not change it."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from maury.errors import InferenceError
from maury.forward.model import ForwardModel
from maury.labels import LabelSet
from maury.likelihood.continuum import chebyshev_basis
from maury.likelihood.pixels import DEGREE, Likelihood
from maury.likelihood.solution import SPREAD
from maury.spectra.spectrum import PixelGrid, Spectrum


@pytest.fixture(scope="module")
def stars(truth: Tensor) -> Tensor:
    """Labels near those of the visit, the last one far off; jitter from 0.001 to 0.05. Shape ``(4, 7)``."""
    truth = torch.cat([truth, torch.tensor([[0.003]])], dim=1)
    offsets = torch.tensor(
        [
            [0, 0, 0, 0, 0, 0, 0],
            [25, 0.05, 0.02, -0.02, 0.2, 1.0, -0.002],
            [-40, -0.03, 0.03, 0.01, -0.3, -2.0, 0.007],
            [700, 1.0, 0.3, 0.1, 30, 30, 0.047],
        ],
        dtype=torch.float64,
    )
    return truth + offsets


@pytest.fixture(scope="module")
def likelihood(visit: Spectrum, forward: ForwardModel, labels: LabelSet) -> Likelihood:
    return Likelihood.of(visit, forward, labels)


def keep(spectrum: Spectrum, good: NDArray[np.bool_]) -> Spectrum:
    return spectrum.masked(~good)


def scattered(n_pixels: int, share: float, seed: int = 0) -> NDArray[np.bool_]:
    return np.random.default_rng(seed).random(n_pixels) < share


def differences(values: Tensor) -> Tensor:
    return values[1:] - values[0]


def test_is_the_dense_normal_density(
    visit: Spectrum, forward: ForwardModel, labels: LabelSet, stars: Tensor
) -> None:
    few = keep(visit, scattered(visit.grid.n_pixels, 0.04))
    likelihood = Likelihood.of(few, forward, labels)
    good = likelihood.good.numpy()
    assert 300 < len(good) < 500
    found = likelihood.log_prob(stars)
    # The design of all chips side by side, on the whole grid.
    design = torch.zeros(visit.grid.n_pixels, 3 * (DEGREE + 1), dtype=torch.float64)
    for i, (start, stop) in enumerate(visit.grid.chips):
        columns = slice(i * (DEGREE + 1), (i + 1) * (DEGREE + 1))
        design[start:stop, columns] = chebyshev_basis(stop - start, DEGREE)
    for star, value in zip(stars, found, strict=True):
        model = forward.sampler(visit.grid)(forward(star[None, :-1]))[0, good].double()
        level = model * likelihood.reference
        x = level[:, None] * design[good]
        error = forward.emulator.error(star[None, :-3]).double() * likelihood.reference
        noise = 1 / torch.from_numpy(visit.ivar[good]) + (star[-1] * level) ** 2 + error**2
        covariance = torch.diag(noise)
        covariance += SPREAD**2 * x @ x.T
        normal = torch.distributions.MultivariateNormal(level, covariance)
        expected = float(normal.log_prob(torch.from_numpy(visit.flux[good])))
        assert float(value) == pytest.approx(expected, rel=1e-6)


def test_truth_is_likelier_than_its_neighbours(likelihood: Likelihood, stars: Tensor) -> None:
    assert (differences(likelihood.log_prob(stars)) < -5).all()
    fit = likelihood.fit(stars[0])
    assert fit.rchi2 == pytest.approx(1, abs=0.05)
    assert len(fit.pixels) == len(fit.flux) == likelihood.n_pixels
    np.testing.assert_allclose(fit.flux + fit.residual, likelihood.flux, rtol=1e-12)
    np.testing.assert_allclose(fit.continuum, 500, rtol=0.2)


def test_order_and_number_of_stars_do_not_matter(likelihood: Likelihood, stars: Tensor) -> None:
    many = stars.repeat(20, 1)
    torch.testing.assert_close(
        likelihood.log_prob(many), likelihood.log_prob(stars).repeat(20), rtol=1e-6, atol=0
    )


@pytest.mark.parametrize("junk", [-1e9, 0.0, 1e9, math.nan])
def test_masked_pixels_have_no_influence(
    visit: Spectrum, forward: ForwardModel, labels: LabelSet, stars: Tensor, junk: float
) -> None:
    good = ~scattered(visit.grid.n_pixels, 0.1)
    masked = keep(visit, good)
    spoiled = replace(masked, flux=np.where(good, visit.flux, junk))
    expected = Likelihood.of(masked, forward, labels).log_prob(stars)
    torch.testing.assert_close(
        Likelihood.of(spoiled, forward, labels).log_prob(stars), expected, rtol=0, atol=0
    )


@pytest.mark.parametrize("scale", [1e-17, 0.01, 1e3, 1e12])
@pytest.mark.parametrize("red_pixels", [4096, 15, 1, 0])
def test_unit_of_flux_does_not_matter(
    visit: Spectrum, forward: ForwardModel, labels: LabelSet, stars: Tensor, scale: float, red_pixels: int
) -> None:
    good = np.ones(visit.grid.n_pixels, dtype=bool)
    usable = np.flatnonzero(forward.usable(visit.grid.wavelength, labels))
    red = usable[usable >= 8192]
    good[red[len(red) // 2 + red_pixels // 2 :]] = False
    good[red[: max(len(red) // 2 - (red_pixels + 1) // 2, 0)]] = False
    first = Likelihood.of(keep(visit, good), forward, labels)
    other = replace(visit, flux=visit.flux * scale, ivar=visit.ivar / scale**2)
    second = Likelihood.of(keep(other, good), forward, labels)
    assert first.n_pixels == second.n_pixels
    if red_pixels < 20:
        assert int((first.good >= 8192).sum()) == red_pixels
    shift = second.log_prob(stars) - first.log_prob(stars)
    expected = torch.full_like(shift, -first.n_pixels * math.log(scale))
    torch.testing.assert_close(shift, expected, rtol=1e-9, atol=1e-4)


def test_a_chip_of_a_few_pixels_says_little(
    visit: Spectrum, forward: ForwardModel, labels: LabelSet, stars: Tensor
) -> None:
    pixel = np.arange(visit.grid.n_pixels)
    without = pixel < 8192
    few = without | ((pixel >= 8900) & (pixel < 8910))
    lone, more = (Likelihood.of(keep(visit, good), forward, labels) for good in (without, few))
    assert more.n_pixels == lone.n_pixels + 10
    change = differences(more.log_prob(stars[:3])) - differences(lone.log_prob(stars[:3]))
    # All 9000 pixels together tell star 1 from star 0 by 120 nats.
    assert float(change.abs().max()) < 3


def newton_step(likelihood: Likelihood, star: Tensor) -> tuple[Tensor, Tensor]:
    """Where the labels without jitter would go, and their standard deviations."""
    curvature = likelihood.curvature(star[None])
    fisher = curvature.fisher[0, :-1, :-1]
    step = torch.linalg.solve(fisher, curvature.gradient[0, :-1])
    return step, torch.linalg.inv(fisher).diagonal().sqrt()


@pytest.mark.parametrize(
    "bend", [(0.5, 0, 0), (1, 0.3, 0), (1, 0.2, -0.1), (1, -0.2, -0.1), (0.7, 0.2, -0.15)]
)
def test_continuum_of_a_chip_hardly_matters(
    visit: Spectrum,
    forward: ForwardModel,
    labels: LabelSet,
    stars: Tensor,
    likelihood: Likelihood,
    bend: tuple[float, float, float],
) -> None:
    factor = np.ones(visit.grid.n_pixels)
    factor[4096:8192] = np.polynomial.polynomial.polyval(np.linspace(-1, 1, 4096), bend)
    bent = replace(visit, flux=visit.flux * factor, ivar=visit.ivar / factor**2)
    before, after = (
        likelihood.with_reference_continuum(stars[0]),
        Likelihood.of(bent, forward, labels).with_reference_continuum(stars[0]),
    )
    (step, sigma), (moved, _) = newton_step(before, stars[0]), newton_step(after, stars[0])
    assert float(((moved - step) / sigma).abs().max()) < 0.1
    alike = stars[:3].clone()
    alike[:, -1] = stars[0, -1]
    found, expected = (differences(x.log_prob(alike)) for x in (after, before))
    torch.testing.assert_close(found, expected, atol=0.5, rtol=0.005)


def test_line_depths_are_not_rescaled(
    visit: Spectrum, forward: ForwardModel, labels: LabelSet, stars: Tensor, likelihood: Likelihood
) -> None:
    # A metal-poor star is not a metal-rich one with another continuum.
    poor = stars[:1].clone()
    poor[:, labels.index("m_h")] -= 0.3
    assert float(likelihood.log_prob(stars[:1]) - likelihood.log_prob(poor)) > 1000


def test_pixels_outside_all_chips_are_not_used(
    visit: Spectrum, forward: ForwardModel, labels: LabelSet, stars: Tensor
) -> None:
    chips = tuple((start + 600, stop - 600) for start, stop in visit.grid.chips)
    inside = np.zeros(visit.grid.n_pixels, dtype=bool)
    for start, stop in chips:
        inside[start:stop] = True
    grid = PixelGrid(visit.grid.wavelength, chips)
    loose = replace(visit, grid=grid)
    found = Likelihood.of(loose, forward, labels).log_prob(stars)
    torch.testing.assert_close(found, Likelihood.of(keep(loose, inside), forward, labels).log_prob(stars))


def test_better_reference_changes_little(likelihood: Likelihood, stars: Tensor) -> None:
    better = likelihood.with_reference_continuum(stars[0])
    assert float((better.reference / likelihood.reference - 1).abs().max()) < 0.2
    alike = stars[:3].clone()
    alike[:, -1] = stars[0, -1]
    found, before = differences(better.log_prob(alike)), differences(likelihood.log_prob(alike))
    torch.testing.assert_close(found, before, atol=1.0, rtol=0.02)


# Derivatives


@pytest.mark.parametrize("row", [1, 2])
def test_gradient_is_the_slope(likelihood: Likelihood, stars: Tensor, row: int) -> None:
    star = stars[row]
    curvature = likelihood.curvature(star[None])
    gradient, fisher = curvature.gradient[0], curvature.fisher[0]
    scale = fisher.diagonal().sqrt()
    # A fifth of a standard deviation each way: single precision of the model does not drown it.
    steps = torch.diag(0.2 / scale)
    numeric = (likelihood.log_prob(star + steps) - likelihood.log_prob(star - steps)) / 0.4
    difference = (gradient / scale - numeric).abs()
    assert float((difference - 0.03 * numeric.abs()).max()) < 0.3


def test_fisher_is_the_mean_curvature(likelihood: Likelihood, stars: Tensor) -> None:
    star = stars[0].clone()
    star[-1] = 0.003
    fisher = likelihood.curvature(star[None]).fisher[0]
    torch.testing.assert_close(fisher, fisher.T, rtol=1e-5, atol=1e-3)
    assert (torch.linalg.eigvalsh(fisher) > 0).all()
    assert float(fisher[-1, :-1].abs().max()) == 0
    step = 2 / fisher.diagonal()[:-1].sqrt()
    # At the truth the log likelihood of a label alone falls as -fisher step^2 / 2.
    for i, size in enumerate(step):
        offset = torch.zeros(7, dtype=torch.float64)
        offset[i] = size
        values = likelihood.log_prob(torch.stack([star - offset, star, star + offset]))
        curvature = -float(values[0] - 2 * values[1] + values[2]) / float(size) ** 2
        assert curvature == pytest.approx(float(fisher[i, i]), rel=0.15)


# Spectra that cannot be used


def test_other_wavelengths_are_refused(visit: Spectrum, forward: ForwardModel, labels: LabelSet) -> None:
    grid = PixelGrid(visit.grid.wavelength / 2, visit.grid.chips)
    with pytest.raises(InferenceError, match=r"covers 75\d\d-84\d\d Angstrom, none of it inside") as caught:
        Likelihood.of(replace(visit, grid=grid), forward, labels)
    assert caught.value.flag == "outside_wavelengths"


@pytest.mark.parametrize("n", [0, 1, 199])
def test_too_few_pixels_are_refused(visit: Spectrum, forward: ForwardModel, labels: LabelSet, n: int) -> None:
    usable = np.flatnonzero(forward.usable(visit.grid.wavelength, labels))
    good = np.zeros(visit.grid.n_pixels, dtype=bool)
    good[usable[:n]] = True
    with pytest.raises(InferenceError, match=f"only {n} usable pixels of {len(usable)}") as caught:
        Likelihood.of(keep(visit, good), forward, labels)
    assert caught.value.flag == "few_pixels"


@pytest.mark.parametrize("flux", [0.0, -500.0])
def test_flux_without_a_star_gives_finite_values(
    visit: Spectrum, forward: ForwardModel, labels: LabelSet, stars: Tensor, flux: float
) -> None:
    noise = np.random.default_rng(1).normal(size=visit.grid.n_pixels) * 5
    empty = replace(visit, flux=flux + noise)
    likelihood = Likelihood.of(empty, forward, labels)
    assert torch.isfinite(likelihood.log_prob(stars)).all()
    curvature = likelihood.curvature(stars)
    assert torch.isfinite(curvature.gradient).all()
    assert torch.isfinite(curvature.fisher).all()
