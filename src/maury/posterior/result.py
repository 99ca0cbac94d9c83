"""The result of inference on one spectrum."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import xarray as xr
from numpy.typing import NDArray

from maury.errors import InferenceError
from maury.files import writing
from maury.forward.doppler import add_velocities
from maury.forward.fit import Fit
from maury.forward.target import Single, Target
from maury.labels import LabelSet
from maury.quantities import Role
from maury.spectra.spectrum import Spectrum

if TYPE_CHECKING:
    from astropy.io.votable.tree import VOTableFile
    from matplotlib.figure import Figure

    from maury.interop.draws import CornerArrays
    from maury.interop.spectra import SpecutilsPair

QUANTILES = {"p16": 0.158655, "p50": 0.5, "p84": 0.841345}


def weighted_quantile(values: NDArray[np.float64], weights: NDArray[np.float64], q: float) -> float:
    """Quantile of weighted draws ``(n,)``; the cumulative weight is taken at the middle of each draw."""
    order = np.argsort(values)
    cumulative = np.cumsum(weights[order]) - 0.5 * weights[order]
    return float(np.interp(q, cumulative, values[order]))


def summarise(
    labels: LabelSet, draws: NDArray[np.float64], weights: NDArray[np.float64]
) -> dict[str, dict[str, Any]]:
    """Percentiles 16, 50, 84, mean, standard deviation and unit of each label, of draws ``(n, n_labels)`` and weights ``(n,)``."""
    out = {}
    for i, label in enumerate(labels.labels):
        x = draws[:, i]
        mean = float(weights @ x)
        std = float(np.sqrt(weights @ (x - mean) ** 2))
        entry: dict[str, Any] = {key: weighted_quantile(x, weights, q) for key, q in QUANTILES.items()}
        out[label.name] = entry | {"mean": mean, "std": std, "unit": label.unit}
    return out


@dataclass(frozen=True)
class Posterior:
    """A verified posterior: weighted draws of the labels, and the evidence that they are right.

    Attributes
    ----------
    labels
        Inferred labels and the nuisance ``jitter`` (unless that is held), with priors.
    draws
        Shape ``(n_draws, n_labels)``, in the labels' units; weighted by ``weights``.
    log_weights
        Pareto-smoothed, normalised, shape ``(n_draws,)``.
    log_likelihood, log_prior, log_proposal
        Of each draw, shape ``(n_draws,)``; prior and proposal over ``u = labels.to_normal(draws)``.
    flow_draws
        Of the amortised posterior before verification, shape ``(n_flow, n_stellar)``, without the nuisance, unweighted.
    khat
        Pareto shape of the raw weights; above 0.7 they are not to be trusted and nested sampling took over.
    ess
        Effective sample size of the raw weights.
    log_evidence
        ln of the integral of likelihood times prior, for the flux in the file's units.
    method
        The last stage that was needed: ``"flow"``, ``"refined"`` or ``"nested"``.
    fit
        Model, continuum and residual at the best draw.
    spectrum, model
        What was observed, and the name of the model.
    flag_warn, flag_bad
        What to be careful about (docs/flags.md).
    seconds, evaluations
        Time and likelihood evaluations spent.
    held
        Values of labels that were taken as known.
    target
        The exact posterior, for `log_prob`; not saved.
    extra
        Whatever else the JSON line shall tell; ``models``: log evidence and probability of each model that was tried; ``systematic``:
        quantiles of labels with the error between libraries added, and that error as ``sigma``.
    provenance
        Seed, versions and the model's card (`maury.posterior.stored.provenance`).
    """

    labels: LabelSet
    draws: NDArray[np.float64]
    log_weights: NDArray[np.float64]
    log_likelihood: NDArray[np.float64]
    log_prior: NDArray[np.float64]
    log_proposal: NDArray[np.float64]
    flow_draws: NDArray[np.float64]
    khat: float
    ess: float
    log_evidence: float
    method: str
    fit: Fit
    spectrum: Spectrum
    model: str
    flag_warn: tuple[str, ...] = ()
    flag_bad: tuple[str, ...] = ()
    seconds: float = 0.0
    evaluations: int = 0
    held: Mapping[str, float] = field(default_factory=dict)
    target: Target[Single] | None = field(default=None, repr=False, compare=False)
    extra: dict[str, Any] = field(default_factory=dict)
    provenance: Mapping[str, Any] = field(default_factory=dict)

    @cached_property
    def weights(self) -> NDArray[np.float64]:
        """Normalised weights, shape ``(n_draws,)``."""
        w = np.exp(self.log_weights - self.log_weights.max())
        return np.asarray(w / w.sum())

    @property
    def stellar(self) -> LabelSet:
        """The labels without the nuisance."""
        return self.labels.without(Role.nuisance)

    @property
    def efficiency(self) -> float:
        """Effective sample size over draws."""
        return self.ess / len(self.draws)

    def quantile(self, name: str, q: float) -> float:
        """Quantile of one label; the value of a label that was held."""
        if name in self.held:
            return self.held[name]
        return weighted_quantile(self.draws[:, self.labels.index(name)], self.weights, q)

    def log_prob(self, labels: NDArray[np.float64]) -> NDArray[np.float64]:
        """Exact log posterior but for the evidence, density over ``u``, at labels ``(n, n_labels)``; shape ``(n,)``.

        Raises
        ------
        InferenceError
            If the posterior does not come from `infer`.
        """
        if self.target is None:
            raise InferenceError("this posterior does not keep its likelihood: infer the spectrum again")
        u = self.labels.to_normal(torch.from_numpy(np.atleast_2d(labels)))
        values: NDArray[np.float64] = self.target.log_prob(u).numpy()
        return values

    def rows(self, n: int, seed: int = 0) -> NDArray[np.int64]:
        """Places of ``n`` equally weighted draws, taken with replacement."""
        return np.random.default_rng(seed).choice(len(self.draws), n, p=self.weights)

    def resample(self, n: int, seed: int = 0) -> NDArray[np.float64]:
        """Equally weighted draws, shape ``(n, n_labels)``."""
        return self.draws[self.rows(n, seed)]

    def summary(self) -> dict[str, dict[str, Any]]:
        """Percentiles 16, 50, 84, mean, standard deviation and unit of each label."""
        return summarise(self.labels, self.draws, self.weights)

    @property
    def v_bary(self) -> dict[str, float] | None:
        """Barycentric velocity, km/s: the same statistics as ``summary()["v_rad"]``; None where no correction is known."""
        correction = self.spectrum.v_correction
        if correction is None or "v_rad" in self.held:
            return None
        v_rad = self.summary()["v_rad"]
        moved = {key: add_velocities(v_rad[key], correction) for key in (*QUANTILES, "mean")}
        return moved | {"std": v_rad["std"]}

    def to_json(self) -> dict[str, Any]:
        """One line of the command line's ``--json`` output."""
        summary = self.summary()
        jitter = summary.pop("jitter", None)
        return {
            "file": self.spectrum.path,
            "index": self.spectrum.index,
            "id": self.spectrum.id,
            "model": self.model,
            "labels": summary,
            "v_bary": self.v_bary,
            "v_sini_ul95": self.quantile("v_sini", 0.95),
            "jitter": jitter,
            "rchi2": self.fit.rchi2,
            "rchi2_jitter": self.fit.rchi2_jitter,
            "ess": self.ess,
            "draws": len(self.draws),
            "efficiency": self.efficiency,
            "khat": self.khat,
            "log_evidence": self.log_evidence,
            "method": self.method,
            "seconds": self.seconds,
            "flag_warn": list(self.flag_warn),
            "flag_bad": list(self.flag_bad),
            **self.extra,
        }

    def row(self) -> dict[str, Any]:
        """One row of a table, with the column names of SDSS's astra."""
        out: dict[str, Any] = {
            "file": self.spectrum.path,
            "index": self.spectrum.index,
            "id": self.spectrum.id,
        }
        for name, entry in self.summary().items():
            out |= {f"{name}_{key}": entry[key] for key in QUANTILES}
        out |= {f"{name}_library": entry["sigma"] for name, entry in self.extra.get("systematic", {}).items()}
        v_bary = self.v_bary or {}
        return out | {
            "v_bary_p50": v_bary.get("p50", np.nan),
            "v_sini_ul95": self.quantile("v_sini", 0.95),
            "snr": self.spectrum.snr,
            "rchi2": self.fit.rchi2,
            "ess": self.ess,
            "khat": self.khat,
            "log_evidence": self.log_evidence,
            "method": self.method,
            "model": self.model,
            "flag_warn": ",".join(self.flag_warn),
            "flag_bad": ",".join(self.flag_bad),
        }

    def to_datatree(self) -> xr.DataTree:
        """Return groups ``posterior``, ``sample_stats`` and ``flow`` as ArviZ names them (chain, draw), ``spectrum`` and ``fit``."""
        from maury.posterior.stored import with_record

        n = len(self.draws)
        coords = {"chain": [0], "draw": np.arange(n)}

        def dataset(columns: dict[str, NDArray[np.float64]], coords: dict[str, Any]) -> xr.Dataset:
            return xr.Dataset({k: (("chain", "draw"), v[None]) for k, v in columns.items()}, coords=coords)

        posterior = dataset({name: self.draws[:, i] for i, name in enumerate(self.labels.names)}, coords)
        for label in self.labels.labels:
            posterior[label.name].attrs["units"] = label.unit
        stats = dataset(
            {
                "log_weight": self.log_weights,
                "log_likelihood": self.log_likelihood,
                "log_prior": self.log_prior,
                "log_proposal": self.log_proposal,
            },
            coords,
        )
        stats.attrs.update(khat=self.khat, ess=self.ess, log_evidence=self.log_evidence, method=self.method)
        flow_coords = {"chain": [0], "draw": np.arange(len(self.flow_draws))}
        flow = dataset(dict(zip(self.stellar.names, self.flow_draws.T, strict=False)), flow_coords)
        tree = xr.DataTree.from_dict({"/posterior": posterior, "/sample_stats": stats, "/flow": flow})
        tree.attrs.update(
            id=self.spectrum.id,
            file=self.spectrum.path,
            model=self.model,
            flag_warn=",".join(self.flag_warn),
            flag_bad=",".join(self.flag_bad),
            note="posterior draws are weighted: use exp(sample_stats.log_weight)",
        )
        return with_record(tree, self)

    def save(self, path: str | Path) -> None:
        """Write draws, spectrum and fit as netCDF (read by `maury.posterior.stored.load`); the file appears whole or not at all.

        Raises
        ------
        InferenceError
            If it cannot be written.
        """
        try:
            with writing(path) as temporary:
                self.to_datatree().to_netcdf(temporary, engine="h5netcdf")
        except OSError as error:
            raise InferenceError(f"{path}: cannot be written ({error.strerror or error})") from None

    def plot_corner(self, truth: dict[str, float] | None = None) -> Figure:
        """Corner plot of the verified posterior over the flow's."""
        from maury.report.plots import corner_figure

        return corner_figure(self, truth)

    def plot_fit(self) -> Figure:
        """Observed spectrum with model, residual and masked pixels, chip by chip."""
        from maury.report.plots import fit_figure

        return fit_figure(self)

    def to_arviz(self, **options: Any) -> Any:
        """``InferenceData`` (ArviZ 0.x) or ``DataTree`` (1.x), draws equally weighted; see `maury.interop.arviz.to_arviz`."""
        from maury.interop.arviz import to_arviz

        return to_arviz(self, **options)

    def to_specutils(self, unit: str | None = None) -> SpecutilsPair:
        """Observed spectrum and model as ``specutils.Spectrum``; see `maury.interop.spectra.to_specutils`."""
        from maury.interop.spectra import to_specutils

        return to_specutils(self, unit)

    def to_votable(self, content: str = "draws", **options: Any) -> VOTableFile:
        """VOTable of the ``"draws"`` or the ``"summary"``, with units and UCDs; see `maury.interop.votable.votable`."""
        from maury.interop.votable import votable

        return votable(self, content, **options)

    def corner_arrays(self, *, nuisance: bool = False) -> CornerArrays:
        """Draws, weights and axis names for `corner.corner`; see `maury.interop.draws.corner_arrays`."""
        from maury.interop.draws import corner_arrays

        return corner_arrays(self, nuisance=nuisance)

    def send(self, client: str | None = "topcat", **options: Any) -> list[str]:
        """Send the draws or the summary to TOPCAT, Aladin or another program by SAMP; see `maury.interop.samp.send`."""
        from maury.interop.samp import send

        return send(self, client, **options)
