"""Build an emulator from a model library: ``maury models build CONFIG.toml``."""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from scipy.stats import qmc
from torch import Tensor

import maury
from maury.constants import C_KMS
from maury.errors import ConfigError
from maury.labels import LabelSet, label
from maury.libraries import kurucz
from maury.libraries.coefficients import LabelNetwork
from maury.libraries.continuum import pseudo_continuum
from maury.libraries.emulator import Emulator, LogGrid, principal_components
from maury.libraries.process import GridConfig, build_from_grid
from maury.libraries.synthetic import SyntheticConfig, build_from_synthetic
from maury.priors import Uniform
from maury.spectra.instrument import APOGEE, apogee
from maury.toml import read_toml, validate

log = logging.getLogger(__name__)

# The pixels of this library.
APSTAR = LogGrid(apogee().layout.log10_start, apogee().layout.log10_step, apogee().layout.number)
# 2^6 3^3 5: the shortest length above 8575 with a fast Fourier transform.
FFT_PIXELS = 8640
# Lost at each end of a chip: the interpolation that corrects the zero point rings there.
_TRIM = 8


class EmulatorConfig(BaseModel):
    """What `build` needs to know."""

    model_config = ConfigDict(extra="forbid")

    name: str
    library: Literal["kurucz-networks"]
    source: Path
    reference: str
    range: dict[str, tuple[float, float]]
    velocity_offset: list[float] = Field(
        description="km/s by which the library's lines lie to the red, one a chip"
    )
    components: int = Field(140, gt=0)
    width: int = Field(448, gt=0)
    depth: int = Field(3, gt=0)
    spectra: int = Field(65_536, gt=0)
    held_out: int = Field(4096, gt=0)
    steps: int = Field(12_000, gt=0)
    batch: int = Field(1024, gt=0)
    learning_rate: float = Field(2e-3, gt=0)
    seed: int = Field(0, ge=0, lt=2**62)


def build_from_file(path: Path, instrument: str | None = None, restrict: bool = False) -> Emulator:
    """Compute the emulator that a TOML file describes: of the Kurucz networks, or of any grid.

    Parameters
    ----------
    path
        The file.
    instrument
        Name or TOML file of the spectrograph that it is for, in place of the file's.
    restrict
        Whether what the library does not cover of the instrument is left out.

    Raises
    ------
    ConfigError
        If a file cannot be read, a key is unknown or impossible, the library does not cover the instrument, or is of one alone.
    """
    entries = read_toml(path)
    if entries.get("library") == "grid":
        given = {"instrument": instrument, "restrict": restrict or None}
        entries |= {key: value for key, value in given.items() if value is not None}
        return build_from_grid(validate(path, entries, GridConfig))
    if entries.get("library") == "synthetic":
        entries |= {} if instrument is None else {"instrument": instrument}
        return build_from_synthetic(validate(path, entries, SyntheticConfig))
    if instrument is not None and instrument != APOGEE:
        raise ConfigError(
            f'{path}: library {entries.get("library")!r} is made of spectra as APOGEE sees them; for {instrument} choose library = "grid"'
        )
    return build(validate(path, entries, EmulatorConfig))


def residuals_of(path: Path) -> Path | None:
    """Return the file of a calibration's residuals that a description of a synthetic library names, if it names one."""
    entries = read_toml(path)
    return (
        validate(path, entries, SyntheticConfig).residuals if entries.get("library") == "synthetic" else None
    )


def shift_pixels(values: Tensor, pixels: float) -> Tensor:
    """Move values ``(n, n_pixels)`` towards higher pixel numbers by a fraction of a pixel, band-limited."""
    n = values.shape[-1]
    phase = torch.exp(-2j * torch.pi * torch.fft.rfftfreq(n, dtype=torch.float64) * pixels)
    return torch.fft.irfft(torch.fft.rfft(values.double()) * phase, n=n).to(values)


def correct_zero_point(values: Tensor, offsets: list[float]) -> Tensor:
    """Move each chip of values ``(n, 7214)`` to the blue by its offset (km/s)."""
    out = []
    for (start, stop), offset in zip(kurucz.CHIPS, offsets, strict=True):
        first = sum(b - a for a, b in kurucz.CHIPS if b <= start)
        chip = values[:, first : first + stop - start]
        # Mirrored, the chip is periodic without a jump.
        mirrored = torch.cat([chip, chip.flip(1)], dim=1)
        pixels = -torch.log1p(torch.tensor(offset / C_KMS, dtype=torch.float64)) / APSTAR.dlnw
        out.append(shift_pixels(mirrored, float(pixels))[:, : stop - start])
    return torch.cat(out, dim=1)


def train_network(
    network: LabelNetwork, x: Tensor, y: Tensor, weight: Tensor, config: EmulatorConfig
) -> None:
    """Fit the network to scaled coefficients ``y`` at scaled labels ``x`` by the flux error, ``sum(weight (y - f)^2)``."""
    generator = torch.Generator().manual_seed(config.seed)
    optimizer = torch.optim.Adam(network.parameters(), lr=config.learning_rate)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, config.learning_rate, config.steps, pct_start=0.05
    )
    for step in range(config.steps):
        rows = torch.randint(len(x), (config.batch,), generator=generator)
        loss = (weight * (network(x[rows]) - y[rows]).square()).sum(1).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if step % 500 == 0:
            log.info("step %d of %d: rms flux error %.2e", step, config.steps, loss.item() ** 0.5)


def build(config: EmulatorConfig) -> Emulator:
    """Compute the emulator that the config describes and measure it on spectra it has not seen.

    Raises
    ------
    ConfigError
        If the range does not name the library's labels.
    """
    if tuple(config.range) != kurucz.LABELS:
        raise ConfigError(f"range: the labels of {config.library} are, in order, {', '.join(kurucz.LABELS)}")
    labels = LabelSet(tuple(label(name, Uniform(low=a, high=b)) for name, (a, b) in config.range.items()))
    library = kurucz.KuruczNetworks.load(config.source)
    pixels = torch.cat([torch.arange(start, stop) for start, stop in kurucz.CHIPS])
    covered = [(start + _TRIM, stop - _TRIM) for start, stop in kurucz.CHIPS]
    keep = torch.cat([(pixels >= a) & (pixels < b) for a, b in covered]).view(3, -1).any(0)
    ln_wavelength = APSTAR.wavelength.log()[pixels]

    def spectra(labels_: Tensor) -> Tensor:
        log_flux = library.flux(labels_).log()
        flux = (log_flux - pseudo_continuum(log_flux, ln_wavelength)).exp()
        return correct_zero_point(flux, config.velocity_offset)[:, keep]

    def unit_points(n: int, seed: int) -> Tensor:
        return torch.from_numpy(qmc.Sobol(len(labels), seed=seed).random(n)).float()

    def at(points: Tensor) -> Tensor:
        return torch.cat(
            [spectra(chunk) for chunk in (labels.low + points * (labels.high - labels.low)).split(512)]
        )

    points = unit_points(config.spectra, config.seed)
    flux = at(points)
    mean = flux.mean(0)
    flux -= mean
    components, _ = principal_components(flux[:16_384], config.components, config.seed)
    coefficients = flux @ components.T
    del flux
    scale = coefficients.std(0)
    torch.manual_seed(config.seed)
    network = LabelNetwork(len(labels), config.components, config.width, config.depth)
    train_network(network, 2 * points - 1, coefficients / scale, scale.square() / components.shape[1], config)

    card = {
        "name": config.name,
        "kind": "emulator",
        "maury": maury.__version__,
        "library": config.library,
        "reference": config.reference,
        "source": config.source.name,
        "source_sha256": hashlib.sha256(config.source.read_bytes()).hexdigest(),
        "resolution": "contains the survey's average line-spread function (R about 22,500)",
        "flux": "over a pseudo-continuum: a quadratic in ln(wavelength) through ln(flux), lifted to its 95th percentile",
        "contained_resolution": apogee().power,
        "velocity_offset_removed": config.velocity_offset,
        "recipe": config.model_dump(exclude={"source", "reference"}),
    }
    emulator = Emulator(
        labels,
        LogGrid(APSTAR.start, APSTAR.step, FFT_PIXELS),
        covered,
        mean,
        components,
        scale,
        network,
        card,
    )
    emulator.card["held_out"] = measure(emulator, unit_points(config.held_out, config.seed + 1), at)
    emulator.card["error_rms"] = emulator.card["held_out"]["rms"]
    return emulator.eval()


@torch.no_grad()
def measure(emulator: Emulator, points: Tensor, truth: Any) -> dict[str, float]:
    """Error of the emulator, as a share of the continuum, at points of the unit cube it was not trained on."""
    emulator.components.copy_(emulator.components.half())
    labels = emulator.labels.low + points * (emulator.labels.high - emulator.labels.low)
    inside = emulator.covered_mask()
    error = torch.cat([emulator(part)[:, inside] for part in labels.split(512)]) - truth(points)
    absolute = error.abs().flatten()
    rank = int(0.999 * len(absolute))
    return {
        "spectra": len(points),
        "rms": float(error.square().mean().sqrt()),
        "p999": float(absolute.kthvalue(rank).values),
        "max": float(absolute.max()),
        "worst_spectrum_rms": float(error.square().mean(1).sqrt().max()),
    }
