"""Rules of the house that no single module can keep."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer
from rich.text import Text

from maury.cli import app
from maury.names import shipped

SOURCE = Path(__file__).parents[1] / "src" / "maury"
MODULES = sorted(SOURCE.rglob("*.py"))
PICKLE = re.compile(
    r"\bpickle\b(?! is)|torch\.(save|load)\b|joblib|np\.load\((?!.*allow_pickle=False)|shelve|dill\b"
)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_no_pickle_is_loaded_or_written(path):
    code = [line for line in path.read_text().splitlines() if not line.lstrip().startswith(("#", '"""'))]
    assert not [line for line in code if PICKLE.search(line)]


def test_assets_are_open_formats():
    kinds = {path.suffix for path in (SOURCE / "assets").rglob("*") if path.is_file()}
    assert kinds <= {".safetensors", ".json", ".toml", ".csv", ".png", ".npz", ".lines"}


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_module_is_of_one_subject(path):
    assert len(path.read_text().splitlines()) <= 700


def test_assets_are_small():
    for assets in shipped().values():
        assert (assets / "emulator.safetensors").stat().st_size < 12e6
        assert (assets / "estimator.safetensors").stat().st_size < 40e6


def unsaid_encodings(code: str) -> Iterator[int]:
    """Lines that read or write text in whatever encoding the user's language has."""
    for node in ast.walk(ast.parse(code)):
        if not isinstance(node, ast.Call) or any(k.arg == "encoding" for k in node.keywords):
            continue
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        owner = getattr(getattr(node.func, "value", None), "id", "")
        if name in ("read_text", "write_text", "loadtxt", "savetxt") and (owner or name != "read_text"):
            yield node.lineno
        elif name == "open" and owner not in ("fits", "h5py", "os", "xr", "Grid", "Simulations"):
            # The mode comes after the path, of a method first.
            at = 0 if owner or isinstance(node.func, ast.Attribute) else 1
            mode = [k.value for k in node.keywords if k.arg == "mode"] or node.args[at : at + 1]
            if not mode or (isinstance(mode[0], ast.Constant) and "b" not in str(mode[0].value)):
                yield node.lineno


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_text_files_say_that_they_are_utf8(path):
    assert not list(unsaid_encodings(path.read_text(encoding="utf-8")))


def test_a_file_that_does_not_say_is_found():
    code = 'open("a")\npath.open("w")\npath.read_text()\nopen("a", "rb")\npath.open("r", encoding="utf-8")'
    assert list(unsaid_encodings(code)) == [1, 2, 3]


def test_help_loses_nothing_to_markup():
    """Typer reads ``[priors]`` in a help text as a colour, and leaves it out."""

    def texts(command) -> Iterator[str]:
        yield from filter(None, (command.help, command.epilog))
        for parameter in command.params:
            yield getattr(parameter, "help", None) or ""
        for inner in getattr(command, "commands", {}).values():
            yield from texts(inner)

    found = list(texts(typer.main.get_command(app)))
    assert len(found) > 100
    for text in found:
        assert Text.from_markup(text).plain == text.replace("\\[", "[")
