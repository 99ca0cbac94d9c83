"""Speed of the forward model, the likelihood and a whole inference, on one thread.

Run: ``.venv/bin/python benchmarks/speed.py [FILE]``; without a file the demonstration's visit is inferred.
"""

import json
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from maury.inference.infer import infer
from maury.likelihood.pixels import Likelihood
from maury.models import load_model
from maury.spectra import apstar_grid, read_spectrum
from maury.spectra.formats.writers import nominal_visit_grid
from maury.spectra.instrument import apogee, nominal_visit_lsf
from maury.training.demo import write_demo

REPEATS = 5


def rate(call, n):
    call()
    began = time.perf_counter()
    for _ in range(REPEATS):
        call()
    return n * REPEATS / (time.perf_counter() - began)


def main():
    torch.set_num_threads(1)
    model = load_model()
    theta = model.labels.sample(256, torch.Generator().manual_seed(0))
    cool = load_model("btsettl-apogee")
    cool_theta = cool.labels.sample(256, torch.Generator().manual_seed(0))
    detectors = {
        "apstar": (apstar_grid(), apogee().grid_lsf),
        "apvisit": (nominal_visit_grid(), nominal_visit_lsf()),
    }
    forward = {}
    for detector, (grid, lsf) in detectors.items():
        for m, at in ((model, theta), (cool, cool_theta)):
            sampler = m.forward.sampler(grid, lsf)
            with torch.no_grad():
                speed = rate(lambda m=m, at=at, sampler=sampler: sampler(m.forward(at[:, :-1])), len(at))
            forward[f"{m.name}_{detector}_per_s"] = round(speed)
    with TemporaryDirectory() as folder, torch.no_grad():
        path = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(folder) / "demo.fits"
        if len(sys.argv) == 1:
            write_demo(path, model)
        spectrum = read_spectrum(path)
        likelihood = Likelihood.of(spectrum, model.forward, model.labels)
        infer(spectrum, model)
        seconds = sorted(infer(spectrum, model, seed=seed).seconds for seed in range(REPEATS))
        began = time.perf_counter()
        subprocess.run([sys.executable, "-c", "import maury; maury.load_model(); maury.infer"], check=True)
        start_up = time.perf_counter() - began
        figures = {
            "threads": 1,
            "forward": forward,
            "jacobian_per_s": rate(lambda: model.forward.jacobian(theta[:64, :-1]), 64),
            "likelihood_visit_per_s": rate(lambda: likelihood.log_prob(theta), 256),
            "infer_s_median": seconds[REPEATS // 2],
            "infer_s_max": seconds[-1],
            "start_up_s": start_up,
        }
    print(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
