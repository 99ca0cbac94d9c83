"""An emulator of a compressed grid of synthetic spectra: many labels at once, by a small network on principal components."""

from __future__ import annotations

import hashlib
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field
from scipy.interpolate import CubicSpline
from torch import Tensor

import maury
from maury.errors import ConfigError
from maury.labels import LabelSet, label
from maury.libraries.coefficients import LabelNetwork
from maury.libraries.emulator import Emulator, LogGrid
from maury.libraries.process import _stretches, fast_length, low_pass, smooth
from maury.libraries.synthesis.compress import CompressedGrid
from maury.libraries.synthesis.design import LABELS
from maury.priors import LogUniform, Uniform
from maury.spectra.air import to_vacuum
from maury.spectra.instrument import read_instrument
from maury.spectra.linespread import Gaussian

log = logging.getLogger(__name__)
Array = NDArray[np.float64]

# Labels that are ratios: their logarithm is what lines feel.
_RATIOS = ("c12_c13",)


class SyntheticConfig(BaseModel):
    """What `build_from_synthetic` needs to know."""

    model_config = ConfigDict(extra="forbid")

    name: str
    library: Literal["synthetic"]
    source: Path = Field(description="folder of the compressed grid's parts")
    reference: str
    range: dict[str, tuple[float, float]]
    instrument: str = "apogee"
    components: int = Field(200, gt=0)
    width: int = Field(512, gt=0)
    depth: int = Field(3, gt=0)
    held_out: int = Field(300, gt=0)
    steps: int = Field(20_000, gt=0)
    batch: int = Field(256, gt=0)
    learning_rate: float = Field(2e-3, gt=0)
    weight_decay: float = Field(1e-4, ge=0)
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
    seen
        The vectors as an instrument sees them, inside its chips, ``(n_vectors, n_seen)``.
    """

    grid: LogGrid
    covered: list[tuple[int, int]]
    mean: Tensor
    vectors: Tensor
    coefficients: Tensor
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
    start = float(np.log10(wavelength[0]))
    step = instrument.model_step
    n = int(np.floor((np.log10(wavelength[-1]) - start) / step)) + 1
    grid = LogGrid(start, step, fast_length(n + 64))
    # Detail beyond the pixels' Nyquist frequency is taken out on a finer grid, so that nothing is aliased.
    finer = LogGrid(start, step / 2, 2 * n - 1).wavelength.numpy()
    rows = np.concatenate([source.mean[None], source.basis]).astype(np.float64)
    on_grid = torch.cat(
        [
            low_pass(torch.from_numpy(CubicSpline(wavelength, part, axis=1)(finer)), 0.5)[:, ::2]
            for part in np.array_split(rows, max(1, len(rows) // 32))
        ]
    )
    covered = _stretches(grid, n, instrument)
    keep = torch.cat([torch.arange(*pair) for pair in covered])
    coefficients = torch.from_numpy(source.coefficients.astype(np.float64))
    middle = coefficients.mean(0)
    sigma = Gaussian(instrument.power).sigma / grid.dlnw
    chips = torch.zeros(n, dtype=torch.bool)
    for low, high in instrument.ranges:
        chips |= (grid.wavelength[:n] >= low) & (grid.wavelength[:n] <= high)
    return Spectra(
        grid,
        covered,
        on_grid[0, keep] + middle @ on_grid[1:, keep],
        on_grid[1:, keep],
        coefficients - middle,
        smooth(on_grid[1:], sigma)[:, chips],
    )


def components_of(spectra: Spectra, number: int) -> tuple[Tensor, Tensor, Tensor]:
    """Find the principal components of what an instrument sees of the spectra.

    Returns
    -------
    coefficients, components, seen
        Of the spectra ``(n, number)``; the spectrum that goes with each, ``(number, n_covered)``; and as it is seen, ``(number, n_seen)``.
    """
    # F = A D: with D D' = L L' the components of F are those of the small matrix A L.
    gram = spectra.seen @ spectra.seen.T
    values, vectors = torch.linalg.eigh(gram)
    root = vectors * values.clamp_min(0).sqrt()
    u, s, _ = torch.linalg.svd(spectra.coefficients @ root, full_matrices=False)
    k = min(number, int((s > 1e-9 * s[0]).sum()))
    coefficients = u[:, :k] * s[:k]
    # The map that gives each spectrum as the star emits it, by least squares.
    back = (u[:, :k] / s[:k]).T @ spectra.coefficients
    return coefficients, back @ spectra.vectors, back @ spectra.seen


def train_network(
    network: LabelNetwork, x: Tensor, y: Tensor, weight: Tensor, config: SyntheticConfig
) -> None:
    """Fit a network to scaled coefficients by the flux error that they make, ``sum(weight (y - f)^2)``.

    Parameters
    ----------
    network
        The network; changed in place.
    x, y
        Scaled labels ``(n, n_labels)`` and coefficients ``(n, n_components)``.
    weight
        Of each squared coefficient, ``(n_components,)``.
    config
        Steps, batch, learning rate, weight decay and seed.
    """
    generator = torch.Generator().manual_seed(config.seed)
    optimizer = torch.optim.AdamW(
        network.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, config.learning_rate, config.steps, pct_start=0.05
    )
    for step in range(config.steps):
        rows = torch.randint(len(x), (min(config.batch, len(x)),), generator=generator)
        loss = (weight * (network(x[rows]) - y[rows]).square()).sum(1).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if step % 1000 == 0:
            log.info("step %d of %d: rms flux error %.2e", step, config.steps, loss.item() ** 0.5)


def build_from_synthetic(config: SyntheticConfig) -> Emulator:
    """Compute the emulator that the config describes and measure it on spectra that it has not seen.

    Raises
    ------
    ConfigError
        If the range does not name the grid's labels, or too few spectra lie in it.
    """
    if tuple(config.range) != LABELS:
        raise ConfigError(f"range: the labels of a synthetic grid are, in order, {', '.join(LABELS)}")
    source = CompressedGrid.read(config.source)
    priors = {
        name: (LogUniform if name in _RATIOS else Uniform)(low=a, high=b)
        for name, (a, b) in config.range.items()
    }
    labels = LabelSet(tuple(label(name, prior) for name, prior in priors.items()))
    spectra = spectra_of(source, config.instrument)
    values = torch.from_numpy(source.labels)
    inside = ((values >= labels.low) & (values <= labels.high)).all(1)
    # Judged inside the range; spectra beyond it keep the edge from being an end.
    order = torch.randperm(len(values), generator=torch.Generator().manual_seed(config.seed))
    held_out = order[inside[order]][: config.held_out]
    learn = torch.ones(len(values), dtype=torch.bool)
    learn[held_out] = False
    if len(held_out) < config.held_out or int(learn.sum()) < config.held_out:
        raise ConfigError(
            f"{config.source}: {len(values)} spectra, {int(inside.sum())} of them in the range, are too few to leave {config.held_out} out"
        )
    coefficients, components, seen = components_of(spectra, config.components)
    scale = coefficients.std(0)
    torch.manual_seed(config.seed)
    network = LabelNetwork(len(labels), len(scale), config.width, config.depth)
    card: dict[str, Any] = {
        "name": config.name,
        "kind": "emulator",
        "maury": maury.__version__,
        "library": config.library,
        "reference": config.reference,
        "source": config.source.name,
        "source_sha256": _hash(config.source),
        "spectra": int(learn.sum()),
        "resolution": "as the star emits it, at the emulator's sampling: the line-spread function is applied by the forward model",
        "flux": "over the continuum",
        "instrument": read_instrument(config.instrument).card(),
        "recipe": config.model_dump(mode="json", exclude={"source", "reference", "instrument"}),
    }
    emulator = Emulator(labels, spectra.grid, spectra.covered, spectra.mean, components, scale, network, card)
    x, y = emulator.scaled(values[learn]), (coefficients[learn] / scale).float()
    weight = (scale.square() * seen.square().mean(1)).float()
    train_network(network, x, y, weight, config)
    with torch.no_grad():
        predicted = emulator.coefficients(values[held_out]).double()
    error = (predicted - coefficients[held_out]) @ seen
    emulator.card["held_out"] = _figures(error)
    emulator.card["error_rms"] = emulator.card["held_out"]["rms"]
    return emulator.eval()


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
