"""What may be chosen of an inference: one object, for one spectrum and for many."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, TypedDict, get_args

import numpy as np

from maury.errors import InferenceError
from maury.likelihood.residuals import Noise
from maury.names import meant
from maury.priors import Prior
from maury.spectra.spectrum import Spectrum

Companion = Literal["no", "auto", "yes"]
# Fewer weights do not tell what their tail is like.
FEWEST_DRAWS = 100


class Keywords(TypedDict, total=False):
    """The fields of `Options` as keywords."""

    draws: int
    seed: int
    priors: Mapping[str, Prior]
    noise: Noise
    companion: Companion
    false_alarm: float
    masks: Sequence[tuple[float, float]]


@dataclass(frozen=True)
class Options:
    """What may be chosen of an inference.

    Attributes
    ----------
    draws
        Importance draws a round, at least 100; more rounds are added while the weights are uneven.
    seed
        The same seed gives the same draws on the same device.
    priors
        Priors that replace the model's, by label; each must lie inside the model's. A spectrum at rest gets ``v_rad`` within 30 km/s of 0
        unless this says otherwise.
    noise
        ``"independent"`` pixels; ``"correlated"`` residuals, an Ornstein-Uhlenbeck process whose amplitude and length are fitted; or
        ``"auto"``: correlated where that gains more than 5 nats, as on real spectra it does.
    companion
        ``"auto"`` looks for a second star in the spectrum where a flag says that one does not explain it, and adds its labels where that
        gains more than 20 nats of evidence; ``"yes"`` adds them in any case. See `maury.inference.companion`.
    false_alarm
        Share of good spectra that may be flagged ``misfit``, and ``novel``.
    masks
        Ranges of wavelength that are left out, vacuum Angstrom in the spectrum's own frame, ``(from, to)`` each.

    Raises
    ------
    InferenceError
        If one is impossible.
    """

    draws: int = 1000
    seed: int = 0
    priors: Mapping[str, Prior] = field(default_factory=dict)
    noise: Noise = "auto"
    companion: Companion = "no"
    false_alarm: float = 0.01
    masks: Sequence[tuple[float, float]] = ()

    def __post_init__(self) -> None:
        if self.draws < FEWEST_DRAWS:
            raise InferenceError(
                f"draws must be at least {FEWEST_DRAWS} for the weights to be judged, not {self.draws}"
            )
        for name, kinds in (("noise", get_args(Noise)), ("companion", get_args(Companion))):
            value = getattr(self, name)
            if value not in kinds:
                raise InferenceError(f"{name}: no {value!r}; {meant(value, kinds)}")
        if not 0 < self.false_alarm < 1:
            raise InferenceError(f"false_alarm must lie between 0 and 1, not {self.false_alarm:g}")
        for low, high in self.masks:
            if not (math.isfinite(low) and math.isfinite(high) and low < high):
                raise InferenceError(
                    f"masks: {low:g} to {high:g} is no range of wavelengths, from low to high"
                )

    @classmethod
    def of(cls, options: Options | None, keywords: Keywords) -> Options:
        """Return options, some of them replaced by keywords."""
        return replace(options or cls(), **keywords)

    def masked(self, spectrum: Spectrum) -> Spectrum:
        """Return a spectrum without the pixels in `masks`."""
        if not self.masks:
            return spectrum
        w = spectrum.grid.wavelength
        out = np.logical_or.reduce([(w >= low) & (w <= high) for low, high in self.masks])
        return replace(spectrum, ivar=np.where(out, 0.0, spectrum.ivar))
