"""What a server is started with, and what it refuses a request with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from maury.errors import ConfigError, MauryError
from maury.models import DEFAULT


@dataclass(frozen=True)
class Settings:
    """Settings of a server.

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
    most_files
        Files that are kept at once, of all sessions.
    most_waiting
        Runs that may wait at once, of all sessions.
    lease
        Seconds after which a run that no page asks about is cancelled.
    grace
        The same, once the page has said that it is being closed; long enough for it to be loaded again.
    patience
        Seconds that an upload may stand still.

    Raises
    ------
    ConfigError
        If a size or time is not positive, or the port is none.
    """

    host: str = "127.0.0.1"
    port: int = 8765
    model: str = DEFAULT
    max_upload: int = 64 * 2**20
    keep: float = 3600.0
    most_files: int = 40
    most_waiting: int = 8
    lease: float = 120.0
    grace: float = 5.0
    patience: float = 30.0

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
