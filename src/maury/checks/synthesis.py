"""Verified to the physics: draws of a posterior are synthesised anew, and weighed against the emulator that they were found with.

A posterior is exact for the emulator. The emulator stands for a program of radiative transfer; where it is off, the spectra that the
program makes of the same labels have another likelihood. Its ratio gives each draw a weight, and those a k-hat, an effective sample size
and shifts of the labels: whether, for this star, the emulator can be trusted.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from maury.errors import ConfigError
from maury.files import writing
from maury.forward.model import ForwardModel
from maury.libraries.process import on_grid
from maury.libraries.synthesis.atmospheres import MarcsCollection
from maury.libraries.synthesis.design import LABELS, star_of
from maury.libraries.synthesis.engine import Engine
from maury.posterior.result import Posterior
from maury.sampling.importance import effective_sample_size, pareto_smooth
from maury.spectra.air import to_vacuum

Array = NDArray[np.float64]
FEWEST = 20


@dataclass(frozen=True)
class Synthesised:
    """What new syntheses say of a posterior.

    Attributes
    ----------
    number
        Draws that were synthesised.
    khat, ess
        Of their weights, the program's likelihood over the emulator's.
    shifts
        Of each label's mean by the weights, in its statistical errors.
    widths
        Of each label: standard deviation with the weights over that without.
    nats
        Standard deviation of the log ratios.
    """

    number: int
    khat: float
    ess: float
    shifts: dict[str, float]
    widths: dict[str, float]
    nats: float

    @property
    def largest(self) -> tuple[str, float]:
        """The label that moves farthest, and by how many errors."""
        return max(self.shifts.items(), key=lambda item: abs(item[1]))


def synthesised(
    posterior: Posterior,
    engine: Engine,
    atmospheres: MarcsCollection,
    work: Path,
    *,
    number: int = 100,
    seed: int = 0,
    jobs: int = 1,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Synthesised:
    """Synthesise draws of a posterior anew, and weigh them.

    Parameters
    ----------
    posterior
        Of `maury.infer`, with a model whose library was synthesised.
    engine, atmospheres
        With what.
    work
        Folder in which spectra are kept: an interrupted run goes on.
    number
        Draws, 20 at least; seconds of a core each.
    seed
        Of their choice.
    jobs
        Syntheses at a time.
    progress
        Told how many are done, and of how many.

    Raises
    ------
    ConfigError
        If there are fewer than 20 draws, the posterior does not keep its likelihood, or its library is not of the program's labels.
    """
    if number < FEWEST:
        raise ConfigError(
            f"number: {number} draws do not tell what the weights' tail is like; {FEWEST} at least"
        )
    if posterior.target is None:
        raise ConfigError("this posterior does not keep its likelihood: infer the spectrum again")
    tied = posterior.target.likelihood
    model = tied.pixels.model
    if not isinstance(model, ForwardModel) or model.emulator.library.names != LABELS:
        raise ConfigError(
            f"{posterior.model}: its library has other labels than the program: nothing to compare with"
        )
    work.mkdir(parents=True, exist_ok=True)
    theta = torch.from_numpy(posterior.sample(number, seed))
    full = tied.complete(theta)
    whole = model.emulator.complete(full[:, : len(model.emulator.labels)]).double().numpy()
    low, high = atmospheres.axes[2][[0, -1]]

    def one(row: Array) -> Tensor:
        file = work / f"{hashlib.sha256(row.tobytes()).hexdigest()[:20]}.npy"
        if not file.exists():
            star = star_of(row)
            atmosphere = atmospheres.at(
                star.teff, star.logg, float(np.clip(star.donor_metallicity, low, high))
            )
            made = engine.synthesise(star, atmosphere)
            with writing(file) as temporary, temporary.open("wb") as stream:
                np.save(stream, np.stack([made.wavelength, made.normalised]))
        wavelength, flux = np.load(file, allow_pickle=False)
        return on_grid(to_vacuum(wavelength), flux, model.emulator.grid)

    rest = []
    with ThreadPoolExecutor(jobs) as pool:
        for spectrum in pool.map(one, whole):
            rest.append(spectrum)
            progress(len(rest), number)
    pixels = tied.pixels
    carried = [
        model.carried((spectrum - 1)[None], full[i : i + 1, : pixels.jitter])[0] + 1
        for i, spectrum in enumerate(rest)
    ]
    with torch.no_grad():
        anew = pixels.log_prob(full, pixels.to_pixels(torch.cat(carried)))
        ratio = anew - pixels.log_prob(full)
    log_weights, khat = pareto_smooth(ratio.numpy())
    weights = np.exp(log_weights - np.logaddexp.reduce(log_weights))
    shifts, widths, summary = {}, {}, posterior.summary()
    for name in posterior.stellar.names:
        x, std = theta[:, posterior.labels.index(name)].numpy(), summary[name]["std"]
        mean = float(weights @ x)
        shifts[name] = (mean - float(x.mean())) / std
        widths[name] = float(np.sqrt(weights @ (x - mean) ** 2)) / max(float(x.std()), 1e-300)
    return Synthesised(number, khat, effective_sample_size(ratio), shifts, widths, float(ratio.std()))
