"""Draws as other programs want them: equally weighted, or with their weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from maury.forward.doppler import add_velocities

if TYPE_CHECKING:
    from maury.posterior.result import Posterior

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Draws:
    """Draws of a posterior, and what is known of each.

    Attributes
    ----------
    values
        By label, and ``v_bary`` where the barycentric correction is known; each of shape ``(n_draws,)``.
    log_weight, log_likelihood, log_prior, log_proposal
        Shape ``(n_draws,)``; ``log_weight`` is the same for all where the draws are equally weighted.
    note
        How they were taken, in words.
    """

    values: dict[str, Array]
    log_weight: Array
    log_likelihood: Array
    log_prior: Array
    log_proposal: Array
    note: str


def draws_of(
    posterior: Posterior, *, weighted: bool = False, number: int | None = None, seed: int = 0
) -> Draws:
    """Take the draws of a posterior.

    Parameters
    ----------
    posterior
        The posterior.
    weighted
        Keep all draws and their weights; otherwise draws are resampled, with replacement, to equal weights.
    number
        Draws to resample, by default as many as there are.
    seed
        Of the resampling.
    """
    n = len(posterior.draws)
    if weighted:
        rows = np.arange(n)
        log_weight = posterior.log_weights
        note = "weighted: use exp(log_weight); what takes draws as equally weighted will be wrong"
    else:
        rows = posterior.rows(number or n, seed)
        log_weight = np.full(len(rows), -np.log(len(rows)))
        note = (
            f"equally weighted: {len(rows)} resampled with replacement from {n} weighted draws, seed {seed}"
        )
    values = {name: posterior.draws[rows, i] for i, name in enumerate(posterior.labels.names)}
    correction = posterior.spectrum.v_correction
    if correction is not None and "v_rad" in values:
        values["v_bary"] = np.asarray(add_velocities(values["v_rad"], correction))
    return Draws(
        values,
        log_weight,
        posterior.log_likelihood[rows],
        posterior.log_prior[rows],
        posterior.log_proposal[rows],
        f"{note}; effective sample size {posterior.ess:.0f}, k-hat {posterior.khat:.2f}",
    )


class CornerArrays(NamedTuple):
    """What `corner.corner` takes.

    Attributes
    ----------
    draws
        Shape ``(n_draws, n_labels)``.
    weights
        Shape ``(n_draws,)``, normalised.
    labels
        Symbols with units, for the axes.
    """

    draws: Array
    weights: Array
    labels: list[str]


def corner_arrays(posterior: Posterior, *, nuisance: bool = False) -> CornerArrays:
    """Return weighted draws and axis names of the star's labels, with ``nuisance`` of all that were inferred.

    Examples
    --------
    >>> draws, weights, labels = posterior.corner_arrays()  # doctest: +SKIP
    >>> corner.corner(draws, weights=weights, labels=labels)  # doctest: +SKIP
    """
    labels = posterior.labels if nuisance else posterior.stellar
    columns = [posterior.labels.index(name) for name in labels.names]
    return CornerArrays(
        posterior.draws[:, columns], posterior.weights.copy(), [label.axis for label in labels.labels]
    )
