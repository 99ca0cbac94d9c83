"""Pixels that no star made are found against the model, and nothing else is."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from maury.forward.model import ForwardModel
from maury.labels import LabelSet
from maury.likelihood.outliers import outliers
from maury.likelihood.pixels import Likelihood
from maury.spectra.spectrum import Spectrum


@pytest.fixture(scope="module")
def star(truth: Tensor) -> Tensor:
    return torch.cat([truth[0], torch.tensor([0.003], dtype=torch.float64)])


@pytest.fixture(scope="module")
def likelihood(visit: Spectrum, forward: ForwardModel, labels: LabelSet, star: Tensor) -> Likelihood:
    return Likelihood.of(visit, forward, labels).with_reference_continuum(star)


def spoilt(likelihood: Likelihood, change: np.ndarray) -> Likelihood:
    return replace(likelihood, flux=likelihood.flux + 500 * torch.from_numpy(change))


def test_a_good_spectrum_has_none(likelihood: Likelihood, star: Tensor) -> None:
    assert not outliers(likelihood, star).any()


def test_hits_are_found_and_count_for_nothing(likelihood: Likelihood, star: Tensor) -> None:
    change = np.zeros(likelihood.n_pixels)
    places = np.arange(100, likelihood.n_pixels, 250)
    change[places] = 0.3 * (-1.0) ** np.arange(len(places))
    hit = spoilt(likelihood, change)
    # Wild pixels have raised the jitter that was fitted.
    high = star.clone()
    high[-1] = 0.03
    found = outliers(hit, high)
    assert found[places].mean() > 0.9
    assert found.sum() <= 3 * len(places)
    left = hit.without(found, star)
    step = torch.diag(torch.tensor([10.0, 0, 0.01, 0, 0.2, 0, 0], dtype=torch.float64))[[0, 2, 4]]
    rows = torch.cat([star[None], star + step])
    clean, after = (x.log_prob(rows) for x in (likelihood, left))
    torch.testing.assert_close(after - after[0], clean - clean[0], atol=3.0, rtol=0.1)
    # A pixel that is left out costs the same wherever it lies, so that evidences compare.
    assert float(clean[0] - after[0]) < 12 * found.sum()


def test_emission_is_found_and_a_line_that_is_wrong_is_not(likelihood: Likelihood, star: Tensor) -> None:
    x = np.arange(likelihood.n_pixels)
    middle = int(np.argmax(likelihood.spectra(star[None])[0].numpy()[3000:3300])) + 3000
    bump = np.exp(-0.5 * ((x - middle) / 2.6) ** 2)
    assert outliers(spoilt(likelihood, 0.3 * bump), star)[middle]
    assert not outliers(spoilt(likelihood, -0.3 * bump), star).any()


def test_a_model_that_is_wrong_everywhere_is_not_cut_to_fit(likelihood: Likelihood, star: Tensor) -> None:
    change = np.zeros(likelihood.n_pixels)
    change[::20] = 0.5
    assert not outliers(spoilt(likelihood, change), star).any()
