"""`maury.sampling.verify` on tasks of the benchmark sbibm (Lueckmann et al. 2021, arXiv:2101.04653), against its reference posteriors.

    python -m pip download --no-deps sbibm==1.1.0
    python benchmarks/sbibm_tasks.py sbibm-1.1.0-py2.py3-none-any.whl

The references and observations are read from the wheel; nothing of it is installed or run. C2ST is the accuracy of sbibm's classifier
(`c2st` below is its definition): 0.5 where the two sets of draws cannot be told apart.
"""

from __future__ import annotations

import argparse
import bz2
import json
import math
import time
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.distributions import (
    Categorical,
    Distribution,
    Independent,
    MixtureSameFamily,
    MultivariateNormal,
    Uniform,
)

from maury import sampling

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Task:
    """A task of the benchmark: a log likelihood of an observation, under a uniform prior."""

    name: str
    dim: int
    bound: float
    log_likelihood: Callable[[Tensor, Tensor], Tensor]

    @property
    def bounds(self) -> tuple[list[float], list[float]]:
        return [-self.bound] * self.dim, [self.bound] * self.dim

    @property
    def prior(self) -> Distribution:
        low, high = (torch.tensor(b, dtype=torch.float64) for b in self.bounds)
        return Independent(Uniform(low, high, validate_args=False), 1)

    def log_density(self, observation: Tensor) -> Callable[[Tensor], Tensor]:
        """Log likelihood times the prior's density, inside its bounds."""
        volume = self.dim * math.log(2 * self.bound)
        return lambda x: self.log_likelihood(x, observation) - volume


def _gaussian(x: Tensor, observation: Tensor) -> Tensor:
    return -0.5 * ((x - observation) ** 2).sum(1) / 0.1 - 0.5 * x.shape[1] * math.log(2 * math.pi * 0.1)


def _two_moons(x: Tensor, observation: Tensor) -> Tensor:
    """Density of a half ring of radius 0.1 +- 0.01 about (0.25, 0), moved by the parameters."""
    half = math.sqrt(0.5)
    p0 = observation[0] + (half * (x[:, 0] + x[:, 1])).abs()
    p1 = observation[1] - half * (x[:, 1] - x[:, 0])
    u = p0 - 0.25
    r = torch.sqrt(u**2 + p1**2)
    value = (
        -0.5 * ((r - 0.1) / 0.01) ** 2
        - math.log(0.01)
        - 0.5 * math.log(2 * math.pi)
        - r.log()
        - math.log(math.pi)
    )
    return torch.where(u > 0, value, -math.inf)


def _slcp(x: Tensor, observation: Tensor) -> Tensor:
    """Four draws of a two-dimensional Gaussian whose mean and covariance are the parameters."""
    data = observation.reshape(4, 2)
    s1, s2, rho = x[:, 2] ** 2, x[:, 3] ** 2, torch.tanh(x[:, 4])
    a, b, c = s1**2 + 1e-6, rho * s1 * s2, s2**2 + 1e-6
    det = a * c - b**2
    d0, d1 = data[:, 0] - x[:, :1], data[:, 1] - x[:, 1:2]
    chi2 = (c[:, None] * d0**2 - 2 * b[:, None] * d0 * d1 + a[:, None] * d1**2) / det[:, None]
    return -0.5 * chi2.sum(1) - 2 * det.log() - 4 * math.log(2 * math.pi)


TASKS = {
    task.name: task
    for task in (
        Task("gaussian_linear_uniform", 10, 1.0, _gaussian),
        Task("two_moons", 2, 1.0, _two_moons),
        Task("slcp", 5, 3.0, _slcp),
    )
}


def rough(draws: Array, seed: int = 0, components: int = 30, width: float = 0.3) -> Distribution:
    """Return a proposal as a briefly trained flow might be: a broad mixture about a few draws."""
    rng = np.random.default_rng(seed)
    centres = torch.from_numpy(draws[rng.choice(len(draws), components, replace=False)])
    covariance = width**2 * torch.diag(torch.from_numpy(draws.var(0)))
    shape = covariance.expand(components, -1, -1)
    return MixtureSameFamily(Categorical(torch.ones(components).double()), MultivariateNormal(centres, shape))


def c2st(x: Array, y: Array, seed: int = 1, max_iter: int = 10_000) -> float:
    """Accuracy of a small neural network that tells two sets of draws ``(n, dim)`` apart, by 5-fold cross-validation; sbibm's."""
    from sklearn.model_selection import KFold, cross_val_score
    from sklearn.neural_network import MLPClassifier

    mean, std = x.mean(0), x.std(0, ddof=1)
    data = np.concatenate([(x - mean) / std, (y - mean) / std])
    target = np.concatenate([np.zeros(len(x)), np.ones(len(y))])
    network = MLPClassifier((10 * x.shape[1],) * 2, max_iter=max_iter, solver="adam", random_state=seed)
    folds = KFold(n_splits=5, shuffle=True, random_state=seed)
    return float(cross_val_score(network, data, target, cv=folds, scoring="accuracy").mean())


def reference(wheel: Path, task: Task, number: int) -> tuple[Tensor, Array]:
    """Observation and draws of the reference posterior ``(10000, dim)``."""
    folder = f"sbibm/tasks/{task.name}/files/num_observation_{number}"
    with zipfile.ZipFile(wheel) as archive:
        observation = archive.read(f"{folder}/observation.csv").decode().splitlines()[1]
        draws = bz2.decompress(archive.read(f"{folder}/reference_posterior_samples.csv.bz2")).decode()
    rows = np.array([line.split(",") for line in draws.splitlines()[1:]], dtype=np.float64)
    return torch.tensor([float(v) for v in observation.split(",")], dtype=torch.float64), rows


def judge(
    task: Task, observation: Tensor, expected: Array, proposal: Any, number: int = 2000, seed: int = 1
) -> dict[str, Any]:
    """Verify a proposal and compare as many draws as are wanted with the reference's."""
    began = time.perf_counter()
    found = sampling.verify(
        task.log_density(observation), proposal, bounds=task.bounds, draws=max(5000, 10 * number), seed=seed
    )
    seconds = time.perf_counter() - began
    drawn = found.sample(number, seed)
    return {
        "task": task.name,
        "c2st": c2st(drawn, expected[:number]),
        "khat": found.khat,
        "ess": found.ess,
        "log_evidence": found.log_evidence,
        "method": found.method,
        "evaluations": found.evaluations,
        "seconds": seconds,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("wheel", type=Path)
    parser.add_argument("--observations", type=int, default=3)
    parser.add_argument("--number", type=int, default=2000)
    parser.add_argument("--tasks", nargs="*", default=list(TASKS))
    given = parser.parse_args()
    torch.set_num_threads(1)
    for name in given.tasks:
        task = TASKS[name]
        for number in range(1, given.observations + 1):
            observation, expected = reference(given.wheel, task, number)
            for kind, proposal in (("prior", task.prior), ("rough", rough(expected[::10]))):
                found = judge(task, observation, expected, proposal, given.number)
                print(json.dumps({"observation": number, "proposal": kind} | found), flush=True)


if __name__ == "__main__":
    main()
