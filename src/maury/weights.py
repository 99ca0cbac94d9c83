"""Weights on disk: tensors in safetensors and, beside them, a card in JSON. Nothing is run when they are read."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from maury.errors import ModelError
from maury.files import first_line, writing

# Matrices of fewer numbers are not worth rounding.
_LARGE = 10_000
_LARGEST_CARD = 2**24
# Of a grid or a detector that a card tells of: memory is taken for them before the weights are looked at.
MOST_PIXELS = 2_000_000


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
        If it is missing, or is no table of JSON.
    """
    card_path = Path(path).with_suffix(".json")
    try:
        if card_path.stat().st_size > _LARGEST_CARD:
            raise ModelError(f"{card_path}: is larger than any model's card")
        card = json.loads(card_path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ModelError(f"{card_path}: no such file; a model is a .safetensors with a .json card") from None
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"{card_path}: cannot be read as a model's card ({first_line(error)})") from None
    if not isinstance(card, dict):
        raise ModelError(
            f"{card_path}: is no model's card: a table of JSON is wanted, not {type(card).__name__}"
        )
    return card


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Tell what is wrong with a model's card and weights by the file's name, whatever the card says.

    Raises
    ------
    ModelError
        Instead of any error.
    """
    try:
        yield
    except ModelError as error:
        if str(path) in str(error):
            raise
        raise ModelError(f"{path}: {error}") from None
    except Exception as error:
        raise ModelError(
            f"{path}: its card and its weights do not fit together ({first_line(error)})"
        ) from None


def whole(value: Any, name: str, low: int, high: int) -> int:
    """Return a whole number that a card tells.

    Raises
    ------
    ModelError
        If it is none, or outside ``low`` to ``high``.
    """
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise ModelError(f"{name} must be a whole number from {low} to {high}, not {_shown(value)}")
    return value


def _shown(value: Any) -> str:
    # The digits of a number may be too many to be written.
    return f"{value:.3g}" if isinstance(value, float) else repr(value)[:40] if not _huge(value) else "more"


def _huge(value: Any) -> bool:
    return isinstance(value, int) and value.bit_length() > 64


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
    wrong = next((k for k, v in tensors.items() if v.is_complex() or not v.isfinite().all()), None)
    if wrong is not None:
        raise ModelError(f"{path}: its weights {wrong!r} hold values that are no finite numbers")
    return {k: v.float() if v.dtype == torch.float16 else v for k, v in tensors.items()}, card
