"""The reference of the command line, from the commands themselves."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from enum import Enum
from typing import Any, get_args, get_type_hints

import typer.main

from maury.cli import app

_HIDDEN = ("--help", "--install-completion", "--show-completion")


def walk() -> Iterator[tuple[str, Any]]:
    """Yield every command that is no group, with its full name."""
    yield from _walk("maury", typer.main.get_command(app))


def _walk(name: str, command: Any) -> Iterator[tuple[str, Any]]:
    if not hasattr(command, "commands"):
        yield name, command
        return
    for key, inner in command.commands.items():
        yield from _walk(f"{name} {key}", inner)


def reference() -> str:
    """Return a section a command: usage, what it does, arguments and options."""
    return "\n\n".join(_section(name, command) for name, command in walk() if not command.hidden)


def _section(name: str, command: Any) -> str:
    text, _, example = inspect.cleandoc(command.help or "").partition("Example:")
    arguments = [p for p in command.params if p.param_type_name == "argument"]
    options = [p for p in command.params if p.param_type_name == "option" and not set(p.opts) & set(_HIDDEN)]
    kinds = {key: _kind(hint) for key, hint in get_type_hints(command.callback).items()}
    needed = [f"{max(p.opts, key=len)} {kinds[p.name]}" for p in options if p.required]
    usage = " ".join([name, *(_metavar(p) for p in arguments), *needed])
    parts = [f"## {name}", text.strip(), f"```text\n{usage}{' [options]' if options else ''}\n```"]
    if example:
        parts.append(f"```sh\n{inspect.cleandoc(example).strip()}\n```")
    rows = [(f"`{_metavar(p)}`", p.help or "", "") for p in arguments]
    rows += [(_names(p, kinds[p.name]), p.help or "", _default(p)) for p in options]
    if rows:
        table = ["| | | default |", "|---|---|---|", *(f"| {a} | {_cell(b)} | {c} |" for a, b, c in rows)]
        parts.append("\n".join(table))
    return "\n\n".join(parts)


def _metavar(argument: Any) -> str:
    return str(argument.metavar or argument.name.upper())


def _kind(hint: Any) -> str:
    """Name what an option takes, from the annotation of its parameter."""
    inner = [each for each in get_args(hint) if each is not type(None)]
    if inner:
        return _kind(inner[0])
    if issubclass(hint, Enum):
        return "|".join(str(choice.value) for choice in hint)
    return {str: "TEXT", int: "INTEGER", float: "NUMBER"}.get(hint, hint.__name__.upper())


def _names(option: Any, kind: str) -> str:
    names = ", ".join(f"`{name}`" for name in [*option.opts, *option.secondary_opts])
    # A pipe inside code does not part cells here.
    return names if option.is_flag else f"{names} `{kind}`"


def _default(option: Any) -> str:
    if option.required:
        return "required"
    value = option.default
    if value is None or isinstance(value, bool) or callable(value):
        return ""
    value = getattr(value, "value", value)
    return f"`{value}`" if str(value) else ""


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
