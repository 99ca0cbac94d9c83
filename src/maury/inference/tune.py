"""How wrong is a model library, pixel by pixel? Learned from the residuals of many observed spectra: ``maury models tune``.

Each spectrum is fitted, and what its residuals scatter beyond their noise is gathered at rest. The table enters the likelihood as one
more variance: pixels that the library never gets right count for less, the others keep their weight.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

import maury
from maury.constants import C_KMS
from maury.errors import Failure, ModelError
from maury.inference.infer import infer
from maury.models import Model, folder
from maury.posterior.result import Posterior
from maury.spectra.spectrum import Spectrum
from maury.weights import write_model

Array = NDArray[np.float64]
FEWEST = 10
LEARNED = "learned.safetensors"
# Pixels on each side over which squared residuals are averaged: a line's width.
_NEIGHBOURS = 2
# The error at pixels that hardly any spectrum saw is that of the others: this quantile of theirs.
_UNSEEN = 0.8
_LARGEST = 0.5
# Relative to the continuum; keeps one spectrum of little noise from deciding.
_FLOOR = 0.01


@dataclass(frozen=True)
class Tuned:
    """A learned error.

    Attributes
    ----------
    error
        Relative to the continuum, on the emulator's grid at rest, shape ``(n_grid,)``.
    seen
        Spectra that each pixel was seen in, shape ``(n_grid,)``.
    failures
        Spectra that could not be used.
    number
        Those that were.
    """

    error: Array
    seen: NDArray[np.int64]
    failures: tuple[Failure, ...]
    number: int


def tune(items: Iterable[Spectrum | Failure], model: Model, *, draws: int = 300, seed: int = 0) -> Tuned:
    """Learn a library's error from observed spectra.

    Parameters
    ----------
    items
        Spectra, or what was wrong with them.
    model
        Its own table, if it has one, is left out of the fits.
    draws, seed
        Of each inference.

    Raises
    ------
    ModelError
        If fewer than 10 spectra can be used.
    """
    grid = model.forward.emulator.grid
    plain = replace(model, problem=replace(model.problem, learned=None))
    excess, weight, seen = np.zeros(grid.n_pixels), np.zeros(grid.n_pixels), np.zeros(grid.n_pixels, np.int64)
    failures: list[Failure] = []
    number = 0
    for item in items:
        if isinstance(item, Failure):
            failures.append(item)
            continue
        try:
            posterior = infer(item, plain, draws=draws, seed=seed)
        except maury.errors.InferenceError as error:
            failures.append(Failure(Path(item.path), item.index, error.flag, str(error)))
            continue
        if posterior.flag_bad:
            reason = f"flagged {', '.join(posterior.flag_bad)}"
            failures.append(Failure(Path(item.path), item.index, posterior.flag_bad[0], reason))
            continue
        pixels, squared, w = _gather(posterior, model)
        np.add.at(excess, pixels, w * squared)
        np.add.at(weight, pixels, w)
        np.add.at(seen, np.unique(pixels), 1)
        number += 1
    if number < FEWEST:
        raise ModelError(
            f"only {number} spectra could be used; at least {FEWEST} are needed to learn a library's error"
        )
    return Tuned(_table(excess, weight, seen, number), seen, tuple(failures), number)


def _gather(posterior: Posterior, model: Model) -> tuple[NDArray[np.int64], Array, Array]:
    """Pixels of the emulator's grid, squared residuals less the noise's, relative to the continuum, and their weights."""
    fit, grid = posterior.fit, model.forward.emulator.grid
    v_rad = posterior.quantile("v_rad", 0.5)
    wavelength = posterior.spectrum.grid.wavelength[fit.pixels] / math.exp(math.atanh(v_rad / C_KMS))
    pixels = np.round((np.log10(wavelength) - grid.start) / grid.step).astype(np.int64)
    noise = 1 / (posterior.spectrum.ivar[fit.pixels] * fit.continuum**2)
    squared = (fit.residual / fit.continuum) ** 2 - noise
    # Noise of other spectra does not drown what a good one shows.
    weights = 1 / (noise + _FLOOR**2) ** 2
    inside = (pixels >= 0) & (pixels < grid.n_pixels)
    return pixels[inside], squared[inside], weights[inside]


def _table(excess: Array, weight: Array, seen: NDArray[np.int64], number: int) -> Array:
    window = np.ones(2 * _NEIGHBOURS + 1)
    known = seen >= max(3, number // 10)
    total = np.convolve(np.where(known, weight, 0.0), window, mode="same")
    mean = np.convolve(np.where(known, excess, 0.0), window, mode="same") / np.maximum(total, 1e-300)
    error = np.sqrt(np.clip(np.where(total > 0, mean, 0.0), 0.0, _LARGEST**2))
    if known.any():
        error[~known] = np.quantile(error[known], _UNSEEN)
    return error


def copy_model(model: Model, output: Path, *, without: str) -> None:
    """Copy the weights and cards of a model's folder to another one, but for one file and its card."""
    source = folder(model.name) if model.folder is None else model.folder
    output.mkdir(parents=True, exist_ok=True)
    if output.samefile(source):
        return
    for file in source.iterdir():
        if file.suffix in (".safetensors", ".json") and file.stem != Path(without).stem:
            shutil.copyfile(file, output / file.name)


def save_tuned(tuned: Tuned, model: Model, output: Path) -> None:
    """Write a model folder: the model's own files, and the table as ``learned.safetensors`` with its card."""
    copy_model(model, output, without=LEARNED)
    seen = tuned.error[tuned.seen > 0]
    card = {
        "model": model.name,
        "maury": maury.__version__,
        "spectra": tuned.number,
        "failed": len(tuned.failures),
        "median_error": float(np.median(seen)),
        "largest_error": float(seen.max()),
    }
    write_model(output / LEARNED, {"error": torch.from_numpy(tuned.error).float()}, card)
