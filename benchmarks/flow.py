"""The flow by itself: whether it is calibrated, how near it is to the exact posterior, and how fast it is.

PYTHONPATH=src python benchmarks/flow.py --model marcs-apogee --number 500 --weighed 150 --output docs/results/flow/marcs-apogee.json

Spectra are those of `maury check calibration`: native pixels of visits, each batch of 25 through a fibre of its own, nuisances drawn from
their priors. Of some, and of all that hardly rotate, draws are weighed with the exact likelihood, jitter integrated out.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from itertools import islice
from pathlib import Path

import numpy as np
import torch

from maury.checks.calibration import REAL_MASKS, SEEDS, information_limit, simulated_spectra
from maury.checks.coverage import (
    central_credibility,
    coverage,
    highest_density_credibility,
    tarp_credibility,
)
from maury.inference.flow import amortised, encoded
from maury.models import Model, load_model, to_model_grid
from maury.networks.conformal import Conformal
from maury.networks.context import Context
from maury.priors import log_standard_normal
from maury.sampling.importance import effective_sample_size
from maury.spectra.spectrum import Spectrum
from maury.training.simulations import Observing

DRAWS, WEIGHED, NODES, BATCH, FEWEST = 500, 160, 7, 25, 20
SLOW = 5.0
BINS = {
    "all": lambda row: True,
    "v_sini 0-5": lambda row: row["v_sini"] < SLOW,
    "v_sini 5-15": lambda row: SLOW <= row["v_sini"] < 15,
    "snr 10-30": lambda row: row["snr"] < 30,
    "teff below 4500": lambda row: row["teff"] < 4500,
}


@torch.no_grad()
def weigh(model: Model, spectrum: Spectrum, context: Context, theta: torch.Tensor, seed: int) -> float:
    """Effective share of draws of the flow, weighed with the exact posterior; nuisances are linear about the true labels."""
    problem, estimator = model.problem, model.estimator
    inferred = problem.inferred
    free = theta[problem.columns(inferred)]
    likelihood = (
        problem.likelihood(spectrum, nuisances="default").with_reference_continuum(free).linearised(free)
    )
    generator = torch.Generator().manual_seed(seed)
    u = estimator.sample(WEIGHED, context, generator)
    log_q = estimator.log_prob(u, context.repeat(len(u)))
    stellar = estimator.labels.from_normal(u)
    place = inferred.index("jitter")
    prior = inferred["jitter"].prior

    def at(jitter: torch.Tensor, stars: torch.Tensor) -> torch.Tensor:
        """Log likelihood ``(n_jitters, n_stars)``, the model of each star computed once."""
        rows = torch.cat([stars[:, :place], stars.new_zeros(len(stars), 1), stars[:, place:]], 1)
        whole = likelihood.complete(rows)
        spectra = torch.cat([likelihood.pixels.spectra(part) for part in whole.split(32)])
        found = []
        for value in jitter.tolist():
            whole[:, likelihood.pixels.jitter] = value
            found.append(
                torch.cat(
                    [
                        likelihood.pixels.log_prob(a, b)
                        for a, b in zip(whole.split(64), spectra.split(64), strict=True)
                    ]
                )
            )
        return torch.stack(found)

    grid = torch.linspace(-4, 4, 61, dtype=torch.float64)
    truth = free[None, [i for i in range(len(free)) if i != place]]
    first = at(prior.from_normal(grid), truth)[:, 0] + log_standard_normal(grid)
    near = grid[first > first.max() - 12]
    nodes = torch.linspace(float(near[0]) - 0.1, float(near[-1]) + 0.1, NODES, dtype=torch.float64)
    # Trapezoids in u of the jitter, in which its prior is N(0, 1).
    log_l = torch.logsumexp(at(prior.from_normal(nodes), stellar) + log_standard_normal(nodes)[:, None], 0)
    log_w = log_l + log_standard_normal(u).sum(1) - log_q
    return effective_sample_size(log_w) / len(u) if bool(log_w.isfinite().any()) else 0.0


def judged(values: np.ndarray) -> dict[str, float]:
    """Largest error of coverage, its 99 % band, and the share within 68.3 %."""
    share = {"share_in_68": float(np.mean(values < 0.683))}
    if len(values) < FEWEST:
        return share
    found = coverage(values)
    return {"error": found.error, "band": found.band, **share}


def speed(model: Model, seconds: float) -> dict[str, float]:
    """Spectra a second of one thread, 64 draws each, 32 side by side; and of its parts, by the processor's clock."""
    spectra = [one for one, *_ in simulated_spectra(model, 32, "native", 11)]
    torch.set_num_threads(1)
    amortised(spectra, model)
    began, clock, n = time.perf_counter(), time.process_time(), 0
    while time.perf_counter() - began < seconds:
        amortised(spectra, model)
        n += len(spectra)
    return {
        "spectra_per_second": n / (time.perf_counter() - began),
        "spectra_per_processor_second": n / (time.process_time() - clock),
    }


def main() -> None:
    """Measure, and write the figures."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", default="marcs-apogee")
    parser.add_argument("--number", type=int, default=500)
    parser.add_argument("--weighed", type=int, default=150)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--conformal", type=Path, help="where to write what intervals are recalibrated by")
    options = parser.parse_args()
    model = load_model(options.model)
    labels = model.estimator.labels
    observing = Observing(masked=REAL_MASKS, nuisances="default")
    rows: list[dict[str, float]] = []
    store = options.output.with_suffix(".rows.jsonl")
    if store.exists():
        rows = [json.loads(line) for line in store.read_text(encoding="utf-8").splitlines()]
    start = len(rows) // BATCH * BATCH
    rows = rows[:start]
    store.parent.mkdir(parents=True, exist_ok=True)
    spectra = simulated_spectra(model, options.number, "native", options.seed, observing, start)
    with store.open("w", encoding="utf-8") as file:
        for row in rows:
            file.write(json.dumps(row) + "\n")
        while batch := list(islice(spectra, BATCH)):
            for row in of_batch(model, batch, len(rows), options.seed, options.weighed):
                rows.append(row)
                file.write(json.dumps(row) + "\n")
            file.flush()
    if options.conformal:
        ranks = {
            name: central_credibility(np.array([r[f"rank_{name}"] for r in rows])) for name in labels.names
        }
        Conformal.of(ranks | {"joint": np.array([r["joint"] for r in rows])}).save(options.conformal)
    options.output.write_text(json.dumps(figures(model, rows), indent=1) + "\n", encoding="utf-8")


@torch.no_grad()
def of_batch(
    model: Model, batch: list[tuple[Spectrum, torch.Tensor, float]], start: int, seed: int, weighed: int
) -> list[dict[str, float]]:
    """Judge the flow on some spectra, the first of them of number ``start``."""
    estimator, problem = model.estimator, model.problem
    labels = estimator.labels
    contexts, _ = encoded([to_model_grid(spectrum, model) for spectrum, *_ in batch], model)
    generators = [torch.Generator().manual_seed(seed + start + k) for k in range(len(batch))]
    draws = estimator.sample_each([DRAWS] * len(batch), contexts, generators, even=True)
    equal = np.full(DRAWS, 1 / DRAWS)
    rows = []
    for k, (spectrum, theta, snr) in enumerate(batch):
        u_truth = labels.to_normal(theta[None, problem.columns(labels)])
        u = torch.cat([u_truth, draws[k]])
        log_q = estimator.log_prob(u, contexts[k].repeat(len(u)))
        generator = torch.Generator().manual_seed((seed + 1) * SEEDS + start + k)
        reference = torch.randn(len(labels), generator=generator, dtype=torch.float64)
        at = u.clamp(-8, 8).numpy()
        free = theta[problem.columns(problem.inferred)]
        limit = information_limit(problem.likelihood(spectrum, nuisances="default"), free, problem.inferred)[
            1
        ]
        named = dict(zip(model.labels.names, theta.tolist(), strict=True))
        row = {
            "teff": named["teff"], "v_sini": named["v_sini"], "snr": snr, "limit": limit,
            "joint": highest_density_credibility(log_q[1:].numpy(), equal, float(log_q[0])),
            "tarp": tarp_credibility(at[1:], equal, at[0], reference.numpy()),
            "log_density": float(log_q[0] - labels.log_abs_det(u_truth)[0] + labels.std.log().sum()),
        }  # fmt: skip
        below = equal @ (draws[k] < u_truth).double().numpy()
        row |= {f"rank_{name}": float(x) for name, x in zip(labels.names, below, strict=True)}
        if start + k < weighed or named["v_sini"] < SLOW:
            row["efficiency"] = weigh(model, spectrum, contexts[k], theta, seed + start + k)
        rows.append(row)
    return rows


def figures(model: Model, rows: list[dict[str, float]]) -> dict[str, object]:
    """Sum up, over all and in bins."""
    out: dict[str, object] = {
        "model": model.name,
        "command": "PYTHONPATH=src python benchmarks/flow.py",
        "spectra": len(rows),
        "pixels": "native, fibre to fibre, nuisances drawn",
        "speed": speed(model, 20.0),
    }
    for name, member in BINS.items():
        these = [row for row in rows if member(row)]
        if len(these) < 10:
            continue
        weighed = [row["efficiency"] for row in these if "efficiency" in row]
        gap = np.array([row["limit"] - row["log_density"] for row in these])
        out[name] = {
            "spectra": len(these),
            "joint": judged(np.array([row["joint"] for row in these])),
            "tarp": judged(np.array([row["tarp"] for row in these])),
            "log_density_mean": float(np.mean([row["log_density"] for row in these])),
            "information_limit_with_prior_mean": float(np.mean([row["limit"] for row in these])),
            "below_limit_median": float(np.median(gap)),
            "efficiency_median": float(np.median(weighed)) if weighed else math.nan,
            "efficiency_p16": float(np.quantile(weighed, 0.16)) if weighed else math.nan,
            "weighed": len(weighed),
        }
    return out


if __name__ == "__main__":
    main()
