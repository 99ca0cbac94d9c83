"""What all peers share: the file they are trained on, the noise, and how they are judged.

Five labels of ``kurucz-apogee`` (teff, logg, m_h, v_rad, v_sini), alpha_m = 0, known continuum, the noise of Gupta et al. 2024: sigma /
flux drawn once a spectrum from U(0, 0.05). A peer sees the noisy flux; those that can take it are also given its errors.
"""

import argparse
import json
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from maury.checks.calibration import information_limit
from maury.likelihood.target import Target
from maury.sampling.importance import effective_sample_size
from maury.spectra.spectrum import Spectrum
from maury.training.simulations import SimulateConfig, build_simulator, simulate
from maury.training.store import Simulations

OBSERVING = {
    "masked": (0, 0),
    "gap_probability": 0,
    "chip_loss_probability": 0,
    "continuum_spread": 0,
    "emulator_error": False,
    "noise": {"kind": "paper"},
}
LARGEST = 0.05


@dataclass(frozen=True)
class Size:
    """Spectra of the file, those of them that packages hold, and spectra that all are judged on: for the density, coverage, efficiency."""

    number: int
    held: int
    held_out: int
    covered: int
    weighed: int


SIZES = {"full": Size(50_000, 20_000, 500, 200, 40), "tiny": Size(1000, 1000, 12, 4, 2)}


def arguments(*more):
    """Read FOLDER, further positional arguments, minutes, and the size."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    for name, choices in more:
        parser.add_argument(name, choices=choices)
    parser.add_argument("minutes", type=float, nargs="?", default=20.0)
    parser.add_argument("--size", choices=SIZES, default="full", help="tiny proves that it works")
    return parser.parse_args()


def config(number):
    """Return the configuration of the clean spectra that all are trained on."""
    return SimulateConfig(
        number=number,
        store="clean",
        model="kurucz-apogee",
        fixed={"alpha_m": 0.0, "jitter": 0.0},
        observing=OBSERVING,
    )


def training_file(folder, size="full"):
    """Simulate the training file, or find it."""
    number = SIZES[size].number
    path = Path(folder) / f"five-{number}.h5"
    path.parent.mkdir(parents=True, exist_ok=True)
    simulate(config(number), path)
    return Simulations.open(path)


def used_pixels(simulator):
    """Places of the pixels that the library covers."""
    return torch.from_numpy(np.flatnonzero(simulator.usable.numpy()))


class Judge:
    """New spectra, the same for every peer, and what is asked of a posterior of each."""

    def __init__(self, size="full", seed=4242):
        self.size = SIZES[size]
        self.simulator = build_simulator(config(1))
        problem = self.problem = self.simulator.problem
        self.simulation = self.simulator(self.size.held_out, torch.Generator().manual_seed(seed))
        self.labels = problem.stellar
        self.theta = self.simulation.labels[:, problem.columns(problem.stellar)]
        self.pixels = used_pixels(self.simulator)

    def spectrum(self, i):
        flux, ivar = (getattr(self.simulation, k)[i].double().numpy() for k in ("flux", "ivar"))
        return Spectrum(self.simulator.grid, flux, ivar, id=f"held-out-{i}")

    def limit(self):
        """Mean information limit, nats in units of the priors' standard deviations."""
        found = [
            information_limit(self.problem.likelihood(self.spectrum(i)), self.theta[i], self.labels)[0]
            for i in range(self.size.held_out)
        ]
        return float(np.mean(found))

    def figures(self, peer):
        """Log density, coverage of the 68 % region, leakage, and efficiency of importance sampling.

        ``peer.log_prob(theta, flux, ivar)`` is the log density over labels, shape ``(n,)``; ``peer.sample(n, flux, ivar)`` draws labels
        ``(n, n_labels)`` of one spectrum ``(1, n_pixels)``.
        """
        flux, ivar = self.simulation.flux, self.simulation.ivar
        density = peer.log_prob(self.theta, flux, ivar) + self.labels.std.log().sum()
        inside, efficiency, leaked = [], [], []
        began = time.perf_counter()
        for i in range(self.size.covered):
            one = flux[i : i + 1], ivar[i : i + 1]
            n = 2000 if i < self.size.weighed else 400
            draws = peer.sample(n, *one).double()
            log_q = peer.log_prob(draws, one[0].expand(n, -1), one[1].expand(n, -1)).double()
            truth = peer.log_prob(self.theta[i : i + 1], *one)
            inside.append(float((log_q > truth).double().mean()) < 0.68)
            within = ((draws >= self.labels.low) & (draws <= self.labels.high)).all(1)
            leaked.append(1 - float(within.double().mean()))
            if i < self.size.weighed:
                efficiency.append(self._efficiency(i, draws, log_q, within))
        return {
            "log_density_mean": float(density.mean()),
            "log_density_median": float(density.median()),
            "coverage_68": float(np.mean(inside)),
            "share_of_draws_outside_the_prior": float(np.mean(leaked)),
            "efficiency_median": float(np.median(efficiency)),
            "seconds_a_spectrum": (time.perf_counter() - began) / self.size.covered,
        }

    def _efficiency(self, i, draws, log_q, within):
        target = Target(self.problem.likelihood(self.spectrum(i)), self.labels)
        log_weights = torch.full((len(draws),), -torch.inf, dtype=torch.float64)
        if within.any():
            u = self.labels.to_normal(draws[within])
            log_p = target.log_prob(u) - self.labels.log_abs_det(u)
            log_weights[within] = log_p - log_q[within]
        finite = log_weights.isfinite()
        return effective_sample_size(log_weights[finite]) / len(draws) if finite.any() else 0.0


def write(folder, name, figures):
    """Add a peer's figures to ``peers.json``."""
    path = Path(folder) / "peers.json"
    found = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps(found | {name: figures}, indent=1) + "\n")
    print(json.dumps({name: figures}), flush=True)
