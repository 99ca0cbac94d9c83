"""maury's networks: ``python benchmarks/peers/maury_peer.py FOLDER aligned|score|resnet-gru [MINUTES]``.

``aligned`` and ``score`` are trained on spectra made as they are needed, which is how maury trains; ``score`` begins with the weights that
``aligned`` came to, as its first guess. ``resnet-gru`` with the paper's flow is trained on the file, like the peers.
"""

import json
import sys
from pathlib import Path

import common
import torch

from maury.networks.config import NetworkConfig
from maury.training.config import TrainConfig
from maury.training.simulations import ProblemConfig
from maury.training.train import train

PAPER = {
    "featurizer": {"kind": "resnet-gru", "inputs": "flux"},
    "flow": {"kind": "maf", "transforms": 15, "hidden": [256], "components": 4},
}


class Peer:
    """A maury estimator behind the judge's two questions."""

    def __init__(self, estimator):
        self.estimator, self.labels = estimator, estimator.labels
        self._last = None

    def _context(self, flux, ivar):
        # The judge asks about one spectrum many times.
        if len(flux) > 1 and bool((flux[0] == flux[-1]).all()):
            return self._context(flux[:1], ivar[:1]).repeat(len(flux))
        with torch.no_grad():
            return self.estimator.context(flux, ivar)

    def log_prob(self, theta, flux, ivar):
        u = self.labels.to_normal(theta)
        with torch.no_grad():
            return self.estimator.log_prob(u, self._context(flux, ivar)) - self.labels.log_abs_det(u)

    def sample(self, n, flux, ivar):
        return self.labels.from_normal(self.estimator.sample(n, self._context(flux, ivar)))


def main():
    folder, kind = Path(sys.argv[1]), sys.argv[2]
    minutes = float(sys.argv[3]) if len(sys.argv) > 3 else 20.0
    problem = ProblemConfig(fixed={"alpha_m": 0.0, "jitter": 0.0}, observing=common.OBSERVING)
    settings = {"name": kind, "minutes": minutes, "epochs": 10_000, "accelerator": "cpu", "validation": 1024}
    if kind == "resnet-gru":
        file = common.training_file(folder).path
        settings |= {"simulations": file, "network": PAPER, "batch": 256, "learning_rate": 1e-4}
        settings |= {"schedule": "constant", "warmup": 0.0, "validation_share": 0.01}
    else:
        settings |= {"problem": problem, "network": NetworkConfig.of_kind(kind), "epoch": 100}
        if kind == "score":
            start = folder / "aligned" / "estimator.safetensors"
            settings |= {"start": start, "epoch": 50, "learning_rate": 5e-4}
    estimator = train(TrainConfig(**settings), folder / kind)
    card = json.loads((folder / kind / "estimator.json").read_text())
    judge = common.Judge()
    figures = {"minutes": card["training_minutes"], "spectra_seen": card["spectra_seen"]}
    figures |= judge.figures(Peer(estimator))
    if kind == "aligned":
        common.write(folder, "information limit", {"log_density_mean": judge.limit()})
    common.write(folder, kind, figures)


if __name__ == "__main__":
    main()
