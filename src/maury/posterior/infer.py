"""``maury.infer``: from a spectrum to its verified posterior."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from maury.errors import InferenceError
from maury.forward.likelihood import Likelihood
from maury.labels import LabelSet
from maury.models import DEFAULT, Model, load_model
from maury.posterior.result import Posterior
from maury.posterior.verify import KHAT_LIMIT, Verified, verify
from maury.spectra.registry import read_spectrum
from maury.spectra.regrid import regrid
from maury.spectra.spectrum import (
    APSTAR_LOG10_START,
    APSTAR_LOG10_STEP,
    APSTAR_N_PIXELS,
    Spectrum,
    apstar_grid,
)

# A posterior with this share of its mass in the outermost hundredth of a prior piles up at the bound.
_PILE_UP = 0.1
# Bounds at which a star may rightly sit: no rotation that can be seen, no model error that can be seen.
_NATURAL_BOUNDS = {("v_sini", "low"), ("jitter", "low")}
_HIGH_JITTER = 0.05
_POOR_FIT = 1.5
_LOW_SNR = 10.0


def to_model_grid(spectrum: Spectrum, model: Model) -> tuple[torch.Tensor, torch.Tensor]:
    """Flux and inverse variance on the grid that the networks take, ``(1, n_pixels)`` float32 each."""
    grid, n = apstar_grid(), APSTAR_N_PIXELS
    position = (np.log10(spectrum.grid.wavelength) - APSTAR_LOG10_START) / APSTAR_LOG10_STEP
    if len(position) == n and np.abs(position - np.arange(n)).max() < 1e-3:
        flux, ivar = spectrum.flux, spectrum.ivar
    else:
        flux, ivar = np.zeros(n), np.zeros(n)
        for start, stop in spectrum.grid.chips:
            chip = slice(start, stop)
            f, w = regrid(position[chip], spectrum.flux[chip], spectrum.ivar[chip], n)
            flux, ivar = np.where(w > 0, f, flux), np.where(w > 0, w, ivar)
    # Single precision overflows on inverse variances of fluxes near 1e-17: bring the level to 1.
    level = float(np.median(np.abs(flux[ivar > 0]))) if (ivar > 0).any() else 1.0
    level = level or 1.0
    usable = model.forward.usable(grid.wavelength, model.labels)
    scaled = (flux / level, np.where(usable, ivar * level**2, 0.0))
    a, b = (torch.from_numpy(x).float()[None] for x in scaled)
    return a, b


def infer(
    spectrum: Spectrum | str | Path,
    model: Model | str | Path = DEFAULT,
    *,
    draws: int = 1000,
    seed: int = 0,
    progress: Callable[[str], None] = lambda _: None,
) -> Posterior:
    """Infer a star's labels from its spectrum.

    Parameters
    ----------
    spectrum
        A spectrum or the path of a file.
    model
        Name, folder, or a loaded model.
    draws
        Importance draws a round; more rounds are added while the weights are uneven.
    seed
        The same seed gives the same draws on the same device.
    progress
        Told what stage begins.

    Returns
    -------
    Posterior

    Raises
    ------
    SpectrumError, ModelError
        If a file cannot be used.
    InferenceError
        If the spectrum cannot be inferred: no usable pixels, or none inside the model's wavelengths.

    Examples
    --------
    >>> posterior = maury.infer("apVisit-r13-9518-57729-104.fits")  # doctest: +SKIP
    >>> posterior.summary()["teff"]  # doctest: +SKIP
    """
    if not isinstance(spectrum, Spectrum):
        spectrum = read_spectrum(spectrum)
    if not isinstance(model, Model):
        model = load_model(model)
    if draws < 100:
        raise InferenceError(f"draws must be at least 100 for the weights to be judged, not {draws}")
    began = time.perf_counter()
    if not spectrum.good.any():
        raise InferenceError("every pixel is masked: nothing to infer from", "all_masked")
    likelihood = Likelihood.of(spectrum, model.forward, model.labels)
    progress("flow")
    with torch.no_grad():
        context, v_align = model.estimator.context(*to_model_grid(spectrum, model))
    generator = torch.Generator().manual_seed(seed)
    verified = verify(
        likelihood,
        model.labels,
        model.estimator,
        context[0],
        v_align[0],
        draws=draws,
        generator=generator,
        progress=progress,
    )
    return _posterior(verified, spectrum, model, time.perf_counter() - began)


def _posterior(verified: Verified, spectrum: Spectrum, model: Model, seconds: float) -> Posterior:
    labels = model.labels
    theta = labels.from_normal(verified.draws.u)
    best = (verified.draws.log_likelihood + verified.draws.log_prior).argmax()
    fit = verified.target.likelihood.fit(theta[best])
    weights = (verified.log_weights - torch.logsumexp(verified.log_weights, 0)).exp().numpy()
    jitter = float(weights @ theta[:, -1].numpy())
    warn = _at_bounds(labels, theta.numpy(), weights)
    warn += ["second_mode"] * (len(verified.modes.u) > 1)
    warn += ["high_jitter"] * (jitter > _HIGH_JITTER)
    warn += ["poor_fit"] * (fit.rchi2_jitter > _POOR_FIT)
    warn += ["low_snr"] * (spectrum.snr < _LOW_SNR)
    warn += ["khat"] * (verified.khat > KHAT_LIMIT)
    return Posterior(
        labels=labels,
        draws=theta.numpy(),
        log_weights=verified.log_weights.numpy(),
        log_likelihood=verified.draws.log_likelihood.numpy(),
        log_prior=verified.draws.log_prior.numpy(),
        log_proposal=verified.draws.log_proposal.numpy(),
        flow_draws=labels.select(model.forward.label_names).from_normal(verified.flow).numpy(),
        khat=verified.khat,
        ess=verified.ess,
        log_evidence=verified.log_evidence,
        method=verified.method,
        fit=fit,
        spectrum=spectrum,
        model=model.name,
        flag_warn=tuple(warn),
        seconds=seconds,
        evaluations=verified.evaluations,
    )


def _at_bounds(labels: LabelSet, theta: NDArray[np.float64], weights: NDArray[np.float64]) -> list[str]:
    """Return flags ``at_bound:<label>`` of labels whose posterior piles up at an end of the prior."""
    flags = []
    for i, label in enumerate(labels.labels):
        margin = 0.01 * (label.prior.high - label.prior.low)
        ends = {
            "low": theta[:, i] < label.prior.low + margin,
            "high": theta[:, i] > label.prior.high - margin,
        }
        if any(
            weights @ near > _PILE_UP and (label.name, end) not in _NATURAL_BOUNDS
            for end, near in ends.items()
        ):
            flags.append(f"at_bound:{label.name}")
    return flags
