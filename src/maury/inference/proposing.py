"""What verification draws from: a surrogate's posterior about each mode, and Student-t distributions where that is poor."""

from __future__ import annotations

import torch

from maury.batching import Steps
from maury.inference.ridge import about_modes, along_jitter, beside_flow
from maury.likelihood.surrogate import surrogate
from maury.likelihood.target import Target
from maury.likelihood.ties import Tied
from maury.quantities import Role
from maury.sampling.modes import Modes
from maury.sampling.proposal import Extended, Mixture, Proposal, StudentT, around, mode_shares, with_given
from maury.sampling.rejection import rejected

# Share of the mass below which a mode needs no surrogate of its own.
_LEAST_MASS = 1e-3
# Shares of draws that know nothing of a surrogate: of Student-t distributions about the modes, this much wider and with tails this heavy,
# and of the flow.
_WIDE_SHARE, _FLOW_SHARE = 0.04, 0.02
_WIDER, _HEAVY = 1.3, 5
# Share that what a poor surrogate is replaced by gets, and of that the flow's.
_INSTEAD = 0.75


class Proposing:
    """Proposals about the modes of one spectrum's posterior.

    Parameters
    ----------
    target, modes
        The posterior, and its maxima.
    flow
        What the proposal has a share of, if anything.
    generator
        Source of randomness.

    Attributes
    ----------
    evaluations
        Likelihoods, or model spectra, spent so far.
    """

    def __init__(
        self, target: Target[Tied], modes: Modes, flow: Proposal | None, generator: torch.Generator
    ) -> None:
        self.target, self.modes, self.generator = target, modes, generator
        self.jitter = target.labels.place(Role.nuisance)
        self.given: Extended | None = beside_flow(modes, flow, self.jitter)
        self.evaluations = 0

    def by_surrogate(self) -> Mixture | None:
        """Return the posterior of a surrogate about each mode, and shares of what knows none; None if no mode has one."""
        shares = mode_shares(self.modes)
        parts: list[Proposal] = []
        masses: list[float] = []
        for u, factor, share in zip(self.modes.u, self.modes.factor, shares.tolist(), strict=True):
            if share < _LEAST_MASS:
                continue
            cheap = surrogate(self.target, u, factor, self.generator)
            self.evaluations += cheap.evaluations
            about = Mixture(around(u[None], factor[None]), torch.ones(1, dtype=torch.float64))
            found = rejected(cheap.log_prob, about, self.generator)
            if found is None:
                return None
            parts.append(found)
            masses.append(found.log_integral)
        of_modes = torch.softmax(torch.tensor(masses, dtype=torch.float64), 0)
        wide = [StudentT(u, _WIDER * f, _HEAVY) for u, f in zip(self.modes.u, self.modes.factor, strict=True)]
        each = torch.cat([(1 - _WIDE_SHARE) * of_modes, _WIDE_SHARE * shares])
        return with_given([*parts, *wide], each, self.given, _FLOW_SHARE)

    def without(self) -> Steps[Mixture]:
        """Return Student-t distributions about the modes and along the ridge in jitter, and a share of the flow."""
        parts, shares = yield from self._student()
        return with_given(parts, shares, self.given)

    def instead(self, proposal: Mixture) -> Steps[Mixture]:
        """Add those to a proposal that has turned out to be poor."""
        parts, shares = yield from self._student()
        return proposal.plus(parts, _INSTEAD, shares)

    def _student(self) -> Steps[tuple[list[StudentT], torch.Tensor]]:
        ridge = None
        if self.jitter is not None:
            ridge = yield from along_jitter(self.target, self.modes, self.jitter)
            self.evaluations += ridge.evaluations
        return about_modes(self.modes, ridge)
