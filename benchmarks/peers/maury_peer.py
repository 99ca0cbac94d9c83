"""maury's networks: ``python benchmarks/peers/maury_peer.py FOLDER KIND [MINUTES]``; run it again to go on where it was stopped.

``aligned`` and ``score`` are trained on spectra made as they are needed, which is how maury trains; ``score`` begins with the weights that
``aligned`` came to, as its first guess. ``paper`` (the network of Gupta et al. 2024), ``resnet-gru``, ``transformer`` and ``module`` (one
of a user's own) are trained on the file, like the peers.
"""

import json

import common
import torch

from maury.networks.config import NetworkConfig
from maury.training.config import TrainConfig
from maury.training.simulations import ProblemConfig
from maury.training.train import train

FLOW = {"kind": "maf", "transforms": 15, "hidden": [256], "components": 4}
SLOW = {"learning_rate": 1e-4, "warmup": 0.0}
# On the file, like the other packages.
NETWORKS = {
    "paper": {"featurizer": {"kind": "paper"}, "flow": {"kind": "maf-mixture"}},
    "resnet-gru": {"featurizer": {"kind": "resnet-gru", "inputs": "flux"}, "flow": FLOW},
    "transformer": {"featurizer": {"kind": "transformer"}},
    "module": {"featurizer": {"kind": "module", "path": "own_module.Convolutions", "features": 128}},
}
KINDS = (*NETWORKS, "aligned", "score")


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


def settings_of(kind, folder, size):
    """Return what of a training's configuration is the kind's own."""
    if kind in NETWORKS:
        settings = {"simulations": common.training_file(folder, size).path, "network": NETWORKS[kind]}
        settings |= {"batch": 256, "validation_share": 0.01}
        # Adam at 1e-4 is the paper's; the others take maury's usual 1e-3.
        return settings | (SLOW if kind in ("paper", "resnet-gru") else {})
    problem = ProblemConfig(fixed={"alpha_m": 0.0, "jitter": 0.0}, observing=common.OBSERVING)
    settings = {"problem": problem, "network": NetworkConfig.of_kind(kind), "epoch": 100, "validation": 1024}
    if kind == "score":
        start = folder / "aligned" / "estimator.safetensors"
        settings |= {"start": start, "epoch": 50, "learning_rate": 5e-4}
    return settings


def main():
    given = common.arguments(("kind", KINDS))
    folder, kind = given.folder, given.kind
    settings = {"name": kind, "minutes": given.minutes, "epochs": 10_000, "accelerator": "cpu"}
    if given.size == "tiny":
        settings |= {"novelty": 0}
    estimator = train(
        TrainConfig(**settings | settings_of(kind, folder, given.size)), folder / kind, trust_code=True
    )
    card = json.loads((folder / kind / "estimator.json").read_text())
    judge = common.Judge(given.size)
    figures = {"minutes": card["training_minutes"], "spectra_seen": card["spectra_seen"]}
    figures |= judge.figures(Peer(estimator))
    if kind == "aligned":
        common.write(folder, "information limit", {"log_density_mean": judge.limit()})
    common.write(folder, kind, figures)


if __name__ == "__main__":
    main()
