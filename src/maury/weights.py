"""Weights on disk: tensors in safetensors and, beside them, a card in JSON. Nothing is run when they are read."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from maury.errors import ModelError
from maury.files import writing

# Matrices of fewer numbers are not worth rounding.
_LARGE = 10_000


def write_model(path: Path, tensors: Mapping[str, Tensor], card: Mapping[str, Any]) -> None:
    """Write weights (safetensors) and their card (JSON, same stem), each by a temporary name."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    contents = {
        path: save({key: value.detach().contiguous().cpu() for key, value in tensors.items()}),
        path.with_suffix(".json"): (json.dumps(card, indent=1) + "\n").encode(),
    }
    for target, data in contents.items():
        with writing(target) as temporary:
            temporary.write_bytes(data)


def halved(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return tensors by name, the large weight matrices of featurizers in half precision; `read_model` gives single precision back.

    What decides where a density lies to many digits (the flow, its coordinates, biases, the preparation) stays as it is.
    """
    return {
        name: value.half()
        if name.startswith("featurizer.") and name.endswith(".weight") and value.numel() >= _LARGE
        else value
        for name, value in tensors.items()
    }


def read_card(path: Path) -> dict[str, Any]:
    """Read the card of the model whose weights are ``path``.

    Raises
    ------
    ModelError
        If it is missing or cannot be read.
    """
    card_path = Path(path).with_suffix(".json")
    try:
        card: dict[str, Any] = json.loads(card_path.read_text())
    except FileNotFoundError:
        raise ModelError(f"{card_path}: no such file; a model is a .safetensors with a .json card") from None
    except (OSError, ValueError) as error:
        raise ModelError(f"{card_path}: cannot be read as a model's card ({error})") from None
    return card


def read_model(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read weights, half precision made single, and their card.

    Raises
    ------
    ModelError
        If either is missing or cannot be read.
    """
    card = read_card(path)
    try:
        tensors = load_file(path)
    except FileNotFoundError:
        raise ModelError(f"{path}: no such file; a model is a .safetensors with a .json card") from None
    except (OSError, SafetensorError) as error:
        raise ModelError(f"{path}: cannot be read as a model's weights ({error})") from None
    return {k: v.float() if v.dtype == torch.float16 else v for k, v in tensors.items()}, card
