"""Proposals of other packages: torch distributions, and posteriors of sbi, LAMPE and BayesFlow at one observation."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from maury.errors import InferenceError
from maury.sampling.proposal import Proposal


class Sampler(Protocol):
    """What can be sampled and has a density: ``sample`` takes a shape ``(n,)``, as torch's distributions do, or a number."""

    @property
    def sample(self) -> Callable[..., Any]:
        """Draw."""

    @property
    def log_prob(self) -> Callable[..., Any]:
        """Log density, normalised, of points ``(n, dim)``."""


def as_proposal(source: Any) -> Proposal:
    """Return what can be sampled as a proposal.

    Parameters
    ----------
    source
        A `Proposal`; or a torch distribution, or a posterior of sbi (with its default observation set) or of LAMPE (a flow given its
        context): ``sample((n,))`` and ``log_prob(x)``. Draws are float64 and follow the seed.

    Raises
    ------
    InferenceError
        If it has no ``sample`` or no ``log_prob``.
    """
    if isinstance(source, Proposal):
        return source
    for method in ("sample", "log_prob"):
        if not callable(getattr(source, method, None)):
            raise InferenceError(
                f"a proposal needs sample and log_prob: {type(source).__name__} has no {method}"
            )
    quiet = {"show_progress_bars": False} if "show_progress_bars" in _arguments(source.sample) else {}
    density: dict[str, Any] = {}
    if "norm_posterior" in _arguments(source.log_prob):
        density["norm_posterior"] = True
    return _Outside(
        lambda n: source.sample((n,), **quiet), lambda x: source.log_prob(x, **density), _kind(source)
    )


def from_bayesflow(approximator: Any, conditions: Mapping[str, Any], parameters: Sequence[str]) -> Proposal:
    """Return a BayesFlow posterior (version 2) of one observation as a proposal.

    Parameters
    ----------
    approximator
        A trained approximator, or a workflow, with ``sample`` and ``log_prob``.
    conditions
        The observation, as its ``sample`` takes it: arrays with a leading dimension of 1.
    parameters
        Names of the parameters, each a column or more, in the order in which the log density takes them.
    """
    widths: list[int] = []

    def sample(n: int) -> Any:
        found = approximator.sample(conditions=dict(conditions), num_samples=n)
        columns = [np.asarray(found[name]).reshape(n, -1) for name in parameters]
        widths[:] = [column.shape[1] for column in columns]
        return np.concatenate(columns, axis=1)

    def log_prob(x: Tensor) -> Any:
        n = len(x)
        columns = np.split(x.numpy().astype(np.float32), np.cumsum(widths)[:-1], axis=1)
        repeated = {key: np.repeat(np.asarray(value), n, axis=0) for key, value in conditions.items()}
        return np.asarray(
            approximator.log_prob({**repeated, **dict(zip(parameters, columns, strict=True))})
        ).reshape(n)

    sample(1)
    return _Outside(sample, log_prob, torch.float32)


def _arguments(function: Callable[..., Any]) -> set[str]:
    try:
        return set(inspect.signature(function).parameters)
    except (TypeError, ValueError):
        return set()


def _kind(source: Any) -> torch.dtype:
    """Precision of what a source draws."""
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        quiet = {"show_progress_bars": False} if "show_progress_bars" in _arguments(source.sample) else {}
        drawn = source.sample((1,), **quiet)
    return drawn.dtype if isinstance(drawn, Tensor) else torch.float64


@contextmanager
def _seeded(generator: torch.Generator) -> Any:
    """Let packages that know one global state of randomness follow a generator."""
    seed = int(torch.randint(2**31, (1,), generator=generator))
    before = np.random.get_state()  # noqa: NPY002
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        np.random.seed(seed)  # noqa: NPY002
        try:
            yield
        finally:
            np.random.set_state(before)  # noqa: NPY002


@dataclass(frozen=True)
class _Outside(Proposal):
    """Another package's draws and densities, as float64."""

    drawn: Callable[[int], Any]
    density: Callable[[Tensor], Any]
    kind: torch.dtype

    @torch.no_grad()
    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        with _seeded(generator):
            found = torch.as_tensor(np.asarray(self.drawn(n))) if n else torch.empty(0, 0)
        return found.double().reshape(n, -1)

    @torch.no_grad()
    def log_prob(self, u: Tensor) -> Tensor:
        found = torch.as_tensor(np.asarray(self.density(u.to(self.kind))))
        return found.double().reshape(len(u)).nan_to_num(-torch.inf, torch.inf, -torch.inf)
