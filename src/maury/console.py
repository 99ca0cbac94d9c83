"""What commands share: consoles, options, and how errors, JSON and folders are handled."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from maury.errors import MauryError

ModelOption = Annotated[str, typer.Option("--model", help="Name of a shipped model, or a folder.")]
out, err = Console(), Console(stderr=True)


def print_error(message: str) -> None:
    """Print one line in red to standard error."""
    err.print(f"error: {message}", style="red", highlight=False, soft_wrap=True, markup=False)


def finite(value: Any) -> Any:
    """Replace what JSON cannot hold by null."""
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [finite(item) for item in value]
    if isinstance(value, float) and not abs(value) < float("inf"):
        return None
    return value


def print_json(entry: dict[str, Any]) -> None:
    """Print one line of JSON to standard output."""
    sys.stdout.write(json.dumps(finite(entry)) + "\n")
    sys.stdout.flush()


def make_folder(path: Path) -> None:
    """Make a folder unless it exists; a `MauryError` names the one that cannot be made."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise MauryError(f"{path}: cannot be made a folder ({error.strerror})") from None


def read_range(text: str, option: str) -> tuple[float, float]:
    """Read ``low:high`` or one number."""
    low, _, high = text.partition(":")
    try:
        values = float(low), float(high or low)
    except ValueError:
        values = (1.0, 0.0)
    if not values[0] <= values[1]:
        raise MauryError(f"{option} {text}: needs LOW:HIGH, such as 2300:7000, or one number")
    return values
