"""The priors of Table 1 of Gupta et al. 2024 on a library: what of them it holds, and what becomes of the labels they lack."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from maury.errors import ConfigError
from maury.labels import LabelSet
from maury.libraries.ties import Region
from maury.models import folder
from maury.priors import Uniform
from maury.training.simulations import ProblemConfig
from maury.weights import read_card

# Uniform all of them: K, dex, dex, km/s, km/s.
TABLE_1 = {
    "teff": (2300.0, 7000.0),
    "logg": (2.5, 6.0),
    "m_h": (-2.12, 0.5),
    "v_rad": (-200.0, 200.0),
    "v_sini": (0.0, 100.0),
}
# What other libraries have beside: scaled solar, a usual microturbulence (km/s), and the noise as it is told.
HELD = {"alpha_m": 0.0, "c_m": 0.0, "n_m": 0.0, "v_micro": 1.2, "jitter": 0.0}
_POINTS = 2**14


@dataclass(frozen=True)
class Library:
    """What a library offers: its name, the labels that its emulator takes, and the stars there are."""

    name: str
    labels: LabelSet
    region: Region | None

    @classmethod
    def read(cls, model: str) -> Library:
        """Read the card of a model's emulator, by name or folder.

        Raises
        ------
        ModelError
            If there is none, or it is damaged.
        """
        path = folder(model) / "emulator.safetensors"
        card: Mapping[str, Any] = read_card(path)
        labels = LabelSet.from_list((card.get("tied") or card)["labels"])
        region = card.get("region")
        return cls(str(card.get("name", model)), labels, None if region is None else Region.from_dict(region))

    def coverage(self, fixed: Mapping[str, float]) -> float:
        """Share of Table 1's box (teff, logg and m_h; those that are held, at their values) that the library has stars in."""
        names = ("teff", "logg", "m_h")
        points = torch.quasirandom.SobolEngine(3, scramble=True, seed=0).draw(_POINTS, dtype=torch.float64)
        inside = torch.ones(_POINTS, dtype=torch.bool)
        for i, name in enumerate(names):
            low, high = TABLE_1[name]
            points[:, i] = fixed[name] if name in fixed else low + points[:, i] * (high - low)
            if name in self.labels.names:
                prior = self.labels[name].prior
                inside &= (points[:, i] >= prior.low) & (points[:, i] <= prior.high)
        if self.region is not None:
            inside &= self.region.inside(points[:, 0], points[:, 1])
        return float(inside.double().mean())


def of_library(problem: ProblemConfig, table_1: bool) -> ProblemConfig:
    """Return a problem whose priors and held labels are those that its library can have.

    Parameters
    ----------
    problem
        Of a preset: ``fixed`` may name labels that the library lacks.
    table_1
        Whether labels that are not held and have no prior of the caller's get Table 1's, as far as the library reaches.

    Raises
    ------
    ConfigError
        If the library holds nothing of a prior of Table 1, lacks one of its labels, or has one that nothing is known of.
    """
    library = Library.read(problem.model)
    known = {label.name: label.prior for label in library.labels}
    unknown = [name for name in known if name not in TABLE_1 and name not in HELD]
    left = [name for name in unknown if name not in problem.fixed and name not in problem.priors]
    if left:
        raise ConfigError(f"{problem.model}: has the label {left[0]}; hold it in [problem.fixed] of --config")
    # A label that the library lacks is as it computed it: nothing that could be held.
    held = {
        name: value
        for name, value in HELD.items()
        if name in (*known, "jitter") and name not in problem.priors
    }
    lacking = {name for name in HELD if name not in known and name != "jitter"}
    fixed = held | {name: value for name, value in problem.fixed.items() if name not in lacking}
    priors = dict(problem.priors)
    asked = TABLE_1 if table_1 else {}
    for name, (low, high) in asked.items():
        if name in fixed or name in priors:
            continue
        if name in known:
            low, high = max(low, known[name].low), min(high, known[name].high)
        elif name not in ("v_rad", "v_sini"):
            raise ConfigError(f"{problem.model}: has no label {name}, which Table 1 needs")
        if not low < high:
            a, b = TABLE_1[name]
            raise ConfigError(
                f"{problem.model}: knows {name} from {known[name].low:g} to {known[name].high:g}, and Table 1 asks for {a:g} to {b:g}"
            )
        priors[name] = Uniform(low=low, high=high)
    return problem.model_copy(update={"priors": priors, "fixed": fixed})


def words(problem: ProblemConfig) -> str:
    """Tell, in a sentence or two, what of Table 1's priors a problem has."""
    library = Library.read(problem.model)
    share = library.coverage(problem.fixed)
    box = ", ".join("{} {:g}..{:g}".format(name, *TABLE_1[name]) for name in ("teff", "logg", "m_h"))
    if share > 0.999:
        return "These are the priors of the paper's Table 1."
    return (
        f"Of the box of the paper's Table 1 ({box}) `{library.name}` has stars in "
        f"{100 * share:.0f} %; the priors are uniform there."
    )
