"""Checkpoints without pickle: tensors in safetensors, everything else in JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.fabric.plugins.io import CheckpointIO
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from maury.errors import ModelError
from maury.files import writing


def _encode(value: Any, tensors: dict[str, Tensor], name: str) -> Any:
    """Replace tensors by references into ``tensors`` and what JSON lacks by tagged objects."""
    if isinstance(value, Tensor):
        tensors[name] = value.detach().cpu().clone().contiguous()
        return {"$tensor": name}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, Mapping):
        if all(isinstance(key, str) for key in value):
            return {key: _encode(item, tensors, f"{name}/{key}") for key, item in value.items()}
        return {"$items": [[key, _encode(item, tensors, f"{name}/{key}")] for key, item in value.items()]}
    if isinstance(value, tuple | list):
        items = [_encode(item, tensors, f"{name}/{i}") for i, item in enumerate(value)]
        return {"$tuple": items} if isinstance(value, tuple) else items
    raise TypeError(f"a checkpoint cannot hold {name}: {type(value).__name__}")


def _decode(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    if isinstance(value, list):
        return [_decode(item, tensors) for item in value]
    if not isinstance(value, dict):
        return value
    if "$tensor" in value:
        return tensors[value["$tensor"]]
    if "$items" in value:
        return {key: _decode(item, tensors) for key, item in value["$items"]}
    if "$tuple" in value:
        return tuple(_decode(item, tensors) for item in value["$tuple"])
    return {key: _decode(item, tensors) for key, item in value.items()}


class OpenCheckpoint(CheckpointIO):
    """Lightning's checkpoints as one safetensors file whose metadata is the JSON of all that is not a tensor."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Write the checkpoint by a temporary name."""
        tensors: dict[str, Tensor] = {}
        rest = json.dumps(_encode(checkpoint, tensors, "checkpoint"))
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        with writing(path) as temporary:
            temporary.write_bytes(save(tensors, metadata={"checkpoint": rest}))

    def load_checkpoint(
        self, path: Any, map_location: Any = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Read what `save_checkpoint` wrote.

        Raises
        ------
        ModelError
            If the file is missing or damaged.
        """
        try:
            with safe_open(path, framework="pt") as file:
                tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
                rest = json.loads(file.metadata()["checkpoint"])
        except Exception as error:
            raise ModelError(f"{path}: not a checkpoint of maury ({error})") from None
        checkpoint: dict[str, Any] = _decode(rest, tensors)
        return checkpoint

    def remove_checkpoint(self, path: Any) -> None:
        """Delete a checkpoint."""
        Path(path).unlink(missing_ok=True)


def latest(directory: Path) -> Path | None:
    """Return the checkpoint of the most steps under ``directory``, or None; clocks, which may be set back, are not asked."""
    # A leading dot is a file that a killed process left half written.
    found = [path for path in directory.glob("*.ckpt") if not path.name.startswith(".")]
    return max(found, key=lambda path: (_step(path), path.stem == "last"), default=None)


def _step(path: Path) -> int:
    """Return the steps that led to a checkpoint, -1 if it cannot be read."""
    try:
        with safe_open(path, framework="pt") as file:
            return int(json.loads(file.metadata()["checkpoint"])["global_step"])
    except Exception:
        return -1
