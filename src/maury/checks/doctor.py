"""What an installation has, and what is wrong with it: ``maury doctor``.

Nothing but the standard library is imported before it is needed: a broken package must be told, not met.
"""

from __future__ import annotations

import base64
import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

import maury
from maury.files import first_line, sha256
from maury.names import shipped

State = Literal["ok", "note", "broken"]
# Extras for those who develop maury.
_OURS = {"dev", "all", "docs"}
_LITTLE_SPACE = 2e9


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes
    ----------
    part
        ``"software"``, ``"extras"``, ``"devices"``, ``"models"`` or ``"folders"``.
    name
        What it is.
    state
        ``"ok"``; ``"note"`` where something optional is missing; ``"broken"`` where maury does not work, or not rightly.
    text
        What was found, and what to do about it.
    values
        The same for programs.
    """

    part: str
    name: str
    state: State
    text: str
    values: dict[str, Any] = field(default_factory=dict)


def examine(models: bool = True) -> list[Finding]:
    """Look at everything; with ``models`` false the shipped models are not loaded."""
    found = [*_software(), *_extras(), *_devices(), *_folders()]
    if models:
        record = _record()
        found += [_model(name, path, record) for name, path in shipped(estimators=True).items()]
    order = ("software", "devices", "models", "folders", "extras")
    return sorted(found, key=lambda finding: order.index(finding.part))


def _requirements() -> list[Any]:
    from packaging.requirements import Requirement

    return [Requirement(text) for text in metadata.requires("maury") or []]


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _software() -> list[Finding]:
    python = platform.python_version()
    found = [Finding("software", "maury", "ok", f"{maury.__version__}, {Path(maury.__file__).parent}")]
    try:
        from packaging.specifiers import SpecifierSet

        wanted = SpecifierSet(metadata.metadata("maury")["Requires-Python"] or "")
        requirements = _requirements()
    except (ImportError, metadata.PackageNotFoundError) as error:
        reason = f"{first_line(error)}: dependencies cannot be checked; pip install maury"
        return [*found, Finding("software", "installation", "broken", reason)]
    fits = python in wanted
    text = f"{python}, {sys.executable}" + ("" if fits else f"; maury wants {wanted}")
    found.append(
        Finding(
            "software", "python", "ok" if fits else "broken", text, {"version": python, "wants": str(wanted)}
        )
    )
    for requirement in requirements:
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        found.append(_dependency(requirement))
    return found


def _dependency(requirement: Any) -> Finding:
    version, wants = _version(requirement.name), str(requirement.specifier)
    values = {"version": version, "wants": wants}
    if version is None:
        text = f"missing; pip install '{requirement.name}{wants}'"
    elif not requirement.specifier.contains(version, prereleases=True):
        text = f"{version}, but {wants} is wanted; pip install '{requirement.name}{wants}'"
    else:
        return Finding("software", requirement.name, "ok", version, values)
    return Finding("software", requirement.name, "broken", text, values)


def _extras() -> list[Finding]:
    try:
        requirements = _requirements()
        names = metadata.metadata("maury").get_all("Provides-Extra") or []
    except (ImportError, metadata.PackageNotFoundError):
        return []
    found = []
    for name in sorted(set(names) - _OURS):
        wanted = [r for r in requirements if r.marker is not None and r.marker.evaluate({"extra": name})]
        wanted = [r for r in wanted if not r.marker.evaluate({"extra": ""})]
        missing = [r.name for r in wanted if _dependency(r).state != "ok"]
        if missing:
            text = f"without {', '.join(missing)}; pip install 'maury[{name}]'"
            found.append(Finding("extras", name, "note", text, {"missing": missing}))
        else:
            text = ", ".join(f"{r.name} {_version(r.name)}" for r in wanted)
            found.append(Finding("extras", name, "ok", text, {"missing": []}))
    return found


def _devices() -> list[Finding]:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        memory: float | None = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    except (AttributeError, OSError, ValueError):
        memory = None
    size = "" if memory is None else f", {memory:.0f} GB of memory"
    values = {"cores": cores, "memory_gb": memory, "machine": platform.platform()}
    try:
        import torch
    except Exception as error:
        reason = f"torch cannot be imported ({first_line(error)}); install it again"
        return [
            Finding("devices", "cpu", "ok", f"{cores} cores{size}", values),
            Finding("devices", "torch", "broken", reason),
        ]
    threads = torch.get_num_threads()
    text = f"{cores} cores, {threads} threads{size}; {platform.platform()}"
    found = [Finding("devices", "cpu", "ok", text, values | {"threads": threads})]
    if not torch.cuda.is_available():
        built = "none found" if torch.backends.cuda.is_built() else "this torch is built for the CPU"
        return [
            *found,
            Finding("devices", "cuda", "ok", f"{built}; --device cpu is what there is", {"devices": []}),
        ]
    gpus = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
    text = ", ".join(f"{gpu.name} ({gpu.total_memory / 1e9:.0f} GB)" for gpu in gpus)
    return [*found, Finding("devices", "cuda", "ok", text, {"devices": [gpu.name for gpu in gpus]})]


def _record() -> dict[Path, str]:
    """SHA-256 of every installed file, as its wheel had it; empty for a checkout that is used in place."""
    try:
        files = metadata.files("maury") or []
    except metadata.PackageNotFoundError:
        return {}
    found = {}
    for file in files:
        if file.hash is not None and file.hash.mode == "sha256":
            digest = base64.urlsafe_b64decode(file.hash.value + "=" * (-len(file.hash.value) % 4))
            found[Path(str(file.locate())).resolve()] = digest.hex()
    return found


def _model(name: str, folder: Path, record: dict[Path, str]) -> Finding:
    files = sorted(folder.glob("*.safetensors"))
    sums = {file.name: sha256(file) for file in files}
    known = {file.name: record[file.resolve()] for file in files if file.resolve() in record}
    changed = [file for file, value in known.items() if value != sums[file]]
    values: dict[str, Any] = {"folder": str(folder), "sha256": sums, "verified": sorted(known)}
    if changed:
        text = f"{', '.join(changed)}: not as it was shipped; pip install --force-reinstall --no-deps maury"
        return Finding("models", name, "broken", text, values)
    try:
        labels = _try_model(name)
    except Exception as error:
        text = f"cannot be loaded ({type(error).__name__}: {first_line(error)}); install maury again"
        return Finding("models", name, "broken", text, values)
    weight = sum(file.stat().st_size for file in files) / 1e6
    checked = "as shipped" if known else "a checkout, nothing to compare with"
    text = f"loads, draws {', '.join(labels)}; {weight:.0f} MB, sha256 {sums['estimator.safetensors'][:12]} ({checked})"
    return Finding("models", name, "ok", text, values)


def _try_model(name: str) -> tuple[str, ...]:
    """Load a model, make a spectrum of it and draw labels from the estimator; return their names."""
    import torch

    from maury.models import load_model

    model = load_model(name)
    middle = model.labels.from_normal(torch.zeros(1, len(model.labels), dtype=torch.float64))
    with torch.no_grad():
        flux = model.forward(middle[:, : model.forward.n_labels])
        ones = torch.ones(1, model.estimator.n_pixels)
        draws = model.estimator.sample(
            10, model.estimator.context(ones, 1e4 * ones), torch.Generator().manual_seed(0)
        )
    if not (flux.isfinite().all() and draws.isfinite().all()):
        raise ValueError("its numbers are not finite")
    return model.estimator.labels.names


def _folders() -> list[Finding]:
    found = []
    places: dict[str, Callable[[], Path]] = {
        "working folder": Path.cwd,
        "temporary folder": lambda: Path(tempfile.gettempdir()),
        "astropy's cache": _astropy_cache,
    }
    for name, place in places.items():
        try:
            path = place()
            free = shutil.disk_usage(path).free
            with tempfile.TemporaryFile(dir=path):
                pass
        except Exception as error:
            text = f"cannot be written to ({first_line(error)}); results need another folder, by --output or TMPDIR"
            found.append(Finding("folders", name, "broken" if name.startswith("temp") else "note", text))
            continue
        little = free < _LITTLE_SPACE
        text = f"{path}, {free / 1e9:.1f} GB free" + ("; that is little" if little else "")
        values = {"path": str(path), "free_gb": free / 1e9}
        found.append(Finding("folders", name, "note" if little else "ok", text, values))
    return found


def _astropy_cache() -> Path:
    from astropy.config.paths import get_cache_dir_path

    return Path(get_cache_dir_path())
