"""emcee from the prior, beside the verified posterior, on stars of several S/N and rotations.

``python benchmarks/mcmc.py RUN --number 10 --output RUN/mcmc``

RUN is the folder of a ``maury reproduce three|five``. Walkers begin at draws from the prior, so that they may find what the verified
posterior missed. Stars that are done are not done again, and a chain that was stopped goes on.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from maury.checks.calibration import simulated_spectra
from maury.checks.comparison import c2st
from maury.files import writing
from maury.inference.infer import infer
from maury.likelihood.target import Target
from maury.models import Model, load_model
from maury.report.plots import draw_picture, samples_figure, walkers_figure
from maury.reproduce.config import StarsConfig
from maury.sampling.chains import ChainConfig, emcee_chains
from maury.spectra.spectrum import Spectrum

COMPARED = 3000
# From the prior many walkers end in a corner; the stretch alone is what Gupta et al. 2024 ran.
CHAIN = ChainConfig(walkers=96, steps=20_000, look=500, moves={"de": 0.7, "stretch": 0.3})


def spread(model: Model, config: StarsConfig, number: int, seed: int) -> list[tuple[Spectrum, torch.Tensor]]:
    """Return stars spread over S/N and v_sini: of many, those nearest to a ladder in both."""
    drawn = list(simulated_spectra(model, 20 * number, "network", seed, config.problem.observing))
    column = model.labels.names.index("v_sini")
    snr = np.argsort(np.argsort([spectrum.snr for spectrum, *_ in drawn])) / len(drawn)
    rotation = np.argsort(np.argsort([float(theta[column]) for _, theta, *_ in drawn])) / len(drawn)
    steps = (np.arange(number) + 0.5) / number
    # The second ladder is the first one shuffled, as of a Latin square.
    other = np.random.default_rng(seed).permutation(steps)
    chosen = [int(np.argmin((snr - a) ** 2 + (rotation - b) ** 2)) for a, b in zip(steps, other, strict=True)]
    return [(drawn[i][0], drawn[i][1]) for i in chosen]


def star(
    model: Model,
    config: StarsConfig,
    spectrum: Spectrum,
    theta: torch.Tensor,
    chain: ChainConfig,
    folder: Path,
    i: int,
) -> dict[str, Any]:
    """Run both on one star; return what they tell."""
    problem, labels = model.problem, model.problem.stellar
    posterior = infer(spectrum, model, draws=10_000, seed=i, nuisances=config.problem.observing.nuisances)
    target = Target(problem.likelihood(spectrum), labels)
    start = torch.randn(
        chain.walkers, len(labels), generator=torch.Generator().manual_seed(i), dtype=torch.float64
    )
    began = time.perf_counter()
    chains = emcee_chains(target, start, chain, seed=i, backend=folder / f"chains-{i}.h5")
    seconds = time.perf_counter() - began
    truth = dict(zip(model.labels.names, theta.tolist(), strict=True))
    verified, walked = posterior.sample(COMPARED), chains.draws
    thinned = walked[np.linspace(0, len(walked) - 1, COMPARED).astype(int)]
    draw_picture(
        folder / f"corner-{i}.png",
        lambda: samples_figure(
            {"emcee": walked, "verified": verified}, labels, truth, f"S/N {spectrum.snr:.0f}"
        ),
    )
    draw_picture(folder / f"walkers-{i}.png", lambda: walkers_figure(chains.theta, labels, truth))
    width = thinned.std(0)
    # Of the last step: where each walker has come to, far from what the verified posterior holds.
    last = torch.from_numpy(chains.theta[-1]).numpy()
    low, high = verified.min(0), verified.max(0)
    outside = ((last < low - 2 * (high - low)) | (last > high + 2 * (high - low))).any(1)
    return {
        "snr": spectrum.snr,
        "truth": {name: truth[name] for name in labels.names},
        "c2st": c2st(verified, thinned, seed=i),
        "shift_sigma": dict(
            zip(
                labels.names, ((np.median(verified, 0) - np.median(thinned, 0)) / width).tolist(), strict=True
            )
        ),
        "width_ratio": dict(zip(labels.names, (verified.std(0) / width).tolist(), strict=True)),
        "walkers_elsewhere": float(outside.mean()),
        "converged": chains.converged,
        "rhat": float(np.max(chains.rhat)),
        "tau": float(np.max(chains.tau)),
        "evaluations": {"emcee": chains.evaluations, "verified": posterior.evaluations},
        "seconds": {"emcee": round(seconds, 1), "verified": round(posterior.seconds, 2)},
        "khat": posterior.khat,
    }


def main() -> None:
    """Run all stars; the file is written after each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path, help="folder of maury reproduce three or five")
    parser.add_argument("--number", type=int, default=10)
    parser.add_argument("--steps", type=int, default=CHAIN.steps, help="most steps of each walker")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--output", type=Path, required=True)
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    model = load_model(options.run / "training")
    config = StarsConfig.model_validate_json((options.run / "config.json").read_text(encoding="utf-8"))
    chain = CHAIN.model_copy(update={"steps": options.steps, "look": min(CHAIN.look, options.steps)})
    path = options.output / "mcmc.json"
    stars = json.loads(path.read_text(encoding="utf-8"))["stars"] if path.exists() else []
    for i, (spectrum, theta) in enumerate(spread(model, config, options.number, options.seed)):
        if i < len(stars):
            continue
        stars.append(star(model, config, spectrum, theta, chain, options.output, i))
        told = {"run": options.run.name, "seed": options.seed, "chain": chain.model_dump(), "stars": stars}
        with writing(path) as temporary:
            temporary.write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
        print(json.dumps(stars[-1]), flush=True)


if __name__ == "__main__":
    main()
