"""Download APOGEE spectra: ``maury fetch apogee``. Resumed, verified, and gentle to the archive."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from maury.archive.products import Product
from maury.download import Archive, Missing, download_all, verify_checksums
from maury.errors import DownloadError, MauryError
from maury.files import alone, disk_errors, sha256

MANIFEST = "manifest.jsonl"
_MAX_FAILURES = 25


@dataclass(frozen=True)
class Fetched:
    """What came of a request: files on disk, paths that the archive does not have, and errors of the rest."""

    files: tuple[Path, ...]
    missing: tuple[PurePosixPath, ...]
    errors: tuple[MauryError, ...]


class _Manifest:
    """Size and SHA-256 of each file, a line each, added as the files are finished."""

    def __init__(self, folder: Path) -> None:
        self.path, self._lock = folder / MANIFEST, threading.Lock()
        self.known: dict[str, dict[str, Any]] = {}
        if self.path.exists():
            for line in self.path.read_text(encoding="utf-8").splitlines():
                try:
                    entry = json.loads(line)
                    self.known[entry["path"]] = entry
                except (ValueError, KeyError):
                    # Cut by a kill: that file is downloaded again.
                    continue

    def holds(self, path: PurePosixPath, file: Path) -> bool:
        """Tell whether a file is there and as it came."""
        entry = self.known.get(str(path))
        return (
            entry is not None
            and file.exists()
            and file.stat().st_size == entry["size"]
            and sha256(file) == entry["sha256"]
        )

    def add(self, path: PurePosixPath, url: str, file: Path) -> None:
        """Note a finished file."""
        entry = {"path": str(path), "url": url, "size": file.stat().st_size, "sha256": sha256(file)}
        with self._lock, self.path.open("a", encoding="utf-8") as lines:
            lines.write(json.dumps(entry) + "\n")


def fetch_products(
    output: Path,
    product: Product,
    rows: Iterable[Mapping[str, Any]],
    archive: Archive,
    *,
    jobs: int = 4,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Fetched:
    """Download the files that some rows describe, below ``output`` as they lie in the archive.

    Parameters
    ----------
    output
        Folder. ``manifest.jsonl`` in it lists every file with address, size and SHA-256; files that still agree with it are not
        downloaded again.
    product
        What to download.
    rows
        Of a catalogue; the same file is downloaded once.
    archive
        Where from, how patiently, how fast.
    jobs
        Downloads at the same time.
    progress
        Told how many of how many files are there.

    Raises
    ------
    DownloadError
        If there is nothing to download, or the first failures show that the archive is ill.
    MauryError
        If the disk is full or another process downloads into the folder.
    """
    paths = list(dict.fromkeys(product.path(row) for row in rows))
    if not paths:
        raise DownloadError("nothing to download: the catalogue has no rows")
    output.mkdir(parents=True, exist_ok=True)
    missing: list[PurePosixPath] = []
    with (
        disk_errors(output, "what is finished is kept: make room and run the same command again"),
        alone(output, output / ".lock"),
    ):
        manifest = _Manifest(output)
        todo = [path for path in paths if not manifest.holds(path, output / path)]
        before = len(paths) - len(todo)
        progress(before, len(paths))

        def one(path: PurePosixPath) -> None:
            file = output / path
            file.parent.mkdir(parents=True, exist_ok=True)
            part = file.with_name(file.name + ".download")
            try:
                archive.download(path, part, verify_checksums)
            except Missing:
                missing.append(path)
                return
            part.replace(file)
            manifest.add(path, archive.url(path), file)

        errors = download_all(
            archive,
            todo,
            one,
            jobs=jobs,
            patience=_MAX_FAILURES,
            progress=lambda done: progress(before + done, len(paths)),
        )
    files = tuple(output / path for path in paths if (output / path).exists())
    if errors and not files:
        raise errors[0]
    return Fetched(files, tuple(sorted(missing)), tuple(errors))
