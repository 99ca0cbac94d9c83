"""An emulator: stellar labels to the rest-frame spectrum, as principal components whose coefficients a small network gives."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from maury.errors import ModelError
from maury.labels import LabelSet
from maury.libraries.coefficients import Coefficients, GaussianProcess, from_settings
from maury.libraries.elements import ElementProcess
from maury.libraries.ties import Region, Ties
from maury.priors import LogUniform
from maury.spectra.instrument import Instrument, of_card
from maury.spectra.linespread import Gaussian
from maury.weights import MOST_PIXELS, read_model, reading, whole, write_model

# How the library's line strengths are wrong together, in a model's folder.
MODES = "modes.safetensors"
# Pixels over which a component fades to the continuum beyond the covered range.
_FADE = 24
# Share of a pixel's squared error that modes leave at least.
_LEAST_LEFT = 0.1
# Numbers that the components of an emulator hold at most, and log10 of the longest wavelength, Angstrom.
_MOST_NUMBERS, _LONGEST = 500_000_000, 10.0


@dataclass(frozen=True)
class LogGrid:
    """Uniform grid in log10(wavelength / Angstrom), vacuum."""

    start: float
    step: float
    n_pixels: int

    @cached_property
    def wavelength(self) -> Tensor:
        """Pixel centres, Angstrom, shape ``(n_pixels,)``."""
        return 10.0 ** (self.start + self.step * torch.arange(self.n_pixels, dtype=torch.float64))

    @property
    def dlnw(self) -> float:
        """Pixel size in ln(wavelength)."""
        return self.step * float(torch.log(torch.tensor(10.0, dtype=torch.float64)))


class Emulator(nn.Module):
    """Rest-frame flux over its pseudo-continuum, on a uniform logarithmic grid.

    ``flux = mean + coefficients(labels) @ components`` on the covered pixel ranges; elsewhere it fades to 1, so that the
    Fourier-space operations of the forward model meet no jump.

    Parameters
    ----------
    labels
        Of the library, with uniform priors over its range (uniform in the logarithm where that is what the network takes).
    grid
        The logarithmic grid.
    covered
        Half-open pixel ranges in which the emulator knows the spectrum.
    mean, components
        Shapes ``(n_covered,)`` and ``(n_components, n_covered)``; the covered ranges laid end to end.
    scale
        Spread of each coefficient, shape ``(n_components,)``.
    network
        Labels in [-1, 1] to coefficients over ``scale``.
    card
        How it was made and how good it is. ``contained_resolution`` is that of the line-spread function in the spectra, absent if there is
        none; ``error_rms`` a constant error.
    error_shape
        Error of each pixel over its rms, shape ``(n_covered,)``; 1 if None.
    ties
        Which of the labels are taken, and what the others follow; all are taken if None.
    region
        Stars that there are; all if None.
    modes
        What is common to the errors of pixels: vectors ``(n_modes, n_covered)`` whose amplitudes are N(0, 1) times `error`. What they
        leave of ``error_shape`` is ``error_left``.

    Attributes
    ----------
    labels
        What the emulator takes: the library's labels, or those that the ties leave.
    library
        The library's labels.
    """

    mean: Tensor
    components: Tensor
    scale: Tensor
    _low: Tensor
    _range: Tensor
    error_shape: Tensor
    modes: Tensor
    error_left: Tensor
    _matrix: Tensor
    _offset: Tensor
    _by_logarithm: Tensor
    _tied: Tensor

    def __init__(
        self,
        labels: LabelSet,
        grid: LogGrid,
        covered: Sequence[tuple[int, int]],
        mean: Tensor,
        components: Tensor,
        scale: Tensor,
        network: Coefficients,
        card: Mapping[str, Any] | None = None,
        error_shape: Tensor | None = None,
        ties: Ties | None = None,
        region: Region | None = None,
        modes: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.library, self.region = labels, region
        self.grid, self.covered = grid, tuple((int(a), int(b)) for a, b in covered)
        self.card = dict(card or {})
        self.network = network
        self.register_buffer("scale", scale.float())
        self.register_buffer("mean", 1 + self._on_grid(mean.float()[None] - 1)[0])
        self.register_buffer("components", self._on_grid(components.float()))
        shape = torch.ones_like(mean) if error_shape is None else error_shape
        self.register_buffer("error_shape", self._on_grid(shape.float()[None])[0])
        common = mean.new_zeros(0, len(mean)) if modes is None else modes
        self.register_buffer("modes", self._on_grid(common.float()))
        # Modes are of what the star emits, the shape of what is seen: at single pixels they may exceed it.
        left = self.error_shape.square() - self.modes.square().sum(0)
        self.register_buffer("error_left", left.clamp_min(_LEAST_LEFT * self.error_shape.square()).sqrt())
        self.register_buffer("_low", labels.low.float())
        self.register_buffer("_range", (labels.high - labels.low).float())
        self._logarithmic = _logarithmic(labels)
        self._tie(ties or Ties(labels, labels))

    def _tie(self, ties: Ties) -> None:
        self.ties, self.labels = ties, ties.labels
        self.register_buffer("_matrix", ties.matrix().float())
        self.register_buffer("_offset", ties.offset().float())
        self.register_buffer("_by_logarithm", ties.logarithmic())
        tied = torch.zeros(len(ties.library), dtype=torch.bool)
        tied[ties.places] = True
        self.register_buffer("_tied", tied)

    def tied(self, ties: Ties) -> Emulator:
        """Return the emulator of other labels; weights are shared."""
        out = copy.copy(self)
        out._buffers, out._modules = dict(self._buffers), dict(self._modules)
        out._tie(ties)
        return out

    def complete(self, labels: Tensor, departures: Tensor | None = None) -> Tensor:
        """All labels of the library, ``(n, n_library)``, of those that are taken, ``(n, n_labels)``.

        ``departures (n, n_library)`` are what a star's tied labels have beside what they follow; see `Ties.departures`.
        """
        if self.ties.is_identity:
            return labels
        out = labels.to(self._matrix) @ self._matrix.T + self._offset
        if departures is not None:
            out = out + departures.to(out)
        # What is not followed in its logarithm overflows there, and would make derivatives nan.
        out = torch.where(self._by_logarithm, torch.where(self._by_logarithm, out, 0.0).exp(), out)
        # What follows does so to the ends of the library.
        return torch.minimum(torch.maximum(out, self._low), self._low + self._range)

    def inside(self, labels: Tensor) -> Tensor:
        """Tell whether labels ``(n, n_labels)`` are of stars that there are, bool, ``(n,)``."""
        if self.region is None:
            return torch.ones(len(labels), dtype=torch.bool, device=labels.device)
        whole = self.complete(labels)
        return self.region.inside(*(whole[:, self.library.index(name)] for name in ("teff", "logg")))

    def _on_grid(self, values: Tensor) -> Tensor:
        """Lay values ``(n, n_covered)`` on the grid ``(n, n_pixels)``, fading to 0 outside the covered ranges."""
        held = sum(stop - start for start, stop in self.covered)
        if held != values.shape[1]:
            raise ValueError(f"{values.shape[1]} pixels of weights, but the covered ranges hold {held}")
        out = values.new_zeros(len(values), self.grid.n_pixels)
        fade = torch.cos(torch.linspace(0, torch.pi / 2, _FADE + 2)[1:-1]).square().to(values)
        offset = 0
        for start, stop in self.covered:
            chunk = values[:, offset : offset + stop - start]
            out[:, start:stop] = chunk
            before, after = torch.arange(start - 1, start - 1 - _FADE, -1), torch.arange(stop, stop + _FADE)
            out[:, before % self.grid.n_pixels] += chunk[:, :1] * fade
            out[:, after % self.grid.n_pixels] += chunk[:, -1:] * fade
            offset += stop - start
        return out

    @property
    def contained(self) -> Gaussian | None:
        """Line-spread function that the spectra contain; None if they are as the star emits them."""
        resolution = self.card.get("contained_resolution")
        return None if resolution is None else Gaussian(resolution, integrate=False)

    @property
    def instrument(self) -> Instrument | None:
        """The spectrograph that it was built for, if for one.

        Raises
        ------
        ModelError
            If the card's entry is damaged.
        """
        return of_card(self.card.get("instrument"), f"emulator {self.card.get('name', '')}")

    def scaled(self, labels: Tensor) -> Tensor:
        """Library's labels as the network takes them: each range is [-1, 1]; if its prior is uniform in the logarithm, that of it."""
        return _scaled(labels, self._low, self._range, self._logarithmic)

    def coefficients(self, labels: Tensor, departures: Tensor | None = None) -> Tensor:
        """Component coefficients, shape ``(n, n_components)``, of labels ``(n, n_labels)``, and perhaps departures as of `complete`."""
        return self.network(self.scaled(self.complete(labels, departures))) * self.scale

    def jacobian(self, labels: Tensor, dtype: torch.dtype = torch.float64) -> Tensor:
        """Slopes of the coefficients by each label, shape ``(n, n_labels, n_components)``, at labels ``(n, n_labels)``.

        ``dtype`` is what they are computed in, where the network is a process; they are single precision.
        """
        return self._along(labels, self._matrix.T.to(dtype))

    def by_departures(self, labels: Tensor, dtype: torch.dtype = torch.float64) -> Tensor:
        """As `jacobian`, by what each tied label has beside what it follows, ``(n, n_tied, n_components)``; see `complete`."""
        one = torch.eye(len(self.library), dtype=dtype, device=labels.device)
        return self._along(labels, one[self.ties.places])

    def _along(self, labels: Tensor, directions: Tensor) -> Tensor:
        """Slopes along directions ``(k, n_library)`` of what ties are linear in, ``(n, k, n_components)``."""
        whole = self.complete(labels)
        by_scaled = (2 / self._range).expand(len(labels), -1).clone()
        for i, _, length in self._logarithmic:
            by_scaled[:, i] = 2 / length / whole[:, i]
        if self.ties.ties:
            by_scaled = torch.where(self._by_logarithm, by_scaled * whole, by_scaled)
            # At the library's ends what follows stands still.
            free = (whole > self._low) & (whole < self._low + self._range)
            by_scaled = by_scaled * (free | ~self._tied)
        along, x = directions * by_scaled[:, None].to(directions), self.scaled(whole)
        if not isinstance(self.network, ElementProcess):
            return along.to(self.scale) @ self.network.jacobian(x) * self.scale
        found = self.network.slopes(x, along)
        return found.to(self.scale) * self.scale

    def error(self, labels: Tensor) -> Tensor:
        """Rms error of the flux, shape ``(n,)``, at labels ``(n, n_labels)``; times ``error_shape`` it is a pixel's."""
        if isinstance(self.network, GaussianProcess | ElementProcess):
            return self.network.error(self.scaled(self.complete(labels)))
        return torch.full((len(labels),), float(self.card.get("error_rms", 0.0)), device=self.mean.device)

    def forward(self, labels: Tensor) -> Tensor:
        """Rest-frame flux over its pseudo-continuum, shape ``(n, n_pixels)``, of labels ``(n, n_labels)``."""
        return torch.addmm(self.mean, self.coefficients(labels), self.components)

    def covered_mask(self, margin_low: int = 0, margin_high: int = 0) -> Tensor:
        """Grid pixels that stay covered when the spectrum moves, shape ``(n_pixels,)``, bool.

        ``margin_low`` pixels are taken off the start of each covered range, ``margin_high`` off its end.
        """
        mask = torch.zeros(self.grid.n_pixels, dtype=torch.bool)
        for start, stop in self.covered:
            mask[start + margin_low : max(stop - margin_high, start + margin_low)] = True
        return mask

    def save(self, path: Path) -> None:
        """Write ``path`` (safetensors) and beside it the card (JSON); each appears whole or not at all."""
        inside = self.covered_mask()
        tensors = {f"network.{key}": value.float() for key, value in self.network.state_dict().items()}
        tensors["mean"] = self.mean[inside].float()
        # Half precision costs 2e-5 of the continuum, far below the error of the network, and halves the file.
        tensors["components"] = self.components[:, inside].half()
        tensors["scale"] = self.scale
        if isinstance(self.network, GaussianProcess | ElementProcess):
            tensors["error_shape"] = self.error_shape[inside].half()
        if len(self.modes):
            tensors["modes"] = self.modes[:, inside].half()
        write_model(path, tensors, self.full_card())

    def full_card(self) -> dict[str, Any]:
        """Return the card with what `load` needs."""
        return self.card | {
            "labels": self.library.to_list(),
            "grid": {
                "log10_start": self.grid.start,
                "log10_step": self.grid.step,
                "n_pixels": self.grid.n_pixels,
            },
            "covered": [list(pair) for pair in self.covered],
            "network": self.network.settings(),
            **({"tied": self.ties.to_dict()} if self.ties.ties else {}),
            **({"region": self.region.to_dict()} if self.region else {}),
        }

    @classmethod
    def load(cls, path: Path) -> Emulator:
        """Read what `save` wrote.

        Raises
        ------
        ModelError
            If the file or its card is missing or damaged.
        """
        tensors, card = read_model(path)
        with reading(path):
            labels = LabelSet.from_list(card["labels"])
            grid = _grid(card["grid"])
            if len(tensors["components"]) * grid.n_pixels > _MOST_NUMBERS:
                raise ModelError(
                    f"{path}: {len(tensors['components'])} components of {grid.n_pixels} pixels are too many"
                )
            for start, stop in card["covered"]:
                if (
                    not 0
                    <= whole(start, "covered", 0, grid.n_pixels)
                    < whole(stop, "covered", 1, grid.n_pixels)
                ):
                    raise ModelError(f"{path}: covers the pixels {start} to {stop}, which are none")
            error = card.get("error_rms", 0.0)
            if not (isinstance(error, int | float) and 0 <= error < math.inf):
                raise ModelError(f"{path}: error_rms must be a number of 0 or more")
            network = from_settings(card["network"], len(labels), len(tensors["scale"]))
            network.load_state_dict(
                {
                    k.removeprefix("network."): v.float()
                    for k, v in tensors.items()
                    if k.startswith("network.")
                }
            )
            arrays = (tensors["mean"], tensors["components"], tensors["scale"])
            return cls(
                labels,
                grid,
                card["covered"],
                *arrays,
                network,
                card,
                tensors.get("error_shape"),
                Ties.from_dict(labels, card["tied"]) if "tied" in card else None,
                Region.from_dict(card["region"]) if "region" in card else None,
                tensors.get("modes"),
            ).eval()


def scaled(labels: Tensor, library: LabelSet) -> Tensor:
    """Labels ``(n, n_labels)`` as an emulator of a library scales them for its network, float32; see `Emulator.scaled`."""
    low = library.low.float()
    return _scaled(labels, low, (library.high - library.low).float(), _logarithmic(library))


def _logarithmic(library: LabelSet) -> list[tuple[int, float, float]]:
    """Place, end and range of each label that is scaled by its logarithm."""
    return [
        (i, math.log(x.prior.low), math.log(x.prior.high / x.prior.low))
        for i, x in enumerate(library)
        if isinstance(x.prior, LogUniform)
    ]


def _scaled(
    labels: Tensor, low: Tensor, range_: Tensor, logarithmic: Sequence[tuple[int, float, float]]
) -> Tensor:
    x = 2 * (labels.to(low) - low) / range_ - 1
    if not logarithmic:
        return x
    columns = list(x.unbind(-1))
    for i, start, length in logarithmic:
        columns[i] = 2 * (labels[..., i].to(low).log() - start) / length - 1
    return torch.stack(columns, -1)


def _grid(entry: Mapping[str, Any]) -> LogGrid:
    """Read a card's grid; every wavelength of it is a number that light may have."""
    start, step = float(entry["log10_start"]), float(entry["log10_step"])
    n_pixels = whole(entry["n_pixels"], "grid.n_pixels", 2, MOST_PIXELS)
    if not (0 < start < start + step * n_pixels < _LONGEST):
        raise ModelError(f"grid: log10 of wavelengths from {start:g} by {step:g} are none in Angstrom")
    return LogGrid(start, step, n_pixels)


def principal_components(deviations: Tensor, n: int, seed: int) -> tuple[Tensor, Tensor]:
    """Leading principal components ``(n, n_pixels)`` of ``(n_spectra, n_pixels)`` with mean zero, and the spread along each ``(n,)``."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        _, singular, vectors = torch.svd_lowrank(deviations, q=n + 20, niter=6)
    return vectors[:, :n].T.contiguous(), singular[:n] / len(deviations) ** 0.5
