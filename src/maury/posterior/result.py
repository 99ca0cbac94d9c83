"""The result of inference on one spectrum."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from maury.display import card, digits_for, number, with_error
from maury.errors import InferenceError
from maury.forward.doppler import add_velocities
from maury.likelihood.fit import Fit
from maury.likelihood.target import Target
from maury.likelihood.ties import Tied
from maury.posterior.certificate import Certificate, certify
from maury.posterior.columns import line, row
from maury.posterior.diagnostics import BetweenLibraries, Diagnostics, Window
from maury.posterior.draws import CornerArrays, corner_arrays, to_pandas
from maury.posterior.flags import Kind, verdict_of
from maury.posterior.summary import QUANTILES, WeightedDraws, made_elsewhere
from maury.spectra.spectrum import Spectrum

if TYPE_CHECKING:
    import pandas
    import xarray as xr
    from astropy.io.votable.tree import VOTableFile
    from matplotlib.figure import Figure

    from maury.interop.spectra import SpecutilsPair


@dataclass(frozen=True, repr=False)
class Posterior(WeightedDraws):
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
    diagnostics
        Residuals, novelty, other models, other libraries, a second star.
    provenance
        Seed, versions and the model's card (`maury.posterior.store.provenance`).
    """

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
    target: Target[Tied] | None = field(default=None, repr=False, compare=False)
    diagnostics: Diagnostics = field(default_factory=Diagnostics)
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def __repr__(self) -> str:
        return f"<Posterior of {self._title}: {', '.join(f'{name} {text}' for name, text in self.in_words())}; {self._trust()}>"

    def __str__(self) -> str:
        values = "".join(f"\n  {name:<10} {text}" for name, text in self.in_words())
        return f"Posterior of {self._title}, {self.model}\n{self._said()}{values}\n{self._trust()}"

    def _repr_html_(self) -> str:
        facts = [("", self._trust()), ("model", self.model), ("draws", f"{len(self.draws)}")]
        return card(
            f"Posterior of {self._title}",
            facts,
            ("label", "mean ± total error (statistical)"),
            self.in_words(),
            self._said(),
            made_elsewhere("report.verdict", "verdict")(self).brief,
        )

    @property
    def _title(self) -> str:
        return self.spectrum.id or (
            Path(self.spectrum.path).name if self.spectrum.path else "a spectrum in memory"
        )

    def _said(self) -> str:
        """One sentence on whether to believe it, and what to do next."""
        text: str = made_elsewhere("report.verdict", "verdict")(self).text
        return text

    def _trust(self) -> str:
        flags = ", ".join((*self.flag_bad, *self.flag_warn)) or "no flags"
        return f"{self.verdict}, {self.method}, k-hat {self.khat:.2f}, ESS {self.ess:.0f} of {len(self.draws)}; {flags}"

    def in_words(self) -> list[tuple[str, str]]:
        """Mean and total error of each label, and the statistical one where that is less: ``("teff", "4751 ± 119 K (± 12)")``.

        A rotation of which only a limit is known is told as that: ``("v_sini", "< 4.5 km/s (95 %)")``.
        """
        told, between = [], self.systematic
        limits: dict[str, float] = made_elsewhere("report.verdict", "upper_limits")(self)
        for name, entry in self.summary().items():
            if name in limits:
                told.append((name, f"< {number(limits[name], 1)} {entry['unit']} (95 %)"))
                continue
            total = between[name].std if name in between else entry["std"]
            text = with_error(entry["mean"], total, entry["unit"])
            if name in between:
                text += f" (± {number(entry['std'], digits_for(entry['std']))})"
            told.append((name, text))
        return told

    @cached_property
    def certificate(self) -> dict[str, Certificate]:
        """Of each label: Monte-Carlo errors and effective draws of mean and percentiles, and whether its tail is known."""
        raw = None
        # Draws of nested sampling, and of the prior in place of a star's, have no importance weights.
        if self.method != "nested" and "no_star" not in self.flag_bad:
            raw = self.log_likelihood + self.log_prior - self.log_proposal
        return certify(self.labels, self.draws, self.log_weights, raw)

    @cached_property
    def windows(self) -> tuple[Window, ...]:
        """Stretches of the spectrum that tell most of the labels, which pictures show; see `maury.posterior.windows`."""
        found: tuple[Window, ...] = made_elsewhere("posterior.windows", "windows_of")(self)
        return found

    @property
    def efficiency(self) -> float:
        """Effective sample size over draws."""
        return self.ess / len(self.draws)

    def quantile(self, name: str, q: float) -> float:
        """Quantile of one label; the value of a label that was held."""
        if name in self.held:
            return self.held[name]
        return super().quantile(name, q)

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

    @property
    def v_bary(self) -> dict[str, float] | None:
        """Barycentric velocity, km/s: the same statistics as ``summary()["v_rad"]``; None where no correction is known."""
        correction = self.spectrum.v_correction
        if correction is None or "v_rad" in self.held:
            return None
        v_rad = self.summary()["v_rad"]
        moved = {key: add_velocities(v_rad[key], correction) for key in (*QUANTILES, "mean")}
        return moved | {"std": v_rad["std"]}

    @property
    def p_predictive(self) -> float | None:
        """Smallest p-value of the residuals' checks; None where they were not checked."""
        return None if self.diagnostics.misfit is None else self.diagnostics.misfit.p_predictive

    @property
    def p_novelty(self) -> float | None:
        """Share of simulations that lie as far out in feature space; None where that is not known."""
        return None if self.diagnostics.misfit is None else self.diagnostics.misfit.p_novelty

    @property
    def systematic(self) -> Mapping[str, BetweenLibraries]:
        """Labels with the error between libraries added; nothing where it is not known."""
        return self.diagnostics.systematic

    def without_zero_points(self) -> Posterior:
        """Return it with the library's zero points subtracted from the elements of ``diagnostics``; draws stay those of the likelihood."""
        corrected = tuple(entry.without_zero_point() for entry in self.diagnostics.abundances)
        return replace(self, diagnostics=replace(self.diagnostics, abundances=corrected))

    @property
    def verdict(self) -> Kind:
        """``"verified"``, ``"flagged"``, or ``"unusable"``."""
        return verdict_of(self.flag_bad, self.flag_warn, self.method)

    def again(self, **changes: Any) -> Posterior:
        """Infer the spectrum again, some choices changed: ``masks=[(15900, 15950)]``, ``priors={"logg": maury.Normal(2.6, 0.1)}``.

        Takes the keywords of `maury.infer`; see `maury.inference.infer.infer_again`.
        """
        found: Posterior = made_elsewhere("inference.infer", "infer_again")(self, **changes)
        return found

    def moves(self, other: Posterior) -> dict[str, float]:
        """How far the median of each label is from here to another posterior, in statistical errors of this one."""
        here, there = self.summary(), other.summary()
        return {
            name: (there[name]["p50"] - entry["p50"]) / max(entry["std"], 1e-300)
            for name, entry in here.items()
            if name in there
        }

    def to_json(self) -> dict[str, Any]:
        """One line of the command line's ``--json`` output."""
        return line(self)

    def row(self) -> dict[str, Any]:
        """One row of ``summary.ecsv``, with the column names of SDSS's astra."""
        return row(self)

    def to_datatree(self) -> xr.DataTree:
        """Return what `save` writes; see `maury.posterior.store`."""
        return made_elsewhere("posterior.store", "datatree")(self)

    def save(self, path: str | Path) -> None:
        """Write draws, spectrum and fit as netCDF (read by `maury.load`); the file appears whole or not at all.

        Raises
        ------
        InferenceError
            If it cannot be written.
        """
        made_elsewhere("posterior.store", "write")(self.to_datatree(), path)

    def plot_corner(
        self,
        truth: Mapping[str, float] | None = None,
        labels: Sequence[str] | None = None,
        jitter: bool = False,
    ) -> Figure:
        """Corner plot of the verified posterior over the flow's, or of some labels: ``labels=["teff", "mg_m", "si_m"]``.

        Elements that were asked for are shown where they are named; ``jitter`` shows the nuisance.
        """
        return made_elsewhere("report.plots", "corner_figure")(self, truth, labels, jitter)

    def plot_fit(self) -> Figure:
        """Observed spectrum and residual over the whole range, and with the model, below, the windows that tell most of the labels."""
        return made_elsewhere("report.plots", "fit_figure")(self)

    def plot_companion(self, low: float, high: float) -> Figure:
        """Observed spectrum from ``low`` to ``high`` (Angstrom, vacuum) with both stars' light, and each star's alone.

        Raises
        ------
        InferenceError
            If no companion was fitted, or the posterior was loaded from a file.
        """
        return made_elsewhere("report.plots", "companion_figure")(self, low, high)

    def to_arviz(self, **options: Any) -> Any:
        """``InferenceData`` (ArviZ 0.x) or ``DataTree`` (1.x), draws equally weighted; see `maury.interop.arviz.to_arviz`."""
        return made_elsewhere("interop.arviz", "to_arviz")(self, **options)

    def to_specutils(self, unit: str | None = None) -> SpecutilsPair:
        """Observed spectrum and model as ``specutils.Spectrum``; see `maury.interop.spectra.to_specutils`."""
        return made_elsewhere("interop.spectra", "to_specutils")(self, unit)

    def to_votable(self, content: str = "draws", **options: Any) -> VOTableFile:
        """VOTable of the ``"draws"`` or the ``"summary"``, with units and UCDs; see `maury.interop.votable.votable`."""
        return made_elsewhere("interop.votable", "votable")(self, content, **options)

    def to_pandas(self, **options: Any) -> pandas.DataFrame:
        """Return a table of the draws, equally weighted unless ``weighted=True``; see `maury.posterior.draws.to_pandas`."""
        return to_pandas(self, **options)

    def corner_arrays(self, *, nuisance: bool = False) -> CornerArrays:
        """Draws, weights and axis names for `corner.corner`; see `maury.posterior.draws.corner_arrays`."""
        return corner_arrays(self, nuisance=nuisance)

    def send(self, client: str | None = "topcat", **options: Any) -> list[str]:
        """Send the draws or the summary to TOPCAT, Aladin or another program by SAMP; see `maury.interop.samp.send`."""
        return made_elsewhere("interop.samp", "send")(self, client, **options)
