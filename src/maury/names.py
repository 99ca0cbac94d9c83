"""Names that a user may mistype: which there are, and which one was meant."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

if TYPE_CHECKING:
    from pydantic import BaseModel, ValidationError

# More names than these are listed only where none is near.
_FEW = 12


def nearest(name: str, known: Iterable[str]) -> str | None:
    """Return the one of ``known`` that is spelt most like ``name``, or None."""
    by_case = {str(item).lower(): str(item) for item in known}
    found = difflib.get_close_matches(str(name).lower(), by_case, n=1, cutoff=0.5)
    return by_case[found[0]] if found else None


def meant(name: str, known: Iterable[str], what: str = "known are") -> str:
    """Return the end of an error's message: which names there are, unless they are many, and which was meant.

    Examples
    --------
    >>> meant("tef", ["teff", "logg"])
    "known are teff, logg; did you mean 'teff'?"
    >>> meant("colour", ["teff", "logg"])
    'known are teff, logg'
    """
    known = [str(item) for item in known]
    near = nearest(name, known)
    there = f"{what} {', '.join(known) or 'none'}" if near is None or len(known) <= _FEW else ""
    return "; ".join(part for part in (there, f"did you mean {near!r}?" if near else "") if part)


def config_problem(error: ValidationError, model: type[BaseModel]) -> str:
    """Return key and reason of what is wrong with a configuration, and what was meant where a name is mistyped."""
    problems = error.errors()
    # Of tables that may be of several kinds, those of another kind than is stated tell nothing.
    other = {p["loc"][:-1] for p in problems if p["type"] == "literal_error" and p["loc"][-1:] == ("kind",)}
    problems = [
        p for p in problems if not any(p["loc"][: len(place)] == place for place in other)
    ] or problems
    # An unknown key is often a known one misspelt, which is then also missing: tell that first.
    first = min(problems, key=lambda problem: problem["type"] != "extra_forbidden")
    *place, last = first["loc"] or ("",)
    reason, context = first["msg"].removeprefix("Value error, "), first.get("ctx", {})
    if first["type"] == "extra_forbidden":
        reason = f"no such key; {meant(str(last), keys_at(model, place))}"
    elif first["type"] == "union_tag_invalid":
        reason = f"no {context['tag']!r}; {meant(str(context['tag']), _quoted(context['expected_tags']))}"
    elif first["type"] == "union_tag_not_found":
        reason = f"does not say which {context['discriminator'].strip(chr(39))} it is"
    elif first["type"] == "literal_error":
        reason = f"no {first['input']!r}; {meant(str(first['input']), _quoted(context['expected']))}"
    # Brackets are pydantic's, as in "function-after[_ordered(), Uniform]".
    return f"{'.'.join(str(part) for part in first['loc'] if '[' not in str(part))}: {reason}"


def _quoted(text: str) -> list[str]:
    return re.findall(r"'([^']*)'", text)


def keys_at(model: type[BaseModel], place: Iterable[Any]) -> list[str]:
    """Return the keys that a configuration may have at ``place``, the keys that lead there from the outermost."""
    found = {model}
    for step in place:
        fields = [m.model_fields[step] for m in found if step in m.model_fields]
        if fields:
            found = {inner for field in fields for inner in _models(field.annotation)}
        else:
            # The name of a label, or what chooses one table of a union.
            found = {m for m in found if _is_chosen(m, str(step))} or found
    return list(dict.fromkeys(key for m in sorted(found, key=lambda m: m.__name__) for key in m.model_fields))


def _is_chosen(model: type[BaseModel], step: str) -> bool:
    """Whether pydantic names a model so: by its tag, or with its class's name in brackets."""
    kind = model.model_fields.get("kind")
    return step.endswith(f", {model.__name__}]") or (kind is not None and step in get_args(kind.annotation))


def _models(annotation: Any) -> set[type[BaseModel]]:
    if isinstance(annotation, type) and hasattr(annotation, "model_fields"):
        return {annotation}
    return {model for part in get_args(annotation) for model in _models(part)}


def shipped(estimators: bool = False) -> dict[str, Path]:
    """Return the models that come with the package, name to folder; only those with an estimator if that is asked for."""
    root = Path(str(resources.files("maury") / "assets"))
    part = "estimator" if estimators else "emulator"
    return {path.parent.name: path.parent for path in sorted(root.glob(f"*/{part}.safetensors"))}
