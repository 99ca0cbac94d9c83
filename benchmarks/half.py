"""What storing the estimators' weights in half precision costs: log density at the truth, and the score of novelty.

Run: ``.venv/bin/python benchmarks/half.py [NUMBER]``; with ``--write`` the shipped estimators are stored so.
"""

import json
import sys
from copy import deepcopy

import torch

from maury.checks.calibration import simulated_spectra
from maury.models import load_model, shipped, to_model_grid
from maury.networks.estimator import HALF
from maury.weights import halved, read_model, write_model


@torch.no_grad()
def cost(name, number):
    """Compare the estimator of a model with its own weights rounded; differences are rounded minus kept."""
    model = load_model(name)
    rounded = deepcopy(model.estimator)
    rounded.load_state_dict(
        {k: v.float() if v.is_floating_point() else v for k, v in halved(rounded.state_dict()).items()}
    )
    change, novelty = [], []
    for spectrum, theta, _ in simulated_spectra(model, number, "apvisit", 0):
        seen = to_model_grid(spectrum, model)
        flux, ivar, _ = seen
        u = model.problem.stellar.to_normal(theta[None, model.problem.columns(model.problem.stellar)])
        pair = [e.context(*seen) for e in (model.estimator, rounded)]
        before, after = (e.log_prob(u, c) for e, c in zip((model.estimator, rounded), pair, strict=True))
        change.append(float(after - before))
        novelty.append(
            [
                model.novelty.p_value(e, flux, ivar, c)
                for e, c in zip((model.estimator, rounded), pair, strict=True)
            ]
        )
    change = torch.tensor(change, dtype=torch.float64)
    p = torch.tensor(novelty, dtype=torch.float64)
    return {
        "spectra": number,
        "mean_change_nat": float(change.mean()),
        "rms_change_nat": float(change.square().mean().sqrt()),
        "largest_change_nat": float(change.abs().max()),
        "largest_change_p_novelty": float((p[:, 1] - p[:, 0]).abs().max()),
    }


def write(folder):
    """Store the estimator of a model's folder with its large matrices rounded."""
    path = folder / "estimator.safetensors"
    tensors, card = read_model(path)
    write_model(path, halved(tensors), card | {"precision": HALF})


if __name__ == "__main__":
    torch.set_num_threads(1)
    if "--write" in sys.argv:
        for folder in shipped(estimators=True).values():
            write(folder)
    else:
        number = int(sys.argv[1]) if len(sys.argv) > 1 else 500
        print(json.dumps({name: cost(name, number) for name in shipped(estimators=True)}, indent=1))
