"""Parts of a compressed grid from a web server: ``maury models fetch marcs-maury``."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path, PurePosixPath

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from maury.download import Archive
from maury.errors import DownloadError
from maury.files import first_line, sha256, writing

INDEX = "parts.json"


class PartEntry(BaseModel):
    """A part as the list of all parts has it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    file: str = Field(pattern=r"^part-\d{3}\.npz$")
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")


_ENTRIES = TypeAdapter(list[PartEntry])


def write_index(folder: Path) -> None:
    """Write the list of a folder's parts, ``parts.json``, by which a copy of it is checked."""
    entries = [PartEntry(file=path.name, sha256=sha256(path)) for path in sorted(folder.glob("part-*.npz"))]
    with writing(folder / INDEX) as temporary:
        text = json.dumps([entry.model_dump() for entry in entries], indent=1)
        temporary.write_text(text + "\n", encoding="utf-8")


def fetch_parts(
    archive: Archive, folder: Path, progress: Callable[[int, int], None] = lambda done, total: None
) -> int:
    """Copy the parts of a grid; those that are there are kept. Return how many were downloaded.

    Parameters
    ----------
    archive
        Server whose base address is the folder of the parts.
    folder
        Where they go.
    progress
        Called with the parts done and the total.

    Raises
    ------
    DownloadError
        If the server has no list of parts or a part does not come sound.
    """
    folder.mkdir(parents=True, exist_ok=True)
    index = folder / f"{INDEX}.download"
    archive.download(PurePosixPath(INDEX), index, _checked)
    entries, fetched = _read(index), 0
    for done, entry in enumerate(entries):
        progress(done, len(entries))
        target = folder / entry.file
        if target.exists() and sha256(target) == entry.sha256:
            continue
        part = folder / f"{entry.file}.download"
        archive.download(PurePosixPath(entry.file), part, lambda path, entry=entry: _check(path, entry))  # type: ignore[misc]
        part.replace(target)
        fetched += 1
    index.replace(folder / INDEX)
    progress(len(entries), len(entries))
    return fetched


def _read(path: Path) -> list[PartEntry]:
    try:
        return _ENTRIES.validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        raise DownloadError(f"{INDEX}: is no list of a grid's parts ({first_line(error)})") from None


def _checked(path: Path) -> None:
    _read(path)


def _check(path: Path, entry: PartEntry) -> None:
    if sha256(path) != entry.sha256:
        raise DownloadError(f"{entry.file}: came damaged")
