"""One task of a survey, from files to committed parts. It runs in a worker, and may be killed at any instant."""

from __future__ import annotations

import hashlib
import time
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from maury.errors import Failure, MauryError, failure_of
from maury.files import split_rows
from maury.inference.abundances import tied_labels
from maury.inference.batch import infer_batch
from maury.inference.flow import amortised
from maury.inference.options import Options
from maury.models import Model, folder, load_model
from maury.posterior.columns import Output, failed_row
from maury.spectra.formats import isolated
from maury.spectra.instrument import read_instrument
from maury.spectra.spectrum import Spectrum
from maury.survey import catalogue
from maury.survey.store import (
    Commit,
    InputFile,
    Store,
    SurveySettings,
    Task,
    identity,
    model_version,
    unchanged,
)

# Seconds that a file may keep a worker waiting: disks that many machines share are silent for minutes at times.
_PATIENCE = 600.0
# Seconds between words of how far a task is.
_TELL_EVERY = 5.0
# Spectra that go through each stage together, and how many times as many on a GPU.
_BATCH = {"flow": 64, "verified": 16}
_ON_GPU = 32


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
    # It starts while the model is loaded, and stays for the tasks that follow.
    isolated.prepare(1, isolated.Limits(patience=_PATIENCE))
    model = _model(settings, device)
    rows: list[dict[str, Any]] = []
    errors: list[dict[str, Any]] = []
    draws: list[dict[str, Any]] = []
    known = {"model_version": settings.model_version, "seed": settings.seed}
    files = []
    for path in task.files:
        checksum, size, mtime = identity(Path(path))
        files.append(InputFile(path, size, mtime, checksum, 0, 0))
    number_of_rows, number_of_errors = [0] * len(files), [0] * len(files)
    told = time.monotonic()
    for source, item, extra in _infer_all(files, model, settings):
        if time.monotonic() - told > _TELL_EVERY:
            told = time.monotonic()
            store.note(task, len(rows) + len(errors))
        checksum = files[source].sha256
        if isinstance(item, Failure):
            errors.append(_error(item, checksum, extra))
            number_of_errors[source] += 1
        else:
            rows.append(item | known | {"sha256": checksum})
            number_of_rows[source] += 1
            if settings.keep:
                draws.append(extra | {"file": item["file"], "row": item["row"]})
    # What was read of a file that went away or changed meanwhile is of no known content: it is done again once it can be.
    restless = {_bare(file.path) for file in files if not unchanged(file)}
    for entry in (*rows, *errors):
        if entry["file"] in restless:
            entry["sha256"] = ""
    files = [
        replace(file, size=-1, mtime_ns=-1, sha256="") if _bare(file.path) in restless else file
        for file in files
    ]
    files = [
        replace(file, rows=r, errors=e)
        for file, r, e in zip(files, number_of_rows, number_of_errors, strict=True)
    ]
    inferred = model.problem.inferred if settings.stage == "verified" else model.problem.stellar
    labels = [*inferred.names, *tied_labels(settings.labels, model.problem)]
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


def _bare(name: str) -> str:
    """Return the file that a piece is of, as rows name it."""
    return str(split_rows(name)[0])


def _model(settings: SurveySettings, device: str) -> Model:
    model = load_model(settings.model, device)
    version = model_version(folder(settings.model))
    if version != settings.model_version:
        raise MauryError(
            f"model {settings.model}: this worker has version {version}, the survey was begun with {settings.model_version}"
        )
    return model


def _seed(settings: SurveySettings, checksum: str, index: int) -> int:
    """Seed of a spectrum: of what it is, not of when or where it is inferred."""
    text = f"{settings.seed} {checksum} {index}".encode()
    return int.from_bytes(hashlib.sha256(text).digest()[:7], "big")


# The number of a spectrum's file among the task's, its row or what was wrong, and draws that are kept or a traceback.
Item = tuple[int, dict[str, Any] | Failure, Any]
# A row and its draws, or what went wrong.
Found = tuple[dict[str, Any] | Exception, Any]


def _infer_all(files: Sequence[InputFile], model: Model, settings: SurveySettings) -> Iterator[Item]:
    """Infer the spectra of some files, several at a time, whatever files they are of."""
    by = _verified if settings.stage == "verified" else _by_flow
    size = _BATCH[settings.stage] * (1 if model.forward.basis.device.type == "cpu" else _ON_GPU)
    batch: list[tuple[int, Spectrum]] = []

    def infer_all() -> Iterator[Item]:
        seeds = [_seed(settings, files[source].sha256, spectrum.index) for source, spectrum in batch]
        results = by([spectrum for _, spectrum in batch], model, settings, seeds)
        for (source, spectrum), (found, extra) in zip(batch, results, strict=True):
            if isinstance(found, Exception):
                text = "" if isinstance(found, MauryError) else "".join(traceback.format_exception(found))
                yield source, failure_of(Path(spectrum.path), spectrum.index, found), text
            else:
                yield source, found, extra
        batch.clear()

    instrument = read_instrument(settings.instrument) if settings.instrument else model.instrument
    for source, file in enumerate(files):
        for item in isolated.read_all([file.path], instrument, patience=_PATIENCE):
            if isinstance(item, Failure):
                yield source, item, ""
                continue
            batch.append((source, item))
            if len(batch) == size:
                yield from infer_all()
    if batch:
        yield from infer_all()


def _verified(
    spectra: Sequence[Spectrum], model: Model, settings: SurveySettings, seeds: list[int]
) -> Iterator[Found]:
    found = infer_batch(
        spectra, model, draws=settings.draws, seeds=seeds, noise=settings.noise, false_alarm=settings.false_alarm,
        budget=settings.budget, nuisances=settings.nuisances, priors=settings.priors, masks=settings.masks,
        labels=settings.labels,
    )  # fmt: skip
    for one, seed in zip(found, seeds, strict=True):
        if isinstance(one, Exception):
            yield one, None
        else:
            kept = _kept(one.sample(settings.keep, seed), one.labels.names) if settings.keep else {}
            yield catalogue.row(one), kept


def _by_flow(
    spectra: Sequence[Spectrum], model: Model, settings: SurveySettings, seeds: list[int]
) -> Iterator[Found]:
    masked = Options(masks=settings.masks).masked
    seen = [masked(spectrum) for spectrum in spectra]
    for one in amortised(seen, model, settings.draws, seeds, conformal=settings.conformal):
        if isinstance(one, Exception):
            yield one, None
        else:
            kept = _kept(one.draws[: settings.keep], one.labels.names) if settings.keep else {}
            yield catalogue.row(one), kept


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
    told = failed_row(failure, Output.catalogue)
    return told | {"sha256": checksum, "traceback": text}
