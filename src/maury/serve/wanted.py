"""What the page asks to be run, checked field by field."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from maury.constants import COOL_MODEL, DEFAULT_MODEL, DRAWS
from maury.inference.infer import AUTO
from maury.inference.options import Companion
from maury.labels import Label, LabelSet
from maury.likelihood.residuals import Noise
from maury.models import folder, shipped
from maury.priors import LogUniform, Prior, TruncatedNormal, Uniform
from maury.quantities import quantity
from maury.serve.settings import Refused
from maury.weights import read_card

# What is narrower than this share of the label's range is a number, not a prior; a normal so many times wider is flat to rounding.
_NARROWEST, _WIDEST = 1e-5, 1e3
_Number = Annotated[float, Field(allow_inf_nan=False)]


@dataclass(frozen=True)
class Choice:
    """A model that can be chosen.

    Attributes
    ----------
    name
        Of the model, or ``auto``.
    folder
        Where it is; None for ``auto``.
    labels
        Those whose priors may be changed.
    elements
        Whether its library has elements that may be inferred too.
    """

    name: str
    folder: Path | None
    labels: tuple[Label, ...]
    elements: bool = False

    def to_json(self) -> dict[str, Any]:
        """Return what the page needs for its form."""
        return {
            "name": self.name,
            "labels": [label.to_dict() | {"short": quantity(label.name).short} for label in self.labels],
            "elements": self.elements,
        }


def choices(model: str) -> dict[str, Choice]:
    """Return the models that the page offers, by name: the server's own first, the other shipped ones, and ``auto``.

    Raises
    ------
    ModelError
        If the server's own is unknown or incomplete.
    """
    own = folder(model)
    folders = {own.name: own} | {k: v for k, v in shipped(estimators=True).items() if k != own.name}
    found = {
        name: Choice(name, path, tuple(_labels(path)), _has_elements(path)) for name, path in folders.items()
    }
    sets = [_labels(folder(name)) for name in (COOL_MODEL, DEFAULT_MODEL)]
    return found | {AUTO: Choice(AUTO, None, tuple(_common(sets)))}


def _labels(path: Path) -> LabelSet:
    problem = read_card(path / "estimator.safetensors")["problem"]
    labels = LabelSet.from_list(problem["labels"])
    return labels.select(name for name in labels.names if name not in problem["fixed"])


def _has_elements(path: Path) -> bool:
    """Tell whether labels of the library follow others, and so may be inferred too."""
    card = path / "emulator.safetensors"
    tied = read_card(card).get("tied") if card.with_suffix(".json").exists() else None
    return isinstance(tied, Mapping) and bool(tied.get("ties"))


def _common(sets: Sequence[LabelSet]) -> list[Label]:
    """Labels of all models that are tried, on the range that all of them have; those without such a range cannot have one prior for all."""
    found = []
    for label in sets[0]:
        if not all(label.name in labels.names for labels in sets):
            continue
        low = max(labels[label.name].prior.low for labels in sets)
        high = min(labels[label.name].prior.high for labels in sets)
        if low < high:
            found.append(replace(label, prior=Uniform(low=low, high=high)))
    return found


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class WantedPrior(_Strict):
    """A prior in the page's terms: a range, or a measurement ``mean`` +- ``sigma``."""

    kind: Literal["range", "normal"]
    low: _Number | None = None
    high: _Number | None = None
    mean: _Number | None = None
    sigma: _Number | None = None

    def on(self, label: Label) -> Prior:
        """Return the prior, inside the label's.

        Raises
        ------
        Refused
            Naming the field that is wrong.
        """
        low, high = label.prior.low, label.prior.high
        where = f"priors.{label.name}."
        names = ("low", "high") if self.kind == "range" else ("mean", "sigma")
        value = {name: number for name in names if (number := getattr(self, name)) is not None}
        if len(value) < len(names):
            raise _fields({where + name: "a number is wanted" for name in names if name not in value})
        outside = {
            where + name: f"must lie in the model's range, {low:g} to {high:g}"
            for name in ("low", "high", "mean")
            if name in value and not low <= value[name] <= high
        }
        if outside:
            raise _fields(outside)
        span = high - low
        if self.kind == "normal":
            if not value["sigma"] >= _NARROWEST * span:
                raise _fields({where + "sigma": f"must be at least {_NARROWEST * span:.1g}"})
            if not value["sigma"] <= _WIDEST * span:
                told = f"must be at most {_WIDEST * span:g}: the model's own prior is as flat"
                raise _fields({where + "sigma": told})
            return TruncatedNormal(low=low, high=high, **value)
        if not value["low"] < value["high"]:
            raise _fields({where + "high": "must be larger than the lower end"})
        if not value["high"] - value["low"] >= _NARROWEST * span:
            raise _fields({where + "high": f"must be at least {_NARROWEST * span:.1g} above the lower end"})
        return LogUniform(**value) if isinstance(label.prior, LogUniform) else Uniform(**value)


class Wanted(_Strict):
    """A run: which spectrum, model, labels, priors, noise, companion, draws and seed, and without which wavelengths (Angstrom)."""

    upload: Annotated[str, Field(max_length=64)]
    index: Annotated[int, Field(ge=0, le=100_000)] = 0
    model: Annotated[str, Field(max_length=200)]
    labels: Literal["basic", "cno", "elements"] = "basic"
    draws: Annotated[int, Field(ge=100, le=20_000)] = DRAWS
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    noise: Noise = "auto"
    companion: Companion = "no"
    priors: Annotated[dict[str, WantedPrior], Field(max_length=20)] = {}
    regions: Annotated[list[tuple[_Number, _Number]], Field(max_length=100)] = []

    def prepare(
        self, models: Mapping[str, Choice], wrong_regions: Mapping[str, str] | None = None
    ) -> dict[str, Prior]:
        """Check what depends on the model; return the priors.

        Parameters
        ----------
        models
            Those that are offered.
        wrong_regions
            What has been found wrong with the regions, by field (`maury.serve.reading.wrong_regions`).

        Raises
        ------
        Refused
            Naming every field that is wrong.
        """
        if self.model not in models:
            raise _fields({"model": f"is none of {', '.join(models)}"})
        labels = {label.name: label for label in models[self.model].labels}
        wrong: dict[str, str] = {}
        if self.labels != "basic" and not models[self.model].elements:
            having = [name for name, choice in models.items() if choice.elements]
            wrong["labels"] = f"{self.model} has no elements; {' and '.join(having) or 'no model here'} has"
        priors = {}
        for name, wanted in self.priors.items():
            if name not in labels:
                wrong[f"priors.{name}"] = f"cannot be set for {self.model}"
                continue
            try:
                priors[name] = wanted.on(labels[name])
            except Refused as error:
                wrong |= error.fields
        wrong |= wrong_regions or {}
        if wrong:
            raise _fields(wrong)
        return priors


def read_wanted(body: bytes) -> Wanted:
    """Read a request.

    Raises
    ------
    Refused
        If it is no JSON or fields are wrong; names them.
    """
    try:
        return Wanted.model_validate_json(body)
    except ValidationError as error:
        wrong = {".".join(map(str, e["loc"])): e["msg"] for e in error.errors(include_url=False)}
        if set(wrong) == {""}:
            raise Refused("the request is no JSON object", 400) from None
        raise _fields(wrong) from None


def _fields(wrong: Mapping[str, str]) -> Refused:
    name, message = next(iter(wrong.items()))
    return Refused(f"{name}: {message}", 422, dict(wrong))
