"""What commands share: consoles, options, and how errors, JSON and folders are handled."""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.text import Text

from maury.errors import MauryError, MauryWarning
from maury.files import finite, sweep
from maury.names import shipped
from maury.text import readable


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
AutoModelOption = Annotated[
    str,
    typer.Option(
        "--model",
        help="Name of a shipped model, a folder, or 'auto' to let the evidence choose.",
        autocompletion=complete_model_or_auto,
    ),
]


# Seeds that every generator takes, with room for one a spectrum.
SeedOption = Annotated[int, typer.Option(help="Seed of all random draws.", min=0, max=2**62)]
TrustOption = Annotated[
    bool,
    typer.Option(
        "--trust-code",
        help="Import the network class that the model or configuration names. This runs its author's code.",
    ),
]


class _Plain(Console):
    """A console on which text is text: brackets are no markup, and no name of a star moves the cursor."""

    def __init__(self, stderr: bool = False) -> None:
        super().__init__(stderr=stderr, markup=False, emoji=False)

    def render_str(self, text: str, **options: Any) -> Text:
        """Return text as rich prints it, line by line without what cannot be shown."""
        return super().render_str("\n".join(map(readable, text.split("\n"))), **options)


out, err = _Plain(), _Plain(stderr=True)
BAD_INPUT = 2


class NoiseModel(StrEnum):
    """How residuals scatter."""

    auto = "auto"
    independent = "independent"
    correlated = "correlated"


NoiseOption = Annotated[
    NoiseModel,
    typer.Option(help="Noise model: auto adds a correlated part where the residuals call for one."),
]


NuisancesOption = Annotated[
    str,
    typer.Option(
        help="Nuisances to integrate out: default, none, or names separated by commas.",
    ),
]


BudgetOption = Annotated[
    int,
    typer.Option(
        help="Most likelihoods for a spectrum; then the best answer so far is given, flagged not_converged. Nested sampling needs 100000.",
        min=1000,
    ),
]


@contextmanager
def stages(first: str) -> Iterator[Callable[[str], None]]:
    """Show which stage runs, if anyone is watching; yield the function that tells of the next."""
    with err.status(Text(first)) as status:
        yield lambda stage: status.update(Text(readable(stage)))


@contextmanager
def speaking() -> Iterator[None]:
    """Print warnings of maury's in one line, and characters that the user's locale has not escaped."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    with warnings.catch_warnings():
        usual = warnings.showwarning

        def show(message: Warning | str, category: type[Warning], *place: Any, **more: Any) -> None:
            if issubclass(category, MauryWarning):
                err.print(
                    f"warning: {readable(str(message))}", style="yellow", highlight=False, soft_wrap=True
                )
            else:
                usual(message, category, *place, **more)

        warnings.simplefilter("always", MauryWarning)
        warnings.showwarning = show
        yield


def check_rate(false_alarm: float) -> None:
    """Raise a `MauryError` unless a rate of false alarms is one."""
    if not 0 < false_alarm < 1:
        raise MauryError(f"--false-alarm must lie between 0 and 1, not {false_alarm:g}")


def print_error(message: str) -> None:
    """Print one line in red to standard error."""
    err.print(f"error: {readable(message)}", style="red", highlight=False, soft_wrap=True)


def print_json(entry: dict[str, Any]) -> None:
    """Print one line of JSON to standard output."""
    sys.stdout.write(json.dumps(finite(entry), allow_nan=False) + "\n")
    sys.stdout.flush()


def make_folder(path: Path) -> None:
    """Make a folder for a command's output, or clear one of what a killed run has left half written; a `MauryError` says why it cannot."""
    try:
        path.mkdir(parents=True, exist_ok=True)
        sweep(path)
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
