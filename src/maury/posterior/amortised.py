"""The flow's posteriors of many spectra at once, without verification: thousands a minute, to be taken as a first look."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray

from maury.errors import InferenceError
from maury.labels import LabelSet
from maury.models import Model
from maury.posterior.diagnostics import BetweenLibraries
from maury.posterior.flags import FLAGS
from maury.posterior.steps import ALL_MASKED, to_model_grid
from maury.posterior.summary import summarise
from maury.spectra.spectrum import Spectrum


@dataclass(frozen=True)
class Amortised:
    """The flow's posterior of one spectrum.

    Attributes
    ----------
    labels
        Stellar labels, without nuisance.
    draws
        Unweighted, shape ``(n_draws, n_labels)``; spread more evenly than independent ones.
    spectrum, model
        What was observed, and the name of the model.
    p_novelty
        See `maury.networks.novelty`; None where the model has no such score.
    """

    labels: LabelSet
    draws: NDArray[np.float64]
    spectrum: Spectrum
    model: str
    p_novelty: float | None

    method: ClassVar[str] = "flow"
    flag_bad: ClassVar[tuple[str, ...]] = ()
    systematic: ClassVar[Mapping[str, BetweenLibraries]] = {}

    @property
    def flag_warn(self) -> tuple[str, ...]:
        """``low_snr`` where it applies; the others need the likelihood."""
        low = FLAGS["low_snr"]
        return (low.name,) * (self.spectrum.snr < low["snr"])

    def quantile(self, name: str, q: float) -> float:
        """Quantile of one label."""
        return float(np.quantile(self.draws[:, self.labels.index(name)], q))

    def summary(self) -> dict[str, dict[str, Any]]:
        """Percentiles 16, 50, 84, mean, standard deviation and unit of each label."""
        equal = np.full(len(self.draws), 1 / len(self.draws))
        return summarise(self.labels, self.draws, equal)


@torch.no_grad()
def amortised(
    spectra: Sequence[Spectrum], model: Model, draws: int = 64, seeds: Sequence[int] | int = 0
) -> list[Amortised | Exception]:
    """Draw from the flow for several spectra side by side.

    Parameters
    ----------
    spectra
        A few tens, or thousands on a GPU.
    model
        The model.
    draws, seeds
        Draws a spectrum, spread evenly, and the seed of each, or one for all.

    Returns
    -------
    list
        Of each spectrum what was found, or the `InferenceError` that says why nothing could be.
    """
    if isinstance(seeds, int):
        seeds = [seeds] * len(spectra)
    estimator, labels = model.estimator, model.estimator.labels
    found: list[Amortised | Exception | None] = [None] * len(spectra)
    inputs = {}
    for i, spectrum in enumerate(spectra):
        try:
            if not spectrum.good.any():
                raise InferenceError(ALL_MASKED, "all_masked")
            inputs[i] = to_model_grid(model.observed(spectrum), model)
        except InferenceError as error:
            found[i] = error
    if not inputs:
        return [f for f in found if f is not None]
    flux, ivar = (torch.cat([pair[k] for pair in inputs.values()]) for k in (0, 1))
    context = estimator.context(flux, ivar)
    generators = [torch.Generator().manual_seed(seeds[i]) for i in inputs]
    u = torch.stack(estimator.sample_each([draws] * len(inputs), context, generators, even=True))
    theta = labels.from_normal(u.flatten(0, 1)).unflatten(0, (len(inputs), draws)).numpy()
    novelty = [None] * len(inputs)
    if model.novelty is not None:
        novelty = model.novelty.p_value(estimator, flux, ivar, context).tolist()
    for row, i in enumerate(inputs):
        found[i] = Amortised(labels, theta[row], spectra[i], model.name, novelty[row])
    return [f for f in found if f is not None]
