"""The exact posterior of several spectra side by side is that of each alone."""

import pytest
import torch

from maury.checks.calibration import simulated_spectra
from maury.likelihood.target import Target
from maury.likelihood.ties import Product
from maury.models import load_model
from maury.sampling.modes import find_modes


@pytest.fixture(scope="module")
def model():
    return load_model()


@pytest.fixture(scope="module")
def spectra(model):
    return [spectrum for spectrum, *_ in simulated_spectra(model, 3, "native", 5)]


def test_side_by_side_evaluations_are_the_same(model, spectra):
    targets = [Target(model.problem.likelihood(s), model.labels) for s in spectra]
    # The third is of two spectra of one star.
    targets[2] = Target(Product([targets[0].likelihood, targets[2].likelihood]), model.labels)
    generator = torch.Generator().manual_seed(1)
    # More rows than a chunk holds, so that it is cut within a spectrum.
    pairs = [
        (t, 0.5 * torch.randn(n, len(t.labels), generator=generator, dtype=torch.float64))
        for t, n in zip(targets, (20, 30, 2), strict=True)
    ]
    for (target, u), found in zip(pairs, Target.log_likelihoods(pairs), strict=True):
        torch.testing.assert_close(found, target.log_likelihood(u), rtol=1e-5, atol=1e-3)
    for (target, u), (gradient, precision) in zip(pairs, Target.newtons(pairs), strict=True):
        expected = target.newton(u)
        torch.testing.assert_close(
            gradient, expected[0], rtol=1e-3, atol=1e-3 * float(expected[0].abs().max())
        )
        torch.testing.assert_close(
            precision, expected[1], rtol=1e-3, atol=1e-3 * float(expected[1].abs().max())
        )


def test_a_target_without_points_is_answered(model, spectra):
    target = Target(model.problem.likelihood(spectra[0]), model.labels)
    (none,) = Target.log_likelihoods([(target, torch.empty(0, len(model.labels), dtype=torch.float64))])
    assert none.shape == (0,)


def test_find_modes_is_one_climb(model, spectra):
    target = Target(model.problem.likelihood(spectra[0]), model.labels)
    modes = find_modes(target, torch.zeros(1, len(model.labels), dtype=torch.float64))
    assert modes.u.shape == (1, len(model.labels))
