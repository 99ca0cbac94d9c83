"""An emulator of a compressed grid of synthetic spectra: many labels at once, by a Gaussian process on principal components."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

import maury
from maury.errors import ConfigError
from maury.labels import LabelSet, label
from maury.libraries.elements import ElementProcess, fit_kernel, leave_one_out
from maury.libraries.emulator import Emulator, LogGrid, scaled
from maury.libraries.process import _stretches, covering, resampled, smooth
from maury.libraries.synthesis.compress import CompressedGrid
from maury.libraries.synthesis.design import LABELS
from maury.libraries.ties import Region, Tie, Ties
from maury.priors import LogUniform, Uniform
from maury.spectra.air import to_vacuum
from maury.spectra.instrument import read_instrument
from maury.spectra.linespread import Gaussian

log = logging.getLogger(__name__)
Array = NDArray[np.float64]

# Labels whose logarithm is what lines feel.
_RATIOS = ("teff", "v_micro", "c12_c13")
# Share of a range by which spectra beyond it are used.
_MARGIN = 0.1


class SyntheticConfig(BaseModel):
    """What `build_from_synthetic` needs to know."""

    model_config = ConfigDict(extra="forbid")

    name: str
    library: Literal["synthetic"]
    source: Path = Field(description="folder of the compressed grid's parts")
    reference: str
    residuals: Path | None = Field(
        None,
        description="what the lines' calibration left on its standards (NAME-error.npz): nuisances of the library",
    )
    range: dict[str, tuple[float, float]]
    instrument: str = "apogee"
    labels: dict[str, tuple[float, float]] = Field(
        default={}, description="labels that are inferred, and their ranges; all of the library's if empty"
    )
    ties: dict[str, Tie] = Field(default={}, description="what each other label of the library follows")
    relations: dict[str, Tie] = Field(
        default={}, description="what labels that are inferred follow among real stars: a part of their prior"
    )
    region: Region | None = None
    components: int = Field(200, gt=0)
    kernel_spectra: int = Field(1200, gt=0, description="spectra that choose the kernel")
    steps: int = Field(60, gt=0, description="of the optimiser that chooses it")
    modes: int = Field(12, ge=0, description="vectors common to the errors of pixels")
    held_out: int = Field(300, gt=0)
    seed: int = 0


@dataclass(frozen=True)
class Spectra:
    """A grid's spectra on an emulator's pixels, as a mean and coefficients of vectors.

    Parameters
    ----------
    grid
        The logarithmic grid.
    covered
        Half-open pixel ranges that are held.
    mean, vectors
        ``(n_covered,)`` and ``(n_vectors, n_covered)``: the covered ranges laid end to end.
    coefficients
        ``(n, n_vectors)``, mean zero.
    smoothed
        The vectors as an instrument sees them, ``(n_vectors, n_covered)``.
    seen
        Those inside its chips, ``(n_vectors, n_seen)``.
    """

    grid: LogGrid
    covered: list[tuple[int, int]]
    mean: Tensor
    vectors: Tensor
    coefficients: Tensor
    smoothed: Tensor
    seen: Tensor


def spectra_of(source: CompressedGrid, instrument_name: str) -> Spectra:
    """Resample a compressed grid's basis onto the pixels of a spectrograph's emulator, in vacuum.

    Parameters
    ----------
    source
        The grid.
    instrument_name
        Of the spectrograph, or its TOML file.
    """
    instrument = read_instrument(instrument_name)
    wavelength = to_vacuum(source.wavelength)
    grid, n = covering(wavelength, instrument.model_step)
    rows = np.concatenate([source.mean[None], source.basis])
    parts = np.array_split(rows, max(1, len(rows) // 32))
    on_grid = torch.cat([resampled(wavelength, part, grid, n) for part in parts])
    covered = _stretches(grid, n, instrument)
    keep = torch.cat([torch.arange(*pair) for pair in covered])
    coefficients = torch.from_numpy(source.coefficients.astype(np.float64))
    middle = coefficients.mean(0)
    sigma = Gaussian(instrument.power).sigma / grid.dlnw
    chips = torch.zeros(n, dtype=torch.bool)
    for low, high in instrument.ranges:
        chips |= (grid.wavelength[:n] >= low) & (grid.wavelength[:n] <= high)
    smoothed = smooth(on_grid[1:], sigma)
    return Spectra(
        grid,
        covered,
        on_grid[0, keep] + middle @ on_grid[1:, keep],
        on_grid[1:, keep],
        coefficients - middle,
        smoothed[:, keep],
        smoothed[:, chips],
    )


def _root(spectra: Spectra) -> Tensor:
    """L with ``D D' = L L'`` of the vectors D as they are seen: the components of ``A D`` are those of the small matrix ``A L``."""
    values, vectors = torch.linalg.eigh(spectra.seen @ spectra.seen.T)
    return vectors * values.clamp_min(0).sqrt()


def components_of(spectra: Spectra, number: int) -> tuple[Tensor, Tensor, Tensor]:
    """Find the principal components of what an instrument sees of the spectra.

    Returns
    -------
    coefficients, components, seen
        Of the spectra ``(n, number)``; the spectrum that goes with each, ``(number, n_covered)``; and as it is seen, ``(number, n_seen)``.
    """
    u, s, _ = torch.linalg.svd(spectra.coefficients @ _root(spectra), full_matrices=False)
    k = min(number, int((s > 1e-9 * s[0]).sum()))
    coefficients = u[:, :k] * s[:k]
    # The map that gives each spectrum as the star emits it, by least squares.
    back = (u[:, :k] / s[:k]).T @ spectra.coefficients
    return coefficients, back @ spectra.vectors, back @ spectra.seen


def build_from_synthetic(config: SyntheticConfig) -> Emulator:
    """Compute the emulator that the config describes and measure it on spectra that it has not seen.

    Raises
    ------
    ConfigError
        If the range does not name the grid's labels, or too few spectra lie in it.
    LabelError
        If labels are neither inferred nor tied.
    """
    if tuple(config.range) != LABELS:
        raise ConfigError(f"range: the labels of a synthetic grid are, in order, {', '.join(LABELS)}")
    source = CompressedGrid.read(config.source)
    library = _labels(config.range)
    spectra = spectra_of(source, config.instrument)
    values = torch.from_numpy(source.labels)
    margin = _MARGIN * (library.high - library.low)
    near = ((values >= library.low - margin) & (values <= library.high + margin)).all(1)
    inside = ((values >= library.low) & (values <= library.high)).all(1)
    # Judged inside the range; spectra beyond it keep the edge from being an end.
    order = torch.randperm(len(values), generator=torch.Generator().manual_seed(config.seed))
    held_out = order[inside[order]][: config.held_out]
    learn = near.clone()
    learn[held_out] = False
    if len(held_out) < config.held_out or int(learn.sum()) < config.held_out:
        raise ConfigError(
            f"{config.source}: {len(values)} spectra, {int(inside.sum())} of them in the range, are too few to leave {config.held_out} out"
        )
    coefficients, components, seen = components_of(spectra, config.components)
    scale = coefficients.std(0)
    card: dict[str, Any] = {
        "name": config.name,
        "kind": "emulator",
        "maury": maury.__version__,
        "library": config.library,
        "reference": config.reference,
        "source": config.source.name,
        "source_sha256": _hash(config.source),
        "spectra": int(near.sum()),
        "resolution": "as the star emits it, at the emulator's sampling: the line-spread function is applied by the forward model",
        "flux": "over the continuum",
        "instrument": read_instrument(config.instrument).card(),
        "recipe": config.model_dump(mode="json", exclude={"source", "reference", "instrument", "residuals"}),
    }
    x, y = scaled(values, library).double(), coefficients / scale
    products = (spectra.coefficients - spectra.coefficients[learn].mean(0)) @ spectra.seen
    rows = learn.nonzero()[:, 0]
    few = rows[: config.kernel_spectra]
    log.info("kernel: %d spectra", len(few))
    kernel = fit_kernel(x[few], products[few] @ products[few].T / products.shape[1], config.steps)
    log.info("process: %d spectra, and %d left out", len(rows), len(held_out))
    # Left out: an honest measure of what the rest predicts. The emulator that is kept has seen all.
    judged = ElementProcess.of(kernel, x[rows], y[rows], torch.ones(len(rows)).double())
    error = (judged(x[held_out]).double() * scale) @ seen - spectra.coefficients[held_out] @ spectra.seen
    rows = near.nonzero()[:, 0]
    residual = leave_one_out(kernel, x[rows]) @ spectra.coefficients[rows]
    flux = residual @ spectra.seen
    rms = flux.square().mean(1).sqrt()
    process = ElementProcess.of(kernel, x[rows], y[rows], rms)
    level = process.error(x[rows]).double()
    card["held_out"] = _figures(error) | {"learned": int(learn.sum())}
    card["left_out_one_by_one"] = _figures(flux[inside[rows]])
    card["error_rms"] = card["left_out_one_by_one"]["rms"]
    weighted = residual / level[:, None]
    modes, common = _modes(weighted, spectra, config.modes)
    card["modes"] = {"number": len(modes), "share_of_variance": common}
    shape = (weighted @ spectra.smoothed).square().mean(0).sqrt()
    return Emulator(
        library,
        spectra.grid,
        spectra.covered,
        spectra.mean,
        components,
        scale,
        process,
        card,
        shape,
        Ties(library, _labels(config.labels), config.ties, config.relations) if config.labels else None,
        config.region,
        modes,
    ).eval()


def _labels(ranges: Mapping[str, tuple[float, float]]) -> LabelSet:
    """Labels with the priors that their ranges mean."""
    return LabelSet(
        tuple(
            label(name, (LogUniform if name in _RATIOS else Uniform)(low=a, high=b))
            for name, (a, b) in ranges.items()
        )
    )


def _modes(residual: Tensor, spectra: Spectra, number: int) -> tuple[Tensor, float]:
    """Find what is common to errors ``(n, n_vectors)``, as an instrument sees them.

    Returns
    -------
    modes
        Vectors whose amplitudes are N(0, 1), ``(number, n_covered)``.
    share
        Of the variance.
    """
    u, s, _ = torch.linalg.svd(residual @ _root(spectra), full_matrices=False)
    k = min(number, len(s))
    # What the star emits where the instrument sees a mode, by least squares on the residuals.
    back = u[:, :k].T @ residual
    return back @ spectra.vectors / len(residual) ** 0.5, float(s[:k].square().sum() / s.square().sum())


def _figures(error: Tensor) -> dict[str, float]:
    """Describe errors ``(n, n_seen)`` of spectra that were left out, as shares of the continuum."""
    rms, absolute = error.square().mean(1).sqrt(), error.abs().flatten()
    return {
        "spectra": len(error),
        "rms": float(error.square().mean().sqrt()),
        "median_rms": float(rms.median()),
        "p90_rms": float(rms.quantile(0.9)),
        "worst_spectrum_rms": float(rms.max()),
        "p999": float(absolute.kthvalue(int(0.999 * len(absolute))).values),
    }


def _hash(folder: Path) -> str:
    digest = hashlib.sha256()
    for path in sorted(folder.glob("part-*.npz")):
        digest.update(path.read_bytes())
    return digest.hexdigest()
