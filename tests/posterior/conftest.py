"""A posterior made by hand: no model, no inference."""

import numpy as np
import pytest
import torch

from maury.labels import LabelSet, label
from maury.likelihood.fit import Fit
from maury.posterior.diagnostics import Diagnostics, Misfit
from maury.posterior.predictive import Check
from maury.posterior.result import Posterior
from maury.priors import LogUniform, Uniform
from maury.spectra.spectrum import PixelGrid, Spectrum

PRIORS = {
    "teff": Uniform(low=3600, high=6900),
    "logg": Uniform(low=0.5, high=5.1),
    "v_rad": Uniform(low=-200, high=200),
    "v_sini": Uniform(low=0, high=100),
    "jitter": LogUniform(low=5e-4, high=0.1),
}


@pytest.fixture
def made() -> Posterior:
    """400 weighted draws about a giant of 4750 K, seen with 300 pixels on two chips; twelve km/s to the barycentre."""
    rng = np.random.default_rng(1)
    labels = LabelSet(tuple(label(name, prior) for name, prior in PRIORS.items()))
    centre, spread = np.array([4750.0, 2.5, 30.0, 5.0, 0.005]), np.array([12.0, 0.03, 0.05, 0.4, 0.0002])
    draws = centre + spread * rng.normal(size=(400, 5))
    log_weights = rng.normal(scale=0.3, size=400)
    grid = PixelGrid(np.linspace(15200.0, 15800.0, 300), ((0, 140), (140, 300)))
    flux = 1 + 0.01 * rng.normal(size=300)
    spectrum = Spectrum(
        grid,
        flux,
        np.full(300, 1e4),
        id="2M <b>",
        v_correction=12.0,
        path="a/visit.fits",
        index=3,
        meta={"ra": 10.5},
    )
    ones = np.ones(300)
    fit = Fit(np.arange(300), ones, ones, flux - 1, 0.01 * ones, (flux - 1) / 0.01, 0 * ones, 1.02)
    return Posterior(
        labels=labels,
        draws=draws,
        log_weights=log_weights - np.log(np.exp(log_weights).sum()),
        log_likelihood=rng.normal(size=400),
        log_prior=labels.log_prob(torch.from_numpy(draws)).numpy(),
        log_proposal=rng.normal(size=400),
        flow_draws=draws[:64, :4],
        khat=0.21,
        ess=350.0,
        log_evidence=-1234.5,
        method="refined",
        fit=fit,
        spectrum=spectrum,
        model="kurucz-apogee",
        flag_warn=("average_lsf", "at_bound:teff"),
        seconds=1.5,
        evaluations=4321,
        diagnostics=Diagnostics(misfit=Misfit((Check("chip 1", 140, 1.0, 0.4, 0.01, 0.6),), 0.8, 0.3, 0.01)),
    )
