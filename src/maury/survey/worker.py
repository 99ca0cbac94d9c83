"""One task of a survey, from files to committed parts. It runs in a worker, and may be killed at any instant."""

from __future__ import annotations

import hashlib
import time
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from maury.errors import Failure, MauryError, failure_of
from maury.files import sha256
from maury.models import Model, folder, load_model
from maury.posterior.amortised import amortised
from maury.posterior.infer import infer
from maury.spectra.registry import read_all
from maury.spectra.spectrum import Spectrum
from maury.survey import catalogue
from maury.survey.store import Commit, InputFile, Settings, Store, Task, model_version

# Spectra that go through the flow together.
_BATCH = 64


def run_task(output: str, task: Task, device: str = "cpu", threads: int | None = None) -> Commit:
    """Infer every spectrum of a task's files, write its parts, and commit them.

    Parameters
    ----------
    output
        The survey's folder.
    task
        Some files.
    device, threads
        Of the worker.

    Raises
    ------
    MauryError
        If the worker lacks the model, or has another version of it; or if parts cannot be written.
    """
    if threads:
        torch.set_num_threads(threads)
    began = time.perf_counter()
    store = Store(Path(output))
    settings = store.settings
    model = _model(settings, device)
    rows: list[dict[str, Any]] = []
    errors: list[dict[str, Any]] = []
    draws: list[dict[str, Any]] = []
    files = []
    for path in map(Path, task.files):
        checksum, size, mtime = _identity(path)
        before = len(rows), len(errors)
        for item, extra in _infer_file(path, checksum, model, settings):
            if isinstance(item, Failure):
                errors.append(_error(item, checksum, extra))
            else:
                known = {"sha256": checksum, "model_version": settings.model_version, "seed": settings.seed}
                rows.append(item | known)
                if settings.keep:
                    draws.append(extra | {"file": item["file"], "row": item["row"]})
        files.append(
            InputFile(str(path), size, mtime, checksum, len(rows) - before[0], len(errors) - before[1])
        )
    labels = [
        label.name
        for label in (model.problem.inferred if settings.stage == "verified" else model.problem.stellar)
    ]
    tables = {"catalogue": pa.Table.from_pylist(rows, catalogue.schema(labels))}
    if errors:
        tables["errors"] = pa.Table.from_pylist(errors, catalogue.ERRORS)
    if draws:
        tables["draws"] = pa.Table.from_pylist(draws)
    found = Commit(
        task=task.number,
        files=tuple(files),
        rows=len(rows),
        errors=len(errors),
        flagged=sum(bool(r["flag_bad"]) for r in rows),
        seconds=time.perf_counter() - began,
        parts={kind: store.write_part(kind, task, table) for kind, table in tables.items()},
    )
    store.commit(task, found)
    return found


def _model(settings: Settings, device: str) -> Model:
    model = load_model(settings.model, device)
    version = model_version(folder(settings.model))
    if version != settings.model_version:
        raise MauryError(
            f"model {settings.model}: this worker has version {version}, the survey was begun with {settings.model_version}"
        )
    return model


def _identity(path: Path) -> tuple[str, int, int]:
    """Checksum, size and time of change of a file; nothing of one that cannot be read, which reading will tell."""
    try:
        status = path.stat()
        return sha256(path), status.st_size, status.st_mtime_ns
    except OSError:
        return "", -1, -1


def _seed(settings: Settings, checksum: str, index: int) -> int:
    """Seed of a spectrum: of what it is, not of when or where it is inferred."""
    text = f"{settings.seed} {checksum} {index}".encode()
    return int.from_bytes(hashlib.sha256(text).digest()[:7], "big")


Item = tuple[dict[str, Any] | Failure, Any]


def _infer_file(path: Path, checksum: str, model: Model, settings: Settings) -> Iterator[Item]:
    batch: list[Spectrum] = []
    for item in read_all([path], model.instrument):
        if isinstance(item, Failure):
            yield item, ""
        elif settings.stage == "verified":
            yield _verified(item, checksum, model, settings)
        elif not item.good.any():
            yield Failure(path, item.index, "all_masked", "every pixel is masked: nothing to infer from"), ""
        else:
            batch.append(item)
            if len(batch) == _BATCH:
                yield from _by_flow(batch, checksum, model, settings)
                batch = []
    if batch:
        yield from _by_flow(batch, checksum, model, settings)


def _verified(spectrum: Spectrum, checksum: str, model: Model, settings: Settings) -> Item:
    seed = _seed(settings, checksum, spectrum.index)
    try:
        posterior = infer(
            spectrum,
            model,
            draws=settings.draws,
            seed=seed,
            noise=settings.noise,
            false_alarm=settings.false_alarm,
        )
    except Exception as error:
        place = Path(spectrum.path), spectrum.index
        text = "" if isinstance(error, MauryError) else traceback.format_exc()
        return failure_of(*place, error), text
    kept = _kept(posterior.resample(settings.keep, seed), posterior.labels.names) if settings.keep else {}
    return catalogue.row(posterior), kept


def _by_flow(batch: Sequence[Spectrum], checksum: str, model: Model, settings: Settings) -> Iterator[Item]:
    found = amortised(batch, model, settings.draws, _seed(settings, checksum, batch[0].index))
    for one in found:
        kept = _kept(one.draws[: settings.keep], one.labels.names) if settings.keep else {}
        yield catalogue.row_of_flow(one), kept


def _kept(draws: np.ndarray, names: Sequence[str]) -> dict[str, Any]:
    """Draws in half precision: offsets from the median in units of the spread, which are columns of their own."""
    middle = np.median(draws, axis=0)
    spread = np.maximum(draws.std(axis=0), 1e-12)
    scaled = ((draws - middle) / spread).astype(np.float16)
    out: dict[str, Any] = {}
    for i, name in enumerate(names):
        out |= {f"{name}_offset": middle[i], f"{name}_scale": spread[i], f"{name}_draws": scaled[:, i]}
    return out


def _error(failure: Failure, checksum: str, text: str) -> dict[str, Any]:
    return {
        "file": str(failure.path),
        "row": failure.index,
        "sha256": checksum,
        "flag_bad": failure.flag,
        "reason": failure.reason,
        "traceback": text,
    }
