"""Markov chains as references: emcee, which Gupta et al. 2024 ran beside their flow, and NUTS on the differentiable model.

Both sample the exact posterior over ``u``, in which the prior is N(0, I) and no bound is felt; a chain that starts at the verified
draws has nothing to find, only to confirm.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from maury.errors import ConfigError, InferenceError

MOVES = ("stretch", "de", "walk", "kde")


class LogPosterior(Protocol):
    """What chains need of a posterior over u; a `maury.sampling.density.Density` is one."""

    @property
    def dim(self) -> int:
        """Number of coordinates."""

    def log_prob(self, u: Tensor) -> Tensor:
        """Log posterior up to the evidence, shape ``(n,)``, of ``u (n, dim)``."""

    def parameters(self, u: Tensor) -> Tensor:
        """Return what ``u (..., dim)`` stands for."""


class Differentiable(LogPosterior, Protocol):
    """What needs gradients asks for besides."""

    def log_prob_with_gradient(self, u: Tensor) -> Tensor:
        """Return `log_prob`, differentiable in u by automatic differentiation."""


class ChainConfig(BaseModel):
    """How long chains run, and how their walkers move.

    A chain stops when it is ``taus`` autocorrelation times long, that time has changed by less than ``tolerance`` since the last look,
    and the split R-hat of every label is below ``rhat``.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    walkers: int = Field(64, ge=4)
    steps: int = Field(5000, gt=0, description="most steps of each walker")
    look: int = Field(200, gt=0, description="steps between looks at the stop rule")
    moves: Mapping[str, float] = Field(
        {"de": 0.8, "stretch": 0.2}, description="emcee's moves with their weights"
    )
    taus: float = Field(50, gt=0)
    tolerance: float = Field(0.05, gt=0)
    rhat: float = Field(1.01, gt=1)


@dataclass(frozen=True)
class Chains:
    """What a sampler found.

    Attributes
    ----------
    u
        Draws after the burn-in, shape ``(n_steps, n_walkers, n_labels)``.
    theta
        The same as labels.
    log_prob
        Log posterior but for the evidence, shape ``(n_steps, n_walkers)``.
    tau
        Integrated autocorrelation time of each label, steps, shape ``(n_labels,)``.
    rhat
        Split R-hat of each label, shape ``(n_labels,)``.
    acceptance
        Mean share of proposals that were accepted.
    evaluations
        Likelihoods computed; for NUTS, gradients.
    converged
        Whether the stop rule ended the run, not its length.
    """

    u: NDArray[np.float64]
    theta: NDArray[np.float64]
    log_prob: NDArray[np.float64]
    tau: NDArray[np.float64]
    rhat: NDArray[np.float64]
    acceptance: float
    evaluations: int
    converged: bool

    @property
    def draws(self) -> NDArray[np.float64]:
        """All draws as labels, shape ``(n, n_labels)``."""
        return self.theta.reshape(-1, self.theta.shape[-1])


def split_rhat(u: NDArray[np.float64]) -> NDArray[np.float64]:
    """Potential scale reduction of chains ``(n_steps, n_chains, n_labels)`` cut in halves (Gelman et al. 2013, ch. 11.4)."""
    half = len(u) // 2
    if half < 2:
        return np.full(u.shape[-1], math.inf)
    parts = np.concatenate([u[:half], u[half : 2 * half]], axis=1)
    within = parts.var(axis=0, ddof=1).mean(axis=0)
    between = parts.mean(axis=0).var(axis=0, ddof=1)
    return np.asarray(np.sqrt((half - 1) / half + between / np.maximum(within, 1e-300)))


def ensemble_rhat(u: NDArray[np.float64], groups: int = 4) -> NDArray[np.float64]:
    """Split R-hat of an ensemble, its walkers in a few groups end to end: one walker alone is too short to tell."""
    n = u.shape[1] // groups * groups
    joined = u[:, :n].reshape(len(u), groups, -1, u.shape[-1]).swapaxes(1, 2)
    return split_rhat(joined.reshape(-1, groups, u.shape[-1]))


def _moves(weights: Mapping[str, float]) -> list[tuple[Any, float]]:
    from emcee import moves

    # emcee's snooker move (3.1.6) is left out: it lacks half of its Jacobian, and draws a fifth too narrow.
    known = {
        "stretch": moves.StretchMove,
        "de": moves.DEMove,
        "walk": moves.WalkMove,
        "kde": moves.KDEMove,
    }
    for name in weights:
        if name not in known:
            raise ConfigError(f"moves: no move {name!r}; there are {', '.join(MOVES)}")
    return [(known[name](), weight) for name, weight in weights.items()]


def emcee_chains(
    target: LogPosterior,
    start: Tensor,
    config: ChainConfig | None = None,
    *,
    seed: int = 0,
    backend: Path | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Chains:
    """Sample with emcee's ensemble; the walkers' likelihoods are computed side by side.

    Parameters
    ----------
    target
        The exact posterior.
    start
        Points ``(n, n_labels)`` over u near which the walkers begin; taken in turn.
    config
        Length, moves and stop rule.
    seed
        Of all moves.
    backend
        HDF5 file that keeps the chains; a run that was stopped goes on from it.
    progress
        Told steps done and the most there can be.

    Raises
    ------
    ConfigError
        If a move is unknown, there are too few walkers, or the file holds the chains of another problem.
    InferenceError
        If no walker starts where the posterior has any density.
    """
    import emcee

    config = config or ChainConfig()
    d = target.dim
    if config.walkers < 2 * d + 2:
        raise ConfigError(f"walkers: {d} labels need at least {2 * d + 2}, not {config.walkers}")

    def log_prob(u: NDArray[np.float64]) -> NDArray[np.float64]:
        values: NDArray[np.float64] = target.log_prob(torch.from_numpy(u)).numpy()
        return np.where(np.isfinite(values), values, -np.inf)

    store = emcee.backends.HDFBackend(str(backend)) if backend else emcee.backends.Backend()
    done = _steps_done(store, backend, config.walkers, d)
    if not done:
        store.reset(config.walkers, d)
    sampler = emcee.EnsembleSampler(
        config.walkers, d, log_prob, moves=_moves(config.moves), vectorize=True, backend=store
    )
    state: Any = None
    if not done:
        rng = np.random.default_rng(seed)
        points = start[torch.arange(config.walkers) % len(start)].numpy()
        points = points + 0.1 * start.std(0).clamp_min(1e-6).numpy() * rng.normal(size=points.shape)
        if not np.isfinite(log_prob(points)).any():
            raise InferenceError("MCMC: no walker starts where the posterior has any density")
        state = emcee.State(points, random_state=np.random.RandomState(seed).get_state())
    converged, before = False, np.full(d, np.inf)
    while done < config.steps and not converged:
        state = sampler.run_mcmc(state, min(config.look, config.steps - done), skip_initial_state_check=True)
        done = int(sampler.iteration)
        progress(done, config.steps)
        tau = sampler.get_autocorr_time(tol=0)
        kept = sampler.get_chain(discard=_burn_in(tau, done))
        converged = bool(
            np.all(done > config.taus * tau)
            and np.all(np.abs(before - tau) < config.tolerance * tau)
            and np.all(ensemble_rhat(kept) < config.rhat)
        )
        before = tau
    tau = sampler.get_autocorr_time(tol=0)
    burn_in = _burn_in(tau, done)
    u = sampler.get_chain(discard=burn_in)
    return Chains(
        u,
        target.parameters(torch.from_numpy(u)).numpy(),
        sampler.get_log_prob(discard=burn_in),
        tau,
        ensemble_rhat(u),
        float(np.mean(sampler.acceptance_fraction)),
        done * config.walkers,
        converged,
    )


def _burn_in(tau: NDArray[np.float64], done: int) -> int:
    longest = float(np.max(tau))
    return min(int(5 * longest), done // 2) if math.isfinite(longest) else done // 2


def _steps_done(store: Any, path: Path | None, walkers: int, d: int) -> int:
    """Return steps that a file holds already."""
    if path is None or not path.exists():
        return 0
    try:
        shape, iteration = tuple(store.shape), int(store.iteration)
    except (OSError, KeyError, AttributeError) as error:
        raise ConfigError(f"{path}: is no file of emcee's chains ({error}); remove it") from None
    if iteration and shape != (walkers, d):
        raise ConfigError(
            f"{path}: holds {shape[0]} walkers of {shape[1]} labels, not {walkers} of {d}; remove it"
        )
    return iteration


def nuts_chains(
    target: Differentiable,
    start: Tensor,
    *,
    draws: int = 1000,
    warmup: int = 200,
    chains: int = 2,
    seed: int = 0,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Chains:
    """Sample with Pyro's no-U-turn sampler, by gradients of the forward model.

    Parameters
    ----------
    target
        The exact posterior.
    start
        Points ``(n, n_labels)`` over u, such as verified draws: their covariance is the first metric.
    draws, warmup, chains
        Draws a chain, those before that adapt step and metric, and chains.
    seed
        Of all draws.
    progress
        Told draws done and their number.
    """
    import pyro
    from pyro.infer.mcmc import NUTS

    # The sampler's coordinates are of order 1: posteriors are far narrower than the prior.
    centre = start.mean(0)
    factor = torch.linalg.cholesky(torch.cov(start.T) + 1e-12 * torch.eye(len(centre)).to(start))
    gradients, all_u, all_log_prob, accepted = 0, [], [], []

    def potential(parameters: Mapping[str, Tensor]) -> Tensor:
        nonlocal gradients
        gradients += 1
        return -target.log_prob_with_gradient((centre + factor @ parameters["z"])[None])[0]

    for chain in range(chains):
        pyro.set_rng_seed(seed + chain)
        kernel = NUTS(potential_fn=potential, full_mass=True, max_tree_depth=7)
        whitened = torch.linalg.solve_triangular(
            factor, (start[chain % len(start)] - centre)[:, None], upper=False
        )
        kernel.initial_params = {"z": whitened[:, 0].clone()}
        kernel.setup(warmup)
        state, kept = kernel.initial_params, []
        for i in range(warmup + draws):
            state = kernel.sample(state)
            if i >= warmup:
                kept.append(centre + factor @ state["z"].detach())
            progress(chain * (warmup + draws) + i + 1, chains * (warmup + draws))
        accepted.append(float(kernel._mean_accept_prob))
        kernel.cleanup()
        all_u.append(torch.stack(kept))
        all_log_prob.append(target.log_prob(all_u[-1]))
    from emcee.autocorr import integrated_time

    u = torch.stack(all_u, dim=1).numpy()
    return Chains(
        u,
        target.parameters(torch.from_numpy(u)).numpy(),
        torch.stack(all_log_prob, dim=1).numpy(),
        integrated_time(u, quiet=True),
        split_rhat(u),
        float(np.mean(accepted)),
        gradients,
        bool(np.all(split_rhat(u) < 1.02)),
    )
