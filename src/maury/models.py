"""Models by name: an emulator, the forward model on it, and the estimator trained with it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from maury.constants import DEFAULT_MODEL
from maury.display import card
from maury.errors import InferenceError, ModelError
from maury.files import first_line
from maury.forward.model import ForwardModel
from maury.labels import LabelSet
from maury.libraries.emulator import MODES, Emulator
from maury.libraries.systematic import FILE as SYSTEMATIC
from maury.libraries.systematic import Systematic
from maury.libraries.zero_points import FILE as ZERO_POINTS
from maury.libraries.zero_points import ZeroPoints
from maury.likelihood.nuisances import LibraryModes
from maury.likelihood.problem import Problem
from maury.names import meant, shipped
from maury.networks.conformal import FILE as CONFORMAL
from maury.networks.conformal import Conformal
from maury.networks.estimator import Estimator
from maury.networks.novelty import Novelty
from maury.spectra.hits import without_hits
from maury.spectra.instrument import Instrument, of_card
from maury.spectra.regrid import on_network_grid
from maury.spectra.seen import seen_through
from maury.spectra.spectrum import Spectrum
from maury.text import readable
from maury.weights import read_card, read_model, whole

DEFAULT = DEFAULT_MODEL
# What a card may ask for: the order of a chip's continuum, and velocities (km/s).
_MOST_DEGREES, _FASTEST = 50, 20_000.0
__all__ = [
    "DEFAULT",
    "Model",
    "folder",
    "load_model",
    "problem_card",
    "problem_of",
    "read_learned",
    "shipped",
]


@dataclass(frozen=True, repr=False)
class Model:
    """All that inference needs.

    Attributes
    ----------
    name
        As in ``maury models list``.
    problem
        Forward model, labels, and how spectra scatter about it.
    estimator
        The amortised posterior.
    novelty
        Out-of-distribution score of the estimator, if there is one.
    folder
        Where its files are; None for one that was made in memory.
    systematic
        How far its labels move with the choice of the library, if that was measured.
    conformal
        By what the flow's regions are recalibrated where that is asked for, if that was measured.
    zero_points
        What the library makes of the elements of standards, if that was measured.
    """

    name: str
    problem: Problem
    estimator: Estimator
    novelty: Novelty | None = None
    folder: Path | None = None
    systematic: Systematic | None = None
    conformal: Conformal | None = None
    zero_points: ZeroPoints | None = None

    def __repr__(self) -> str:
        ranges = ", ".join(
            f"{name} {low}..{high} {unit}".rstrip() for name, unit, low, high in self._ranges()
        )
        return f"<Model {self.name}: {ranges}>"

    def _repr_html_(self) -> str:
        where = [("instrument", self.instrument.name)] if self.instrument else []
        where += [(f"{name} is held at", f"{value:g}") for name, value in self.problem.held.items()]
        return card(f"Model {self.name}", where, ("label", "unit", "from", "to"), self._ranges())

    def _ranges(self) -> list[tuple[str, str, str, str]]:
        """Name, unit and range of each label that is inferred."""
        return [
            (label.name, label.unit, f"{label.prior.low:g}", f"{label.prior.high:g}")
            for label in self.problem.inferred
        ]

    @property
    def forward(self) -> ForwardModel:
        """The forward model."""
        return self.problem.forward

    @property
    def labels(self) -> LabelSet:
        """The forward model's labels, then the nuisance ``jitter``, with their priors; held ones included."""
        return self.problem.labels

    @property
    def instrument(self) -> Instrument | None:
        """The spectrograph that it was made for; None where it takes spectra of any."""
        return self.problem.instrument

    @cached_property
    def usable(self) -> NDArray[np.bool_]:
        """Pixels of the networks' grid that the forward model covers whatever the labels, shape ``(n_grid,)``."""
        return self.forward.usable(self.problem.spectrograph.grid.wavelength, self.labels)

    def observed(self, spectrum: Spectrum) -> Spectrum:
        """Return a spectrum as it is inferred.

        It gets the chips and, where it tells none, the line-spread function of the model's instrument; what cosmic rays have hit is taken
        out of use (`maury.spectra.hits`).

        Raises
        ------
        InferenceError
            If no pixel lies on one of the instrument's chips, or inside the model's wavelengths.
        """
        if self.instrument is not None:
            return without_hits(self.instrument.adopt(spectrum))
        emulator = self.forward.emulator
        low, high = (
            float(emulator.grid.wavelength[i]) for i in (emulator.covered[0][0], emulator.covered[-1][1] - 1)
        )
        w = spectrum.grid.wavelength
        if w[-1] < low or w[0] > high:
            raise InferenceError(
                f"the spectrum covers {w[0]:.0f}-{w[-1]:.0f} Angstrom, and {self.name} {low:.0f}-{high:.0f}. All shipped models are "
                "for APOGEE's wavelengths; docs/instruments.md says how to build one for others",
                "outside_wavelengths",
            )
        return without_hits(spectrum)


def folder(name: str | Path) -> Path:
    """Find a model's folder.

    Raises
    ------
    ModelError
        If ``name`` is neither a shipped model nor a folder; suggests the nearest name.
    """
    known = shipped()
    if str(name) in known:
        return known[str(name)]
    path = Path(name)
    if path.is_dir():
        return path
    hint = meant(str(name), known, "shipped models:")
    raise ModelError(f"no model {str(name)!r}, and no folder of that name; {hint}")


def load_model(
    name: str | Path = DEFAULT,
    device: str = "cpu",
    *,
    trust_code: bool = False,
    module: type[nn.Module] | None = None,
) -> Model:
    """Load a model by name or folder, its forward model on ``device``.

    A folder holds ``emulator.safetensors``, ``estimator.safetensors`` and perhaps ``novelty.safetensors``, ``learned.safetensors`` and
    ``modes.safetensors`` with their JSON cards, and perhaps ``systematic.json``, ``zero_points.json`` and
    ``conformal.json``; without the first, the emulator is that of the model which the estimator's card names.

    Parameters
    ----------
    name
        Of a shipped model, or a folder. Nothing in a folder is run: weights are numbers and cards are JSON.
    device
        ``"cpu"`` or ``"cuda"``.
    trust_code
        Whether a featurizer of the user's, which the card names, may be imported. That runs whatever is in it, with all that you may do:
        say so only of code that you know.
    module
        The class of that featurizer, in place of what would be imported.

    Raises
    ------
    ModelError
        If it is unknown, incomplete or damaged, names code of its own, or the device is not there.
    """
    if not isinstance(name, str | Path):
        raise ModelError(f"a model is a name or a folder, not {type(name).__name__}")
    return _load(name, device, trust_code, module)  # type: ignore[arg-type]


@lru_cache(maxsize=4)
def _load(name: str | Path, device: str, trust_code: bool, module: type[nn.Module] | None) -> Model:
    try:
        torch.device(device)
    except (RuntimeError, TypeError):
        raise ModelError(f"device {device!r} is none; use cpu or cuda") from None
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise ModelError(f"device {device!r}: no CUDA device is available; use --device cpu")
    path = folder(name)
    # The estimator's card says which line-of-sight physics it was trained with.
    card = read_card(path / "estimator.safetensors")
    own = path / "emulator.safetensors"
    emulator = Emulator.load(own if own.exists() else folder(_text(card, "emulator", path)) / own.name)
    limb_darkening = card.get("limb_darkening")
    if not (isinstance(limb_darkening, int | float) and 0 <= limb_darkening <= 1):
        raise ModelError(f"{path / 'estimator.json'}: limb_darkening must be a number from 0 to 1")
    forward = ForwardModel(emulator.requires_grad_(False), limb_darkening).requires_grad_(False).eval()
    problem = problem_of(card, forward, path)
    table = path / "learned.safetensors"
    if table.exists():
        problem = replace(problem, learned=read_learned(table, emulator))
    if (path / MODES).exists():
        problem = replace(problem, modes=LibraryModes.read(path / MODES, emulator))
    estimator = Estimator.load(path / "estimator.safetensors", problem, trust_code=trust_code, module=module)
    known = path / "novelty.safetensors"
    novelty = Novelty.load(known) if known.exists() else None
    between = path / SYSTEMATIC
    systematic = Systematic.load(between) if between.exists() else None
    recalibrated = path / CONFORMAL
    conformal = Conformal.load(recalibrated) if recalibrated.exists() else None
    standards = path / ZERO_POINTS
    return Model(
        readable(path.name),
        replace(problem, forward=forward.to(device)),
        estimator,
        novelty,
        path,
        systematic,
        conformal,
        ZeroPoints.load(standards) if standards.exists() else None,
    )


def _text(card: Mapping[str, Any], key: str, path: Path) -> str:
    value = card.get(key)
    if not isinstance(value, str):
        raise ModelError(f"{path / 'estimator.json'}: {key} must be a name")
    return value


def read_learned(path: Path, emulator: Emulator) -> Tensor:
    """Read the error table that `maury.inference.tune` wrote.

    Raises
    ------
    ModelError
        If it is damaged, or of another emulator.
    """
    tensors, _ = read_model(path)
    error = tensors.get("error")
    if error is None or error.shape != (emulator.grid.n_pixels,):
        raise ModelError(f"{path}: is no error table of this model's emulator; run maury models tune again")
    return error.double()


def problem_of(card: Mapping[str, Any], forward: ForwardModel, path: Path) -> Problem:
    """Read from an estimator's card what it was trained for.

    Raises
    ------
    ModelError
        If the card does not tell, or the forward model has other labels.
    """
    try:
        entry = card["problem"]
        labels = LabelSet.from_list(entry["labels"])
        instrument = of_card(entry.get("instrument"), path / "estimator.json")
        problem = Problem(
            forward, labels, entry["fixed"], entry["continuum_degree"], entry["emulator_error"],
            instrument=instrument,
        )  # fmt: skip
        if problem.degree is not None:
            whole(problem.degree, "continuum_degree", 0, _MOST_DEGREES)
        if "v_rad" in labels.names:
            prior = labels["v_rad"].prior
            if max(abs(prior.low), abs(prior.high)) > _FASTEST:
                raise ModelError(f"v_rad must lie within {_FASTEST:g} km/s")
    except ModelError as error:
        raise ModelError(f"{path / 'estimator.json'}: {error}") from None
    except Exception as error:
        # A card may say anything.
        raise ModelError(
            f"{path / 'estimator.json'}: does not tell what was inferred ({first_line(error)})"
        ) from None
    if labels.names != (*forward.label_names, "jitter"):
        raise ModelError(
            f"{path / 'estimator.json'}: has the labels {', '.join(labels.names)}, "
            f"its forward model {', '.join(forward.label_names)} and jitter"
        )
    return problem


def problem_card(problem: Problem) -> dict[str, Any]:
    """Return what `problem_of` reads."""
    instrument = {} if problem.instrument is None else {"instrument": problem.instrument.card()}
    return instrument | {
        "labels": problem.labels.to_list(),
        "fixed": dict(problem.held),
        "continuum_degree": problem.degree,
        "emulator_error": problem.emulator_error,
    }


ALL_MASKED = "every pixel is masked: nothing to infer from"


class NetworkInput(NamedTuple):
    """One spectrum as networks take it.

    Attributes
    ----------
    flux, ivar
        On their grid, ``(1, n_pixels)`` float32 each.
    seen
        Its profile (`maury.spectra.seen`) with a first axis of 1, float32; None where the estimator does not ask for it.
    """

    flux: Tensor
    ivar: Tensor
    seen: Tensor | None = None


def to_model_grid(spectrum: Spectrum, model: Model) -> NetworkInput:
    """Return a spectrum as the networks of a model take it."""
    spectrograph = model.problem.spectrograph
    flux, ivar = on_network_grid(spectrum, spectrograph)
    level = 1.0
    # Single precision overflows on inverse variances of fluxes near 1e-17: bring the level to 1, unless it is known and has a meaning.
    if model.problem.degree is not None and (ivar > 0).any():
        level = float(np.median(np.abs(flux[ivar > 0]))) or 1.0
    scaled = (flux / level, np.where(model.usable, ivar * level**2, 0.0))
    a, b = (torch.from_numpy(x).float()[None] for x in scaled)
    if not model.estimator.sees_through:
        return NetworkInput(a, b)
    return NetworkInput(a, b, torch.from_numpy(seen_through(spectrum, spectrograph))[None])
