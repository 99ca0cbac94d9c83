"""Several visits of one star: one set of stellar labels, a velocity a visit, and whether the velocity varies.

The joint likelihood is the product of the visits', each with its own line-spread function, noise, continuum, jitter and correlation of
residuals. Whether the star moves is asked of the evidence: one velocity at the barycentre against one a visit.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from warnings import warn

import numpy as np
import torch
from torch import Tensor

from maury.batching import alone
from maury.constants import BUDGET, C_KMS
from maury.display import card
from maury.errors import InferenceError, MauryWarning
from maury.forward.doppler import add_velocities
from maury.inference.arguments import MOST_DRAWS, as_seed, several_spectra, whole_number
from maury.inference.infer import infer
from maury.inference.light import own_light
from maury.inference.options import FEWEST_DRAWS
from maury.labels import Label, LabelSet, label
from maury.likelihood.fit import Fit
from maury.likelihood.nuisances import DEFAULT as NUISANCES
from maury.likelihood.nuisances import Choice
from maury.likelihood.residuals import Noise
from maury.likelihood.target import Target
from maury.likelihood.ties import Product, Tied
from maury.models import DEFAULT, Model, load_model
from maury.posterior.flags import FLAGS
from maury.posterior.result import Posterior
from maury.posterior.summary import WeightedDraws, made_elsewhere
from maury.priors import PriorLike, Uniform
from maury.quantities import Role, quantity
from maury.sampling.modes import find_modes
from maury.sampling.proposal import DOF_MANY, FEW_DIMENSIONS, Mixture, StudentT
from maury.sampling.verification import Weighed, weigh
from maury.spectra.spectrum import Spectrum

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_DOF = 8
_WIDE, _WIDE_SHARE = 2.0, 0.1


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
        return card(f"Joint posterior of {self._title}", [("", self._trust())], header, self.in_words())

    @property
    def _title(self) -> str:
        return f"{len(self.visits)} visits of {self.visits[0].spectrum.id or 'one star'}"

    def _trust(self) -> str:
        flags = ", ".join((*self.flag_bad, *self.flag_warn)) or "no flags"
        return f"k-hat {self.khat:.2f}, ESS {self.ess:.0f} of {len(self.draws)}; {flags}"

    def plot_corner(self, truth: dict[str, float] | None = None) -> Figure:
        """Corner plot of the star's labels, a velocity a visit, with the truth where it is known."""
        return made_elsewhere("report.plots", "corner_of_draws")(self, truth)

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


def infer_visits(
    spectra: Sequence[Spectrum],
    model: Model | str | Path = DEFAULT,
    *,
    draws: int = 2000,
    seed: int = 0,
    priors: Mapping[str, PriorLike] | None = None,
    noise: Noise = "auto",
    budget: int = BUDGET,
    nuisances: Choice = NUISANCES,
    progress: Callable[[str], None] = lambda _: None,
) -> JointPosterior:
    """Infer one star's labels from several of its spectra together.

    Parameters
    ----------
    spectra
        Two or more. What was observed once is counted once: spectra with the same pixels, combinations of visits where visits are given,
        and exposures that are given twice are left out, with a `MauryWarning`.
    model, draws, seed, priors, noise, nuisances, progress
        As for `infer`.
    budget
        As for `infer`, of each spectrum by itself.

    Raises
    ------
    InferenceError
        If there are fewer than two spectra, one cannot be inferred, or the model holds velocity or jitter.

    Examples
    --------
    >>> star = infer_visits([read_spectrum(f) for f in files])  # doctest: +SKIP
    >>> star.velocity_variation > 5  # doctest: +SKIP
    """
    began = time.perf_counter()
    spectra = several_spectra(spectra)
    kept, left_out = own_light(spectra)
    told = []
    for one in left_out:
        spectrum = spectra[one.number]
        place = f" [{spectrum.index}]" if spectrum.index else ""
        told.append({"file": spectrum.path, "index": spectrum.index, "reason": one.reason})
        warn(f"{spectrum.path or spectrum.id}{place}: left out, it {one.reason}", MauryWarning, stacklevel=2)
    if len(kept) < 2:
        left = f" beside {len(left_out)} that hold no light of their own" if left_out else ""
        raise InferenceError(f"joint inference needs at least two spectra, not {len(kept)}{left}")
    spectra = [spectra[i] for i in kept]
    seed, draws = as_seed(seed), whole_number(draws, "draws", FEWEST_DRAWS, MOST_DRAWS)
    model = model if isinstance(model, Model) else load_model(model)
    if held := [name for name in model.problem.held if quantity(name).role != Role.stellar]:
        raise InferenceError(f"{model.name} holds {' and '.join(held)}: visits have nothing of their own")
    visits = []
    for i, spectrum in enumerate(spectra):
        progress(f"visit {i + 1} of {len(spectra)}")
        visits.append(
            infer(
                spectrum,
                model,
                draws=1000,
                seed=seed,
                priors=priors,
                noise=noise,
                budget=budget,
                nuisances=nuisances,
            )
        )
    generator = torch.Generator().manual_seed(seed)
    progress("jointly")
    target, start = _varying(visits)
    found, best, spent = _sample(target, start, draws, generator)
    corrections = [spectrum.v_correction for spectrum in spectra]
    constant = None
    if all(c is not None for c in corrections):
        progress("with one velocity")
        still, start = _constant(visits, [float(c) for c in corrections if c is not None])
        constant, _, more = _sample(still, start, draws, generator)
        spent += more
    return JointPosterior(
        labels=target.labels,
        draws=target.labels.from_normal(found.draws.u).numpy(),
        log_weights=found.log_weights.numpy(),
        khat=found.khat,
        ess=found.draws.ess,
        log_evidence=found.draws.log_evidence,
        log_evidence_constant=None if constant is None else constant.draws.log_evidence,
        khat_constant=None if constant is None else constant.khat,
        visits=visits,
        fits=target.likelihood.fits(target.labels.from_normal(best)),
        corrections=corrections,
        seconds=time.perf_counter() - began,
        left_out=tuple(told),
        evaluations=spent * len(visits) + sum(visit.evaluations for visit in visits),
    )


def _sample(
    target: Target[Product], start: Tensor, draws: int, generator: torch.Generator
) -> tuple[Weighed, Tensor, int]:
    """Climb from one start, and weigh Student-t draws about the modes."""
    modes = find_modes(target, start[None])
    dof = _DOF if len(target.labels) <= FEW_DIMENSIONS else DOF_MANY
    mass = torch.softmax(modes.log_mass, 0)
    parts = [
        StudentT(u, f * s, dof) for u, f in zip(modes.u, modes.factor, strict=True) for s in (1.0, _WIDE)
    ]
    share = torch.tensor([1 - _WIDE_SHARE, _WIDE_SHARE], dtype=torch.float64)
    found = alone(weigh(target, Mixture(parts, (mass[:, None] * share).flatten()), draws, generator))
    best = found.draws.u[(found.draws.log_likelihood + found.draws.log_prior).argmax()]
    return found, best, modes.evaluations + len(found.draws.u)


def _moments(posterior: Posterior) -> tuple[Tensor, Tensor]:
    """Mean and covariance of the verified draws over u."""
    u = posterior.labels.to_normal(torch.from_numpy(posterior.draws)).clamp(-6, 6)
    w = torch.from_numpy(posterior.weights)
    mean = w @ u
    offset = u - mean
    return mean, (w[:, None] * offset).T @ offset


Velocity = Callable[[int], tuple[str, float, float]]


def _parts(visits: Sequence[Posterior], names: Sequence[str], velocity: Velocity) -> list[Tied]:
    """Tie each visit's labels to the joint ones; ``velocity`` names its column, scale and offset."""
    parts = []
    for i, visit in enumerate(visits):
        places, scale, offset = [], [], []
        for name in visit.labels.names:
            joint, a, b = name, 1.0, 0.0
            if name == "v_rad":
                joint, a, b = velocity(i)
            elif name == "jitter":
                joint = f"jitter_{i + 1}"
            places.append(names.index(joint))
            scale.append(a)
            offset.append(b)
        assert visit.target is not None
        parts.append(
            visit.target.likelihood.tied(
                torch.tensor(places),
                torch.tensor(scale, dtype=torch.float64),
                torch.tensor(offset, dtype=torch.float64),
            )
        )
    return parts


def _shared(visits: Sequence[Posterior]) -> tuple[LabelSet, Tensor]:
    """Labels that the visits share, and the mean of their posteriors weighed by precision, over u."""
    shared = visits[0].labels.of(Role.stellar)
    columns = [visits[0].labels.index(name) for name in shared.names]
    precision, right = torch.eye(len(columns)).double(), torch.zeros(len(columns)).double()
    for visit in visits:
        mean, covariance = _moments(visit)
        inverse = torch.linalg.inv(covariance[columns][:, columns] + 1e-10 * torch.eye(len(columns)).double())
        precision, right = precision + inverse, right + inverse @ mean[columns]
    return shared, torch.linalg.solve(precision, right)


def _own(visits: Sequence[Posterior], name: str) -> tuple[list[Label], Tensor]:
    """Return one label a visit, and the mean of each over u."""
    labels = [
        Label(v.labels[name].quantity.of(visit=i + 1), v.labels[name].prior) for i, v in enumerate(visits)
    ]
    return labels, torch.stack([_moments(v)[0][v.labels.index(name)] for v in visits])


def _varying(visits: Sequence[Posterior]) -> tuple[Target[Product], Tensor]:
    shared, u = _shared(visits)
    velocities, u_v = _own(visits, "v_rad")
    jitters, u_j = _own(visits, "jitter")
    labels = LabelSet((*shared.labels, *velocities, *jitters))
    parts = _parts(visits, labels.names, lambda i: (f"v_rad_{i + 1}", 1.0, 0.0))
    return Target(Product(parts), labels), torch.cat([u, u_v, u_j])


def _constant(visits: Sequence[Posterior], corrections: Sequence[float]) -> tuple[Target[Product], Tensor]:
    shared, u = _shared(visits)
    jitters, u_j = _own(visits, "jitter")
    priors = [visit.labels["v_rad"].prior for visit in visits]
    low = max(add_velocities(p.low, c) for p, c in zip(priors, corrections, strict=True))
    high = min(add_velocities(p.high, c) for p, c in zip(priors, corrections, strict=True))
    velocity = label("v_bary", Uniform(low=low, high=high))
    values, weights = [], []
    for visit, c in zip(visits, corrections, strict=True):
        entry = visit.summary()["v_rad"]
        values.append(add_velocities(entry["mean"], c))
        weights.append(max(entry["std"], 1e-3) ** -2)
    mean = torch.tensor([np.average(values, weights=weights)], dtype=torch.float64).clamp(low, high)
    labels = LabelSet((*shared.labels, velocity, *jitters))

    def observed(i: int) -> tuple[str, float, float]:
        # v_bary = v + c + v c / c_light, solved for v.
        factor = 1 / (1 + corrections[i] / C_KMS)
        return "v_bary", factor, -corrections[i] * factor

    start = torch.cat([u, velocity.prior.to_normal(mean), u_j])
    return Target(Product(_parts(visits, labels.names, observed)), labels), start
