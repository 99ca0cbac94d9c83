"""What a stretch of the spectrum does to labels, in one linear step, beside the mode found without it."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from maury.batching import alone
from maury.inference.infer import infer
from maury.likelihood.influence import Influence
from maury.likelihood.noise import innovations
from maury.models import load_model
from maury.sampling.modes import climb
from maury.training.demo import TRUTH, simulate_visit


@pytest.fixture(scope="module", params=["independent", "correlated"])
def posterior(request):
    spectrum = simulate_visit(load_model(), TRUTH, snr=150, seed=5, v_correction=0.0)
    return infer(spectrum, draws=200, noise=request.param)


def test_a_step_leads_to_the_mode_without_the_stretch(posterior):
    target, grid = posterior.target, posterior.spectrum.grid
    best = (posterior.log_likelihood + posterior.log_prior).argmax()
    labels = target.labels
    modes = alone(climb(target, labels.to_normal(torch.from_numpy(posterior.draws[best]))[None]))
    pixels = target.likelihood.pixels
    fit = pixels.fit(target.likelihood.complete(labels.from_normal(modes.u[0])))
    out = (fit.pixels >= grid.chips[1][0]) & (fit.pixels < grid.chips[1][1])
    ((moved, by_chance),) = Influence.at(target, modes.u[0]).without([out])
    theta = target.likelihood.complete(labels.from_normal(modes.u[0]))
    without = target.with_pixels(pixels.without(out, theta))
    there = alone(climb(without, modes.u))
    truth = (labels.from_normal(there.u[0]) - labels.from_normal(modes.u[0])).numpy()
    summary = posterior.summary()
    told = [name for name in labels.names if name not in ("v_sini", "jitter")]
    for name in told:
        i = labels.index(name)
        assert abs(moved[i] - truth[i]) < 0.25 * summary[name]["std"], name
    # The model is right: moves are what chance explains.
    assert max(abs(moved[i] / by_chance[i]) for i in map(labels.index, told)) < 3.5
    assert max(abs(truth[labels.index(name)]) / summary[name]["std"] for name in told) > 0.3


def test_columns_are_whitened_as_residuals_are():
    rng = np.random.default_rng(1)
    n = 300
    variance, deviation = rng.uniform(0.5, 2, n), rng.uniform(0.1, 3, n)
    decay = np.where(np.arange(n) % 100 == 0, 0.0, rng.uniform(0.2, 0.95, n))
    columns = rng.normal(size=(4, n))
    whitened, predicted = innovations(columns, variance, deviation, decay)
    # Pixel by pixel, as a Kalman filter is written.
    for column, white, expected in zip(columns, whitened, predicted, strict=True):
        mean, spread = 0.0, 0.0
        for i in range(n):
            mean, spread = decay[i] * mean, decay[i] ** 2 * spread + 1 - decay[i] ** 2
            total = deviation[i] ** 2 * spread + variance[i]
            assert expected[i] == pytest.approx(deviation[i] * mean, abs=1e-12)
            assert white[i] == pytest.approx((column[i] - deviation[i] * mean) / total**0.5)
            gain = deviation[i] * spread / total
            mean, spread = mean + gain * (column[i] - deviation[i] * mean), spread * (1 - gain * deviation[i])
