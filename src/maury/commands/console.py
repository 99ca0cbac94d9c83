"""What commands share: consoles, options, and how errors, JSON and folders are handled."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer
from rich.console import Console

from maury.errors import MauryError
from maury.files import finite
from maury.names import shipped

T = TypeVar("T")


def complete_model(incomplete: str) -> list[str]:
    """Return the shipped models that a shell may complete a name to."""
    return [name for name in shipped() if name.startswith(incomplete)]


def complete_model_or_auto(incomplete: str) -> list[str]:
    """Return the same, and ``auto``."""
    return [*complete_model(incomplete), *(["auto"] if "auto".startswith(incomplete) else [])]


ModelOption = Annotated[
    str,
    typer.Option("--model", help="Name of a shipped model, or a folder.", autocompletion=complete_model),
]
out, err = Console(), Console(stderr=True)
BAD_INPUT = 2


class NoiseModel(StrEnum):
    """How residuals scatter."""

    auto = "auto"
    independent = "independent"
    correlated = "correlated"


NoiseOption = Annotated[
    NoiseModel, typer.Option(help="Residuals: auto lets the spectrum say whether they hang together.")
]


def bar(items: Iterable[T], text: str, total: int | None) -> Iterable[T]:
    """Show a progress bar while the items are taken, if anyone is watching."""
    from rich.progress import track

    return track(items, text, total, console=err, disable=not err.is_terminal)


def check_rate(false_alarm: float) -> None:
    """Raise a `MauryError` unless a rate of false alarms is one."""
    if not 0 < false_alarm < 1:
        raise MauryError(f"--false-alarm must lie between 0 and 1, not {false_alarm:g}")


def print_error(message: str) -> None:
    """Print one line in red to standard error."""
    err.print(f"error: {message}", style="red", highlight=False, soft_wrap=True, markup=False)


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
