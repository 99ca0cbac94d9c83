"""What is inferred from a spectrum, and what is taken as known."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from maury.errors import LabelError
from maury.forward.model import ForwardModel
from maury.labels import LabelSet
from maury.likelihood.continuum import DEGREE
from maury.likelihood.nuisances import NONE, Choice, EmulatorModes, LibraryModes, chosen
from maury.likelihood.pixels import Likelihood
from maury.likelihood.ties import Tied
from maury.names import meant
from maury.quantities import Role
from maury.spectra.instrument import Instrument, apogee
from maury.spectra.spectrum import Spectrum

# Of labels that are inferred instead of following others: their scatter about those in units of the scatter of stars, and at least, dex.
_WIDER, _LEAST_SCATTER = 2.0, 0.15
# Rounds of drawing until all stars are possible ones; half of a wide prior is.
_TRIES = 200


@dataclass(frozen=True)
class Problem:
    """A forward model, its labels, and how spectra scatter about it.

    Attributes
    ----------
    forward
        The forward model.
    labels
        All of its labels and then the nuisance ``jitter``, with their priors.
    held
        Values of labels that are known and not inferred.
    degree
        Of each chip's unknown continuum; None where the continuum is known to be 1.
    emulator_error
        Whether the emulator's own error is a part of the noise.
    learned
        The library's error as learned from observed spectra, relative to the continuum, on the emulator's grid at rest, shape
        ``(n_grid,)``; see `maury.inference.tune`.
    modes
        How the library's line strengths are wrong together, if that was measured.
    instrument
        The spectrograph that it was made for; None where spectra of any are taken as they are.

    Raises
    ------
    LabelError
        If a held label is none of the model's, or lies outside what the model can compute.
    """

    forward: ForwardModel
    labels: LabelSet
    held: Mapping[str, float] = field(default_factory=dict)
    degree: int | None = DEGREE
    emulator_error: bool = True
    learned: Tensor | None = None
    instrument: Instrument | None = None
    modes: LibraryModes | None = None

    def __post_init__(self) -> None:
        emulated = self.forward.emulator.labels
        for name, value in self.held.items():
            if name not in self.labels.names:
                raise LabelError(f"fixed.{name}: no such label; {meant(name, self.labels.names)}")
            low, high = (-np.inf if name == "v_rad" else 0.0, np.inf)
            if name in emulated.names:
                low, high = emulated[name].prior.low, emulated[name].prior.high
            if not low <= value <= high:
                raise LabelError(f"fixed.{name}: {value:g} is outside [{low:g}, {high:g}]")

    @property
    def spectrograph(self) -> Instrument:
        """The instrument on whose grid networks see spectra: APOGEE unless it was made for another."""
        return self.instrument or apogee()

    @cached_property
    def inferred(self) -> LabelSet:
        """The labels that are not held."""
        return self.labels.select(name for name in self.labels.names if name not in self.held)

    @cached_property
    def related(self) -> tuple[str, ...]:
        """Labels whose prior is about what they follow among real stars: those that nobody holds or has given another prior."""
        emulator = self.forward.emulator
        return tuple(
            name
            for name in emulator.ties.relations
            if name not in self.held and self.labels[name].prior == emulator.labels[name].prior
        )

    @cached_property
    def stellar(self) -> LabelSet:
        """The labels that an estimator infers: those not held, without the nuisance."""
        return self.inferred.without(Role.nuisance)

    def columns(self, labels: LabelSet) -> list[int]:
        """Places of some labels among all."""
        return [self.labels.index(name) for name in labels.names]

    def complete(self, labels: Tensor) -> Tensor:
        """Put the held values into all labels ``(n, n_all)``; returns a copy."""
        out = labels.clone()
        for name, value in self.held.items():
            out[:, self.labels.index(name)] = value
        return out

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        """Draw all labels ``(n, n_all)`` of stars that there are from the prior, the held ones at their values.

        Raises
        ------
        LabelError
            If hardly any of the prior is of such stars.
        """
        out = self.complete(self.labels.sample(n, generator))
        stellar = slice(len(self.forward.emulator.labels))
        for _ in range(_TRIES):
            outside = ~self.forward.inside(out[:, : self.forward.n_labels])
            if not outside.any():
                out[:, stellar] = self.forward.emulator.ties.related(out[:, stellar], self.related, generator)
                return out
            out[outside] = self.complete(self.labels.sample(int(outside.sum()), generator))
        raise LabelError("the prior holds hardly any star: teff and logg lie where no atmosphere is")

    def inferring(self, names: Collection[str]) -> Problem:
        """Return the problem in which some tied labels are inferred too, about what they follow with twice the scatter of stars.

        Raises
        ------
        LabelError
            If one is not tied, or does not belong to the library.
        """
        ties = self.forward.emulator.ties
        scatters = {
            name: max(_WIDER * ties.ties[name].scatter, _LEAST_SCATTER) if name in ties.ties else 0.0
            for name in names
        }
        forward = self.forward.tied(ties.inferring(scatters))
        new = [label for label in forward.emulator.labels if label.name not in self.labels.names]
        known = len(self.forward.emulator.labels)
        labels = LabelSet((*self.labels.labels[:known], *new, *self.labels.labels[known:]))
        return replace(self, forward=forward, labels=labels)

    def likelihood(
        self, spectrum: Spectrum, inside: NDArray[np.bool_] | None = None, nuisances: Choice = NONE
    ) -> Tied:
        """Likelihood of a spectrum's inferred labels; arguments and errors as of `Likelihood.of` and `maury.likelihood.nuisances.chosen`.

        Nuisances count once they are `linearised`.
        """
        pixels = Likelihood.of(
            spectrum,
            self.forward,
            self.labels,
            self.degree,
            inside,
            emulator_error=self.emulator_error,
            learned=self.learned,
        )
        found = chosen(
            nuisances,
            self.forward,
            self.inferred.names,
            self.modes,
            lsf_is_assumed=spectrum.lsf_is_assumed,
        )
        if self.emulator_error and any(isinstance(nuisance, EmulatorModes) for nuisance in found):
            pixels = pixels.with_error_left()
        return self.tied(replace(pixels, nuisances=found, related=self.related))

    def tied(self, pixels: Likelihood) -> Tied:
        """Hold what is known."""
        values = self.complete(torch.zeros(1, len(self.labels), dtype=torch.float64))[0]
        return Tied.holding(pixels, values, self.columns(self.inferred))
