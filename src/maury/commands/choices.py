"""Priors and masks as the command line writes them: ``--prior logg=2.61+-0.05``, ``--mask 16100:16150``."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from maury.errors import LabelError, MauryError

if TYPE_CHECKING:
    from maury.models import Model
    from maury.priors import Prior

PriorOption = Annotated[
    list[str] | None,
    typer.Option(
        "--prior",
        metavar="LABEL=PRIOR",
        help=r"logg=2.61+-0.05 (normal), teff=4000:5000 (uniform), or FILE.toml with a table \[priors]; may be given more than once.",
    ),
]
MaskOption = Annotated[
    list[str] | None,
    typer.Option(
        "--mask",
        metavar="LOW:HIGH",
        help="Wavelengths to leave out, in vacuum Angstrom, such as 16100:16150; may be given more than once.",
    ),
]

LabelsOption = Annotated[
    str,
    typer.Option(
        "--labels",
        help="What to infer: basic, cno, elements, or names of further labels, separated by commas.",
    ),
]

InstrumentOption = Annotated[
    str | None,
    typer.Option(
        "--instrument",
        help="What tables leave open (unit, medium, frame, mask bits) is as of this spectrograph: a name or a TOML file.",
    ),
]

_NUMBER = r"([-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)"
_NORMAL = re.compile(rf"{_NUMBER}\s*(?:\+-|\+/-|±)\s*{_NUMBER}")
_RANGE = re.compile(rf"{_NUMBER}:{_NUMBER}")
_WANTED = "write LABEL=VALUE+-ERROR, as in logg=2.61+-0.05, or LABEL=LOW:HIGH, as in teff=4000:5000"


def read_priors(texts: Sequence[str]) -> dict[str, Prior]:
    """Read ``LABEL=VALUE+-ERROR``, ``LABEL=LOW:HIGH`` and TOML files with a table ``[priors]``.

    Raises
    ------
    MauryError
        If one is none of them, or a label has two.
    """
    found: dict[str, Prior] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        new = {name.strip(): _prior(text, value.strip())} if equals else _of_file(text)
        for label, prior in new.items():
            if label in found:
                raise MauryError(f"--prior {text}: {label} already has a prior")
            found[label] = prior
    return found


def _prior(text: str, value: str) -> Prior:
    from maury.priors import Normal, Uniform

    try:
        if match := _NORMAL.fullmatch(value):
            return Normal(mean=float(match[1]), sigma=float(match[2]))
        if match := _RANGE.fullmatch(value):
            return Uniform(low=float(match[1]), high=float(match[2]))
    except LabelError as error:
        raise MauryError(f"--prior {text}: {error}") from None
    raise MauryError(f"--prior {text}: {_WANTED}")


def _of_file(text: str) -> Mapping[str, Prior]:
    from maury.priors import PriorFile
    from maury.toml import read_config

    if Path(text).suffix.lower() != ".toml":
        raise MauryError(f"--prior {text}: {_WANTED}; or name a TOML file")
    priors = read_config(Path(text), PriorFile).priors
    if not priors:
        raise MauryError(f"--prior {text}: the file has no [priors]")
    return priors


def read_masks(texts: Sequence[str]) -> list[tuple[float, float]]:
    """Read ranges of wavelength, ``LOW:HIGH``.

    Raises
    ------
    MauryError
        If one is none.
    """
    found = []
    for text in texts:
        match = _RANGE.fullmatch(text.strip())
        low, high = (float(match[1]), float(match[2])) if match else (math.nan, math.nan)
        if not low < high:
            raise MauryError(f"--mask {text}: write LOW:HIGH in Angstrom, as in 16100:16150")
        found.append((low, high))
    return found


def priors_for(model: Model, priors: Mapping[str, Prior]) -> dict[str, Prior]:
    """Return priors cut to the ranges of a model; what is cut is told once, and not again of each spectrum.

    Raises
    ------
    LabelError
        If the model does not infer one of the labels, or a prior lies outside its range.
    """
    from maury.inference.batch import labels_under

    labels = labels_under(model, priors)
    return {name: labels[name].prior for name in priors}
