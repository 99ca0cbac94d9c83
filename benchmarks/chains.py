"""Verified posteriors against emcee on the same likelihood: ``.venv/bin/python benchmarks/chains.py [NUMBER]``.

Spectra of ``kurucz-apogee`` from the prior on native visit pixels, S/N from 20 to 300. Prints one JSON line a spectrum, then the summary.
"""

import json
import sys
import time

import numpy as np
import torch

from maury.checks.calibration import REAL_MASKS, simulated_spectra
from maury.checks.comparison import c2st
from maury.forward.target import Target
from maury.models import load_model
from maury.posterior.infer import infer
from maury.posterior.mcmc import ChainConfig, emcee_chains
from maury.reproduce.report import agreement
from maury.training.simulations import Observing

CHAIN = ChainConfig(steps=8000, look=500)
COMPARED = 4000


def main():
    number = int(sys.argv[1]) if len(sys.argv) > 1 else 20
    model = load_model()
    observing = Observing(snr=(20, 300), masked=REAL_MASKS)
    rows = []
    for i, (spectrum, _, snr) in enumerate(simulated_spectra(model, number, "apvisit", 99, observing)):
        quick = infer(spectrum, model, seed=i)
        posterior = infer(spectrum, model, draws=20_000, seed=i)
        problem = model.problem
        best = torch.from_numpy(posterior.draws[posterior.log_weights.argmax()])
        target = Target(problem.likelihood(spectrum).refer(best), problem.inferred)
        start = problem.inferred.to_normal(torch.from_numpy(posterior.resample(500)))
        began = time.perf_counter()
        chains = emcee_chains(target, start, CHAIN, seed=i)
        seconds = time.perf_counter() - began
        names = posterior.labels.names
        found = agreement(posterior.resample(100_000), chains, posterior.labels)
        rng = np.random.default_rng(i)
        some = chains.draws[rng.choice(len(chains.draws), COMPARED, replace=False)]
        row = {
            "snr": float(snr),
            "c2st": c2st(posterior.resample(COMPARED, seed=i), some),
            "shift_max": max(abs(found[n]["shift_sigma"]) for n in names),
            "width_min": min(found[n]["width_ratio"] for n in names),
            "width_max": max(found[n]["width_ratio"] for n in names),
            "evaluations": quick.evaluations,
            "seconds": quick.seconds,
            "emcee_evaluations": chains.evaluations,
            "emcee_seconds": seconds,
            "tau": float(chains.tau.max()),
            "rhat": float(chains.rhat.max()),
            "converged": chains.converged,
            "khat": posterior.khat,
            "v_sini": posterior.quantile("v_sini", 0.5),
        }
        rows.append(row)
        print(json.dumps(row), flush=True)
    summary = {
        "spectra": len(rows),
        "c2st_max": max(r["c2st"] for r in rows),
        "shift_max": max(r["shift_max"] for r in rows),
        "width_range": [min(r["width_min"] for r in rows), max(r["width_max"] for r in rows)],
        **{
            f"{key}_median": float(np.median([r[key] for r in rows]))
            for key in ("evaluations", "seconds", "emcee_evaluations", "emcee_seconds")
        },
    }
    print(json.dumps(summary), flush=True)


if __name__ == "__main__":
    main()
