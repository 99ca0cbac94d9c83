"""Models by name: an emulator, the forward model on it, and the estimator trained with it."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources
from pathlib import Path

import torch

from maury.errors import ModelError
from maury.forward.model import ForwardModel
from maury.labels import Label, LabelSet
from maury.libraries.emulator import Emulator, read_card
from maury.networks.estimator import Estimator

DEFAULT = "kurucz-apogee"


@dataclass(frozen=True)
class Model:
    """All that inference needs.

    Attributes
    ----------
    name
        As in ``maury models list``.
    forward
        The forward model.
    estimator
        The amortised posterior.
    labels
        The forward model's labels, then the nuisance ``jitter``, with their priors.
    """

    name: str
    forward: ForwardModel
    estimator: Estimator
    labels: LabelSet


def shipped(estimators: bool = False) -> dict[str, Path]:
    """Return the models that come with the package, name to folder; only those with an estimator if that is asked for."""
    root = Path(str(resources.files("maury") / "assets"))
    part = "estimator" if estimators else "emulator"
    return {path.parent.name: path.parent for path in sorted(root.glob(f"*/{part}.safetensors"))}


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
    near = difflib.get_close_matches(str(name), known, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]!r}?" if near else f"shipped models: {', '.join(known)}"
    raise ModelError(f"no model {str(name)!r}, and no folder of that name; {hint}")


@lru_cache(maxsize=4)
def load_model(name: str | Path = DEFAULT, device: str = "cpu") -> Model:
    """Load a model by name or folder, its forward model on ``device``.

    A folder holds ``emulator.safetensors`` and ``estimator.safetensors`` with their JSON cards.

    Raises
    ------
    ModelError
        If it is unknown, incomplete or damaged, or the device is not there.
    """
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise ModelError(f"device {device!r}: no CUDA device is available; use --device cpu")
    path = folder(name)
    # The estimator's card says which line-of-sight physics it was trained with.
    card = read_card(path / "estimator.safetensors")
    emulator = Emulator.load(path / "emulator.safetensors").requires_grad_(False)
    forward = ForwardModel(emulator, card.get("limb_darkening", 0.6)).requires_grad_(False).eval()
    estimator = Estimator.load(path / "estimator.safetensors", forward)
    if "jitter" not in card:
        raise ModelError(f"{path / 'estimator.json'}: has no prior of the nuisance label 'jitter'")
    forward = forward.to(device)
    return Model(
        path.name, forward, estimator, estimator.labels + LabelSet((Label.from_dict(card["jitter"]),))
    )
