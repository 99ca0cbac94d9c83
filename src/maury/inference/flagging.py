"""Whether a posterior deserves a flag; what each means, and from where on it is raised, stands in `maury.posterior.flags`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray

from maury.constants import C_KMS
from maury.inference.refine import Verified
from maury.inference.second_light import second_light
from maury.labels import LabelSet
from maury.likelihood.fit import Fit
from maury.likelihood.influence import Influence
from maury.likelihood.pixels import DEGREE, usable_pixels
from maury.likelihood.target import Target
from maury.likelihood.ties import Tied
from maury.models import Model, NetworkInput
from maury.networks.prepare import Preparation
from maury.posterior.certificate import certify
from maury.posterior.diagnostics import Misfit, SecondLight
from maury.posterior.flags import FLAGS
from maury.posterior.predictive import checked, stretches, worst
from maury.posterior.result import Posterior
from maury.quantities import Role
from maury.spectra.spectrum import Spectrum

Array = NDArray[np.float64]
# Bounds at which a star may rightly sit: no rotation that can be seen, no model error that can be seen.
_NATURAL_BOUNDS = {("v_sini", "low"), ("jitter", "low")}
# Of a chip, whose pulls on the velocity count as independent: each is some lines wide.
_STRETCHES = 40
# Standard deviations of a label's move that are laid to chance when a stretch is left out: of a dozen stretches and labels some come near.
_BY_CHANCE = 2.0


def check_misfit(
    verified: Verified,
    best: torch.Tensor,
    influence: Callable[[], Influence],
    fit: Fit,
    spectrum: Spectrum,
    model: Model,
    errors: Mapping[str, float],
    p_novelty: float | None,
    false_alarm: float,
) -> tuple[Misfit, SecondLight | None]:
    """Check a fit by chip and by line, what a stretch that does not fit does to the labels, and whether it is a second star's.

    The latter two are looked at where something is left unexplained: see `Misfit` and `SecondLight`.

    Parameters
    ----------
    verified
        The posterior.
    best
        Its best draw over u, shape ``(n_labels,)``.
    influence
        What gives the posterior as linear about that; it takes time, and most fits need none.
    fit
        There.
    spectrum, model
        What was observed, and with what it was explained.
    errors
        Total errors of the star's labels, by name.
    p_novelty, false_alarm
        See `Misfit`. Labels; the continuum's coefficients are counted as well.
    """
    labels, degree = verified.target.labels, model.problem.degree
    theta = labels.from_normal(best)
    v_rad = float(theta[labels.index("v_rad")]) if "v_rad" in labels.names else model.problem.held["v_rad"]
    # Degrees of freedom that the fit took: of labels and of the continua.
    taken = len(labels) + ((DEGREE if degree is None else degree) + 1) * len(spectrum.grid.chips)
    members = stretches(fit, spectrum.grid, v_rad)
    checks = checked(fit, members, taken)
    limit = false_alarm / max(2 * len(checks), 1)
    wrong = [check.name for check in checks if check.p_value < limit]
    autocorrelated = verified.residuals is not None and verified.residuals.used
    second = None
    if wrong or autocorrelated:
        second = second_light(influence())
        moves = influence().without(members[name] for name in wrong)
        in_errors = {name: _farthest(labels, *of, errors) for name, of in zip(wrong, moves, strict=True)}
        checks = [
            replace(check, moves=in_errors[check.name][0], label=in_errors[check.name][1])
            if check.name in in_errors
            else check
            for check in checks
        ]
    return Misfit(tuple(checks), worst(checks), p_novelty, false_alarm), second


def _farthest(
    labels: LabelSet, moves: Array, by_chance: Array, errors: Mapping[str, float]
) -> tuple[float, str]:
    """Largest move beyond what chance explains, in units of the errors, and of which label."""
    beyond = np.clip(np.abs(moves) - _BY_CHANCE * by_chance, 0.0, None)
    return max((float(beyond[labels.index(name)]) / e, name) for name, e in errors.items() if e > 0)


def warnings(verified: Verified, fit: Fit, spectrum: Spectrum, model: Model, labels: LabelSet) -> list[str]:
    """Return flags under which the numbers stand."""
    theta = labels.from_normal(verified.draws.u).numpy()
    weights = (verified.log_weights - torch.logsumexp(verified.log_weights, 0)).exp().numpy()
    jitter = labels.place(Role.nuisance)
    scatter = 0.0 if jitter is None else float(weights @ theta[:, jitter])
    if verified.residuals is not None and verified.residuals.used:
        scatter = float(np.hypot(scatter, np.median(verified.residuals.correlation.deviation)))
    limit = FLAGS["average_lsf"]["kms"]
    slow = "v_sini" in labels.names and weights @ (theta[:, labels.index("v_sini")] < limit) > 0.5
    inside = usable_pixels(spectrum, model.forward, model.labels)
    found = _at_bounds(labels, theta, weights)
    mass = verified.modes.log_mass
    found += ["second_mode"] * (int((mass > mass.max() - FLAGS["second_mode"]["nats"]).sum()) > 1)
    found += ["high_jitter"] * (scatter > FLAGS["high_jitter"]["error"])
    found += ["poor_fit"] * (fit.rchi2_jitter > FLAGS["poor_fit"]["rchi2"])
    found += ["low_snr"] * (spectrum.snr < FLAGS["low_snr"]["snr"])
    found += ["rejected_pixels"] * (
        float(np.mean(~spectrum.good[inside])) > FLAGS["rejected_pixels"]["share"]
    )
    found += ["average_lsf"] * bool(model.forward.emulator.contained is not None and slow)
    found += ["assumed_lsf"] * spectrum.lsf_is_assumed
    found += ["hits"] * ("hits" in spectrum.meta)
    found += ["outliers"] * (verified.outliers > 0)
    found += ["khat"] * (verified.khat > FLAGS["khat"]["khat"])
    return found + _unknown_tails(verified, labels, theta)


def _unknown_tails(verified: Verified, labels: LabelSet, theta: Array) -> list[str]:
    """Return flags ``tail:<label>`` of labels whose tail is not known, where that of the weights is."""
    of = FLAGS["tail"]
    if verified.method == "nested" or verified.khat > of["khat"]:
        return []
    raw, smooth = verified.draws.log_weights.numpy(), verified.log_weights.numpy()
    told = certify(labels, theta, smooth, raw)
    return [
        f"{of.name}:{name}" for name, one in told.items() if one.khat is not None and one.khat > of["khat"]
    ]


def _at_bounds(labels: LabelSet, theta: Array, weights: Array) -> list[str]:
    """Return flags ``at_bound:<label>`` of labels whose posterior piles up at an end of the prior."""
    flags, of = [], FLAGS["at_bound"]
    for i, label in enumerate(labels.labels):
        margin = of["margin"] * (label.prior.high - label.prior.low)
        ends = {
            "low": theta[:, i] < label.prior.low + margin,
            "high": theta[:, i] > label.prior.high - margin,
        }
        if any(
            weights @ near > of["share"] and (label.name, end) not in _NATURAL_BOUNDS
            for end, near in ends.items()
        ):
            flags.append(f"{of.name}:{label.name}")
    return flags


def disagreement(posteriors: Sequence[Posterior]) -> list[str]:
    """Return ``library_disagreement`` where libraries of like evidence differ in a label by more than a few errors."""
    of, best = FLAGS["library_disagreement"], max(posteriors, key=lambda p: p.log_evidence)
    summary = best.summary()
    for other in posteriors:
        if other is best or other.log_evidence < best.log_evidence - of["nats"]:
            continue
        theirs = other.summary()
        for name in set(best.stellar.names) & set(other.stellar.names):
            a, b = summary[name], theirs[name]
            if abs(a["p50"] - b["p50"]) > of["sigma"] * float(np.hypot(a["std"], b["std"])):
                return [of.name]
    return []


def faults(
    target: Target[Tied], theta: torch.Tensor, log_evidence: float, fit: Fit, spectrum: Spectrum,
    preparation: Preparation | None, network_input: NetworkInput,
) -> list[str]:  # fmt: skip
    """Return flags under which the numbers mean nothing.

    Parameters
    ----------
    target
        The exact posterior.
    theta
        Its best labels, shape ``(n_labels,)``.
    log_evidence
        Of the star.
    fit, spectrum
        At those labels.
    preparation
        Of the estimator, if it has a `Preparation`.
    network_input
        As of `to_model_grid`.
    """
    found = ["no_star"] * (log_evidence < featureless(target, theta) + FLAGS["no_star"]["nats"])
    found += ["emission"] * is_emission_dominated(fit)
    wrong = chips_disagree(target, theta, fit)
    if not wrong and preparation is not None:
        wrong = is_far_away(preparation, network_input.flux, network_input.ivar)
    return found + ["wrong_frame"] * wrong


def featureless(target: Target[Tied], theta: torch.Tensor) -> float:
    """Highest log likelihood of a spectrum without lines: the continuum alone, with whatever jitter it takes."""
    # Nuisances are small departures from a star's spectrum: without one there are none.
    likelihood, full = target.likelihood.pixels.without_nuisances(), target.likelihood.complete(theta)
    rows = full.repeat(40, 1)
    jitter = target.labels.place(Role.nuisance)
    if jitter is not None:
        prior = target.labels.labels[jitter].prior
        rows[:, likelihood.jitter] = torch.from_numpy(np.geomspace(prior.low, 0.5, len(rows)))
    flat = torch.ones(len(rows), likelihood.n_pixels, dtype=torch.float64, device=likelihood.flux.device)
    return float(likelihood.log_prob(rows, flat).max())


def is_emission_dominated(fit: Fit) -> bool:
    """Tell whether emission lines take up more area over the model than absorption lines below the continuum."""
    level = abs(float(np.median(fit.continuum)))
    spread = 1.4826 * float(np.median(np.abs(fit.residual - np.median(fit.residual))))
    of = FLAGS["emission"]
    line = fit.residual > max(of["sigma"] * spread, of["height"] * level)
    absorbed = float(np.sum(np.clip(fit.continuum - fit.flux, 0, None)))
    return float(fit.residual[line].sum()) > absorbed


def chips_disagree(target: Target[Tied], theta: torch.Tensor, fit: Fit) -> bool:
    """Tell whether the chips' own velocities differ by more errors and km/s than `wrong_frame` allows."""
    velocity, error = chip_velocities(target, theta, fit)
    if len(velocity) < 2:
        return False
    mean = np.average(velocity, weights=error**-2)
    far = np.abs(velocity - mean)
    of = FLAGS["wrong_frame"]
    return bool(np.any((far > of["sigma"] * error) & (far > of["kms"])))


@torch.no_grad()
def chip_velocities(target: Target[Tied], theta: torch.Tensor, fit: Fit) -> tuple[Array, Array]:
    """Velocity of each chip relative to the whole spectrum's, by one Gauss-Newton step, and its error, km/s."""
    likelihood, full = target.likelihood.pixels.without_nuisances(), target.likelihood.complete(theta)
    # What nuisances have taken of the chips' velocities is a part of them.
    fit = likelihood.fit(full)
    step = 0.5
    ends = full.repeat(2, 1)
    for i, name in enumerate(likelihood.model.label_names):
        if name in ("v_rad", "v_rad_2"):
            ends[:, i] += torch.tensor([-step, step], dtype=torch.float64)
    low, high = likelihood.spectra(ends).cpu().numpy()
    slope = (high - low) / (2 * step) * fit.continuum / fit.sigma
    z = fit.residual / fit.sigma
    velocity, error = [], []
    for chip in np.unique(likelihood.chip):
        member = likelihood.chip == chip
        information = float(slope[member] @ slope[member])
        if information > 0:
            step = float(slope[member] @ z[member]) / information
            velocity.append(step)
            # Scatter above the noise counts as noise.
            noise = max(1.0, float(np.mean(z[member] ** 2))) / information
            # Pixels of a line that the library has at a wrong place or depth pull alike: stretches of lines are independent, not pixels
            # (the sandwich estimate of clustered data). Without it the red chip of every M dwarf is 6 errors off.
            pull = slope[member] * (z[member] - slope[member] * step)
            pulls = np.array([stretch.sum() for stretch in np.array_split(pull, _STRETCHES)])
            error.append(max(noise, float(pulls @ pulls) / information**2) ** 0.5)
    return np.array(velocity), np.array(error)


@torch.no_grad()
def is_far_away(preparation: Preparation, flux: torch.Tensor, ivar: torch.Tensor) -> bool:
    """Tell whether a star matches much better at a velocity outside the prior, within 3000 km/s, than at any inside."""
    normalised, weights = preparation.normalise(flux, ivar)
    templates = preparation.templates
    n = 2 * normalised.shape[1]
    data = torch.fft.rfft(weights * (normalised - 1), n)
    weight = torch.fft.rfft(weights, n)
    match = torch.fft.irfft(data * torch.fft.rfft(templates, n).conj(), n)
    norm = torch.fft.irfft(weight * torch.fft.rfft(templates.square(), n).conj(), n)
    lag = torch.fft.fftfreq(n, 1 / n)
    velocity = C_KMS * torch.tanh(lag * preparation.dlnw).double()
    # A template that hangs over the end is judged by what is left of it.
    gain = match.clamp_min(0).square() / norm.clamp_min(0.05 * float(norm.max()))
    best = gain.max(0).values
    low, high = preparation.v_rad
    inside = (velocity >= low) & (velocity <= high)
    of = FLAGS["wrong_frame"]
    outside = ~inside & (velocity.abs() < of["far"])
    a, b = float(best[inside].max()), float(best[outside].max())
    return b > of["ratio"] * a and b - a > of["gain"]
