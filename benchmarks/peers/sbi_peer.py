"""sbi's NPE with its convolutional embedding and spline flow: ``python benchmarks/peers/sbi_peer.py FOLDER [MINUTES]``."""

import time
import warnings

import common
import numpy as np
import torch
from sbi.inference import NPE
from sbi.neural_nets import posterior_nn
from sbi.neural_nets.embedding_nets import CNNEmbedding

from maury.interop.adapters import LabelPrior


class Peer:
    """sbi's posterior behind the judge's two questions; it is given the flux alone."""

    def __init__(self, posterior, pixels):
        self.posterior, self.pixels = posterior, pixels

    def log_prob(self, theta, flux, ivar):
        x = flux[:, self.pixels]
        with torch.no_grad():
            network = self.posterior.posterior_estimator
            return network.log_prob(theta.float()[None], condition=x)[0].double()

    def sample(self, n, flux, ivar):
        # The network's own draws: sbi would reject those outside the prior, for as long as it takes.
        with torch.no_grad():
            network = self.posterior.posterior_estimator
            return network.sample((n,), condition=flux[:, self.pixels])[:, 0]


def main():
    warnings.simplefilter("ignore")
    given = common.arguments()
    folder, minutes = given.folder, given.minutes
    file, judge = common.training_file(folder, given.size), common.Judge(given.size)
    columns = judge.problem.columns(judge.labels)
    # sbi holds its data in memory.
    number = judge.size.held
    theta, x, generator = file.theta[:number, columns].float(), [], torch.Generator().manual_seed(0)
    for first in range(0, number, 500):
        rows = np.arange(first, first + 500)
        observed = judge.simulator.add_noise(file.theta[rows], file.read(rows)[0], generator)
        x.append(observed.flux[:, judge.pixels])
    x = torch.cat(x)
    embedding = CNNEmbedding(
        (x.shape[1],), out_channels_per_layer=[16, 32, 64], num_conv_layers=3, output_dim=64
    )
    torch.manual_seed(0)
    inference = NPE(
        prior=LabelPrior(judge.labels),
        density_estimator=posterior_nn("nsf", embedding_net=embedding, z_score_x="structured"),
        show_progress_bars=False,
    )
    inference.append_simulations(theta, x)
    began, epochs = time.monotonic(), 0
    network = None
    # It knows no clock: one epoch at a time.
    while network is None or (time.monotonic() - began) * (1 + 1 / epochs) < 60 * minutes:
        epochs += 1
        network = inference.train(
            max_num_epochs=epochs, resume_training=epochs > 1, training_batch_size=256, learning_rate=5e-4,
            stop_after_epochs=1000, validation_fraction=0.05,
        )  # fmt: skip
    taken = (time.monotonic() - began) / 60
    figures = {"minutes": taken, "spectra_seen": epochs * int(0.95 * number)}
    posterior = inference.build_posterior(network)
    common.write(folder, "sbi", figures | judge.figures(Peer(posterior, judge.pixels)))


if __name__ == "__main__":
    main()
