"""Nearly sufficient statistics: a Gauss-Newton step of the forward model from a first guess, and the information there.

Both are computed with the spectrum's own errors and mask. The flow then works in units of the Gaussian approximation that they give
and carries what it misses.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from maury.likelihood.pixels import Likelihood
from maury.likelihood.problem import Problem
from maury.likelihood.target import Target
from maury.likelihood.ties import Tied
from maury.networks.aligned import AlignedFeaturizer
from maury.networks.context import Context, Guess, LaplaceFrame
from maury.quantities import Role
from maury.sampling.modes import FARTHEST_STEP, U_START

# Sigma: a step of this root mean square halves the trust in where it leads.
_LINEAR = 15.0
# Sigma: after a step longer than this another one pays.
_AGAIN = 1.5
# Spectra whose Jacobians are held at once.
_CHUNK = 32


class ScoreFeaturizer(nn.Module):
    """Features of `AlignedFeaturizer`, and beside them the result of the step.

    Parameters
    ----------
    aligned
        Gives the first guess.
    problem
        Forward model and labels; spectra are on the instrument's grid.
    steps
        Most Gauss-Newton steps; after the first only the spectra whose step was long take another.
    """

    def __init__(self, aligned: AlignedFeaturizer, problem: Problem, steps: int = 4) -> None:
        super().__init__()
        self.aligned, self.steps = aligned, steps
        self.labels = problem.stellar
        d = len(self.labels)
        self.guess = nn.Linear(aligned.n_features, 2 * d)
        nn.init.zeros_(self.guess.weight)
        nn.init.zeros_(self.guess.bias)
        self.n_features = aligned.n_features + d * (d + 1) // 2 + 2 * d + 1
        grid = problem.spectrograph.grid
        good = problem.forward.usable(grid.wavelength, problem.labels)
        lsf = None if problem.forward.emulator.contained else problem.spectrograph.grid_lsf
        empty = Likelihood.on(
            problem.forward, grid, good, lsf, problem.degree, emulator_error=problem.emulator_error
        )
        # Outside the module's own state: its weights are the emulator's, and saved there. Without jitter there is nothing to tell the
        # emulator's error from other noise: it is taken for known.
        self._fixed: dict[str, Any] = {"problem": problem, "likelihood": replace(empty, error_known=True)}

    def forward(self, flux: Tensor, ivar: Tensor) -> Context:
        """Context of spectra ``(n, n_pixels)`` on the instrument's grid."""
        first = self.aligned(flux, ivar)
        location, log_scale = self.guess(first.features).double().chunk(2, dim=1)
        # The model works where the spectra are, the small matrices on the processor.
        start = first.from_flow(location.detach()).clamp(-U_START, U_START).cpu()
        rows = torch.arange(len(flux)).split(_CHUNK)
        parts = [self._newton(start[r], flux[r], ivar[r]) for r in rows]
        centre, factor, jitter = (torch.cat(part).to(flux.device) for part in zip(*parts, strict=True))
        frame = LaplaceFrame(centre, factor)
        moved, _ = frame.to_flow(start.to(centre))
        i, j = torch.tril_indices(len(self.labels), len(self.labels), -1)
        size = factor.diagonal(dim1=1, dim2=2)
        told = torch.cat(
            [
                size.log() / 3,
                (factor[:, i, j] / size[:, j]).clamp(-10, 10) / 3,
                centre,
                moved.abs().clamp_min(1e-3).log() / 3,
                jitter[:, None].clamp_min(1e-4).log() / 3,
            ],
            dim=1,
        )
        features = torch.cat([first.features, told.to(first.features)], dim=1)
        return Context(features, frame, Guess(location, log_scale.clamp(-9, 3), first.frame))

    @torch.no_grad()
    def _newton(self, u: Tensor, flux: Tensor, ivar: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return u after the steps ``(n, d)``, the Cholesky factor of the precision there, and the jitter found ``(n,)``."""
        problem: Problem = self._fixed["problem"]
        empty: Likelihood = self._fixed["likelihood"]
        if empty.flux.device != flux.device:
            empty = self._fixed["likelihood"] = empty.to(flux.device)
        likelihood = empty.with_data(flux[:, empty.good].double(), ivar[:, empty.good].double())
        columns = problem.columns(self.labels)
        theta = problem.complete(problem.labels.from_normal(u.new_zeros(len(u), len(problem.labels))))
        theta[:, columns] = self.labels.from_normal(u)
        jitter = likelihood.jitter
        if problem.inferred.place(Role.nuisance) is not None:
            prior = problem.labels.labels[jitter].prior
            for _ in range(2):
                theta[:, jitter] = likelihood.excess_scatter(theta).clamp(prior.low, prior.high)
        likelihood = likelihood.with_reference_continuum(theta)
        centre, factor = u.clone(), u.new_zeros(len(u), len(columns), len(columns))
        rows = torch.arange(len(u))
        for _ in range(self.steps):
            held = Tied.holding(likelihood[rows], theta[rows], columns)
            gradient, precision = Target(held, self.labels).newton(centre[rows])
            change = torch.linalg.solve(precision, gradient[..., None])[..., 0].clamp(
                -FARTHEST_STEP, FARTHEST_STEP
            )
            cholesky = torch.linalg.cholesky(precision)
            # A step of many sigma left the range in which the model is linear: what it arrived at is that much less certain.
            moved = (change[:, None] @ cholesky)[:, 0].square().mean(1)
            centre[rows] = (centre[rows] + change).clamp(-2 * U_START, 2 * U_START)
            factor[rows] = cholesky / (1 + moved / _LINEAR**2)[:, None, None]
            rows = rows[moved > _AGAIN**2]
            if not len(rows):
                break
        return centre, factor, theta[:, jitter]
