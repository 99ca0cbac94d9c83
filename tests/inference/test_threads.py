"""Threads of one process get the answers that one after the other would."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import torch

import maury
from maury.models import load_model

THREADS = 8


def test_slopes_of_the_model_in_threads(forward, truth):
    points = [truth + torch.tensor([[10.0 * i, 0, 0, 0, 0, 0]]) for i in range(THREADS * 4)]
    serial = [forward.jacobian(point)[1] for point in points]
    with ThreadPoolExecutor(THREADS) as threads:
        found = list(threads.map(lambda point: forward.jacobian(point)[1], points))
    for a, b in zip(serial, found, strict=True):
        torch.testing.assert_close(a, b)


def test_eight_spectra_in_eight_threads(visit):
    model = load_model()
    rng = np.random.default_rng(3)
    spectra = [
        replace(visit, flux=visit.flux + rng.normal(size=visit.flux.size) / np.sqrt(visit.ivar.max()))
        for _ in range(THREADS)
    ]

    def infer(i):
        return maury.infer(spectra[i], model, draws=100, seed=i, noise="independent")

    serial = [infer(i) for i in range(THREADS)]
    with ThreadPoolExecutor(THREADS) as threads:
        found = list(threads.map(infer, range(THREADS)))
    for a, b in zip(serial, found, strict=True):
        np.testing.assert_allclose(b.draws, a.draws, rtol=1e-6)
        np.testing.assert_allclose(b.log_weights, a.log_weights, rtol=1e-6, atol=1e-6)
        assert (b.khat, b.method, b.flag_warn) == (a.khat, a.method, a.flag_warn)
