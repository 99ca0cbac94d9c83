"""The forward model: shifts, widths, derivatives and the pixels that can be used."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch
from torch import Tensor

from maury.constants import C_KMS
from maury.errors import LabelError
from maury.forward.detector import HALF_TAPS
from maury.forward.model import ForwardModel
from maury.labels import LabelSet
from maury.priors import Uniform
from maury.spectra.instrument import apstar_grid


@pytest.fixture
def stars(labels: LabelSet) -> Tensor:
    """Labels of five stars, shape ``(5, 6)``, away from the bounds."""
    u = 0.5 * torch.randn(5, 6, generator=torch.Generator().manual_seed(11), dtype=torch.float64)
    return labels.select(labels.names[:-1]).from_normal(u)


def at(star: Tensor, **values: float) -> Tensor:
    names = ("teff", "logg", "m_h", "alpha_m", "v_rad", "v_sini")
    out = star.clone()
    for name, value in values.items():
        out[:, names.index(name)] = value
    return out


def test_shape_and_range(forward: ForwardModel, stars: Tensor) -> None:
    assert forward.label_names == ("teff", "logg", "m_h", "alpha_m", "v_rad", "v_sini")
    flux = forward(stars)
    assert flux.shape == (5, forward.emulator.grid.n_pixels)
    assert flux.dtype == torch.float32
    assert float(flux.min()) > 0
    assert float(flux.max()) < 1.3


def test_spectra_of_a_batch_do_not_mix(forward: ForwardModel, stars: Tensor) -> None:
    each = torch.cat([forward(star[None]) for star in stars])
    torch.testing.assert_close(forward(stars), each, atol=2e-5, rtol=0)


def test_without_velocities_it_is_the_emulator(forward: ForwardModel, stars: Tensor) -> None:
    rest = forward(at(stars, v_rad=0, v_sini=0))
    assert torch.isfinite(rest).all()
    torch.testing.assert_close(rest, forward.emulator(stars[:, :4]), atol=2e-5, rtol=0)


def test_grid_is_the_survey_s(forward: ForwardModel) -> None:
    grid = forward.emulator.grid
    assert grid.dlnw * C_KMS == pytest.approx(4.1418, abs=1e-4)
    np.testing.assert_allclose(grid.wavelength[:8575], apstar_grid().wavelength, rtol=1e-12)


@pytest.mark.parametrize("pixels", [1, -1, 20, -47])
def test_velocity_of_whole_pixels_rolls_the_spectrum(
    forward: ForwardModel, stars: Tensor, pixels: int
) -> None:
    v = C_KMS * math.tanh(pixels * forward.emulator.grid.dlnw)
    assert v == pytest.approx(4.1418 * pixels, rel=1e-3)
    rest, moved = forward(at(stars, v_rad=0)), forward(at(stars, v_rad=v))
    torch.testing.assert_close(moved[:, 60:-60], rest.roll(pixels, dims=1)[:, 60:-60], atol=2e-5, rtol=0)


def test_lines_of_a_receding_star_move_to_the_red(forward: ForwardModel, stars: Tensor) -> None:
    rest = forward(at(stars, v_rad=0))
    correlation = [float((forward(at(stars, v_rad=30.0)) * rest.roll(k, dims=1)).sum()) for k in (-7, 0, 7)]
    assert correlation.index(max(correlation)) == 2


@pytest.mark.parametrize("limb_darkening", [0.0, 0.6, 1.0])
@pytest.mark.parametrize("v_sini", [1.0, 5.0])
def test_width_is_exact_at_small_rotation(
    forward: ForwardModel, stars: Tensor, v_sini: float, limb_darkening: float
) -> None:
    model = ForwardModel(forward.emulator, limb_darkening)
    still, turning = (
        torch.fft.rfft(model(at(stars, v_rad=0, v_sini=v)).double()).mean(0) for v in (0.0, v_sini)
    )
    e = limb_darkening
    variance = v_sini**2 * ((1 - e) / 4 + 2 * e / 15) / (1 - e / 3)
    omega = model.frequency.double() / C_KMS
    # ln of the kernel is -variance omega^2 / 2 where that is small.
    use = (omega > 0) & (0.5 * variance * omega**2 < 0.04)
    drop = (turning - still)[use] / still[use]
    weight = still[use].abs().square()
    theory = torch.expm1(-0.5 * variance * omega[use] ** 2)
    ratio = float((weight * theory * drop.real).sum() / (weight * theory**2).sum())
    assert ratio == pytest.approx(1, abs=0.03)


def test_rotation_keeps_the_area_of_lines(forward: ForwardModel, stars: Tensor) -> None:
    areas = [forward(at(stars, v_sini=v)).double().mean(1) for v in (0.0, 10.0, 100.0)]
    torch.testing.assert_close(areas[1], areas[0], atol=1e-6, rtol=0)
    torch.testing.assert_close(areas[2], areas[0], atol=1e-6, rtol=0)


@pytest.mark.parametrize("v_sini", [0.0, 1e-3, 12.0, 90.0])
def test_jacobian_is_the_slope_of_the_flux(forward: ForwardModel, truth: Tensor, v_sini: float) -> None:
    star = at(truth, v_sini=v_sini)
    flux, slopes = forward.jacobian(star)
    torch.testing.assert_close(flux, forward(star), atol=2e-6, rtol=0)
    assert slopes.shape == (1, 6, forward.emulator.grid.n_pixels)
    steps = dict(teff=20.0, logg=0.02, m_h=0.01, alpha_m=0.01, v_rad=0.5, v_sini=0.5)
    for i, (name, step) in enumerate(steps.items()):
        if name == "v_sini" and v_sini < step:
            continue
        value = float(star[0, i])
        difference = forward(at(star, **{name: value + step})) - forward(at(star, **{name: value - step}))
        slope = slopes[0, i]
        assert float((difference[0] / (2 * step) - slope).abs().max()) < 0.03 * float(slope.abs().max()), name


def test_slope_by_rotation_vanishes_at_rest(forward: ForwardModel, truth: Tensor) -> None:
    _, slopes = forward.jacobian(at(truth, v_sini=0.0))
    assert torch.isfinite(slopes).all()
    assert float(slopes[0, 5].abs().max()) < 1e-6


def test_autograd_agrees_with_the_jacobian(forward: ForwardModel, stars: Tensor) -> None:
    weight = torch.randn(forward.emulator.grid.n_pixels, generator=torch.Generator().manual_seed(1))
    leaf = stars.clone().requires_grad_()
    (gradient,) = torch.autograd.grad((forward(leaf) * weight).sum(), leaf)
    _, slopes = forward.jacobian(stars)
    expected = (slopes * weight).double().sum(-1)
    scale = slopes.double().square().sum(-1).sqrt()
    assert float(((gradient - expected) / scale).abs().max()) < 2e-3


def test_wrong_labels_are_refused(forward: ForwardModel, stars: Tensor) -> None:
    for use in (forward, forward.jacobian):
        with pytest.raises(LabelError, match=r"shape \(n, 6\): teff, logg, m_h, alpha_m, v_rad, v_sini"):
            use(stars[:, :5])
        with pytest.raises(LabelError, match="shape"):
            use(stars[0])
        with pytest.raises(LabelError, match="v_sini must not be negative"):
            use(at(stars, v_sini=-1e-3))
    for limb_darkening in (-0.1, 1.1):
        with pytest.raises(LabelError, match="limb_darkening"):
            ForwardModel(forward.emulator, limb_darkening)


# Pixels that can be used


def test_usable_pixels_lie_inside_the_coverage(forward: ForwardModel, labels: LabelSet) -> None:
    wavelength = np.concatenate([[5000.0, 15000.0], apstar_grid().wavelength, [17500.0, 50000.0]])
    usable = forward.usable(wavelength, labels)
    assert usable.dtype == bool
    assert 6000 < usable.sum() < sum(stop - start for start, stop in forward.emulator.covered)
    grid = forward.emulator.grid
    position = np.log10(wavelength[usable]) / grid.step - grid.start / grid.step
    inside = [(position > start) & (position < stop - 1) for start, stop in forward.emulator.covered]
    assert np.any(inside, axis=0).all()


def test_wider_priors_leave_fewer_pixels(forward: ForwardModel, labels: LabelSet) -> None:
    wavelength = apstar_grid().wavelength
    before = forward.usable(wavelength, labels)
    for name, prior in {"v_rad": Uniform(low=-400, high=200), "v_sini": Uniform(low=0, high=200)}.items():
        after = forward.usable(wavelength, labels.with_priors({name: prior}))
        assert not np.any(after & ~before)
        assert after.sum() < before.sum()


def test_usable_edges_are_those_of_the_extreme_labels(forward: ForwardModel, labels: LabelSet) -> None:
    fixed = {"v_rad": Uniform(low=100, high=100 + 1e-6), "v_sini": Uniform(low=0, high=1e-6)}
    usable = np.flatnonzero(forward.usable(apstar_grid().wavelength, labels.with_priors(fixed)))
    start = forward.emulator.covered[0][0]
    shift = math.atanh(100 / C_KMS) / forward.emulator.grid.dlnw
    assert usable[0] == math.ceil(start + shift + HALF_TAPS)


def test_light_from_outside_the_coverage_never_reaches_usable_pixels(
    forward: ForwardModel, labels: LabelSet, truth: Tensor
) -> None:
    emulator = copy.deepcopy(forward.emulator)
    pixel = torch.arange(emulator.grid.n_pixels, dtype=torch.float64)
    for start, stop in emulator.covered:
        for centre in (start - 7, stop + 6):
            emulator.mean -= (0.5 * torch.exp(-0.5 * ((pixel - centre) / 1.4) ** 2)).float()
    wavelength = apstar_grid().wavelength
    usable = np.flatnonzero(forward.usable(wavelength, labels))
    other = ForwardModel(emulator)
    for v_rad in (-200.0, 200.0):
        for v_sini in (0.0, 100.0):
            star = at(truth, v_rad=v_rad, v_sini=v_sini)
            difference = (other(star) - forward(star))[0]
            assert float(difference.abs().max()) > 0.01
            assert float(difference[usable].abs().max()) < 1e-4
