"""nbi with the network of Gupta et al. 2024, on the same file: ``python benchmarks/peers/nbi_peer.py FOLDER [MINUTES]``.

In an environment that has nbi beside maury: ``make peers``.
"""

import contextlib
import time
from pathlib import Path

import common
import nbi
import numpy as np
import torch


class TimeIsUp(Exception):
    """Ends nbi's training, which knows no clock."""


class Peer:
    """nbi's network behind the judge's two questions; it is given the flux alone."""

    def __init__(self, engine, pixels):
        self.engine, self.pixels = engine, pixels
        engine.network.eval()

    def _features(self, flux):
        # The judge asks about one spectrum many times.
        if len(flux) > 1 and bool((flux[0] == flux[-1]).all()):
            return self._features(flux[:1]).expand(len(flux), -1)
        x = self.engine.scale_x(flux[:, self.pixels].numpy()[:, None])
        with torch.no_grad():
            parts = torch.from_numpy(np.asarray(x)).float().split(50)
            return torch.cat([self.engine.get_network().featurizer(part) for part in parts])

    def log_prob(self, theta, flux, ivar):
        y = torch.from_numpy(np.asarray(self.engine.scale_y(theta.numpy()))).float()
        with torch.no_grad():
            found = self.engine.get_network()(self._features(flux), y, is_feature=True)
        return -found.double().reshape(-1) - np.log(self.engine.y_std).sum()

    def sample(self, n, flux, ivar):
        with torch.no_grad():
            y = self.engine.get_network()(self._features(flux), n=n, sample=True, is_feature=True)
        return torch.from_numpy(self.engine.scale_y(y[0].numpy(), back=True)).double()


def main():
    given = common.arguments()
    folder, minutes = given.folder, given.minutes
    file, judge = common.training_file(folder, given.size), common.Judge(given.size)
    # More than it can see in the time; each is a file of its own, as nbi wants it.
    number = judge.size.held
    columns, pixels = judge.problem.columns(judge.labels), judge.pixels
    series = folder / "nbi-series"
    series.mkdir(exist_ok=True)
    paths = np.array([str(series / f"{i}.npy") for i in range(number)])
    for first in range(0, number, 500):
        if not Path(paths[first + 499]).exists():
            flux, _ = file.read(np.arange(first, first + 500))
            for path, row in zip(paths[first : first + 500], flux[:, pixels].numpy(), strict=True):
                np.save(path, row)
    theta = file.theta[:number, columns].numpy()
    rng = np.random.default_rng(0)
    # Read in nbi's worker, which is forked when the training begins.
    ends = np.inf

    def noise(x, y):
        if time.monotonic() > ends:
            raise TimeIsUp
        return x + rng.uniform(0, common.LARGEST) * x * rng.normal(size=x.shape), y

    d = len(columns)
    engine = nbi.NBI(
        {"n_dims": d, "flow_hidden": 256, "num_blocks": 15, "n_mog": 4},
        {
            "type": "resnet-gru",
            "norm": "weight_norm",
            "dim_in": 1,
            "dim_out": 256,
            "dim_conv_max": 512,
            "depth": 8,
            "n_rnn": 2,
        },
        path=str(folder / "nbi"),
        labels=list(judge.labels.names),
    )
    began = time.monotonic()
    ends = began + 60 * minutes
    with contextlib.suppress(TimeIsUp):
        engine.fit(
            x=paths, y=theta, noise=noise, n_sims=number, n_epochs=100, batch_size=256, lr=1e-4, f_val=0.01,
            workers=1, plot=False,
        )  # fmt: skip
    # It notes the gradient's norm at each step.
    figures = {"minutes": (time.monotonic() - began) / 60, "spectra_seen": 256 * len(engine.norm)}
    common.write(folder, "nbi", figures | judge.figures(Peer(engine, pixels)))


if __name__ == "__main__":
    main()
