"""The flow's posterior of a spectrum: a density to propose from, and a first look at many spectra at once, without verification."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from maury.errors import InferenceError, LabelError, ModelError
from maury.inference.arguments import MOST_DRAWS, one_each, whole_number
from maury.labels import LabelSet
from maury.models import ALL_MASKED, Model, NetworkInput, to_model_grid
from maury.networks.conformal import FILE as CONFORMAL
from maury.networks.conformal import Conformal
from maury.networks.context import Context
from maury.networks.estimator import Estimator
from maury.posterior.diagnostics import BetweenLibraries
from maury.posterior.flags import FLAGS
from maury.posterior.summary import QUANTILES, summarise
from maury.priors import log_standard_normal
from maury.sampling.proposal import Proposal
from maury.spectra.spectrum import Spectrum

# Draws that measure how much of a flow lies outside narrower priors, and the least share that is given to the prior there.
_PROBES, _FEWEST_OUTSIDE = 256, 1e-3


class Flow(Proposal):
    """A flow's density of one spectrum's labels, under priors that may be narrower than those it was trained for.

    Draws outside the narrower support, a share ``outside`` of all, are replaced by draws from the prior there.

    Parameters
    ----------
    estimator, context
        The flow, and its context of one spectrum or of several.
    labels
        The estimator's labels with the priors wanted, without nuisances.
    row
        Of the spectrum in the context.

    Raises
    ------
    LabelError
        If a prior reaches beyond the one that the estimator was trained for, or there are other labels.
    """

    def __init__(self, estimator: Estimator, context: Context, labels: LabelSet, row: int = 0) -> None:
        self.estimator, self.context, self.labels, self.row = estimator, context, labels, row
        trained = estimator.labels
        if labels.names != trained.names:
            raise LabelError(
                f"the estimator infers {', '.join(trained.names)}, not {', '.join(labels.names)}"
            )
        for label, wide in zip(labels, trained, strict=True):
            if label.prior.low < wide.prior.low or label.prior.high > wide.prior.high:
                raise LabelError(
                    f"prior of {label.name}: [{label.prior.low:g}, {label.prior.high:g}] reaches beyond "
                    f"[{wide.prior.low:g}, {wide.prior.high:g}], for which the model was trained"
                )
        self.same = labels == trained
        self._outside: float | None = None

    @property
    def outside(self) -> float:
        """Share of the estimator's draws that lie outside the narrower priors; measured once, by draws of its own."""
        _measure([self])
        return self._outside or 0.0

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        """Draw ``(n, n_labels)``."""
        return self.samples([(self, n, generator)])[0]

    def log_prob(self, u: Tensor) -> Tensor:
        """Log density, shape ``(n,)``."""
        return self.log_probs([(self, u)])[0]

    def _inside(self, theta: Tensor) -> Tensor:
        """Which labels ``(n, n_labels)`` the narrower priors allow."""
        return ((theta >= self.labels.low) & (theta <= self.labels.high)).all(1)

    def _brought_inside(self, u: Tensor, generator: torch.Generator) -> Tensor:
        """Take the estimator's draws to the narrower priors."""
        if self.same:
            return u
        theta = self.estimator.labels.from_normal(u)
        inside = self._inside(theta)
        prior = torch.randn(u.shape, generator=generator, dtype=torch.float64)
        moved = self.labels.to_normal(theta.clamp(self.labels.low, self.labels.high))
        return torch.where(inside[:, None], moved, prior)

    def _there(self, u: Tensor) -> Tensor:
        """Points of the narrower priors in the estimator's coordinates."""
        return u if self.same else self.estimator.labels.to_normal(self.labels.from_normal(u))

    def _from_there(self, u: Tensor, there: Tensor, log_prob: Tensor) -> Tensor:
        """Log density over ``u``, from the estimator's at ``there``."""
        if self.same:
            return log_prob
        moved = log_prob + self.labels.log_abs_det(u) - self.estimator.labels.log_abs_det(there)
        # Far out in u the two maps meet the bound itself, and their ratio loses its meaning.
        moved = torch.where(moved.isfinite(), moved, -math.inf)
        prior = log_standard_normal(u).sum(-1) + math.log(self.outside)
        return torch.logaddexp(moved, prior)

    @classmethod
    def samples(cls, asked: Sequence[tuple[Flow, int, torch.Generator]]) -> list[Tensor]:
        """Draw ``(n_i, n_labels)`` of each flow; flows that share an estimator and a context are evaluated in one pass."""
        found: dict[int, Tensor] = {}
        for members in _sharing([flow for flow, *_ in asked]):
            first = asked[members[0]][0]
            context = first.context.take(torch.tensor([asked[i][0].row for i in members]))
            u = first.estimator.sample_each(
                [asked[i][1] for i in members], context, [asked[i][2] for i in members]
            )
            for i, x in zip(members, u, strict=True):
                flow, _, generator = asked[i]
                found[i] = flow._brought_inside(x, generator)
        return [found[i] for i in range(len(asked))]

    @classmethod
    @torch.no_grad()
    def log_probs(cls, asked: Sequence[tuple[Flow, Tensor]]) -> list[Tensor]:
        """Log density ``(n_i,)`` of each flow at its points ``u (n_i, n_labels)``; in one pass, as `samples`."""
        _measure([flow for flow, _ in asked])
        found: dict[int, Tensor] = {}
        for members in _sharing([flow for flow, _ in asked]):
            first = asked[members[0]][0]
            there = [asked[i][0]._there(asked[i][1]) for i in members]
            lengths = torch.tensor([len(x) for x in there])
            rows = torch.tensor([asked[i][0].row for i in members]).repeat_interleave(lengths)
            log_prob = first.estimator.log_prob(torch.cat(there), first.context.take(rows))
            parts = zip(members, there, log_prob.split(lengths.tolist()), strict=True)
            found |= {i: asked[i][0]._from_there(asked[i][1], x, part) for i, x, part in parts}
        return [found[i] for i in range(len(asked))]


@torch.no_grad()
def _measure(flows: Sequence[Flow]) -> None:
    """Measure the share outside of those flows that do not know theirs, in one pass: it is the same whatever was drawn before."""
    todo = [flow for flow in flows if not flow.same and flow._outside is None]
    for members in _sharing(todo):
        first = todo[members[0]]
        context = first.context.take(torch.tensor([todo[i].row for i in members]))
        generators = [torch.Generator().manual_seed(0) for _ in members]
        each = first.estimator.sample_each([_PROBES] * len(members), context, generators, even=True)
        for i, u in zip(members, each, strict=True):
            outside = ~todo[i]._inside(first.estimator.labels.from_normal(u))
            todo[i]._outside = float(outside.double().mean().clamp(_FEWEST_OUTSIDE, 1))


def _sharing(flows: Sequence[Flow]) -> list[list[int]]:
    groups: dict[tuple[int, int], list[int]] = {}
    for i, flow in enumerate(flows):
        groups.setdefault((id(flow.estimator), id(flow.context)), []).append(i)
    return list(groups.values())


T = TypeVar("T")


def prepared(
    spectra: Sequence[Spectrum], model: Model, work: Callable[[int, Spectrum], T]
) -> list[T | Exception]:
    """Do something with each spectrum as the model's instrument observes it; what goes wrong with one is kept in its place."""
    found: list[T | Exception] = []
    for i, spectrum in enumerate(spectra):
        try:
            if not spectrum.good.any():
                raise InferenceError(ALL_MASKED, "all_masked")
            found.append(work(i, model.observed(spectrum)))
        except Exception as error:
            found.append(error)
    return found


@torch.no_grad()
def encoded(inputs: Sequence[NetworkInput], model: Model) -> tuple[Context, list[float | None]]:
    """Return the estimator's context of several spectra, and of each its p-value of novelty; inputs are as of `to_model_grid`."""
    flux, ivar = torch.cat([one.flux for one in inputs]), torch.cat([one.ivar for one in inputs])
    profiles = [one.seen for one in inputs if one.seen is not None]
    context = model.estimator.context(flux, ivar, torch.cat(profiles) if profiles else None)
    if model.novelty is None:
        return context, [None] * len(inputs)
    return context, [float(p) for p in model.novelty.p_value(model.estimator, flux, ivar, context)]


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
    conformal
        By what its intervals are recalibrated; None where they are the draws'.
    """

    labels: LabelSet
    draws: NDArray[np.float64]
    spectrum: Spectrum
    model: str
    p_novelty: float | None
    conformal: Conformal | None = None

    flag_bad: ClassVar[tuple[str, ...]] = ()
    systematic: ClassVar[Mapping[str, BetweenLibraries]] = {}

    @property
    def flag_warn(self) -> tuple[str, ...]:
        """``low_snr`` where it applies; the others need the likelihood."""
        low = FLAGS["low_snr"]
        return (low.name,) * (self.spectrum.snr < low["snr"])

    @property
    def method(self) -> str:
        """``flow``, or ``flow, conformal`` where its intervals are recalibrated."""
        return "flow" if self.conformal is None else "flow, conformal"

    def quantile(self, name: str, q: float) -> float:
        """Quantile of one label; of a recalibrated posterior the end of the central interval that holds truths as often as it says."""
        if self.conformal is not None:
            q = self.conformal.quantile(name, q)
        return float(np.quantile(self.draws[:, self.labels.index(name)], q))

    def summary(self) -> dict[str, dict[str, Any]]:
        """Percentiles 16, 50, 84, mean, standard deviation and unit of each label; percentiles as of `quantile`."""
        equal = np.full(len(self.draws), 1 / len(self.draws))
        found = summarise(self.labels, self.draws, equal)
        if self.conformal is not None:
            for name, entry in found.items():
                entry |= {key: self.quantile(name, q) for key, q in QUANTILES.items()}
        return found


@torch.no_grad()
def amortised(
    spectra: Sequence[Spectrum],
    model: Model,
    draws: int = 64,
    seeds: Sequence[int] | int = 0,
    *,
    conformal: bool = False,
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
    conformal
        Whether intervals are recalibrated (`maury.networks.conformal`): they then hold truths as often as they say, on average over the
        prior, however wrong the flow is.

    Returns
    -------
    list
        Of each spectrum what was found, or the error that says why nothing could be.

    Raises
    ------
    ModelError
        If the model has nothing to recalibrate by.
    """
    if conformal and model.conformal is None:
        raise ModelError(
            f"model {model.name} has no {CONFORMAL}: maury check calibration --output DIR writes one, to be copied into the model's folder"
        )
    seeds = one_each(seeds, len(spectra))
    draws = whole_number(draws, "draws", 1, MOST_DRAWS)
    estimator, labels = model.estimator, model.estimator.labels
    inputs = prepared(spectra, model, lambda _, spectrum: to_model_grid(spectrum, model))
    usable = [i for i, one in enumerate(inputs) if not isinstance(one, Exception)]
    found: list[Any] = list(inputs)
    if not usable:
        return found
    context, novelty = encoded([one for one in inputs if not isinstance(one, Exception)], model)
    generators = [torch.Generator().manual_seed(seeds[i]) for i in usable]
    u = torch.stack(estimator.sample_each([draws] * len(usable), context, generators, even=True))
    theta = labels.from_normal(u.flatten(0, 1)).unflatten(0, (len(usable), draws)).numpy()
    for row, i in enumerate(usable):
        by = model.conformal if conformal else None
        found[i] = Amortised(labels, theta[row], spectra[i], model.name, novelty[row], by)
    return found
