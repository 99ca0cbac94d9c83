"""Draws of estimators at the corners of the prior: none may leave it. ``.venv/bin/python benchmarks/leakage.py MODEL [DRAWS]``."""

import itertools
import json
import sys

import torch

from maury.models import load_model
from maury.spectra.instrument import apstar_grid
from maury.training.simulations import Observing, Simulator


def main():
    model = load_model(sys.argv[1] if len(sys.argv) > 1 else "kurucz-apogee")
    number = int(sys.argv[2]) if len(sys.argv) > 2 else 1_000_000
    problem, labels = model.problem, model.estimator.labels
    corners = torch.tensor(
        list(itertools.product(*zip(labels.low.tolist(), labels.high.tolist(), strict=True)))
    )
    generator = torch.Generator().manual_seed(0)
    theta = problem.sample(len(corners), generator)
    theta[:, problem.columns(labels)] = corners.double()
    simulation = Simulator(problem, apstar_grid(), Observing()).observe(theta, generator)
    with torch.no_grad():
        context = model.estimator.context(simulation.flux, simulation.ivar)
    each = -(-number // len(corners))
    outside, drawn = 0, 0
    for i in range(len(corners)):
        found = labels.from_normal(model.estimator.sample(each, context[i], generator))
        outside += int((~((found >= labels.low) & (found <= labels.high)).all(1)).sum())
        drawn += len(found)
    print(json.dumps({"model": model.name, "corners": len(corners), "draws": drawn, "outside": outside}))


if __name__ == "__main__":
    main()
