"""What may be chosen of an inference: one object, for one spectrum and for many."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from numbers import Real
from typing import Any, Literal, TypedDict, get_args

import numpy as np

from maury.constants import BUDGET, DRAWS, ESS, FALSE_ALARM
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
    ess: int | None
    labels: str | Sequence[str]


@dataclass(frozen=True)
class Options:
    """What may be chosen of an inference: each field is the keyword of `maury.infer` that has its name, and is described there.

    Raises
    ------
    InferenceError, LabelError
        If one is impossible.
    """

    draws: int = DRAWS
    seed: int = 0
    priors: Mapping[str, PriorLike] = field(default_factory=dict)
    noise: Noise = "auto"
    companion: Companion = "no"
    false_alarm: float = FALSE_ALARM
    masks: Sequence[tuple[float, float]] = ()
    budget: int = BUDGET
    nuisances: Choice = DEFAULT
    ess: int | None = None
    labels: str | Sequence[str] = "basic"

    def __post_init__(self) -> None:
        named = [self.labels] if isinstance(self.labels, str) else self.labels
        if not isinstance(named, Iterable) or not all(isinstance(name, str) for name in named):
            raise InferenceError(f"labels: needs names of labels, not {self.labels!r}")
        object.__setattr__(self, "labels", ",".join(named))
        draws = whole_number(self.draws, "draws", 0, MOST_DRAWS)
        if draws < FEWEST_DRAWS:
            raise InferenceError(
                f"draws must be at least {FEWEST_DRAWS} for the weights to be judged, not {draws}"
            )
        object.__setattr__(self, "draws", draws)
        if self.ess is not None:
            object.__setattr__(self, "ess", whole_number(self.ess, "ess", 1, MOST_DRAWS))
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
        if isinstance(self.masks, str) or not isinstance(self.masks, Iterable):
            raise InferenceError(f"masks: needs ranges of wavelength, [(from, to), ...], not {self.masks!r}")
        for mask in self.masks:
            try:
                low, high = map(float, mask)
            except (TypeError, ValueError):
                raise InferenceError(
                    f"masks: {mask!r} is no pair of wavelengths; needs [(from, to), ...]"
                ) from None
            if not (math.isfinite(low) and math.isfinite(high) and low < high):
                raise InferenceError(
                    f"masks: {low:g} to {high:g} is no range of wavelengths, from low to high"
                )

    @property
    def enough(self) -> float:
        """Effective draws that are looked for: those asked for, else 200, or four fifths of fewer draws than are usual."""
        if self.ess is not None:
            return self.ess
        return ESS if self.draws >= DRAWS else 0.8 * self.draws

    @classmethod
    def of(cls, options: Options | None, keywords: Keywords) -> Options:
        """Return options, some of them replaced by keywords.

        Raises
        ------
        InferenceError, LabelError
            If there is no such option, or one is impossible.
        """
        known = [one.name for one in fields(cls)]
        for name in keywords:
            if name not in known:
                raise InferenceError(f"no option {name!r}; {meant(name, known)}")
        if not isinstance(options, cls | None):
            raise InferenceError(
                f"options must be Options, or given as keywords, not {type(options).__name__}"
            )
        return replace(options or cls(), **keywords)

    def to_json(self) -> dict[str, Any]:
        """Return what was chosen as plain values; nuisances of one's own are told as ``"own"``."""
        plain = isinstance(self.nuisances, str) or all(isinstance(name, str) for name in self.nuisances)
        chosen = {one.name: getattr(self, one.name) for one in fields(self)}
        return chosen | {
            "priors": {name: prior.model_dump() for name, prior in as_priors(self.priors).items()},
            "masks": [[float(low), float(high)] for low, high in self.masks],
            "nuisances": self.nuisances if plain else "own",
        }

    def masked(self, spectrum: Spectrum) -> Spectrum:
        """Return a spectrum without the pixels in `masks`."""
        if not self.masks:
            return spectrum
        w = spectrum.grid.wavelength
        out = np.logical_or.reduce([(w >= low) & (w <= high) for low, high in self.masks])
        return replace(spectrum, ivar=np.where(out, 0.0, spectrum.ivar))
