"""Is there light of a second star? One linear test at every velocity, with all else left free.

A faint second star adds ``f (s2 - s1)`` to the spectrum s1: one more column of the linear model about the mode, for each velocity. What the
best share f gains, with labels, nuisances and continuum free, is a score test (Rao 1948), and costs one spectrum a velocity.
"""

from __future__ import annotations

import numpy as np
import torch

from maury.likelihood.influence import Influence
from maury.posterior.diagnostics import SecondLight

# km/s: between velocities that are tried, about the star's own, where its lines are, and how far from it.
_STEP, _OWN, _FAR = 6.0, 20.0, 150.0
# Second stars that are tried: the star itself, and one cooler by so much.
_COOLER = (1.0, 0.85)


@torch.no_grad()
def second_light(influence: Influence) -> SecondLight | None:
    """Look for a second star in a spectrum whose posterior is linear about its mode; None of two stars, or one of known velocity."""
    target, u = influence.target, influence.u
    pixels = target.likelihood.pixels
    if [v for v in target.labels.names if v.startswith("v_rad")] != ["v_rad"]:
        return None
    theta = target.likelihood.complete(target.labels.from_normal(u))[: pixels.jitter]
    names = pixels.model.label_names
    prior, v_rad = target.labels["v_rad"].prior, float(theta[names.index("v_rad")])
    # Of a spectrum at rest the star's velocity has a narrow prior, its companion's has not.
    low, high = min(prior.low, v_rad - _FAR), max(prior.high, v_rad + _FAR)
    velocity = np.arange(low, high, _STEP)
    velocity = velocity[np.abs(velocity - v_rad) > _OWN]
    rows = theta.repeat(len(_COOLER) * len(velocity), 1)
    rows[:, names.index("v_rad")] = torch.from_numpy(np.tile(velocity, len(_COOLER)))
    teff = pixels.model.emulator.labels["teff"].prior
    cooler = np.repeat([max(float(theta[names.index("teff")]) * c, teff.low) for c in _COOLER], len(velocity))
    rows[:, names.index("teff")] = torch.from_numpy(cooler)
    first, second = pixels.spectra(theta[None]), pixels.spectra(rows)
    gain, share = influence.gains((second - first).cpu().numpy())
    best = int(gain.argmax())
    return SecondLight(
        float(gain[best]),
        float(np.quantile(gain, 0.9)),
        float(rows[best, names.index("v_rad")]) - v_rad,
        float(share[best]),
    )
