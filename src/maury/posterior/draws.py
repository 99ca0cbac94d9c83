"""Draws as other programs want them: equally weighted, or with their weights; as arrays, xarray groups or a pandas table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

import maury
from maury.forward.doppler import add_velocities
from maury.labels import LabelSet
from maury.posterior.summary import frame_of
from maury.quantities import quantity
from maury.text import readable

if TYPE_CHECKING:
    import pandas
    import xarray as xr

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

    @property
    def stats(self) -> dict[str, Array]:
        """The logarithms by name."""
        names = ("log_weight", "log_likelihood", "log_prior", "log_proposal")
        return {name: getattr(self, name) for name in names}


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


def to_pandas(
    posterior: Posterior, *, weighted: bool = False, number: int | None = None, seed: int = 0
) -> pandas.DataFrame:
    """Return a table with a row a draw and a column a label, ``v_bary`` where it is known, and the log densities.

    Units are in ``frame.attrs["units"]``, how the draws were taken in ``frame.attrs["draws"]``.

    Parameters
    ----------
    posterior
        The posterior.
    weighted, number, seed
        As of `draws_of`; with ``weighted`` there is a column ``weight``, which sums to 1.

    Raises
    ------
    MauryError
        If pandas is not installed.
    """
    draws = draws_of(posterior, weighted=weighted, number=number, seed=seed)
    columns = dict(draws.values)
    if weighted:
        columns["weight"] = posterior.weights
    columns |= {name: values for name, values in draws.stats.items() if name != "log_weight"}
    frame = frame_of(columns)
    frame.attrs["units"] = {name: quantity(name).unit for name in draws.values}
    frame.attrs["draws"] = draws.note
    return frame


def groups(posterior: Posterior, draws: Draws) -> dict[str, xr.Dataset]:
    """Return the groups ``posterior``, ``sample_stats`` and ``flow`` as ArviZ has them, (chain, draw), with units and origin."""
    out = {
        "posterior": chain(draws.values),
        "sample_stats": chain({"lp": draws.log_likelihood + draws.log_prior, **draws.stats}),
        "flow": chain(dict(zip(posterior.stellar.names, posterior.flow_draws.T, strict=False))),
    }
    for dataset in out.values():
        dataset.attrs.update(origin(posterior))
    out["posterior"].attrs["draws"] = draws.note
    out["flow"].attrs["draws"] = "equally weighted: of the amortised posterior, before verification"
    out["sample_stats"].attrs.update(
        khat=posterior.khat,
        ess=posterior.ess,
        log_evidence=posterior.log_evidence,
        method=posterior.method,
        flag_warn=",".join(posterior.flag_warn),
        flag_bad=",".join(posterior.flag_bad),
    )
    return out


def origin(posterior: Posterior) -> dict[str, Any]:
    """Return where a group comes from, as ArviZ names its attributes."""
    return {
        "created_at": datetime.now(UTC).isoformat(),
        "creation_library": "maury",
        "creation_library_version": maury.__version__,
        "inference_library": "maury",
        "inference_library_version": maury.__version__,
        "inference_time": posterior.seconds,
        "model": posterior.model,
        "id": posterior.spectrum.id,
        "file": readable(posterior.spectrum.path),
    }


def chain(columns: Mapping[str, Any], labels: LabelSet | None = None) -> xr.Dataset:
    """Return columns ``(n,)`` as one chain, with units and descriptions where they are labels: ``labels``' own, else by name."""
    import xarray as xr

    told = {} if labels is None else {label.name: label.quantity for label in labels}
    n = len(next(iter(columns.values()))) if columns else 0
    dataset = xr.Dataset(
        {name: (("chain", "draw"), np.asarray(values)[None]) for name, values in columns.items()},
        coords={"chain": [0], "draw": np.arange(n)},
    )
    for name in columns:
        about = told.get(name) or quantity(name)
        known = {"units": about.unit, "long_name": about.long}
        dataset[name].attrs.update({key: value for key, value in known.items() if value})
    return dataset
