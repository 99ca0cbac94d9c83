"""A spectrograph: which pixels it has, what it makes of a line, which mask bits reject a pixel. A small TOML file says it.

An estimator's networks take spectra on one uniform logarithmic grid, the instrument's `Instrument.grid`; likelihoods use the pixels as they
are.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import cache, cached_property
from importlib import resources
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, ValidationError, ValidationInfo, field_validator, model_validator

from maury.constants import C_KMS
from maury.errors import ConfigError, InferenceError, ModelError
from maury.names import meant
from maury.spectra.air import to_vacuum
from maury.spectra.chips import Chip, Frozen, read_numbers
from maury.spectra.linespread import ChipGaussians, GaussHermite, LineSpread, Resampled
from maury.spectra.spectrum import PixelGrid, Spectrum
from maury.toml import read_toml, validate

Array = NDArray[np.float64]
_ANGSTROM = {"Angstrom": 1.0, "nm": 10.0, "micron": 1e4}
# Pixels of a network's grid in the full width of a line, as on APOGEE's; and of an emulator's.
_NETWORK_SAMPLING, _EMULATOR_SAMPLING = 3.2, 5.0
# Empty pixels beyond the outermost ones, into which aligned spectra are moved: in units of the fastest star's shift, and besides.
_PAD, _PAD_PIXELS = 1.25, 16
# km/s by which an observed chip may reach beyond the instrument's: the observer's motion is in it.
_EDGE_KMS = 100.0
APOGEE = "apogee"


class Network(Frozen):
    """The grid on which networks see spectra; worked out from the chips where it is not given.

    ``chips`` are half-open pixel ranges, counted from 0.
    """

    log10_start: float = Field(allow_inf_nan=False)
    log10_step: float = Field(gt=0, allow_inf_nan=False)
    number: int = Field(ge=2)
    chips: tuple[tuple[int, int], ...] | None = None
    resolution: float | None = Field(
        None, gt=0, allow_inf_nan=False, description="of spectra there, pixels included"
    )


class Mask(Frozen):
    """Bits of a pixel mask by name, and which of them take a pixel out of use: by name or number. Without them, any bit does."""

    bits: dict[str, int] = Field(default_factory=dict)
    reject: tuple[str | int, ...] | None = None

    @model_validator(mode="after")
    def _known(self) -> Mask:
        for name, bit in self.bits.items():
            if not 0 <= bit < 63:
                raise ValueError(f"bits.{name}: {bit} is no number of a bit; 0 to 62 are")
        for entry in self.reject or ():
            if isinstance(entry, str) and entry not in self.bits:
                raise ValueError(f"reject: no bit {entry!r}; {meant(entry, self.bits)}")
            if isinstance(entry, int) and not 0 <= entry < 63:
                raise ValueError(f"reject: {entry} is no number of a bit; 0 to 62 are")
        return self

    @property
    def value(self) -> int:
        """Mask value in which the rejecting bits are set; -1, all of them, where none are named."""
        if self.reject is None:
            return -1
        return sum({1 << (self.bits[e] if isinstance(e, str) else e) for e in self.reject})


def _range(value: tuple[float, float]) -> tuple[float, float]:
    if not value[0] < value[1]:
        raise ValueError(f"{value[0]:g} is not below {value[1]:g}")
    return value


class Training(Frozen):
    """What training takes where its own file says nothing: range of the S/N a pixel, of the velocities (km/s), degree of continua."""

    snr: tuple[float, float] = (10.0, 300.0)
    v_rad: tuple[float, float] = (-200.0, 200.0)
    v_sini: tuple[float, float] = (0.0, 100.0)
    continuum_degree: int = Field(4, ge=0, le=30)

    @field_validator("snr", "v_rad", "v_sini")
    @classmethod
    def _ranges(cls, value: tuple[float, float]) -> tuple[float, float]:
        return _range(value)


class Instrument(Frozen):
    """A spectrograph; docs/instruments.md tells of each field."""

    name: str = Field(min_length=1)
    description: str = ""
    medium: Literal["vacuum", "air"]
    frame: Literal["observatory", "barycentric", "rest"] = "observatory"
    unit: Literal["Angstrom", "nm", "micron"]
    resolution: float | None = Field(
        None, gt=0, allow_inf_nan=False, description="of chips without one of their own"
    )
    gauss_hermite: tuple[tuple[float, ...], ...] | None = Field(
        None, description="line-spread coefficients, a row a chip, or the name of a text file with them"
    )
    fibres: tuple[tuple[float, ...], ...] = Field(
        (),
        description="line-spread coefficients of other fibres, a row a chip and fibre, or the name of a text file with them",
    )
    spread: float = Field(
        0.0,
        ge=0,
        lt=0.2,
        allow_inf_nan=False,
        description="relative scatter of line widths from fibre to fibre",
    )
    emulator_step: float | None = Field(
        None, gt=0, description="of emulators in log10(wavelength); a fifth of the narrowest line otherwise"
    )
    chips: tuple[Chip, ...] = Field(min_length=1)
    network: Network | None = None
    mask: Mask = Mask()
    training: Training = Training()

    @field_validator("gauss_hermite", "fibres", mode="before")
    @classmethod
    def _read_file(cls, value: Any, info: ValidationInfo) -> Any:
        return read_numbers((info.context or Path()) / value).tolist() if isinstance(value, str) else value

    @model_validator(mode="after")
    def _fits(self) -> Instrument:
        for i, chip in enumerate(self.chips):
            if chip.resolution is None and self.resolution is None and self.gauss_hermite is None:
                raise ValueError(
                    f"chips.{i}{_called(chip)}: give a resolution, to it or to the instrument, or gauss_hermite"
                )
        ends = [(values[0], values[-1]) for values in map(Chip.values, self.chips)]
        for i, (one, two) in enumerate(pairwise(ends)):
            if two[0] <= one[1]:
                raise ValueError(
                    f"chips.{i + 1}{_called(self.chips[i + 1])} begins at {two[0]:g} {self.unit}, before "
                    f"chips.{i}{_called(self.chips[i])} ends at {one[1]:g}: chips must rise and not overlap"
                )
        if self.gauss_hermite is not None and len(self.gauss_hermite) != len(self.chips):
            raise ValueError(f"gauss_hermite: {len(self.gauss_hermite)} rows for {len(self.chips)} chips")
        if len(self.fibres) % len(self.chips) or (self.fibres and self.gauss_hermite is None):
            raise ValueError(
                f"fibres: {len(self.fibres)} rows; a row a chip of each fibre is wanted, beside gauss_hermite"
            )
        if self.network is not None and self.network.chips is not None:
            if len(self.network.chips) != len(self.chips):
                raise ValueError(
                    f"network.chips: {len(self.network.chips)} ranges for {len(self.chips)} chips"
                )
            flat = [edge for pair in self.network.chips for edge in pair]
            if any(b <= a for a, b in pairwise(flat)) or not 0 <= flat[0] < flat[-1] <= self.network.number:
                raise ValueError("network.chips: ranges must rise, be apart, and lie on the grid")
        return self

    @cached_property
    def pixels(self) -> PixelGrid:
        """The detector's pixels, chip by chip, vacuum Angstrom."""
        parts = [_ANGSTROM[self.unit] * chip.values() for chip in self.chips]
        wavelength = np.concatenate(parts)
        edges = np.cumsum([0, *map(len, parts)]).tolist()
        return PixelGrid(
            to_vacuum(wavelength) if self.medium == "air" else wavelength, tuple(pairwise(edges))
        )

    @cached_property
    def lsf(self) -> LineSpread:
        """Line-spread function on `pixels`."""
        if self.gauss_hermite is not None:
            return GaussHermite(np.array(self.gauss_hermite))
        return ChipGaussians.simplest([c.resolution or self.resolution or 0.0 for c in self.chips])

    @cached_property
    def resolving_powers(self) -> tuple[float, ...]:
        """Median ``lambda / FWHM`` of each chip, pixels included."""
        return self._powers(self.lsf)

    def _powers(self, lsf: LineSpread) -> tuple[float, ...]:
        power = lsf.resolving_power(self.pixels)
        return tuple(float(np.median(power[start:stop])) for start, stop in self.pixels.chips)

    @property
    def varies(self) -> bool:
        """Whether its fibres are known to differ."""
        return bool(self.fibres) or self.spread > 0

    @property
    def n_fibres(self) -> int:
        """Number of fibres whose line-spread functions are known; 1 where they are all alike."""
        return 1 + len(self.fibres) // len(self.chips)

    def fibre_lsf(self, number: int, factor: float = 1.0, native: bool = True) -> LineSpread:
        """Return the line-spread function of a fibre.

        Parameters
        ----------
        number
            Of the fibre, from 0, the nominal one, to ``n_fibres - 1``.
        factor
            That it is wider.
        native
            Whether on `pixels`, or on the `grid` of networks, where a Gaussian of each chip's width stands for it; of the average there, if
            that is given: combined spectra are of several fibres.
        """
        if not native and self.layout.resolution is not None:
            return ChipGaussians.simplest([self.layout.resolution / factor], integrate=False)
        n = len(self.chips)
        rows = self.gauss_hermite if number == 0 else self.fibres[(number - 1) * n : number * n]
        if rows is None:
            powers = [(chip.resolution or self.resolution or 0.0) / factor for chip in self.chips]
            lsf: LineSpread = ChipGaussians.simplest(powers)
        else:
            lsf = GaussHermite(np.array(rows)).widened(factor)
        return lsf if native else ChipGaussians.simplest(self._powers(lsf), integrate=False)

    @cached_property
    def layout(self) -> Network:
        """The grid of networks, chips included."""
        return _layout(self)

    @cached_property
    def grid(self) -> PixelGrid:
        """The pixels that networks see."""
        at = self.layout
        exponent = at.log10_start + at.log10_step * np.arange(at.number)
        return PixelGrid(np.power(10.0, exponent, dtype=np.float64), at.chips or ())

    @cached_property
    def grid_lsf(self) -> LineSpread:
        """Line-spread function on `grid`."""
        power = self.layout.resolution
        powers = self.resolving_powers if power is None else [power]
        return ChipGaussians.simplest(powers, integrate=False)

    @cached_property
    def assumed_lsf(self) -> LineSpread:
        """Line-spread function of its spectra that do not tell their own, whatever grid they were resampled to: the usual fibre's profile.

        A Gaussian of the same width would not do: what the profile has in its wings would be taken for rotation.
        """
        return self.grid_lsf if self.gauss_hermite is None else Resampled(self.lsf, self.pixels)

    @property
    def power(self) -> float:
        """Resolving power of the whole on `grid`, the pixels included: the median of the chips'."""
        return self.layout.resolution or float(np.median(self.resolving_powers))

    @property
    def model_step(self) -> float:
        """Step of emulators in log10(wavelength)."""
        narrowest = 1 / (max(self.resolving_powers) * math.log(10))
        return self.emulator_step or narrowest / _EMULATOR_SAMPLING

    @property
    def ranges(self) -> list[tuple[float, float]]:
        """First and last wavelength of each chip, vacuum Angstrom."""
        w = self.pixels.wavelength
        return [(float(w[start]), float(w[stop - 1])) for start, stop in self.pixels.chips]

    def chip_name(self, i: int) -> str:
        """Return the name of a chip, or its number from 1."""
        return self.chips[i].name or f"chip {i + 1}"

    def restricted(self, low: float, high: float) -> Instrument:
        """Return the part of the instrument from ``low`` to ``high``, vacuum Angstrom; chips of which less than two pixels are left go.

        Raises
        ------
        ConfigError
            If nothing is left.
        """
        chips, rows = [], []
        fibres: list[list[tuple[float, ...]]] = [[] for _ in range(self.n_fibres - 1)]
        for i, (start, stop) in enumerate(self.pixels.chips):
            w = self.pixels.wavelength[start:stop]
            a, b = int(np.searchsorted(w, low)), int(np.searchsorted(w, high, side="right"))
            if b - a < 2:
                continue
            chips.append(self.chips[i] if (a, b) == (0, len(w)) else self.chips[i].cut(a, b))
            # Pixels of the file count from the red end.
            if self.gauss_hermite is not None:
                rows.append(_counted_from(self.gauss_hermite[i], len(w) - b))
            for number, kept in enumerate(fibres):
                kept.append(_counted_from(self.fibres[number * len(self.chips) + i], len(w) - b))
        if not chips:
            raise ConfigError(
                f"instrument {self.name}: none of its chips ({self.describe()}) lies within {low:.0f}-{high:.0f} Angstrom"
            )
        network = self.network and self.network.model_copy(update={"chips": None})
        found = self.model_copy(
            update={
                "chips": tuple(chips),
                "gauss_hermite": tuple(rows) or None,
                "fibres": tuple(row for kept in fibres for row in kept),
                "network": network,
            }
        )
        # A copy takes what was worked out of the whole with it: make it anew.
        return Instrument.model_validate(found.card())

    def describe(self) -> str:
        """Return names and wavelengths of the chips as text."""
        return ", ".join(f"{self.chip_name(i)} {a:.0f}-{b:.0f}" for i, (a, b) in enumerate(self.ranges))

    def adopt(self, spectrum: Spectrum) -> Spectrum:
        """Return a spectrum with the chips of this instrument, and its line-spread function if the spectrum tells none.

        Pixels outside all chips are taken out of use. Spectra that come with a profile chip by chip stay as they are.

        Raises
        ------
        InferenceError
            If no pixel lies on a chip.
        """
        if isinstance(spectrum.lsf, GaussHermite):
            return spectrum
        w, margin = spectrum.grid.wavelength, math.exp(_EDGE_KMS / C_KMS)
        chips, members = [], []
        for i, (low, high) in enumerate(self._limits(margin)):
            for start, stop in spectrum.grid.chips:
                a, b = start + np.searchsorted(w[start:stop], [low, high])
                if b > a:
                    chips.append((int(a), int(b)))
                    members.append(i)
        if not chips:
            raise InferenceError(
                f"the spectrum covers {w[0]:.0f}-{w[-1]:.0f} Angstrom, none of it on the chips of {self.name} ({self.describe()})",
                "outside_wavelengths",
            )
        inside = np.zeros(len(w), dtype=bool)
        for start, stop in chips:
            inside[start:stop] = True
        lsf, meta = spectrum.lsf, {**spectrum.meta, "chips": [self.chip_name(i) for i in members]}
        if lsf is None:
            lsf, meta["lsf_source"] = self._lsf_of(members, chips), f"instrument {self.name}"
        grid = PixelGrid(w, tuple(chips))
        return replace(spectrum, grid=grid, ivar=np.where(inside, spectrum.ivar, 0.0), lsf=lsf, meta=meta)

    def _limits(self, margin: float) -> list[tuple[float, float]]:
        """Wavelengths between which a pixel is one of each chip's."""
        ranges = self.ranges
        middles = [0.0, *(0.5 * (one[1] + two[0]) for one, two in pairwise(ranges)), math.inf]
        return [(max(a / margin, middles[i]), min(b * margin, middles[i + 1])) for i, (a, b) in enumerate(ranges)]  # fmt: skip

    def _lsf_of(self, members: list[int], chips: list[tuple[int, int]]) -> LineSpread:
        """Line-spread function of a spectrum whose chips are parts of the instrument's."""
        if self.gauss_hermite is None:
            powers = [c.resolution or self.resolution or 0.0 for c in self.chips]
            return ChipGaussians.simplest([powers[i] for i in members])
        if [b - a for a, b in chips] == [b - a for a, b in self.pixels.chips]:
            return self.lsf
        # On other pixels than it was measured on the profile's width is what is left.
        return ChipGaussians.simplest([self.resolving_powers[i] for i in members], integrate=False)

    def card(self) -> dict[str, Any]:
        """Return what `of_card` reads: all of it, files included, in types that JSON holds."""
        return self.model_dump(mode="json", exclude_none=True)


def _counted_from(row: Sequence[float], pixel: int) -> tuple[float, ...]:
    """Return line-spread coefficients of pixels that are counted from another one."""
    return (row[0], row[1] + pixel, *row[2:])


def _called(chip: Chip) -> str:
    return f" ({chip.name})" if chip.name else ""


def _layout(instrument: Instrument) -> Network:
    """Work out what is not given of the grid of networks."""
    given, ranges = instrument.network, np.log10(instrument.ranges)
    if given is None:
        step, origin = _step(instrument)
        dlnw = step * math.log(10)
        pad = math.ceil(_PAD * max(map(abs, instrument.training.v_rad)) / C_KMS / dlnw) + _PAD_PIXELS
        first = math.floor((ranges[0, 0] - origin) / step + 1e-3) - pad
        number = math.ceil((ranges[-1, 1] - origin) / step - 1e-3) - first + 1 + pad
        given = Network(log10_start=origin + step * first, log10_step=step, number=number)
    if given.chips is not None:
        return given
    place = (ranges - given.log10_start) / given.log10_step
    edges = np.stack([np.ceil(place[:, 0] - 1e-3), np.floor(place[:, 1] + 1e-3) + 1], axis=1).astype(int)
    chips = tuple((max(a, 0), min(b, given.number)) for a, b in edges.tolist())
    for i, (start, stop) in enumerate(chips):
        if stop - start < 2:
            raise ConfigError(
                f"instrument {instrument.name}: {instrument.chip_name(i)} has no two pixels on the grid of its networks; see [network]"
            )
    return given.model_copy(update={"chips": chips})


def _step(instrument: Instrument) -> tuple[float, float]:
    """Step of the grid of networks, and a place on it, in log10(wavelength): the chips' own, if they share one."""
    samplings = [chip.log10 for chip in instrument.chips]
    first = samplings[0]
    if first is not None and instrument.medium == "vacuum":
        place = [(s.start - first.start) / first.step for s in samplings if s is not None]
        same = all(s is not None and math.isclose(s.step, first.step, rel_tol=1e-6) for s in samplings)
        if same and all(abs(p - round(p)) < 1e-2 for p in place):
            return first.step, first.start + math.log10(_ANGSTROM[instrument.unit])
    w, chips = np.log10(instrument.pixels.wavelength), instrument.pixels.chips
    # A grid that is finer than the pixels would have holes.
    coarsest = max(float(np.quantile(np.diff(w[a:b]), 0.99)) for a, b in chips)
    narrowest = 1 / (max(instrument.resolving_powers) * math.log(10))
    return max(coarsest, narrowest / _NETWORK_SAMPLING), float(w[0])


def shipped_instruments() -> dict[str, Path]:
    """Return the instruments that come with the package, name to file."""
    root = Path(str(resources.files("maury") / "instruments"))
    return {path.stem: path for path in sorted(root.glob("*.toml"))}


def read_instrument(name: str | Path) -> Instrument:
    """Read an instrument by name, or from a TOML file.

    Raises
    ------
    ConfigError
        If there is none of this name, suggesting the nearest; or the file's fields are unknown or impossible, naming file and field.
    """
    known = shipped_instruments()
    path = known.get(str(name), Path(name))
    if not path.is_file():
        raise ConfigError(
            f"no instrument {str(name)!r}, and no file of that name; {meant(Path(name).stem, known)}"
        )
    return validate(path, read_toml(path), Instrument, context=path.parent)


def of_card(entry: dict[str, Any] | None, where: Path | str = "card") -> Instrument | None:
    """Read what `Instrument.card` returned; None of nothing.

    Raises
    ------
    ModelError
        If it is damaged.
    """
    if entry is None:
        return None
    try:
        return Instrument.model_validate(entry)
    except ValidationError as error:
        raise ModelError(f"{where}: its instrument cannot be read ({error.errors()[0]['msg']})") from None


@cache
def apogee() -> Instrument:
    """Return APOGEE: what its files and the shipped models are about."""
    return read_instrument(shipped_instruments()[APOGEE])


def apstar_grid() -> PixelGrid:
    """Return the common grid of APOGEE's combined spectra: 8575 pixels, uniform in log10(wavelength)."""
    return apogee().grid


def nominal_visit_lsf() -> GaussHermite:
    """Return the line-spread function of a typical fibre of APOGEE's visits."""
    return GaussHermite(np.array(apogee().gauss_hermite))
