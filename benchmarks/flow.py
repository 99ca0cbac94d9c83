"""The flow by itself: whether it is calibrated, how near it is to the exact posterior, and how fast it is.

PYTHONPATH=src python benchmarks/flow.py --model marcs-apogee --number 500 --weighed 150 --output docs/results/flow/marcs-apogee.json

Spectra are those of `maury check calibration`: native pixels of visits, each batch of 25 through a fibre of its own, nuisances drawn from
their priors. Of some, draws are weighed with the exact likelihood, jitter integrated out.
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

from maury.checks.calibration import REAL_MASKS, SEEDS, _judge_flow, information_limit, simulated_spectra
from maury.checks.coverage import coverage
from maury.inference.flow import amortised
from maury.models import Model, load_model, to_model_grid
from maury.priors import log_standard_normal
from maury.sampling.importance import effective_sample_size
from maury.spectra.spectrum import Spectrum
from maury.training.simulations import Observing

DRAWS, WEIGHED, NODES = 500, 256, 9
BINS = {
    "all": lambda row: True,
    "v_sini 0-5": lambda row: row["v_sini"] < 5,
    "v_sini 5-15": lambda row: 5 <= row["v_sini"] < 15,
    "snr 10-30": lambda row: row["snr"] < 30,
    "teff below 4500": lambda row: row["teff"] < 4500,
}


@torch.no_grad()
def weigh(model: Model, spectrum: Spectrum, theta: torch.Tensor, seed: int) -> float:
    """Effective share of draws of the flow, weighed with the exact posterior; nuisances are linear about the true labels."""
    problem, estimator = model.problem, model.estimator
    inferred = problem.inferred
    free = theta[problem.columns(inferred)]
    likelihood = (
        problem.likelihood(spectrum, nuisances="default").with_reference_continuum(free).linearised(free)
    )
    context = estimator.context(*to_model_grid(spectrum, model))
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
    found = coverage(values)
    return {"error": found.error, "band": found.band, "share_in_68": float(np.mean(values < 0.683))}


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
    options = parser.parse_args()
    model = load_model(options.model)
    labels = model.estimator.labels
    columns = model.problem.columns(model.problem.inferred)
    observing = Observing(masked=REAL_MASKS, nuisances="default")
    rows: list[dict[str, float]] = []
    store = options.output.with_suffix(".rows.jsonl")
    if store.exists():
        rows = [json.loads(line) for line in store.read_text(encoding="utf-8").splitlines()]
    start = len(rows) // 25 * 25
    rows = rows[:start]
    store.parent.mkdir(parents=True, exist_ok=True)
    spectra = simulated_spectra(model, options.number, "native", options.seed, observing, start)
    with store.open("w", encoding="utf-8") as file:
        for row in rows:
            file.write(json.dumps(row) + "\n")
        for i, (spectrum, theta, snr) in enumerate(islice(spectra, options.number - start), start):
            (found,) = amortised([spectrum], model, DRAWS, options.seed + i)
            if isinstance(found, Exception):
                raise found
            generator = torch.Generator().manual_seed((options.seed + 1) * SEEDS + i)
            reference = torch.randn(len(labels), generator=generator, dtype=torch.float64)
            flow = _judge_flow(model, spectrum, theta, found.draws, reference)
            likelihood = model.problem.likelihood(spectrum, nuisances="default")
            limits = information_limit(likelihood, theta[columns], model.problem.inferred)
            named = dict(zip(model.labels.names, theta.tolist(), strict=True))
            row = {
                "teff": named["teff"], "v_sini": named["v_sini"], "snr": snr, "joint": flow.credibility, "tarp": flow.tarp,
                "log_density": flow.log_density, "limit": limits[1],
                **{f"rank_{name}": float(r) for name, r in zip(labels.names, flow.ranks, strict=True)},
            }  # fmt: skip
            if i < options.weighed:
                row["efficiency"] = weigh(model, spectrum, theta, options.seed + i)
            rows.append(row)
            file.write(json.dumps(row) + "\n")
            file.flush()
    options.output.write_text(json.dumps(figures(model, rows), indent=1) + "\n", encoding="utf-8")


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
