"""Libraries against each other: what one says of stars that another has made."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from maury.batching import alone
from maury.errors import ModelError
from maury.forward.model import ForwardModel
from maury.labels import LabelSet, label
from maury.libraries.emulator import Emulator
from maury.libraries.quadratic import RANGES, read_quadratic
from maury.libraries.synthesis.design import microturbulence
from maury.libraries.systematic import Systematic
from maury.likelihood.nuisances import DEFAULT as NUISANCES
from maury.likelihood.problem import Problem
from maury.likelihood.target import Target
from maury.likelihood.ties import Tied
from maury.models import shipped
from maury.priors import LogUniform, Prior, Uniform
from maury.sampling.modes import climb
from maury.spectra.instrument import apogee
from maury.spectra.spectrum import Spectrum

# Labels that every library has, and what stars have of the others: of the mixture nothing.
COMMON = ("teff", "logg", "m_h")
# Stars are seen at this S/N a pixel, without noise, rotating so fast (km/s).
_SNR, _V_SINI = 200.0, 6.0
_PRIORS: dict[str, Prior] = {
    "v_rad": Uniform(low=-30.0, high=30.0),
    "v_sini": Uniform(low=0.0, high=50.0),
    "jitter": LogUniform(low=5e-4, high=0.2),
}
# Share of a range at each of its ends in which no star is made.
_MARGIN = 0.03


@dataclass(frozen=True)
class Compared:
    """What one library says of a star of another.

    Attributes
    ----------
    by, of
        Library that explains, and that made the spectrum.
    labels
        Of the star, `COMMON` ones.
    offset
        What is found less what was made.
    rms
        Of the difference of the two spectra at the same labels, of the continuum, and where the labels are free.
    """

    by: str
    of: str
    labels: dict[str, float]
    offset: dict[str, float]
    rms: tuple[float, float]


def libraries(phoenix: Path | None = None) -> dict[str, Emulator]:
    """Return the shipped emulators, and quadratic models of PHOENIX from a folder."""
    found = {name: Emulator.load(path / "emulator.safetensors") for name, path in shipped().items()}
    if phoenix is not None:
        found |= {f"phoenix-{name}": read_quadratic(phoenix, name) for name in RANGES}
    return found


def shared(a: Emulator, b: Emulator) -> dict[str, tuple[float, float]] | None:
    """Ranges of the `COMMON` labels that both libraries have, without their ends; None if there are none."""
    out = {}
    for name in COMMON:
        mine, theirs = a.labels[name].prior, b.labels[name].prior
        low, high = max(mine.low, theirs.low), min(mine.high, theirs.high)
        if low >= high:
            return None
        margin = _MARGIN * (high - low)
        out[name] = (low + margin, high - margin)
    return out


def compare(by: Emulator, of: Emulator, number: int, seed: int = 0) -> Iterator[Compared]:
    """Explain stars of one library with another.

    Parameters
    ----------
    by, of
        Emulators; of the second the stars are made, evenly over the ranges that they share.
    number
        Stars.
    seed
        Of the stars.
    """
    ranges = shared(by, of)
    if ranges is None:
        return
    mine, theirs = ForwardModel(by.requires_grad_(False), 0.4), ForwardModel(of.requires_grad_(False), 0.4)
    instrument = apogee()
    grid, lsf = instrument.pixels, instrument.lsf
    extra = LabelSet(tuple(label(name, prior) for name, prior in _PRIORS.items()))
    problem = Problem(mine, by.labels + extra)
    labels = problem.inferred
    inside = torch.from_numpy(mine.usable(grid.wavelength, labels) & theirs.usable(grid.wavelength, labels))
    sampler = theirs.sampler(grid, lsf)
    good = inside.numpy()
    points = torch.quasirandom.SobolEngine(len(COMMON), scramble=True, seed=seed).draw(
        20 * number, dtype=torch.float64
    )
    low, high = (torch.tensor([ranges[name][k] for name in COMMON], dtype=torch.float64) for k in (0, 1))
    stars = low + points * (high - low)
    there = mine.inside(_labels(by, stars)) & theirs.inside(_labels(of, stars))
    for star in stars[there][:number]:
        with torch.no_grad():
            flux = sampler(theirs(_labels(of, star[None])))[0].double()
        if not bool(flux[inside].isfinite().all()):
            continue
        seen = torch.where(inside, flux, 1.0).numpy()
        spectrum = Spectrum(grid, seen, np.where(good, _SNR**2, 0.0), lsf=lsf)
        start = torch.cat([_labels(by, star[None])[0], torch.tensor([0.01], dtype=torch.float64)])
        target = Target(problem.likelihood(spectrum, nuisances=NUISANCES), labels)
        start[-1] = target.likelihood.excess_scatter(start[None])[0].clamp(1e-3, 0.1)
        before = target.likelihood.fit(start)
        target = target.with_reference_continuum(start)
        target, u = most_likely(target, labels.to_normal(start))
        theta = labels.from_normal(u)
        after = target.likelihood.fit(theta)
        truth = dict(zip(COMMON, star.tolist(), strict=True))
        found = {name: float(theta[labels.index(name)]) for name in COMMON}
        yield Compared(
            str(by.card["name"]),
            str(of.card["name"]),
            truth,
            {name: found[name] - truth[name] for name in COMMON},
            tuple(float(np.sqrt(np.mean((fit.residual / fit.continuum) ** 2))) for fit in (before, after)),  # type: ignore[arg-type]
        )


def most_likely(target: Target[Tied], start: Tensor) -> tuple[Target[Tied], Tensor]:
    """Climb from ``start (n_labels,)`` over u, nuisances made linear where it ends and once more; return both."""
    modes = alone(climb(target, start[None]))
    for _ in range(2):
        target = target.linearised(modes.u[0])
        modes = alone(climb(target, modes.u))
    return target, modes.u[0]


def _labels(emulator: Emulator, stars: Tensor) -> Tensor:
    """Labels of a forward model ``(n, n_labels)`` of stars ``(n, 3)`` with the Sun's mixture."""
    columns = {"v_rad": torch.zeros(len(stars)), "v_sini": torch.full((len(stars),), _V_SINI)}
    columns |= {"v_micro": torch.from_numpy(microturbulence(stars[:, 1].numpy()))}
    columns |= dict(zip(COMMON, stars.T, strict=True))
    names = (*emulator.labels.names, "v_rad", "v_sini")
    none = torch.zeros(len(stars))
    return torch.stack([columns.get(name, none).double() for name in names], 1)


def own(one: Compared, model: str) -> bool:
    """Tell whether it counts for a model: a quadratic over 2,700 K is too crude to be a library."""
    return one.by == model and one.of != "phoenix-50k"


def systematic(found: Sequence[Compared], model: str) -> Systematic:
    """Return the error of a model's labels by its library, from what it said of stars of all others.

    Which of two libraries is wrong is not known: of their squared difference each has half.

    Raises
    ------
    ModelError
        If it was compared with none.
    """
    of = [one for one in found if own(one, model)]
    if not of:
        raise ModelError(f"{model}: shares no stars with another library")
    teff = [one.labels["teff"] for one in of]
    card = {
        "model": model,
        "spectra": len(of),
        "of": f"stars of {', '.join(sorted({one.of for one in of}))}, explained by {model}",
    }
    offsets = np.array([[one.offset[name] for name in COMMON] for one in of]) / np.sqrt(2)
    return Systematic.of(COMMON, offsets, (min(teff), max(teff)), card)


def table(
    found: Sequence[Compared], edges: Sequence[float] = (2500, 3000, 3500, 4000, 4500, 5200, 7000)
) -> str:
    """Return median offsets by pair and effective temperature, as Markdown."""
    lines = [
        "| by | of | teff, K | stars | teff | logg | m_h | rms at the same labels | best |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for pair in sorted({(one.by, one.of) for one in found}):
        for low, high in itertools.pairwise(edges):
            some = [one for one in found if (one.by, one.of) == pair and low <= one.labels["teff"] < high]
            if some:
                median = {name: np.median([one.offset[name] for one in some]) for name in COMMON}
                rms = np.median([one.rms for one in some], axis=0)
                lines.append(
                    f"| {pair[0]} | {pair[1]} | {low:.0f}-{high:.0f} | {len(some)} | {median['teff']:+.0f} | {median['logg']:+.2f} "
                    f"| {median['m_h']:+.2f} | {rms[0]:.3f} | {rms[1]:.3f} |"
                )
    return "\n".join(lines)
