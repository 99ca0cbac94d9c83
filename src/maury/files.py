"""Files that appear whole or not at all."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def writing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary name beside ``path``; it is renamed to ``path`` if the body succeeds and removed if not.

    The temporary name keeps the ending, by which many writers choose their format.

    Examples
    --------
    >>> with writing("summary.ecsv") as temporary:  # doctest: +SKIP
    ...     table.write(temporary)
    """
    path = Path(path)
    temporary = path.with_name(f".{os.getpid()}-{threading.get_ident()}-{path.name}")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
