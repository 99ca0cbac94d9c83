"""Rules of the house that no single module can keep."""

import re
from pathlib import Path

import pytest

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
    assert kinds <= {".safetensors", ".json", ".toml", ".csv", ".png"}


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_module_is_of_one_subject(path):
    assert len(path.read_text().splitlines()) <= 700


def test_assets_are_small():
    for assets in (SOURCE / "assets").iterdir():
        assert (assets / "emulator.safetensors").stat().st_size < 8e6
        assert (assets / "estimator.safetensors").stat().st_size < 40e6
