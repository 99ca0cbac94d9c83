"""What does a library get wrong on stars that are known? Learned from standards: ``maury models standards``.

Stars of one kind share the lines that their library lacks, or has too strong. Their residuals at labels that are known from elsewhere,
broadening and velocity taken out, become nuisances of the library: in any other spectrum each of them may be there with an amplitude
N(0, 1) (`maury.likelihood.nuisances.LibraryModes`). Divided by the square root of their number they have together the second moments of the
standards' residuals, pixel by pixel and between pixels.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

import maury
from maury.constants import C_KMS
from maury.errors import LabelError, ModelError
from maury.forward.rotation import rotation_transform
from maury.inference.infer import infer
from maury.inference.tune import copy_model
from maury.libraries.emulator import MODES
from maury.libraries.residual_modes import by_chip, frequencies, sharpened, write_modes
from maury.libraries.zero_points import Offset, ZeroPoint
from maury.likelihood.nuisances import NONE
from maury.models import Model
from maury.posterior.result import Posterior
from maury.priors import TruncatedNormal
from maury.spectra.linespread import Gaussian
from maury.spectra.spectrum import Spectrum

Array = NDArray[np.float64]
FEWEST = 2
# Width of the prior of a label that is known, in units of the range of the model's.
_KNOWN = 1e-3
# Residuals beyond this share of the continuum are no lines of a star.
_LARGEST = 0.5
# Pixels of a spectrum between which residuals are interpolated: no longer gaps.
_GAP = 2.0
# Error of an abundance of which the literature tells none, dex.
_LITERATURE = 0.05
# Found in every spectrum anew.
_FOUND = ("v_rad",)


@dataclass(frozen=True)
class Standard:
    """A spectrum of a star whose labels are known.

    Attributes
    ----------
    spectrum
        What was observed.
    labels
        What is known; other labels of the model are found.
    """

    spectrum: Spectrum
    labels: Mapping[str, float]


@dataclass(frozen=True)
class Residual:
    """What a library leaves on a standard.

    Attributes
    ----------
    name
        Of the spectrum.
    labels
        Of the fit, medians.
    rms
        Of the residuals, relative to the continuum.
    values
        Residuals as the star emits them, relative to the continuum, on the emulator's grid at rest, 0 where nothing was seen, shape
        ``(n_grid,)``.
    """

    name: str
    labels: Mapping[str, float]
    rms: float
    values: Array


def residual_of(standard: Standard, model: Model, *, draws: int = 300, seed: int = 0) -> Residual:
    """Fit a standard with its known labels held, without any nuisance, and return what is left.

    Raises
    ------
    LabelError
        If a label lies outside what the model can compute; names the spectrum.
    InferenceError
        If the spectrum cannot be inferred.
    """
    name = f"{Path(standard.spectrum.path).name} [{standard.spectrum.index}]"
    priors = {}
    for label, value in standard.labels.items():
        if label in _FOUND or label not in model.problem.stellar.names:
            continue
        prior = model.problem.labels[label].prior
        width = _KNOWN * (prior.high - prior.low)
        if not prior.low < value < prior.high:
            raise LabelError(
                f"{name}: {label} {value:g} is outside [{prior.low:g}, {prior.high:g}] of {model.name}"
            )
        low, high = max(prior.low, value - 5 * width), min(prior.high, value + 5 * width)
        priors[label] = TruncatedNormal(mean=value, sigma=width, low=low, high=high)
    posterior = infer(
        standard.spectrum, model, draws=draws, seed=seed, priors=priors, noise="correlated", nuisances=NONE
    )
    residual = posterior.fit.residual / posterior.fit.continuum
    medians = {label: posterior.quantile(label, 0.5) for label in posterior.stellar.names}
    return Residual(name, medians, float(np.sqrt(np.mean(residual**2))), _at_rest(posterior, residual, model))


def _at_rest(posterior: Posterior, residual: Array, model: Model) -> Array:
    """Bring residuals ``(n_pixels,)`` to the emulator's grid at rest, and take the broadening out."""
    grid, forward = model.forward.emulator.grid, model.forward
    shift = math.exp(math.atanh(posterior.quantile("v_rad", 0.5) / C_KMS))
    wavelength = posterior.spectrum.grid.wavelength[posterior.fit.pixels] / shift
    at = grid.wavelength.numpy()
    seen = np.interp(at, wavelength, residual.clip(-_LARGEST, _LARGEST), left=0.0, right=0.0)
    right = np.searchsorted(wavelength, at).clip(1, len(wavelength) - 1)
    gap = wavelength[right] - wavelength[right - 1]
    seen[gap > _GAP * np.median(gap)] = 0.0
    frequency = frequencies(grid)
    rotation = torch.from_numpy(frequency * posterior.quantile("v_sini", 0.5) / C_KMS)
    kernel = rotation_transform(rotation, forward.limb_darkening).numpy()
    if forward.emulator.contained is None:
        kernel = kernel * np.exp(-0.5 * (frequency * Gaussian(model.problem.spectrograph.power).sigma) ** 2)
    return sharpened(seen, kernel)


def zero_points_of(
    standard: Standard, errors: Mapping[str, float], model: Model, *, draws: int = 1000, seed: int = 0
) -> dict[str, ZeroPoint]:
    """Infer all elements of a standard, and compare them with what is known.

    Parameters
    ----------
    standard
        Its labels are what the literature says: ``m_h``, and elements over the metals.
    errors
        Of the literature, by label; 0.05 dex where it tells none.
    model, draws, seed
        Whose zero points, and how.

    Returns
    -------
    dict
        By label; empty of a star whose metallicity is not known.

    Raises
    ------
    LabelError
        If the model has no elements.
    """
    posterior = infer(standard.spectrum, model, draws=draws, seed=seed, labels="elements")
    known, metals = standard.labels, standard.labels.get("m_h")
    if metals is None:
        return {}
    found = {}
    for entry in posterior.diagnostics.abundances:
        if entry.label not in known or not entry.measured:
            continue
        own = errors.get(entry.label, _LITERATURE)
        fe = Offset(entry.fe_p50 - known[entry.label], math.hypot(entry.fe_std, own))
        both = math.hypot(own, errors.get("m_h", _LITERATURE))
        h = Offset(entry.h_p50 - known[entry.label] - metals, math.hypot(entry.h_std, both))
        found[entry.label] = ZeroPoint(h, fe)
    return found


def library_modes(residuals: Sequence[Residual], model: Model) -> Array:
    """Return the residuals, chip by chip, as vectors of one standard deviation each, ``(n_standards n_chips, n_grid)``.

    Raises
    ------
    ModelError
        If there are fewer than two.
    """
    if len(residuals) < FEWEST:
        raise ModelError(f"{len(residuals)} standards are too few: at least {FEWEST} are needed")
    scaled = [one.values / math.sqrt(len(residuals)) for one in residuals]
    vectors = by_chip(scaled, model.forward.emulator.grid, model.problem.spectrograph)
    return vectors[(vectors != 0).any(1)]


def save_modes(residuals: Sequence[Residual], model: Model, output: Path) -> None:
    """Write a model folder: the model's own files, and what its library leaves on standards as ``modes.safetensors`` with its card."""
    vectors = library_modes(residuals, model)
    copy_model(model, output, without=MODES)
    names = ", ".join(one.name for one in residuals)
    card = {
        "source": f"residuals of {len(residuals)} standards, chip by chip: {names}",
        "model": model.name,
        "maury": maury.__version__,
        "rms": float(np.sqrt(np.mean([one.rms**2 for one in residuals]))),
        "standards": [
            {"spectrum": one.name, "rms": one.rms, "labels": dict(one.labels)} for one in residuals
        ],
    }
    write_modes(vectors, model.forward.emulator, output, card)
