"""The flow's posteriors of many spectra at once, without verification: thousands a minute, to be taken as a first look."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from maury.labels import LabelSet
from maury.models import Model
from maury.posterior.infer import to_model_grid
from maury.posterior.result import summarise
from maury.spectra.spectrum import Spectrum


@dataclass(frozen=True)
class Amortised:
    """The flow's posterior of one spectrum.

    Attributes
    ----------
    labels
        Stellar labels, without nuisance.
    draws
        Unweighted, shape ``(n_draws, n_labels)``.
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

    def summary(self) -> dict[str, dict[str, Any]]:
        """Percentiles 16, 50, 84, mean, standard deviation and unit of each label."""
        equal = np.full(len(self.draws), 1 / len(self.draws))
        return summarise(self.labels, self.draws, equal)


@torch.no_grad()
def amortised(spectra: Sequence[Spectrum], model: Model, draws: int = 256, seed: int = 0) -> list[Amortised]:
    """Draw from the flow for several spectra side by side.

    Parameters
    ----------
    spectra
        Each with at least one usable pixel.
    model
        The model.
    draws, seed
        Draws a spectrum, and their seed; the draws of a spectrum depend on the others of the batch.
    """
    estimator, labels = model.estimator, model.estimator.labels
    inputs = [to_model_grid(model.observed(spectrum), model) for spectrum in spectra]
    flux, ivar = (torch.cat([pair[i] for pair in inputs]) for i in (0, 1))
    context = estimator.context(flux, ivar)
    u = estimator.sample_each(draws, context, torch.Generator().manual_seed(seed))
    theta = labels.from_normal(u.flatten(0, 1)).unflatten(0, (len(spectra), draws)).numpy()
    novelty = [None] * len(spectra)
    if model.novelty is not None:
        novelty = model.novelty.p_value(estimator, flux, ivar, context).tolist()
    return [
        Amortised(labels, theta[i], spectrum, model.name, novelty[i]) for i, spectrum in enumerate(spectra)
    ]
