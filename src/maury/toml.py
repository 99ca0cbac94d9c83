"""TOML files into settings, with errors that name file and field and suggest the nearest one."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from maury.errors import ConfigError
from maury.files import first_line
from maury.names import config_problem

# An instrument with a wavelength for every pixel has a few.
_LARGEST = 2**24
# Of a whole number, without its sign.
_BITS = 63
Model = TypeVar("Model", bound=BaseModel)


def read_toml(path: Path) -> dict[str, Any]:
    """Read a TOML file.

    Raises
    ------
    ConfigError
        If the file is missing or not TOML.
    """
    try:
        if Path(path).stat().st_size > _LARGEST:
            raise ConfigError(f"{path}: is too large for settings")
        text = Path(path).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read ({error})") from None
    try:
        found = tomllib.loads(text)
    except RecursionError:
        raise ConfigError(
            f"{path}: not a TOML file that can be read (arrays within arrays without end)"
        ) from None
    except ValueError as error:
        # Of a number with thousands of digits too.
        raise ConfigError(f"{path}: not a TOML file ({first_line(error)})") from None
    todo: list[Any] = [found]
    while todo:
        value = todo.pop()
        todo += value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
        # Python's parser takes more than TOML allows, and what computes with it does not.
        if isinstance(value, int) and value.bit_length() > _BITS:
            raise ConfigError(
                f"{path}: holds a whole number of more than {_BITS + 1} bits, which TOML has not"
            )
    return found


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
        raise ConfigError(f"{path}: {config_problem(error, model)}") from None
    except (OverflowError, RecursionError) as error:
        raise ConfigError(f"{path}: holds a value that cannot be ({first_line(error)})") from None


def read_config(path: Path, model: type[Model]) -> Model:
    """Read a TOML file into a config.

    Raises
    ------
    ConfigError
        If the file is missing, not TOML, or a key is unknown or impossible; names the key.
    """
    return validate(path, read_toml(path), model)
