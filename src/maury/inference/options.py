"""What may be chosen of an inference: one object, for one spectrum and for many."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from numbers import Real
from typing import Literal, TypedDict, get_args

import numpy as np

from maury.constants import BUDGET
from maury.errors import InferenceError
from maury.inference.arguments import MOST_DRAWS, as_priors, as_seed, whole_number
from maury.likelihood.nuisances import DEFAULT, Choice, checked
from maury.likelihood.residuals import Noise
from maury.names import meant
from maury.priors import PriorLike
from maury.spectra.spectrum import Spectrum

Companion = Literal["no", "auto", "yes"]
# Fewer weights do not tell what their tail is like.
FEWEST_DRAWS = 100


class Keywords(TypedDict, total=False):
    """The fields of `Options` as keywords."""

    draws: int
    seed: int
    priors: Mapping[str, PriorLike]
    noise: Noise
    companion: Companion
    false_alarm: float
    masks: Sequence[tuple[float, float]]
    budget: int
    nuisances: Choice


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
        Priors that replace the model's, by label: ``(low, high)``, or one of `maury.priors`, of which ``Normal(mean, sigma)`` needs no
        bounds. One that reaches beyond the range of the model's is cut to it, with a `MauryWarning`. A spectrum at rest gets ``v_rad``
        within 30 km/s of 0 unless this says otherwise.
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
    budget
        Likelihoods that the spectrum may take. After them the best answer so far is given, with ``not_converged`` among ``flag_bad``. The
        default ends within half a minute of a core; nested sampling, where the weights fail, needs 100,000.
    nuisances
        What else the model is uncertain of, integrated out: ``"default"``, all that the model has (`maury.likelihood.nuisances`);
        ``"none"``; or names and nuisances of one's own.

    Raises
    ------
    InferenceError, LabelError
        If one is impossible.
    """

    draws: int = 1000
    seed: int = 0
    priors: Mapping[str, PriorLike] = field(default_factory=dict)
    noise: Noise = "auto"
    companion: Companion = "no"
    false_alarm: float = 0.01
    masks: Sequence[tuple[float, float]] = ()
    budget: int = BUDGET
    nuisances: Choice = DEFAULT

    def __post_init__(self) -> None:
        draws = whole_number(self.draws, "draws", 0, MOST_DRAWS)
        if draws < FEWEST_DRAWS:
            raise InferenceError(
                f"draws must be at least {FEWEST_DRAWS} for the weights to be judged, not {draws}"
            )
        object.__setattr__(self, "draws", draws)
        object.__setattr__(self, "seed", as_seed(self.seed))
        object.__setattr__(self, "priors", as_priors(self.priors))
        for name, kinds in (("noise", get_args(Noise)), ("companion", get_args(Companion))):
            value = getattr(self, name)
            if value not in kinds:
                raise InferenceError(f"{name}: no {value!r}; {meant(value, kinds)}")
        if not (isinstance(self.false_alarm, Real) and 0 < self.false_alarm < 1):
            raise InferenceError(f"false_alarm must lie between 0 and 1, not {self.false_alarm!r}")
        object.__setattr__(self, "nuisances", checked(self.nuisances))
        object.__setattr__(self, "budget", whole_number(self.budget, "budget", 1, 2**62))
        for mask in self.masks:
            try:
                low, high = map(float, mask)
            except (TypeError, ValueError):
                raise InferenceError(f"masks: {mask!r} is no pair of wavelengths") from None
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
