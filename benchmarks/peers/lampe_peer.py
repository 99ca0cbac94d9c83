"""LAMPE's NPE with a residual network as embedding and a spline flow: ``python benchmarks/peers/lampe_peer.py FOLDER [MINUTES]``.

Its labels go through the box transform that its authors recommend: scaled to the prior, over R by zuko's flow.
"""

import time

import common
import numpy as np
import torch
import zuko
from lampe.inference import NPE, NPELoss
from lampe.nn import ResMLP
from lampe.utils import GDStep


class Peer(torch.nn.Module):
    """Embedding and NPE; log density over labels through the prior's box."""

    def __init__(self, n_pixels, labels):
        super().__init__()
        self.embedding = ResMLP(n_pixels, 64, hidden_features=[512] * 2 + [256] * 2, activation=torch.nn.ELU)
        self.npe = NPE(
            len(labels),
            64,
            build=zuko.flows.NSF,
            transforms=4,
            hidden_features=[256] * 2,
            activation=torch.nn.ELU,
        )
        self.labels = labels

    def prepare(self, flux):
        return 10 * (flux[:, self.pixels] - 1)

    def forward(self, u, x):
        return self.npe(u, self.embedding(x))

    def log_prob(self, theta, flux, ivar):
        u = self.labels.to_normal(theta)
        with torch.no_grad():
            density = self(u.float(), self.prepare(flux)).double()
        return density - self.labels.log_abs_det(u)

    def sample(self, n, flux, ivar):
        with torch.no_grad():
            u = self.npe.flow(self.embedding(self.prepare(flux))[0]).sample((n,))
        return self.labels.from_normal(u.double())


def main():
    given = common.arguments()
    folder, minutes = given.folder, given.minutes
    file, judge = common.training_file(folder, given.size), common.Judge(given.size)
    columns = judge.problem.columns(judge.labels)
    torch.manual_seed(0)
    peer = Peer(len(judge.pixels), judge.labels)
    peer.pixels = judge.pixels
    loss, optimizer = NPELoss(peer), torch.optim.AdamW(peer.parameters(), lr=1e-3)
    step, generator = GDStep(optimizer, clip=1.0), torch.Generator().manual_seed(1)
    began, seen = time.monotonic(), 0
    limit = 60 * minutes
    while (share := (time.monotonic() - began) / limit) < 1:
        optimizer.param_groups[0]["lr"] = 1e-3 * 0.5 * (1 + np.cos(np.pi * share))
        rows = torch.randint(len(file), (256,), generator=generator).unique().numpy()
        observed = judge.simulator.add_noise(file.theta[rows], file.read(rows)[0], generator)
        u = judge.labels.to_normal(file.theta[rows][:, columns]).float()
        step(loss(u, peer.prepare(observed.flux)))
        seen += len(rows)
    figures = {"minutes": (time.monotonic() - began) / 60, "spectra_seen": seen}
    common.write(folder, "lampe", figures | judge.figures(peer.eval()))


if __name__ == "__main__":
    main()
