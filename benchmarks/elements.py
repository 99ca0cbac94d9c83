"""Abundances of all elements at once, on simulated spectra and real ones: whether they hold, and what they cost.

python benchmarks/elements.py --number 40 --output docs/results/elements/simulated.json
python benchmarks/elements.py --real ../shared/data/real/atlas/*.ecsv --output docs/results/elements/real.json
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy import stats

from maury.inference.infer import infer
from maury.models import Model, load_model
from maury.posterior.result import Posterior
from maury.spectra.formats.registry import read_spectrum
from maury.training.demo import simulate_visit


def one(model: Model, everything: Model, seed: int) -> dict[str, Any]:
    """Infer a star of the prior, S/N 50 to 300; return ranks of the truth, widths and cost."""
    generator = torch.Generator().manual_seed(seed)
    snr = float(50 * 6 ** torch.rand(1, generator=generator))
    truth = everything.problem.sample(1, generator)[0]
    values = dict(zip(everything.labels.names, truth.tolist(), strict=True))
    spectrum = simulate_visit(everything, values, snr=snr, seed=seed, v_correction=0.0)
    began = time.process_time()
    found = infer(spectrum, model, labels="elements", seed=seed)
    labels = {}
    for i, name in enumerate(found.labels.names):
        x = found.draws[:, i]
        labels[name] = {
            "truth": values[name],
            "rank": float(found.weights @ (x < values[name])),
            "std": found.summary()[name]["std"],
        }
    return {
        "seed": seed, "snr": snr, "labels": labels, "khat": found.khat, "ess": found.ess, "efficiency": found.efficiency,
        "evaluations": found.evaluations, "seconds": time.process_time() - began,
        "share": {a.label: a.share for a in found.diagnostics.abundances},
    }  # fmt: skip


def summary(outcomes: list[dict[str, Any]]) -> dict[str, Any]:
    """Sum up calibration, efficiency and cost."""
    names = list(outcomes[0]["labels"])
    ranks = {name: np.array([o["labels"][name]["rank"] for o in outcomes]) for name in names}
    told = {
        key: np.array([o[key] for o in outcomes])
        for key in ("khat", "efficiency", "evaluations", "seconds", "ess")
    }
    return {
        "spectra": len(outcomes),
        "ks_p": {name: float(stats.kstest(r, "uniform").pvalue) for name, r in ranks.items()},
        "within_68": {name: float(np.mean(np.abs(r - 0.5) < 0.3413)) for name, r in ranks.items()},
        "within_68_all": float(np.mean([np.abs(r - 0.5) < 0.3413 for r in ranks.values()])),
        "measured": {
            name: float(np.mean([o["share"][name] < 0.7 for o in outcomes])) for name in outcomes[0]["share"]
        },
        "khat_below": float(np.mean(told["khat"] < 0.7)),
        **{f"{key}_median": float(np.median(values)) for key, values in told.items()},
    }


def real(path: Path, model: Model) -> dict[str, Any]:
    """Infer all labels of a real spectrum."""
    began = time.process_time()
    found: Posterior = infer(read_spectrum(path), model, labels="elements")
    return {
        "khat": found.khat, "ess": found.ess, "efficiency": found.efficiency, "seconds": time.process_time() - began,
        "labels": {name: {k: e[k] for k in ("p50", "std")} for name, e in found.summary().items()},
        "abundances": [asdict(a) for a in found.diagnostics.abundances],
    }  # fmt: skip


def main() -> None:
    """Run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--number", type=int, default=40)
    parser.add_argument("--real", type=Path, nargs="*", default=[])
    parser.add_argument("--output", type=Path, required=True)
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    model = load_model("marcs-apogee")
    chosen.output.parent.mkdir(parents=True, exist_ok=True)
    if chosen.real:
        figures: dict[str, Any] = {path.name: real(path, model) for path in chosen.real}
    else:
        ties = model.forward.emulator.ties
        everything = replace(model, problem=model.problem.inferring(ties.tied))
        lines = chosen.output.with_suffix(".jsonl")
        outcomes = (
            [json.loads(line) for line in lines.read_text(encoding="utf-8").splitlines()]
            if lines.exists()
            else []
        )
        for seed in range(len(outcomes), chosen.number):
            outcomes.append(one(model, everything, seed))
            with lines.open("a", encoding="utf-8") as file:
                file.write(json.dumps(outcomes[-1]) + "\n")
            last = outcomes[-1]
            print(seed, f"{last['efficiency']:.2f} {last['khat']:.2f} {last['seconds']:.1f} s", flush=True)
        figures = summary(outcomes)
    chosen.output.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
