"""What a model is uncertain of beside its labels: small things, each with a prior width, in which the spectrum is linear.

``data = C (m(theta) + sum_k a_k g_k) + noise``, ``a_k ~ N(centre_k, width_k^2)``: m is the model, C the continuum, and g_k the derivative
of the model by nuisance k, taken at the most likely labels and kept from there on. The amplitudes are integrated out together with the
continuum's coefficients (`maury.likelihood.pixels`), as any Gaussian part of a linear model is (Hogg, Price-Whelan & Leistedt 2020,
arXiv:2005.14199).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from maury.constants import C_KMS
from maury.errors import InferenceError, ModelError
from maury.likelihood.atmospheric import in_h_band, macroturbulence
from maury.names import meant
from maury.quantities import quantity
from maury.weights import read_model

if TYPE_CHECKING:
    from maury.forward.binary import Pair
    from maury.forward.model import ForwardModel
    from maury.libraries.emulator import Emulator

Array = NDArray[np.float64]
# Directions that a spectrum tells less of than this, in units of their prior's information, are left to the prior: together they would
# move the log likelihood by hundredths.
_NEGLIGIBLE = 3e-3


@dataclass(frozen=True)
class Point:
    """Labels about which a model is taken to be linear, and what nuisances need to know there.

    Attributes
    ----------
    model
        The forward model.
    labels
        All of its labels, shape ``(1, n_labels)``, float64.
    to_pixels
        Takes fluxes ``(..., n_grid)`` on the model's grid to the used pixels, ``(..., n_pixels)``.
    chip
        Chip of each used pixel, shape ``(n_pixels,)``.
    line_width
        Standard deviation of the line-spread function at each used pixel, in ln(wavelength), shape ``(n_pixels,)``.
    """

    model: ForwardModel | Pair
    labels: Tensor
    to_pixels: Callable[[Tensor], Tensor]
    chip: NDArray[np.int64]
    line_width: Array

    @cached_property
    def _jacobian(self) -> tuple[Tensor, Tensor]:
        flux, slopes = self.model.jacobian(self.labels)
        return self.to_pixels(flux)[0], self.to_pixels(slopes)[0]

    @property
    def spectrum(self) -> Tensor:
        """The model on the used pixels, shape ``(n_pixels,)``."""
        return self._jacobian[0]

    @property
    def slopes(self) -> Tensor:
        """Its derivative by each label, shape ``(n_labels, n_pixels)``."""
        return self._jacobian[1]

    @cached_property
    def by_broadening(self) -> Tensor:
        """Its derivative by the variance of a broadening in ln(wavelength), shape ``(n_pixels,)``."""
        return self.to_pixels(self.model.by_broadening(self.labels))[0]

    def label(self, name: str) -> float | None:
        """Return the value of a label; None if the model has none of that name."""
        names = self.model.label_names
        return float(self.labels[0, names.index(name)]) if name in names else None

    def by_chip(self, column: Tensor) -> Tensor:
        """Split a column ``(n_pixels,)`` into one a chip, ``(n_chips, n_pixels)``; chips without used pixels have none."""
        member = torch.from_numpy(self.chip == np.unique(self.chip)[:, None]).to(column.device)
        return torch.where(member, column, 0.0)


class Nuisance(Protocol):
    """Something small that the model is uncertain of.

    Attributes
    ----------
    name
        As options and outputs have it.
    width
        Standard deviation of its prior.
    unit
        Of the width.
    source
        Where the width is from.
    of_visit
        Whether every spectrum has one of its own; what is of the star or of its library is the same in all visits.
    """

    @property
    def of_visit(self) -> bool: ...  # noqa: D102
    @property
    def name(self) -> str: ...  # noqa: D102
    @property
    def width(self) -> float: ...  # noqa: D102
    @property
    def unit(self) -> str: ...  # noqa: D102
    @property
    def source(self) -> str: ...  # noqa: D102

    def derivative(self, at: Point) -> Tensor:
        """Return the derivative of the model by it, shape ``(k, n_pixels)``: k amplitudes with the same prior."""

    def centre(self, at: Point) -> float | Sequence[float]:
        """Return the mean of its prior, relative to what the model takes, in units of its columns; one for all amplitudes, or one each."""

    def each(self, at: Point) -> Sequence[str]:
        """Return what each of the k amplitudes is of."""


@dataclass(frozen=True)
class _Common:
    """What nuisances have in common: a width that is positive, and 0 as their mean; by default they are of the star or its library."""

    width: float
    of_visit: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if not 0 < self.width < math.inf:
            raise InferenceError(f"nuisance {self.name}: its width must be positive, not {self.width!r}")

    @property
    def name(self) -> str:
        """As options and outputs have it."""
        raise NotImplementedError

    def centre(self, at: Point) -> float | Sequence[float]:
        """Return the mean of its prior, relative to what the model takes."""
        return 0.0

    def each(self, at: Point) -> Sequence[str]:
        """Return what each amplitude is of."""
        return (self.name,)


class _ByChip(_Common):
    """A nuisance that each chip of each spectrum has of its own."""

    of_visit: ClassVar[bool] = True

    def each(self, at: Point) -> Sequence[str]:
        """Return the chips' numbers, from 1."""
        return [f"chip {i}" for i in np.unique(at.chip)]


@dataclass(frozen=True)
class ChipVelocity(_ByChip):
    """An offset of each chip's wavelength scale, as a velocity."""

    width: float = 0.3
    name: str = "chip_velocity"
    unit: str = "km/s"
    source: str = (
        "chips of one visit differ by 0.5 km/s with a library whose lines are off by 0.1 to 0.2 km/s; the survey's "
        "wavelengths are good to a tenth of a pixel (Nidever et al. 2015, AJ 150, 173)"
    )

    def derivative(self, at: Point) -> Tensor:
        """Return the derivative by a velocity of each chip, shape ``(n_chips, n_pixels)``."""
        places = [i for i, name in enumerate(at.model.label_names) if name in ("v_rad", "v_rad_2")]
        return at.by_chip(at.slopes[places].sum(0))


@dataclass(frozen=True)
class LineWidth(_ByChip):
    """The width of each chip's line-spread function, relative to what is stated."""

    width: float = 0.03
    name: str = "line_width"
    unit: str = ""
    source: str = "widths of fibres about a smooth run, 2 to 4 % (HDU 10 of visits of data release 13)"

    @classmethod
    def assumed(cls) -> LineWidth:
        """Return that of a nominal line-spread function, where the file has none."""
        return cls(
            0.1, source="chips and fibres of the survey differ from R = 22,500 by 10 %: 20,000 to 25,000"
        )

    def derivative(self, at: Point) -> Tensor:
        """Return the derivative by the relative width of each chip, ``2 sigma^2`` times that by the variance."""
        variance = torch.from_numpy(2 * at.line_width**2).to(at.by_broadening)
        return at.by_chip(variance * at.by_broadening)


@dataclass(frozen=True)
class LimbDarkening(_Common):
    """The linear coefficient of limb darkening, about its value in the H band."""

    width: float = 0.15
    name: str = "limb_darkening"
    unit: str = ""
    source: str = (
        "H-band coefficients by teff (Claret et al. 1995, A&AS 114, 247); the width covers gravity, metallicity, and "
        "what a linear law misses"
    )

    def derivative(self, at: Point) -> Tensor:
        """Return the derivative by the coefficient, shape ``(1, n_pixels)``."""
        return at.to_pixels(at.model.by_limb_darkening(at.labels))

    def centre(self, at: Point) -> float:
        """Return how far the H band's coefficient is from the model's."""
        teff = at.label("teff")
        return 0.0 if teff is None else in_h_band(teff) - at.model.limb_darkening


@dataclass(frozen=True)
class Macroturbulence(_Common):
    """The variance of macroturbulence along the line of sight, of libraries whose spectra are as the star emits them."""

    width: float = 3.0
    name: str = "macroturbulence"
    unit: str = "km2 / s2"
    source: str = (
        "standard deviations of 0 to 3 km/s over cool stars (Holtzman et al. 2018, AJ 156, 125, eq. 2; Doyle et al. "
        "2014, MNRAS 444, 3592)"
    )

    def derivative(self, at: Point) -> Tensor:
        """Return the derivative by the variance in (km/s)^2, shape ``(1, n_pixels)``."""
        return at.by_broadening[None] / C_KMS**2

    def centre(self, at: Point) -> float:
        """Return the variance of a relation with gravity and metallicity, or of dwarfs with temperature, beyond the model's."""
        teff, logg, m_h = (at.label(name) for name in ("teff", "logg", "m_h"))
        if teff is None or logg is None or m_h is None:
            return 0.0
        return macroturbulence(teff, logg, m_h) ** 2 - at.model.v_macro**2


@dataclass(frozen=True)
class Dilution(_ByChip):
    """Light on each chip that has no lines: scattered, of the sky, left over by an earlier exposure; relative to the star's."""

    width: float = 0.02
    name: str = "dilution"
    unit: str = ""
    source: str = (
        "sky, scattered light and persistence that the survey's reduction leaves (Nidever et al. 2015; Holtzman et al. "
        "2018): a few per cent at most"
    )

    def derivative(self, at: Point) -> Tensor:
        """Return ``1 - m`` of each chip: the continuum takes the light itself."""
        return at.by_chip(1 - at.spectrum)


def contrasts(n: int) -> Array:
    """Return an orthonormal basis of what sums to zero over ``n`` chips, shape ``(n - 1, n)``."""
    return np.asarray(np.linalg.qr(np.eye(n) - 1 / n)[0][:, : n - 1].T)


@dataclass(frozen=True)
class LibraryByChip(_Common):
    """How a library's lines on each chip are wrong as other labels would have them, in units of what chips of real stars differ by.

    Parameters
    ----------
    widths
        Standard deviation of the offset of a chip, by label.
    """

    width: float = 1.0
    widths: tuple[tuple[str, float], ...] = (
        ("teff", 40.0),
        ("logg", 0.06),
        ("m_h", 0.05),
        ("alpha_m", 0.04),
        ("c_m", 0.04),
        ("n_m", 0.05),
        ("v_micro", 0.1),
        ("v_sini", 1.0),
    )
    name: str = "library_by_chip"
    unit: str = ""
    source: str = (
        "chips of nine spectra of five stars, each inferred by itself (docs/results/sky): they scatter by 42 K, 0.04 dex in logg, m_h, "
        "alpha_m and c_m, 0.1 km/s in v_micro and 1 km/s in v_sini beyond their errors; 0.2 km/s in velocity is chip_velocity"
    )

    def derivative(self, at: Point) -> Tensor:
        """Return derivatives by each label, times its width, of contrasts between chips, shape ``((n_chips - 1) n_labels, n_pixels)``.

        What the chips have in common is no different from another label, and nothing that a spectrum tells of: see `common`.
        """
        n = len(np.unique(at.chip))
        basis = torch.from_numpy(contrasts(n)).to(at.slopes)
        columns = [
            width * basis @ at.by_chip(at.slopes[at.model.label_names.index(name)])
            for name, width in self._of(at)
        ]
        return torch.cat(columns) if columns else at.slopes[:0]

    def each(self, at: Point) -> Sequence[str]:
        """Return label and number of each contrast."""
        n = len(np.unique(at.chip))
        return [f"{name} contrast {i}" for name, _ in self._of(at) for i in range(1, n)]

    def common(self, chip: NDArray[np.int64]) -> dict[str, float]:
        """Error that the chips have in common, by label: what is left of their widths in the mean of the chips ``(n_pixels,)``."""
        return {name: width / math.sqrt(len(np.unique(chip))) for name, width in self.widths}

    def _of(self, at: Point) -> list[tuple[str, float]]:
        return [(name, width) for name, width in self.widths if name in at.model.label_names]


@dataclass(frozen=True)
class Elements(_Common):
    """Abundances that are not inferred, about what they are held at or tied to.

    Parameters
    ----------
    labels
        Labels of the model.
    """

    width: float = 0.12
    labels: tuple[str, ...] = ()
    name: str = "elements"
    unit: str = "dex"
    source: str = (
        "scatter of [X/M] in the survey's disc stars at one [M/H] and [alpha/M], 0.05 to 0.15 dex (Joensson et al. "
        "2020, AJ 160, 120)"
    )

    def derivative(self, at: Point) -> Tensor:
        """Return the derivative by each abundance, shape ``(n_elements, n_pixels)``."""
        return at.slopes[[at.model.label_names.index(name) for name in self.labels]]

    def each(self, at: Point) -> Sequence[str]:
        """Return the labels."""
        return self.labels


@dataclass(frozen=True)
class Departures(_Common):
    """Labels of the library that follow others, about what they follow, in units of the scatter of stars (`maury.libraries.ties`)."""

    width: float = 1.0
    name: str = "departures"
    unit: str = "scatter"
    source: str = "scatter of [X/M] among stars of one [M/H] and [alpha/M] (Joensson et al. 2020, AJ 160, 120); the model's card has each"

    def derivative(self, at: Point) -> Tensor:
        """Return the derivative by each, shape ``(n_tied, n_pixels)``."""
        ties = at.model.emulator.ties
        slopes = at.to_pixels(at.model.by_departures(at.labels))[0]
        return ties.spread()[ties.places][:, ties.places].T.to(slopes) @ slopes

    def each(self, at: Point) -> Sequence[str]:
        """Return the labels."""
        return at.model.emulator.ties.tied


@dataclass(frozen=True)
class Abundances(_Common):
    """Labels of the library that are wanted themselves, about what they follow: what is found of them is a measurement.

    Parameters
    ----------
    labels
        Which.
    scatter
        Standard deviation of each about what it follows.
    beside
        What each has beside what it follows in the labels about which the model is linear.
    """

    width: float = 1.0
    labels: tuple[str, ...] = ()
    scatter: tuple[float, ...] = ()
    beside: tuple[float, ...] = ()
    name: str = "abundances"
    unit: str = "scatter"
    source: str = "twice the scatter of stars, see `maury.libraries.ties`"

    def derivative(self, at: Point) -> Tensor:
        """Return the derivative by each, in units of its scatter, shape ``(n_labels, n_pixels)``."""
        ties = at.model.emulator.ties
        slopes = at.to_pixels(at.model.by_departures(at.labels))[0]
        return (
            slopes[[ties.tied.index(name) for name in self.labels]]
            * torch.tensor(self.scatter).to(slopes)[:, None]
        )

    def centre(self, at: Point) -> Sequence[float]:
        """Return how far what is followed lies from where the model is."""
        return [-beside / scatter for beside, scatter in zip(self.beside, self.scatter, strict=True)]

    def each(self, at: Point) -> Sequence[str]:
        """Return the labels."""
        return self.labels


@dataclass(frozen=True)
class EmulatorModes(_Common):
    """What is common to the emulator's errors in many pixels, from spectra that were left out."""

    width: float = 1.0
    name: str = "emulator"
    unit: str = ""
    source: str = "principal components of the errors of spectra that were left out"

    def derivative(self, at: Point) -> Tensor:
        """Return the components, as large as the error is at these labels, shape ``(n_modes, n_pixels)``."""
        modes = at.to_pixels(at.model.carried(at.model.emulator.modes, at.labels))[0]
        return modes * at.model.error(at.labels).to(modes)

    def each(self, at: Point) -> Sequence[str]:
        """Return the components' numbers, from 1."""
        return [f"component {i + 1}" for i in range(len(at.model.emulator.modes))]


@dataclass(frozen=True)
class Microturbulence(_Common):
    """Microturbulence that is not inferred, about the relation that it follows."""

    width: float = 0.2
    name: str = "microturbulence"
    unit: str = "km/s"
    source: str = "scatter about relations with teff and logg, 0.2 km/s (Holtzman et al. 2018, AJ 156, 125)"

    def derivative(self, at: Point) -> Tensor:
        """Return the derivative by ``v_micro``, shape ``(1, n_pixels)``."""
        return at.slopes[[at.model.label_names.index("v_micro")]]


@dataclass(frozen=True)
class CarbonIsotopes(_Common):
    """The ratio of the carbon isotopes where it is not inferred."""

    width: float = 0.25
    name: str = "carbon_isotopes"
    unit: str = "dex"
    source: str = "12C/13C from 10 to 30 among giants (Gratton et al. 2000, A&A 354, 169)"

    def derivative(self, at: Point) -> Tensor:
        """Return the derivative by log10 of the ratio, shape ``(1, n_pixels)``."""
        place = at.model.label_names.index("c12_c13")
        return at.slopes[[place]] * float(at.labels[0, place]) * math.log(10)


@dataclass(frozen=True)
class LibraryModes(_Common):
    """How a library's line strengths are wrong together: vectors on the emulator's grid at rest, in units of their amplitudes.

    Parameters
    ----------
    vectors
        Flux over the continuum, one standard deviation each, shape ``(k, n_grid)``.
    """

    width: float = 1.0
    vectors: Tensor | None = None
    name: str = "library"
    unit: str = ""
    source: str = "residuals of the library's own calibration, and differences between libraries"

    def derivative(self, at: Point) -> Tensor:
        """Return the vectors, broadened and shifted as the star's spectrum, shape ``(k, n_pixels)``."""
        assert self.vectors is not None
        return at.to_pixels(at.model.carried(self.vectors.to(at.labels.device), at.labels))[0]

    def each(self, at: Point) -> Sequence[str]:
        """Return the vectors' numbers, from 1."""
        assert self.vectors is not None
        return [f"mode {i + 1}" for i in range(len(self.vectors))]

    @classmethod
    def read(cls, path: Path, emulator: Emulator) -> LibraryModes:
        """Read ``modes.safetensors``: ``modes (k, n_grid)`` and ``amplitude (k,)``, with a card that may tell the ``source``.

        Raises
        ------
        ModelError
            If it is damaged, or of another emulator.
        """
        tensors, card = read_model(path)
        modes, amplitude = tensors.get("modes"), tensors.get("amplitude")
        if modes is None or amplitude is None:
            raise ModelError(f"{path}: holds no modes of a library: modes and amplitude are wanted")
        if modes.ndim != 2 or modes.shape[1] != emulator.grid.n_pixels or amplitude.shape != modes.shape[:1]:
            raise ModelError(
                f"{path}: {tuple(modes.shape)} modes with {tuple(amplitude.shape)} amplitudes are none of this "
                f"model's emulator, which has {emulator.grid.n_pixels} pixels"
            )
        if not bool((amplitude > 0).all()):
            raise ModelError(f"{path}: amplitudes of modes must be positive")
        source = card.get("source")
        return cls(
            vectors=modes.float() * amplitude[:, None],
            source=source if isinstance(source, str) else cls.source,
        )


NONE, DEFAULT = "none", "default"
# What may be named one by one; those of the library and of what is not inferred need to be told what that is.
NAMES = (
    "chip_velocity", "line_width", "limb_darkening", "macroturbulence", "dilution", "library_by_chip", "elements",
    "microturbulence", "carbon_isotopes", "departures", "emulator", "library",
)  # fmt: skip
Choice = str | Sequence["str | Nuisance"]


def checked(choice: Choice) -> tuple[str | Nuisance, ...]:
    """Return a choice of nuisances name by name: ``"default"`` and ``"none"`` among them.

    Raises
    ------
    InferenceError
        If a name is not known, or something is no nuisance.
    """
    parts = choice.split(",") if isinstance(choice, str) else choice
    try:
        found = tuple(part.strip() if isinstance(part, str) else part for part in parts)
    except TypeError:
        raise InferenceError(f"nuisances: {choice!r} is neither a name nor several") from None
    for part in found:
        if isinstance(part, str):
            if part not in (NONE, DEFAULT, *NAMES):
                raise InferenceError(f"nuisances: no {part!r}; {meant(part, (DEFAULT, NONE, *NAMES))}")
        elif not callable(getattr(part, "derivative", None)):
            raise InferenceError(f"nuisances: {part!r} has no derivative, and so is no nuisance")
        elif not 0 < part.width < math.inf:
            raise InferenceError(f"nuisance {part.name}: its width must be positive, not {part.width!r}")
    return found


def chosen(
    choice: Choice,
    model: ForwardModel | Pair,
    inferred: Sequence[str],
    library: LibraryModes | None = None,
    *,
    lsf_is_assumed: bool = False,
) -> tuple[Nuisance, ...]:
    """Return the nuisances of a choice that a model has.

    Parameters
    ----------
    choice
        ``"default"``: all of them. ``"none"``. Names, separated by commas or one by one; and nuisances of one's own.
    model
        Forward model.
    inferred
        Labels that are inferred: the others of the emulator are nuisances, but for temperature, gravity and metallicity, which whoever
        holds them knows.
    library
        Of the model's library, if they are known.
    lsf_is_assumed
        Whether the line-spread function is a nominal one, as the file has none.

    Raises
    ------
    InferenceError
        As `checked`.
    """
    parts = checked(choice)
    left = [name for name in model.emulator.labels.names if name not in inferred]
    elements = tuple(name for name in left if _is_element(name))
    known: dict[str, Nuisance | None] = {
        "chip_velocity": ChipVelocity() if "v_rad" in model.label_names else None,
        "line_width": LineWidth.assumed() if lsf_is_assumed else LineWidth(),
        "limb_darkening": LimbDarkening(),
        "macroturbulence": Macroturbulence() if model.emulator.contained is None else None,
        "dilution": Dilution(),
        "library_by_chip": LibraryByChip() if {"teff", "m_h"} & set(model.label_names) else None,
        "elements": Elements(labels=elements) if elements else None,
        "microturbulence": Microturbulence() if "v_micro" in left else None,
        "carbon_isotopes": CarbonIsotopes() if "c12_c13" in left else None,
        "departures": Departures() if model.emulator.ties.ties else None,
        "emulator": EmulatorModes() if len(model.emulator.modes) else None,
        "library": library,
    }
    found: dict[str, Nuisance | None] = {}
    for part in parts:
        if not isinstance(part, str):
            found[part.name] = part
        elif part == DEFAULT:
            found |= known
        elif part != NONE:
            found[part] = known[part]
    return tuple(nuisance for nuisance in found.values() if nuisance is not None)


def _is_element(name: str) -> bool:
    of = quantity(name)
    # Iron is what most lines of the metals are of.
    return of.is_abundance and of.unit == "dex" and name not in ("m_h", "fe_h", "fe_m")


@dataclass(frozen=True)
class Linear:
    """Nuisances of one spectrum, as a linear model about some labels.

    Attributes
    ----------
    labels
        All labels of the likelihood, jitter last, about which it is linear, shape ``(n_all,)``.
    spectrum
        The model there, shape ``(n_pixels,)``: what the noise is relative to, so that labels do not choose their own errors.
    columns
        Directions that the spectrum tells something of, each with the prior N(0, 1), shape ``(k, n_pixels)``; the continuum, over which the
        spectrum is, is taken out of them.
    offset
        What the nuisances' centres add to the model, shape ``(n_pixels,)``.
    turn
        From the columns' amplitudes to all amplitudes in units of their widths, shape ``(n_amplitudes, k)``.
    of
        Of each amplitude: its nuisance, and what it is of.
    centre
        Of each amplitude, in the nuisance's unit, shape ``(n_amplitudes,)``.
    """

    labels: Tensor
    spectrum: Tensor
    columns: Tensor
    offset: Tensor
    turn: Tensor
    of: tuple[tuple[Nuisance, str], ...]
    centre: Tensor


@torch.no_grad()
def linear(
    nuisances: Sequence[Nuisance],
    at: Point,
    labels: Tensor,
    project: Callable[[Tensor], Tensor],
    information: Callable[[Tensor], Tensor],
) -> Linear:
    """Make nuisances linear about some labels, and keep what the spectrum tells of.

    Parameters
    ----------
    nuisances
        One at least.
    at
        Where.
    labels
        All labels, jitter last, shape ``(n_all,)``.
    project
        Takes the continuum out of columns ``(k, n_pixels)``.
    information
        Of columns ``(k, n_pixels)``, their products over the noise, ``(k, k)``.

    Raises
    ------
    InferenceError
        If a derivative has another shape than the pixels, or is not finite.
    """
    columns, of, centres = [], [], []
    offset = torch.zeros_like(at.spectrum)
    for nuisance in nuisances:
        slopes = nuisance.derivative(at).double()
        if slopes.ndim != 2 or slopes.shape[1] != len(offset) or not bool(slopes.isfinite().all()):
            raise InferenceError(
                f"nuisance {nuisance.name}: its derivative must be finite and (k, {len(offset)}), not {tuple(slopes.shape)}"
            )
        centre = torch.as_tensor(nuisance.centre(at)).to(slopes).expand(len(slopes))
        offset = offset + centre @ slopes
        columns.append(nuisance.width * slopes)
        of += [(nuisance, text) for text in nuisance.each(at)]
        centres += centre.tolist()
    all_columns = project(torch.cat(columns))
    values, vectors = torch.linalg.eigh(information(all_columns))
    told = values > _NEGLIGIBLE
    turn = vectors[:, told]
    return Linear(
        labels, at.spectrum, (turn.T @ all_columns).contiguous(), offset, turn, tuple(of),
        torch.tensor(centres, dtype=torch.float64),
    )  # fmt: skip
