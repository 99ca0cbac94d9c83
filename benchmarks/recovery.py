"""Is the truth where the posterior says, and does the evidence know the library? ``.venv/bin/python benchmarks/recovery.py [NUMBER]``.

An M dwarf (teff 3050, logg 5.1, m_h 0, S/N 80) in NUMBER noise draws with ``btsettl-apogee``, and NUMBER stars from the priors of
both libraries with ``--model auto``; native visit pixels, each with its line-spread function.
"""

import json
import sys

import numpy as np
import torch

from maury.checks.calibration import simulated_spectra
from maury.inference.infer import infer
from maury.likelihood.pixels import Likelihood
from maury.likelihood.target import Target
from maury.models import load_model
from maury.training.demo import simulate_visit

M_DWARF = {"teff": 3050.0, "logg": 5.1, "m_h": 0.0, "v_rad": -23.4, "v_sini": 6.0, "jitter": 0.005}


def inside_95(posterior, model, truth):
    """Whether the truth lies in the smallest region that holds 95 % of the posterior, in ``u``."""
    labels = posterior.labels
    theta = torch.tensor([truth], dtype=torch.float64)
    target = Target(Likelihood.of(posterior.spectrum, model.forward, labels), labels)
    draws = torch.from_numpy(posterior.draws)
    likelihood = target.likelihood.with_reference_continuum(draws[posterior.log_weights.argmax()])
    target = Target(likelihood, labels)
    at_truth = float(target.log_prob(labels.to_normal(theta))[0])
    at_draws = target.log_prob(labels.to_normal(draws)).numpy()
    return posterior.weights[at_draws > at_truth].sum() < 0.95


def m_dwarf(number):
    model = load_model("btsettl-apogee")
    truth = [M_DWARF[name] for name in model.labels.names]
    found, offsets, seconds = [], [], []
    for seed in range(number):
        spectrum = simulate_visit(model, M_DWARF, snr=80, seed=seed, v_correction=None)
        posterior = infer(spectrum, model, seed=seed)
        found.append(inside_95(posterior, model, truth))
        seconds.append(posterior.seconds)
        offsets.append([posterior.summary()[name]["mean"] - M_DWARF[name] for name in model.labels.names])
    bias = dict(zip(model.labels.names, np.mean(offsets, axis=0).round(4), strict=True))
    scatter = dict(zip(model.labels.names, np.std(offsets, axis=0).round(4), strict=True))
    return {
        "inside_95": int(sum(found)),
        "of": number,
        "bias": bias,
        "scatter": scatter,
        "seconds": round(float(np.median(seconds)), 2),
    }


def auto(number):
    right, wrong = 0, []
    for name in ("kurucz-apogee", "btsettl-apogee"):
        model = load_model(name)
        for spectrum, theta, snr in simulated_spectra(model, number // 2, "apvisit", seed=7):
            posterior = infer(spectrum, "auto")
            right += posterior.model == name
            if posterior.model != name:
                wrong.append([name, float(snr), *theta.tolist()])
    return {"right": right, "of": 2 * (number // 2), "wrong": wrong}


def main():
    torch.set_num_threads(1)
    number = int(sys.argv[1]) if len(sys.argv) > 1 else 100
    print(json.dumps({"m_dwarf": m_dwarf(number)}), flush=True)
    print(json.dumps({"auto": auto(number)}), flush=True)


if __name__ == "__main__":
    main()
