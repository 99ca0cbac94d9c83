"""An emulator of a grid with holes: principal components of its nodes, kriged over the labels, with leave-one-out errors."""

from __future__ import annotations

import hashlib
import logging
import math
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field
from scipy.interpolate import CubicSpline
from torch import Tensor

import maury
from maury.constants import C_KMS
from maury.errors import ConfigError
from maury.labels import LabelSet, label
from maury.libraries.coefficients import GaussianProcess
from maury.libraries.continuum import pseudo_continuum
from maury.libraries.emulator import Emulator, LogGrid
from maury.libraries.grid import Grid
from maury.libraries.open import open_grid
from maury.priors import Uniform
from maury.spectra.instrument import Instrument, apogee, read_instrument
from maury.spectra.linespread import Gaussian

Array = NDArray[np.float64]
log = logging.getLogger(__name__)

# Interpolation onto the logarithmic grid rings in the last pixels.
_TRIM = 8
# The error's shape is smoothed over this much, so that it may stay where it is when the spectrum moves.
_SHAPE_KMS = 400.0
# km/s that an emulator knows on each side of a chip beyond the fastest and broadest star, and pixels between its stretches.
_MARGIN_KMS, _APART = 60.0, 100


class GridConfig(BaseModel):
    """What `build_from_grid` needs to know."""

    model_config = ConfigDict(extra="forbid")

    name: str
    library: Literal["grid"]
    source: Path
    reference: str
    range: dict[str, tuple[float, float]]
    instrument: str | None = Field(
        None,
        description="name or TOML file: the spectrograph that it is for; as the library's spectra are, if none",
    )
    restrict: bool = Field(False, description="leave out what of the instrument the library does not cover")
    step: float | None = Field(
        None, gt=0, description="log10(wavelength) a pixel; the instrument's, or APOGEE's, otherwise"
    )
    components: int = Field(100, gt=0)
    resolution: float | None = Field(
        None,
        gt=0,
        description="at which the errors are measured; the instrument's, or APOGEE's, otherwise",
    )


def resample(grid: Grid, step: float) -> tuple[LogGrid, int, Tensor]:
    """Spectra of all nodes on a logarithmic grid: the grid, its covered length, and the flux ``(n_nodes, n)``.

    What the grid cannot hold, detail beyond its Nyquist frequency, is taken out first, so that nothing is aliased.
    """
    log_grid, n = covering(grid.wavelength, step)
    chunks = np.array_split(np.arange(grid.n_nodes), max(1, grid.n_nodes // 32))
    parts = [resampled(grid.wavelength, grid.flux(chunk), log_grid, n).float() for chunk in chunks]
    return log_grid, n, torch.cat(parts)


def covering(wavelength: Array, step: float) -> tuple[LogGrid, int]:
    """Return the logarithmic grid of a step that covers wavelengths, and how many of its pixels do; the rest are room for kernels."""
    start = float(np.log10(wavelength[0]))
    n = int(np.floor((np.log10(wavelength[-1]) - start) / step)) + 1
    return LogGrid(start, step, fast_length(n + 64)), n


def resampled(wavelength: Array, rows: Array, grid: LogGrid, n: int) -> Tensor:
    """Bring rows ``(k, n_wavelengths)`` onto the first pixels of a grid, ``(k, n)``, double precision.

    Detail beyond the pixels' Nyquist frequency is taken out on a finer grid, so that nothing is aliased.
    """
    finer = LogGrid(grid.start, grid.step / 2, 2 * n - 1).wavelength.numpy()
    flux = CubicSpline(wavelength, np.asarray(rows, np.float64), axis=1)(finer)
    return low_pass(torch.from_numpy(flux), 0.5)[:, ::2]


def on_grid(wavelength: Array, flux: Array, grid: LogGrid) -> Tensor:
    """Bring a normalised spectrum in vacuum onto the whole of a grid, as `resampled` does: ``(n_grid,)``, float32; 1 beyond its ends."""
    fine = 10 ** (grid.start + grid.step / 2 * np.arange(2 * grid.n_pixels - 1))
    known = (fine > wavelength[0]) & (fine < wavelength[-1])
    out = np.ones(len(fine))
    out[known] = CubicSpline(wavelength, flux)(fine[known])
    return low_pass(torch.from_numpy(out)[None], 0.5)[0, ::2].float()


def fast_length(n: int) -> int:
    """Shortest even length of at least ``n`` whose prime factors are 2, 3 and 5."""
    while True:
        rest = n
        for prime in (2, 3, 5):
            while rest % prime == 0:
                rest //= prime
        if rest == 1 and n % 2 == 0:
            return n
        n += 1


def filtered(values: Tensor, transfer: Callable[[Tensor], Tensor]) -> Tensor:
    """Multiply the Fourier transform of rows ``(n, n_pixels)`` by a function of cycles a pixel; mirrored, so that ends do not jump."""
    n = values.shape[1]
    mirrored = torch.cat([values, values[:, 1:-1].flip(1)], dim=1)
    f = torch.fft.rfftfreq(mirrored.shape[1], dtype=torch.float64)
    return torch.fft.irfft(torch.fft.rfft(mirrored) * transfer(f).to(values), n=mirrored.shape[1])[:, :n]


def low_pass(values: Tensor, share: float) -> Tensor:
    """Take out what lies above a share of the Nyquist frequency, with a soft edge over the last tenth."""
    return filtered(
        values, lambda f: torch.cos(torch.pi / 2 * ((2 * f / share - 0.9) / 0.1).clamp(0, 1)).square()
    )


def smooth(values: Tensor, sigma_pixels: float) -> Tensor:
    """Convolve rows ``(n, n_pixels)`` with a Gaussian."""
    return filtered(values, lambda f: torch.exp(-2 * (torch.pi * f * sigma_pixels) ** 2))


def on_instrument(grid: Grid, instrument: Instrument, restrict: bool, where: Path) -> tuple[Grid, Instrument]:
    """Return what of a library an instrument sees of any star, and the instrument as far as the library covers it.

    Raises
    ------
    ConfigError
        If chips reach beyond the library, unless ``restrict`` leaves that out; or none lies inside it.
    """
    low, high = float(grid.wavelength[0]), float(grid.wavelength[-1])
    beyond = [
        f"{instrument.chip_name(i)} ({a:.0f}-{b:.0f})"
        for i, (a, b) in enumerate(instrument.ranges)
        if a < low or b > high
    ]
    if beyond and not restrict:
        raise ConfigError(
            f"{where}: the library covers {low:.0f}-{high:.0f} Angstrom, but of {instrument.name} not {', '.join(beyond)}; "
            "leave that out with --restrict, or choose another library"
        )
    if beyond:
        instrument = instrument.restricted(low, high)
        log.info("%s restricted to %s Angstrom", instrument.name, instrument.describe())
    usual = instrument.training
    reach = math.exp((max(map(abs, usual.v_rad)) + usual.v_sini[1] + _MARGIN_KMS) / C_KMS)
    ranges = instrument.ranges
    return grid.crop(ranges[0][0] / reach, ranges[-1][1] * reach), instrument


def _settled(config: GridConfig, instrument: Instrument) -> GridConfig:
    """Return the configuration with all that an instrument decides."""
    usual = {"step": instrument.model_step, "resolution": instrument.power}
    return config.model_copy(update={k: v for k, v in usual.items() if getattr(config, k) is None})


def _stretches(log_grid: LogGrid, n: int, instrument: Instrument | None) -> list[tuple[int, int]]:
    """Half-open pixel ranges that an emulator holds, each normalised by itself: all, or about the chips of an instrument."""
    if instrument is None:
        return [(_TRIM, n - _TRIM)]
    usual = instrument.training
    reach = (max(map(abs, usual.v_rad)) + usual.v_sini[1] + _MARGIN_KMS) / C_KMS / log_grid.dlnw
    out: list[tuple[int, int]] = []
    for low, high in instrument.ranges:
        a, b = ((math.log10(w) - log_grid.start) / log_grid.step for w in (low, high))
        start, stop = max(_TRIM, math.floor(a - reach)), min(n - _TRIM, math.ceil(b + reach))
        if out and start <= out[-1][1] + _APART:
            start, _ = out.pop()
        out.append((start, stop))
    return out


def build_from_grid(config: GridConfig) -> Emulator:
    """Compute the emulator that the config describes, and its leave-one-out errors.

    Each node's spectrum is predicted from all the others, with the same length scales, at the stated resolution. These residuals enter the
    likelihood: through the process's own spread they say how far to believe the emulator between nodes and in holes.

    Raises
    ------
    ConfigError
        If the range does not name the grid's labels.
    """
    grid = open_grid(config.source)
    instrument = None if config.instrument is None else read_instrument(config.instrument)
    if instrument is not None:
        grid, instrument = on_instrument(grid, instrument, config.restrict, config.source)
    config = _settled(config, instrument or apogee())
    step, resolution = config.step or 0.0, config.resolution or 0.0
    if tuple(config.range) != tuple(grid.labels):
        raise ConfigError(
            f"range: the labels of {config.source.name} are, in order, {', '.join(grid.labels)}"
        )
    labels = LabelSet(tuple(label(name, Uniform(low=a, high=b)) for name, (a, b) in config.range.items()))
    nodes = torch.from_numpy(np.asarray(grid.nodes, dtype=np.float64))
    inside = ((nodes >= labels.low) & (nodes <= labels.high)).all(1)
    log_grid, n, flux = resample(grid, step)
    log_flux, nodes = flux[inside].clamp_min(1e-30).log(), nodes[inside]
    log.info("%d nodes, %d pixels", *log_flux.shape)
    x = log_grid.wavelength[:n].log()
    kept = _stretches(log_grid, n, instrument)
    flux = torch.ones_like(log_flux)
    # Without an instrument the continuum is that of all that there is, the ends that are left out as well.
    for part in [slice(*pair) for pair in kept] if instrument else [slice(None)]:
        flux[:, part] = (log_flux[:, part] - pseudo_continuum(log_flux[:, part], x[part].float())).exp()
    mean = flux.mean(0)
    deviations = (flux - mean).double()
    sigma = Gaussian(resolution).sigma / log_grid.dlnw
    seen = smooth(deviations, sigma)
    # Between an instrument's chips there is nothing that could be right or wrong.
    keep = torch.cat([torch.arange(*pair) for pair in kept])
    judged = keep if instrument else slice(None)

    scaled = 2 * (nodes - labels.low) / (labels.high - labels.low) - 1
    # Few spectra, many pixels: the components come from their inner products.
    variance, vectors = torch.linalg.eigh(deviations @ deviations.T)
    k = min(config.components, len(nodes) - 1)
    components = (vectors[:, -k:].flip(1).T @ deviations) / variance[-k:].flip(0).sqrt()[:, None]
    coefficients = deviations @ components.T
    scale = coefficients.std(0)
    process = GaussianProcess(len(labels), k, len(nodes))
    process.fit_scales(scaled, seen[:, judged] @ seen[:, judged].T / seen[:, judged].shape[1])
    matrix, _ = process.leave_one_out()
    residual = matrix @ seen
    rms = residual[:, judged].square().mean(1).sqrt()
    process.fit(coefficients / scale, rms)
    shape = (residual / rms[:, None]).square().mean(0)[None]
    shape = smooth(shape, _SHAPE_KMS / C_KMS / log_grid.dlnw)[0].clamp_min(0.01).sqrt()
    card = {
        "name": config.name,
        "kind": "emulator",
        "maury": maury.__version__,
        "library": "grid",
        "reference": config.reference,
        "source": config.source.name,
        "source_sha256": hashlib.sha256(config.source.read_bytes()).hexdigest(),
        "resolution": "as the star emits it, at the library's sampling: the line-spread function is applied by the forward model",
        "flux": "over a pseudo-continuum: a quadratic in ln(wavelength) through ln(flux), lifted to its 95th percentile",
        "recipe": config.model_dump(mode="json", exclude={"source", "reference", "instrument", "restrict"}),
        "process": {
            "length": process.log_length.exp().tolist(),
            "nugget": float(process.log_nugget.exp()),
            "nodes": len(nodes),
        },
    }
    if instrument is not None:
        card["instrument"] = instrument.card()
    emulator = Emulator(
        labels,
        log_grid,
        kept,
        mean[keep],
        components[:, keep],
        scale,
        process,
        card,
        shape[keep],
    )
    truncation = smooth(deviations - coefficients @ components, sigma)[:, judged].square().mean().sqrt()
    emulator.card["leave_one_out"] = {
        "spectra": len(nodes),
        "resolution": resolution,
        "median_rms": float(rms.median()),
        "mean_rms": float(rms.mean()),
        "p90_rms": float(rms.quantile(0.9)),
        "max_rms": float(rms.max()),
        "median_rms_unsmoothed": float((matrix @ deviations)[:, judged].square().mean(1).sqrt().median()),
        "rms_of_component_truncation": float(truncation),
    }
    return emulator.eval()
