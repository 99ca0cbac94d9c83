"""Nuisances of many spectra at once, as networks and what they are trained on take them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import torch
from torch import Tensor

from maury.forward.model import ForwardModel
from maury.likelihood.atmospheric import in_h_band, macroturbulence
from maury.likelihood.nuisances import EmulatorModes, LibraryModes, LimbDarkening, Macroturbulence, Nuisance

N = TypeVar("N")


def of_kind(nuisances: Sequence[Nuisance], kind: type[N]) -> N | None:
    """Return the nuisance of a kind; None if there is none."""
    return next((one for one in nuisances if isinstance(one, kind)), None)


def rest_vectors(model: ForwardModel, nuisances: Sequence[Nuisance]) -> Tensor | None:
    """Modes of emulator and library on the emulator's grid at rest, shape ``(k, n_grid)``; None of neither."""
    parts = [model.emulator.modes] if of_kind(nuisances, EmulatorModes) else []
    parts += [one.vectors for one in nuisances if isinstance(one, LibraryModes) and one.vectors is not None]
    return torch.cat(parts) if parts else None


def centres(model: ForwardModel, nuisances: Sequence[Nuisance], labels: Tensor) -> Tensor:
    """Means of broadening (km2/s2) and limb darkening beyond what the model takes, ``(n, 2)``, at its labels ``(n, n_labels)``."""
    out = torch.zeros(len(labels), 2)
    named = dict(zip(model.label_names, labels.cpu().T.tolist(), strict=True))
    if {"teff", "logg", "m_h"} <= set(named):
        if of_kind(nuisances, Macroturbulence):
            stars = zip(named["teff"], named["logg"], named["m_h"], strict=True)
            out[:, 0] = torch.tensor([macroturbulence(*star) ** 2 - model.v_macro**2 for star in stars])
        if of_kind(nuisances, LimbDarkening):
            out[:, 1] = torch.tensor([in_h_band(teff) for teff in named["teff"]]) - model.limb_darkening
    return out
