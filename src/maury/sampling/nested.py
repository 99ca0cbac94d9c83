"""Nested sampling (nautilus), for the few spectra on which importance sampling fails."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from maury.sampling.density import Density
from maury.sampling.importance import Weighted


@dataclass(frozen=True)
class Nested:
    """Weighted draws ``Weighted``, their normalised log weights ``(n,)``, the evidence, and likelihood evaluations spent."""

    draws: Weighted
    log_weights: Tensor
    log_evidence: float
    evaluations: int


def nested_sampling(
    target: Density,
    generator: torch.Generator,
    *,
    live: int = 1000,
    ess: float = 2000,
    progress: Callable[[], None] = lambda: None,
) -> Nested:
    """Sample the exact posterior from the whole prior, whatever its shape.

    Parameters
    ----------
    target
        The posterior over ``u``.
    generator
        Source of the seed.
    live
        Live points.
    ess
        Effective sample size asked for.
    progress
        Called before every batch of likelihoods; what it raises ends the sampling.
    """
    # A second or more to import, for one spectrum in hundreds.
    from nautilus import Sampler

    def to_u(cube: NDArray[np.float64]) -> Tensor:
        return torch.special.ndtri(torch.from_numpy(np.atleast_2d(cube)).clamp(1e-12, 1 - 1e-12))

    def log_likelihood(cube: NDArray[np.float64]) -> NDArray[np.float64]:
        progress()
        values: NDArray[np.float64] = target.log_likelihood(to_u(cube)).numpy()
        return values

    seed = int(torch.randint(2**31, (1,), generator=generator))
    sampler = Sampler(
        lambda cube: cube,
        log_likelihood,
        n_dim=target.dim,
        n_live=live,
        vectorized=True,
        pass_dict=False,
        n_networks=1,
        seed=seed,
    )
    sampler.run(n_eff=ess, discard_exploration=True, verbose=False)
    points, log_weights, log_l = sampler.posterior()
    u = to_u(points)
    weights = torch.from_numpy(np.asarray(log_weights))
    likelihoods = torch.from_numpy(np.asarray(log_l))
    log_prior = target.log_prior(u)
    evidence = float(sampler.log_z)
    # The proposal density that would give these weights: it keeps `Weighted` meaningful.
    log_proposal = likelihoods + log_prior - weights - evidence - np.log(len(u))
    return Nested(Weighted(u, likelihoods, log_prior, log_proposal), weights, evidence, int(sampler.n_like))
