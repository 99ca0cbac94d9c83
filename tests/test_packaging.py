"""What a user installs and first meets: imports, help, completion, metadata."""

import json
import os
import re
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import pytest
import typer.main

from maury.cli import app
from maury.names import shipped

ROOT = Path(__file__).parents[1]
HEAVY = {
    "torch", "astropy", "numpy", "scipy", "matplotlib", "pyarrow", "dask", "sklearn", "pandas", "xarray", "h5py",
    "lightning", "pydantic", "zuko", "starlette", "corner", "jinja2",
}  # fmt: skip


def commands(group=None, path=()):
    """Every command by its words, groups with their commands."""
    group = group or typer.main.get_command(app)
    for name, command in group.commands.items():
        if getattr(command, "commands", None):
            yield from commands(command, (*path, name))
        else:
            yield (*path, name), command


ALL = dict(commands())


@pytest.mark.parametrize("module", ["maury", "maury.cli"])
def test_imports_are_light(module):
    code = f"import sys, {module}; print(*{{name.split('.')[0] for name in sys.modules}})"
    found = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert not HEAVY & set(found.stdout.split())


def test_help_is_quick():
    # CPU time: other processes of the machine do not count.
    code = "import sys; sys.argv = ['maury', '--help']; from maury.cli import main; main()"
    before = os.times()
    began = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
    after = os.times()
    used = after.children_user + after.children_system - before.children_user - before.children_system
    assert used < 1, f"{used:.2f} s of CPU time, {time.perf_counter() - began:.2f} s"


@pytest.mark.parametrize("words", ALL, ids=" ".join)
def test_every_command_has_an_example(words):
    example = re.search(r"Example: (maury .*)", ALL[words].help or "")
    assert example, f"maury {' '.join(words)}: its docstring has no example"
    assert example[1].replace("survey '", "survey run '").startswith(f"maury {' '.join(words)}")


@pytest.mark.parametrize("words", ALL, ids=" ".join)
def test_every_option_of_an_example_exists(words):
    command = ALL[words]
    example = re.search(r"Example: (maury .*)", command.help)[1].split("&&")[0]
    known = {name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)}
    assert set(re.findall(r"--[\w-]+", example)) <= known


def test_help_shows_the_example():
    found = subprocess.run(
        [sys.executable, "-m", "maury.cli", "--help"], check=True, capture_output=True, text=True
    )
    assert "Example: maury infer" in found.stdout


@pytest.mark.parametrize(
    ("line", "expected", "not_expected"),
    [
        ("maury infer x.fits --model ", {"kurucz-apogee", "btsettl-apogee", "auto"}, set()),
        ("maury infer x.fits --model b", {"btsettl-apogee"}, {"kurucz-apogee"}),
        ("maury models show k", {"kurucz-apogee"}, {"btsettl-apogee"}),
        ("maury check calibration --model k", {"kurucz-apogee"}, {"auto"}),
        ("maury simulate --model k", {"kurucz-apogee"}, set()),
        ("maury reproduce ", {"sine", "three", "five"}, set()),
        ("maury surv", {"survey"}, {"infer"}),
    ],
)
def test_the_shell_completes(line, expected, not_expected):
    environment = os.environ | {
        "_MAURY_COMPLETE": "complete_bash",
        "COMP_WORDS": line,
        "COMP_CWORD": str(len(line.split(" ")) - 1),
    }
    code = "import sys; sys.argv = ['maury']; from maury.cli import app; app(prog_name='maury')"
    found = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    words = set(found.stdout.split())
    assert expected <= words, found.stderr
    assert not words & not_expected


def test_metadata():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["requires-python"] == ">=3.11,<3.14"
    minors = {line.rsplit(" ", 1)[1] for line in project["classifiers"] if "Python :: 3." in line}
    assert minors == {"3.11", "3.12", "3.13"}
    extras = project["optional-dependencies"]
    assert {"survey", "serve", "peers", "train", "mcmc", "interop", "all", "dev"} <= set(extras)
    every = set(re.search(r"\[(.*)\]", extras["all"][0])[1].split(","))
    assert every <= set(extras)
    assert {"LICENSE", "CITATION.cff"} <= set(project["license-files"])
    assert (ROOT / "src/maury/py.typed").exists()


def test_what_is_wanted_is_pinned():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pinned = {line.split("==")[0].lower() for line in lines}
    assert lines == sorted(lines, key=str.lower), "keep constraints.txt in alphabetical order"
    wanted = [*project["dependencies"], *project["optional-dependencies"]["dev"]]
    assert {re.split(r"[<>=\[]", line)[0].lower() for line in wanted} <= pinned


def test_what_is_installed_has_hashes():
    """Where this fails: make lock."""
    entries = re.split(r"\n(?=[a-z0-9])", (ROOT / "hashes.txt").read_text(encoding="utf-8"))
    heads = [entry.splitlines()[0] for entry in entries if not entry.startswith("#")]
    found = {re.split(r"[= ;]", head)[0].lower(): re.search(r"==([^ ;]+)", head)[1] for head in heads}
    assert all("--hash=sha256:" in entry for entry in entries if not entry.startswith("#"))
    assert "torch" not in found
    assert not [name for name in found if name.startswith(("nvidia-", "cuda-"))]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    wanted = {
        re.split(r"[<>=\[]", line)[0].lower()
        for line in (*project["dependencies"], *extras["dev"], *extras["docs"])
    }
    assert wanted - {"torch"} <= set(found)
    pinned = dict(
        line.split("==") for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    )
    assert {name: found[name.lower()] for name in pinned if name.lower() in found} == {
        name: version for name, version in pinned.items() if name.lower() in found
    }


def test_licences_and_bill_of_materials_are_complete():
    """Where this fails: make supply-chain."""
    subprocess.run([sys.executable, ROOT / "docs/tools/supply_chain.py", "--check"], check=True)
    bill = json.loads((ROOT / "sbom.cdx.json").read_text(encoding="utf-8"))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert bill["metadata"]["component"]["version"] == project["project"]["version"]
    assert project["tool"]["hatch"]["build"]["targets"]["wheel"]["sbom-files"] == ["sbom.cdx.json"]
    models = {c["name"] for c in bill["components"] if c["type"] == "machine-learning-model"}
    assert models == set(shipped())


def test_the_assets_leave_room_in_the_wheel():
    # Weights hardly compress: 70 MB is the wheel's limit, which .ci/wheel-test measures.
    size = sum(path.stat().st_size for path in (ROOT / "src").rglob("*") if path.is_file())
    assert size < 68e6


def test_the_container_does_not_run_as_root():
    lines = (ROOT / "Dockerfile").read_text().splitlines()
    stages = [i for i, line in enumerate(lines) if line.startswith("FROM")]
    last = [line.split()[0] for line in lines[stages[-1] :] if line and not line.startswith((" ", "#"))]
    assert last.index("USER") < last.index("ENTRYPOINT")
    for source in re.findall(r"^COPY (?!--from)(.*) \S+$", "\n".join(lines), re.MULTILINE):
        for name in source.split():
            assert (ROOT / name).exists(), name
