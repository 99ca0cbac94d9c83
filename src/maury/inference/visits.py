"""Several visits of one star: one set of stellar labels, a velocity a visit, and whether the velocity varies.

The joint likelihood is the product of the visits', each with its own line-spread function, noise, continuum, jitter and correlation of
residuals. Whether the star moves is asked of the evidence: one velocity at the barycentre against one a visit.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from warnings import warn

import numpy as np
import torch
from torch import Tensor

from maury.batching import alone
from maury.constants import BUDGET, C_KMS, FALSE_ALARM
from maury.errors import InferenceError, MauryWarning
from maury.forward.doppler import add_velocities
from maury.inference.arguments import several_spectra
from maury.inference.batch import infer_single
from maury.inference.light import own_light
from maury.inference.options import Options
from maury.labels import Label, LabelSet, label
from maury.likelihood.nuisances import DEFAULT as NUISANCES
from maury.likelihood.nuisances import Choice
from maury.likelihood.residuals import Noise
from maury.likelihood.target import Target
from maury.likelihood.ties import Product, Tied, for_several
from maury.models import DEFAULT, Model, load_model
from maury.posterior.joint import JointPosterior
from maury.posterior.result import Posterior
from maury.priors import PriorLike, Uniform
from maury.quantities import Role, quantity
from maury.sampling.modes import find_modes
from maury.sampling.proposal import DOF_MANY, FEW_DIMENSIONS, Mixture, StudentT
from maury.sampling.verification import Weighed, weigh
from maury.spectra.spectrum import Spectrum

# Importance draws a round of each visit by itself, whose moments are where the joint posterior is looked for.
_DRAWS_ALONE = 1000
_DOF = 8
_WIDE, _WIDE_SHARE = 2.0, 0.1


def infer_visits(
    spectra: Sequence[Spectrum],
    model: Model | str | Path = DEFAULT,
    *,
    draws: int = 2000,
    seed: int = 0,
    priors: Mapping[str, PriorLike] | None = None,
    noise: Noise = "auto",
    false_alarm: float = FALSE_ALARM,
    masks: Sequence[tuple[float, float]] = (),
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
    model
        Name, folder, or a loaded model, the same for all.
    draws
        Importance draws a round of the joint posterior; each visit by itself takes 1000.
    seed
        The same seed gives the same draws on the same device.
    priors
        Priors that replace the model's, by label, of every visit; as for `maury.infer`.
    noise
        How the pixels of each visit scatter: ``"auto"``, ``"independent"`` or ``"correlated"``; as for `maury.infer`.
    false_alarm
        Share of good spectra that may be flagged ``misfit``, and ``novel``.
    masks
        Ranges of wavelength to leave out of every spectrum, vacuum Angstrom in its own frame, ``(from, to)`` each.
    budget
        Likelihoods that each spectrum may take by itself.
    nuisances
        What else the model is uncertain of, integrated out of each spectrum: ``"default"``, ``"none"``, or names and nuisances of one's
        own; as for `maury.infer`.
    progress
        Told what stage begins; what it raises ends the inference.

    Raises
    ------
    InferenceError
        If there are fewer than two spectra, one cannot be inferred, or the model holds velocity or jitter.

    Examples
    --------
    >>> star = infer_visits([read_spectrum(f) for f in files])  # doctest: +SKIP
    >>> star.velocity_variation > 5  # doctest: +SKIP
    """
    options = Options(
        draws,
        seed,
        priors or {},
        noise,
        false_alarm=false_alarm,
        masks=masks,
        budget=budget,
        nuisances=nuisances,
    )
    return infer_visits_with(spectra, model, options, progress)


def infer_visits_with(
    spectra: Sequence[Spectrum],
    model: Model | str | Path,
    options: Options,
    progress: Callable[[str], None] = lambda _: None,
) -> JointPosterior:
    """Infer one star from several spectra, with options that are made already; see `infer_visits`. No second star is looked for."""
    began = time.perf_counter()
    kept, told = _with_own_light(several_spectra(spectra))
    model = model if isinstance(model, Model) else load_model(model)
    if held := [name for name in model.problem.held if quantity(name).role != Role.stellar]:
        raise InferenceError(f"{model.name} holds {' and '.join(held)}: visits have nothing of their own")
    by_itself, visits = replace(options, draws=_DRAWS_ALONE, companion="no"), []
    for i, spectrum in enumerate(kept, start=1):
        progress(f"visit {i} of {len(kept)}")
        visits.append(infer_single(spectrum, model, by_itself))
    star = _jointly(visits, options, progress)
    return replace(star, seconds=time.perf_counter() - began, left_out=tuple(told))


def _with_own_light(spectra: Sequence[Spectrum]) -> tuple[list[Spectrum], list[dict[str, Any]]]:
    """Return the spectra that hold light of their own, two or more, and of the others file, index and why; warns of each."""
    kept, left_out = own_light(spectra)
    told = []
    for one in left_out:
        spectrum = spectra[one.number]
        place = f" [{spectrum.index}]" if spectrum.index else ""
        told.append({"file": spectrum.path, "index": spectrum.index, "reason": one.reason})
        warn(f"{spectrum.path or spectrum.id}{place}: left out, it {one.reason}", MauryWarning, stacklevel=4)
    if len(kept) < 2:
        left = f" beside {len(left_out)} that hold no light of their own" if left_out else ""
        raise InferenceError(f"joint inference needs at least two spectra, not {len(kept)}{left}")
    return [spectra[i] for i in kept], told


def _jointly(
    visits: Sequence[Posterior], options: Options, progress: Callable[[str], None]
) -> JointPosterior:
    """Sample the product of the visits' likelihoods, with a velocity each and with one for all."""
    generator = torch.Generator().manual_seed(options.seed)
    progress("jointly")
    target, start = _varying(visits)
    found, best, spent = _sample(target, start, options.draws, generator)
    corrections = [visit.spectrum.v_correction for visit in visits]
    constant = None
    if all(c is not None for c in corrections):
        progress("with one velocity")
        still, start = _constant(visits, [float(c) for c in corrections if c is not None])
        constant, _, more = _sample(still, start, options.draws, generator)
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
        seconds=0.0,
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
        for one in visit.labels:
            joint, a, b = one.name, 1.0, 0.0
            if one.role is Role.velocity:
                joint, a, b = velocity(i)
            elif one.role is Role.nuisance:
                joint = one.quantity.of(visit=i + 1).name
            places.append(names.index(joint))
            scale.append(a)
            offset.append(b)
        assert visit.target is not None
        own = visit.target.likelihood
        # What labels follow among real stars is a prior, and counts once.
        pixels = own.pixels if i == 0 else replace(own.pixels, related=())
        if pixels.linear is not None:
            shared = for_several(pixels.nuisances, len(visits))
            pixels = replace(pixels, nuisances=shared).linearised(pixels.linear.labels)
        own = replace(own, pixels=pixels)
        parts.append(
            own.tied(
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
