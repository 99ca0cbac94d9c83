"""The result of inference on several visits of one star."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from maury.display import card
from maury.forward.doppler import add_velocities
from maury.likelihood.fit import Fit
from maury.posterior.flags import FLAGS
from maury.posterior.result import Posterior
from maury.posterior.summary import WeightedDraws, made_elsewhere

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.figure import Figure


@dataclass(frozen=True, repr=False)
class JointPosterior(WeightedDraws):
    """Posterior of one star from several visits.

    Attributes
    ----------
    labels
        Shared labels, then ``v_rad_1 ..`` and ``jitter_1 ..``.
    draws, log_weights, khat, ess, log_evidence
        As of `Posterior`, each visit with a velocity of its own.
    log_evidence_constant
        Of one velocity at the barycentre for all; None where a correction is not known.
    khat_constant
        Shape of the weights behind that.
    visits
        The posterior of each visit alone.
    fits
        Model and residual of each visit at the best joint draw.
    corrections
        Barycentric correction of each visit, km/s, or None.
    seconds, evaluations
        Time, and likelihood evaluations of single visits.
    left_out
        Spectra that hold no light of their own: file, index, and why.
    """

    khat: float
    ess: float
    log_evidence: float
    log_evidence_constant: float | None
    khat_constant: float | None
    visits: Sequence[Posterior]
    fits: Sequence[Fit]
    corrections: Sequence[float | None]
    seconds: float
    evaluations: int
    left_out: Sequence[Mapping[str, Any]] = ()

    def __repr__(self) -> str:
        return f"<JointPosterior of {self._title}: {', '.join(f'{name} {text}' for name, text in self.in_words())}; {self._trust()}>"

    def _repr_html_(self) -> str:
        header = ("label", "mean ± standard deviation")
        found = made_elsewhere("report.verdict", "judge")(self.flag_bad, self.flag_warn, "refined")
        facts = [("", self._trust())]
        title = f"Joint posterior of {self._title}"
        return card(title, facts, header, self.in_words(), found.text, found.brief)

    @property
    def _title(self) -> str:
        return f"{len(self.visits)} visits of {self.visits[0].spectrum.id or 'one star'}"

    def _trust(self) -> str:
        flags = ", ".join((*self.flag_bad, *self.flag_warn)) or "no flags"
        return f"k-hat {self.khat:.2f}, ESS {self.ess:.0f} of {len(self.draws)}; {flags}"

    def to_datatree(self) -> xr.DataTree:
        """Return what `save` writes; see `maury.posterior.store`."""
        return made_elsewhere("posterior.store", "joint_datatree")(self)

    def save(self, path: str | Path) -> None:
        """Write the draws, and every visit's posterior, as netCDF (read by `maury.load_joint`); the file appears whole or not at all.

        Raises
        ------
        InferenceError
            If it cannot be written.
        """
        made_elsewhere("posterior.store", "write")(self.to_datatree(), path)

    def plot_corner(self, truth: dict[str, float] | None = None) -> Figure:
        """Corner plot of the star's labels, a velocity a visit, with the truth where it is known."""
        return made_elsewhere("report.plots", "corner_of_draws")(self, truth)

    def plot_visits(self) -> Figure:
        """Velocities of the visits, and each visit's own labels beside the joint ones."""
        return made_elsewhere("report.plots", "visits_figure")(self)

    @property
    def velocity_variation(self) -> float | None:
        """Log of the evidence for a velocity a visit over one for all; above 5 the star is called variable."""
        if self.log_evidence_constant is None:
            return None
        return self.log_evidence - self.log_evidence_constant

    @property
    def flag_warn(self) -> tuple[str, ...]:
        """``variable_velocity``, ``khat``, and the flags of single visits with their number."""
        variation = self.velocity_variation
        variable, khat = FLAGS["variable_velocity"], FLAGS["khat"]
        found = [variable.name] * (variation is not None and variation > variable["nats"])
        found += [khat.name] * (self.khat > khat["khat"])
        found += [f"{flag}[{i + 1}]" for i, visit in enumerate(self.visits) for flag in visit.flag_warn]
        return tuple(found)

    @property
    def flag_bad(self) -> tuple[str, ...]:
        """Flags of single visits with their number."""
        return tuple(f"{flag}[{i + 1}]" for i, visit in enumerate(self.visits) for flag in visit.flag_bad)

    def v_bary(self) -> list[float | None]:
        """Median barycentric velocity of each visit, km/s; None where no correction is known."""
        medians = [self.summary()[f"v_rad_{i + 1}"]["p50"] for i in range(len(self.visits))]
        return [
            None if c is None else add_velocities(v, c)
            for v, c in zip(medians, self.corrections, strict=True)
        ]

    def to_json(self) -> dict[str, Any]:
        """One line of ``maury infer --joint --json``."""
        summary = self.summary()
        v_bary = self.v_bary()
        visits = [
            {
                "file": visit.spectrum.path,
                "index": visit.spectrum.index,
                "v_rad": summary.pop(f"v_rad_{i + 1}"),
                "v_bary": v_bary[i],
                "jitter": summary.pop(f"jitter_{i + 1}"),
                "rchi2": self.fits[i].rchi2,
                "rchi2_jitter": self.fits[i].rchi2_jitter,
            }
            for i, visit in enumerate(self.visits)
        ]
        return {
            "model": self.visits[0].model,
            "labels": summary,
            "visits": visits,
            "left_out": [dict(one) for one in self.left_out],
            "velocity_variation": self.velocity_variation,
            "log_evidence": self.log_evidence,
            "log_evidence_constant": self.log_evidence_constant,
            "ess": self.ess,
            "draws": len(self.draws),
            "khat": self.khat,
            "seconds": self.seconds,
            "flag_warn": list(self.flag_warn),
            "flag_bad": list(self.flag_bad),
        }
