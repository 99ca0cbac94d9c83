"""TOML files into settings, with errors that name file and field and suggest the nearest one."""

from __future__ import annotations

import difflib
import tomllib
from pathlib import Path
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ValidationError

from maury.errors import ConfigError

Model = TypeVar("Model", bound=BaseModel)


def read_toml(path: Path) -> dict[str, Any]:
    """Read a TOML file.

    Raises
    ------
    ConfigError
        If the file is missing or not TOML.
    """
    try:
        return tomllib.loads(Path(path).read_text())
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read ({error})") from None
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path}: not a TOML file ({error})") from None


def validate(path: Path, entries: dict[str, Any], model: type[Model], context: Any = None) -> Model:
    """Make a config of what a file says.

    Raises
    ------
    ConfigError
        If a key is unknown or impossible; names file and key, and the nearest known key.
    """
    try:
        return model.model_validate(entries, context=context)
    except ValidationError as error:
        # An unknown key is often a known one misspelt, which is then also missing: tell that first.
        first = min(error.errors(), key=lambda problem: problem["type"] != "extra_forbidden")
        key = ".".join(str(part) for part in first["loc"])
        message = first["msg"].removeprefix("Value error, ")
        if first["type"] == "extra_forbidden":
            message += suggestion(str(first["loc"][-1]), sorted(_keys(model)))
        raise ConfigError(f"{path}: {key}: {message}" if key else f"{path}: {message}") from None


def read_config(path: Path, model: type[Model]) -> Model:
    """Read a TOML file into a config.

    Raises
    ------
    ConfigError
        If the file is missing, not TOML, or a key is unknown or impossible; names the key.
    """
    return validate(path, read_toml(path), model)


def suggestion(name: str, known: list[str]) -> str:
    """Return ``; did you mean 'x'?`` where a known name is near, else nothing."""
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    return f"; did you mean {near[0]!r}?" if near else ""


def _keys(model: type[BaseModel]) -> set[str]:
    """Return the names of all fields of a model and of those inside it."""
    found = set(model.model_fields)
    waiting = [field.annotation for field in model.model_fields.values()]
    while waiting:
        one = waiting.pop()
        if isinstance(one, type) and issubclass(one, BaseModel):
            found |= _keys(one)
        waiting.extend(get_args(one))
    return found
