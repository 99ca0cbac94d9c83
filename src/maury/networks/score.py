"""Nearly sufficient statistics: Gauss-Newton steps of the forward model from a first guess, and the Gaussian posterior there.

Steps are made with what the spectrum was seen through, its errors and its mask, continuum and nuisances integrated out
(`maury.networks.newton`). The flow then works in coordinates in which that Gaussian, cut off at the priors' bounds, is N(0, I), and carries
what it misses.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from maury.likelihood.problem import Problem
from maury.networks.aligned import AlignedFeaturizer, ResidualBlock
from maury.networks.context import Context, Guess
from maury.networks.flows import Scale, bounded
from maury.networks.newton import Found, Newton
from maury.networks.truncated import TruncatedFrame
from maury.spectra.seen import knots, profile

# Spectra whose Jacobians are held at once.
_CHUNK = 32
# A spectrum that tells nothing: the prior's own standard deviation.
_NOTHING = 12.0
# Knots of a profile that are told.
_TOLD = (16, 24, 30)


@dataclass(frozen=True)
class Measured:
    """What was measured of n spectra, none of it by weights that are still trained.

    Attributes
    ----------
    told
        What the network reads, shape ``(n, n_told)``, float32.
    frame
        The flow's coordinates.
    guess, summary
        As of `Context`.
    """

    told: Tensor
    frame: TruncatedFrame
    guess: Guess | None = None
    summary: Tensor | None = None


class ScoreFeaturizer(nn.Module):
    """Reads where steps from the guess of an `AlignedFeaturizer` lead, and through what they look; nothing else, since that is enough.

    Parameters
    ----------
    aligned
        Gives the first guess.
    problem
        Forward model and labels; spectra are on the instrument's grid.
    steps
        Most Gauss-Newton steps; after the second only the spectra whose step was long take another.
    nuisances
        What is integrated out beside the continuum, by name.
    n_features, width, blocks
        Length of the features, and size of the network that makes them.
    """

    def __init__(
        self,
        aligned: AlignedFeaturizer,
        problem: Problem,
        steps: int,
        nuisances: str,
        n_features: int,
        width: int,
        blocks: int,
    ) -> None:
        super().__init__()
        self.aligned, self.steps, self.n_features = aligned, steps, n_features
        self.labels = problem.stellar
        d, n = len(self.labels), aligned.n_features
        # As a located flow has it, whose weights it may take.
        self.guess = nn.Sequential(nn.Linear(n, 2 * n), nn.SiLU(), nn.Linear(2 * n, 2 * d))
        self.bounds = Scale()
        instrument = problem.spectrograph
        newton = Newton(problem, aligned.preparation.covered, nuisances)
        usual = torch.from_numpy(profile(instrument.grid_lsf, instrument.grid, instrument))
        # Outside the module's own state: its weights are the emulator's, and saved there.
        self._fixed: dict[str, Any] = {"newton": newton, "usual": usual}
        chips = len(newton.model.chips)
        self.square = newton.square
        self.n_told = d * (d + 1) // 2 + d + 3 + 2 * len(_TOLD) * chips
        self.inward = nn.Linear(self.n_told, width)
        # Place and progress of the steps enter each layer.
        self.n_last = d + 3
        self.blocks = nn.ModuleList(ResidualBlock(width, self.n_last) for _ in range(blocks))
        self.norm = nn.LayerNorm(width)
        self.out = nn.Linear(width, n_features)

    def forward(self, flux: Tensor, ivar: Tensor, seen: Tensor | None = None) -> Context:
        """Context of spectra ``(n, n_pixels)`` on the instrument's grid, seen through profiles (`maury.spectra.seen`)."""
        return self.read(self.measure(flux, ivar, seen))

    def read(self, measured: Measured) -> Context:
        """Context of what was measured."""
        told = measured.told
        x = self.inward(told)
        for block in self.blocks:
            x = block(x, told[:, -self.n_last :])
        return Context(self.out(self.norm(x)), measured.frame, measured.guess, measured.summary)

    def measure(self, flux: Tensor, ivar: Tensor, seen: Tensor | None = None) -> Measured:
        """Guess, step, and tell what was found."""
        first = self.aligned(flux, ivar)
        location, raw = self.guess(first.features).double().chunk(2, dim=1)
        start = first.from_flow(location.detach()).nan_to_num()
        newton: Newton = self._fixed["newton"].to(flux.device)
        if seen is None:
            seen = self._fixed["usual"].to(flux.device).expand(len(flux), -1, -1, -1, -1)
        parts = [
            newton(start[r], flux[r], ivar[r], seen[r], self.steps)
            for r in torch.arange(len(flux), device=flux.device).split(_CHUNK)
        ]
        found = _whole(
            Found(*(torch.cat(one) for one in zip(*(vars(p).values() for p in parts), strict=True)))
        )
        frame = TruncatedFrame.of(found.mean, found.precision, newton.square)
        told = torch.cat([self._of_profiles(seen, newton), self._of_steps(found, frame)], dim=1)
        return Measured(told, frame, Guess(location, bounded(raw, self.bounds), first.frame), first.summary)

    @staticmethod
    def _of_steps(found: Found, frame: TruncatedFrame) -> Tensor:
        """Tell of the Gaussian: widths, correlations and place; and last the place, and how well the steps went."""
        size = frame.factor.diagonal(dim1=1, dim2=2)
        i, j = torch.tril_indices(size.shape[1], size.shape[1], -1)
        row = frame.factor.square().sum(2).sqrt()
        went = torch.stack(
            [
                (found.moved.clamp_min(1e-3).log() / 3),
                found.jitter.clamp_min(1e-4).log() / 3 + 2,
                found.chi2.clamp(1e-2, 1e3).log() / 2,
            ],
            dim=1,
        )
        told = [
            size.log() / 3 + 1.5,
            frame.factor[:, i, j] / row[:, i],
            2 * found.mean.clamp(-0.5, 1.5) - 1,
            went,
        ]
        return torch.cat(told, dim=1).float()

    @staticmethod
    def _of_profiles(seen: Tensor, newton: Newton) -> Tensor:
        """Tell of the profiles: logarithms of their transforms at a few frequencies, in units of what a grid holds."""
        at = seen[:, newton.model.number][:, :, :, list(_TOLD)]
        size = at.square().sum(-1).sqrt().clamp(1e-3, 1.0)
        frequency = torch.from_numpy(knots()[list(_TOLD)]).to(size)
        told = size.log() / (2 * torch.pi * frequency).square() + 1
        return told.flatten(1).float()


def _whole(found: Found) -> Found:
    """Replace what became of spectra that no model is near by what the prior says."""
    d = found.mean.shape[1]
    fine = found.mean.isfinite().all(1) & found.precision.isfinite().all((1, 2))
    fine &= (
        torch.linalg.cholesky_ex(
            torch.where(fine[:, None, None], found.precision, torch.eye(d).to(found.mean))
        ).info
        == 0
    )
    return Found(
        torch.where(fine[:, None], found.mean, 0.5),
        torch.where(fine[:, None, None], found.precision, _NOTHING * torch.eye(d).to(found.mean)),
        torch.where(fine, found.moved, 100.0),
        torch.where(fine, found.jitter, 0.1),
        torch.where(fine, found.chi2, 100.0),
    )
