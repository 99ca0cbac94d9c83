"""What a server is started with, and what it refuses a request with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from maury.constants import DEFAULT_MODEL
from maury.errors import ConfigError, MauryError


@dataclass(frozen=True)
class ServerSettings:
    """How a server listens, and what it bounds.

    Attributes
    ----------
    host, port
        Where it listens; port 0 takes any that is free.
    model
        Name or folder of the model that is loaded at the start and chosen in the page.
    max_upload
        Bytes that a file may have.
    keep
        Seconds after its last use at which a file and its results are deleted.
    most_files, most_runs, most_waiting
        Files, runs with their results, and runs that wait, of one session.
    all_files, all_bytes, all_waiting
        Files, their bytes, and runs that wait, of all sessions.
    most_arriving, all_arriving
        Files that arrive at once, of one session and of all.
    lease
        Seconds after which a run that no page asks about is cancelled.
    grace
        The same, once the page has said that it is being closed; long enough for it to be loaded again.
    patience
        Seconds that a request may take to come and its answer to be taken; a file has one more for every ``pace`` bytes of it.
    head_patience
        Seconds that a connection may stay without a whole head of a request.
    pace
        Bytes per second below which a file comes too slowly.
    most_connections
        Connections that are held at once; beyond, those that have waited longest are closed.
    readers
        Files that are read side by side, each in a process of its own.
    longest_run
        Seconds that a run may take.

    Raises
    ------
    ConfigError
        If a size or time is not positive, or the port is none.
    """

    host: str = "127.0.0.1"
    port: int = 8765
    model: str = DEFAULT_MODEL
    max_upload: int = 64 * 2**20
    keep: float = 3600.0
    most_files: int = 20
    most_runs: int = 100
    most_waiting: int = 20
    all_files: int = 200
    all_bytes: int = 4 * 2**30
    all_waiting: int = 200
    most_arriving: int = 4
    all_arriving: int = 32
    lease: float = 120.0
    grace: float = 5.0
    patience: float = 30.0
    head_patience: float = 10.0
    pace: float = 65536.0
    most_connections: int = 256
    readers: int = 3
    longest_run: float = 900.0

    def __post_init__(self) -> None:
        if not 0 <= self.port <= 65535:
            raise ConfigError(f"--port {self.port}: ports are numbers from 0 to 65535")
        if not self.max_upload > 0:
            raise ConfigError("--max-upload must be positive, in MB")
        if not 0 < self.keep < float("inf"):
            raise ConfigError("--keep must be positive, in minutes")


class Refused(MauryError):
    """A request that is not met, and why, in one sentence for the page.

    Parameters
    ----------
    message
        The sentence.
    status
        The HTTP status.
    fields
        What is wrong with which field of a form, by its name.
    """

    def __init__(self, message: str, status: int = 400, fields: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.status, self.fields = status, dict(fields or {})
