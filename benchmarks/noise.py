"""Spectra without a star: whether any of them gets a narrow answer.

Run: ``.venv/bin/python benchmarks/noise.py --number 500 --output docs/results/noise.json``. Four in five are noise about zero, the others a
continuum without lines; signal-to-noise ratios are spread evenly in their logarithm. An answer is narrow if the 68 % interval of a label
is less than half of the prior's.
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from maury.checks.gap import impostor
from maury.inference.batch import infer_batch
from maury.models import load_model
from maury.posterior.result import Posterior

# An evenly spread prior has 68 % of itself within this share of its range.
CENTRAL = 0.682686
_BATCH = 16
NAMES = ("teff", "logg", "m_h", "v_rad", "v_sini")


def widths(posterior: Posterior) -> dict[str, float]:
    """68 % intervals over the prior's, of stellar labels."""
    summary = posterior.summary()
    found = {}
    for label in posterior.stellar.labels:
        if label.name in NAMES:
            entry, prior = summary[label.name], label.prior
            found[label.name] = (entry["p84"] - entry["p16"]) / (CENTRAL * (prior.high - prior.low))
    return found


def trial(model_name: str, number: int, draws: int, seed: int) -> dict[str, Any]:
    """Infer them all; count what was said."""
    torch.set_num_threads(1)
    model = load_model(model_name)
    flags: dict[str, int] = {}
    narrow, failed, narrowest = [], [], 1.0
    began, slowest = time.process_time(), 0.0
    for first in range(0, number, _BATCH):
        seeds = range(first, min(first + _BATCH, number))
        spectra = []
        for i in seeds:
            snr = float(10 ** np.random.default_rng([seed, i]).uniform(0.3, 2.7))
            spectra.append(impostor("flat" if i % 5 == 4 else "noise", snr=snr, seed=seed * 100_000 + i))
        then = time.process_time()
        for i, found in zip(seeds, infer_batch(spectra, model, draws=draws, seeds=list(seeds)), strict=True):
            if not isinstance(found, Posterior):
                failed.append([i, str(found)])
                continue
            for flag in found.flag_bad or ("none",):
                flags[flag] = flags.get(flag, 0) + 1
            least = min(widths(found).values())
            narrowest = min(narrowest, least)
            if least < 0.5:
                narrow.append([i, found.spectrum.id, list(found.flag_bad), widths(found)])
        slowest = max(slowest, (time.process_time() - then) / len(spectra))
    return {
        "model": model_name,
        "spectra": number,
        "draws": draws,
        "flag_bad": flags,
        "failed": failed,
        "narrow": narrow,
        "narrowest_interval_over_prior": round(narrowest, 3),
        "core_seconds_each": round((time.process_time() - began) / number, 2),
        "core_seconds_each_in_slowest_batch": round(slowest, 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="kurucz-apogee")
    parser.add_argument("--number", type=int, default=500)
    parser.add_argument("--draws", type=int, default=256)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--output", type=Path)
    given = parser.parse_args()
    text = json.dumps(trial(given.model, given.number, given.draws, given.seed), indent=1)
    print(text)
    if given.output:
        given.output.parent.mkdir(parents=True, exist_ok=True)
        given.output.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
