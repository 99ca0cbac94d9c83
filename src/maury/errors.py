"""The errors that maury raises on purpose.

A message says what was wrong, where (file, HDU, field, label), and what to do.
The command line prints it in one line and exits with 2.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

from maury.text import readable


class MauryError(Exception):
    """Base class of every error that bad input can cause.

    ``flag`` is what a catalogue writes into ``flag_bad`` of the spectrum it stopped.
    """

    flag = "failed"

    def __str__(self) -> str:
        """Return the message as a terminal may have it: names of files and what stands in them may hold anything."""
        return readable(super().__str__())


class MauryWarning(UserWarning):
    """What did not stop maury, and should be known: a prior that was cut, a spectrum left out, a picture that could not be drawn.

    The command line prints it in one line.
    """


class SpectrumError(MauryError):
    """A file or an array is not a usable spectrum."""

    flag = "unreadable"


class ReaderError(MauryError):
    """The process that reads files could not be started, which is no file's fault (`maury.spectra.formats.isolated`)."""


class LabelError(MauryError):
    """A label, its prior or its value is not what the model knows."""


class ModelError(MauryError):
    """A model (emulator, estimator or its card) is missing, unknown or unfit for the task."""


class ConfigError(MauryError):
    """A configuration file has an unknown key or an impossible value."""


class DownloadError(MauryError):
    """A file could not be had from an archive."""


class InferenceError(MauryError):
    """No posterior could be computed for a spectrum."""

    def __init__(self, message: str, flag: str = "failed") -> None:
        super().__init__(message)
        self.flag = flag


@dataclass(frozen=True)
class Failure:
    """A spectrum without a posterior: where it is, the flag that a catalogue gives it, and why."""

    path: Path
    index: int
    flag: str
    reason: str

    @property
    def message(self) -> str:
        """Why, with the file's name in any case."""
        return self.reason if str(self.path) in self.reason else f"{self.path}: {self.reason}"


def failure_of(path: Path, index: int, error: Exception) -> Failure:
    """Say why there is no posterior; an error that is not maury's own is one of maury's, and raised under ``--debug``."""
    if isinstance(error, MauryError):
        return Failure(path, index, error.flag, str(error))
    if "--debug" in sys.argv:
        raise error
    reason = f"internal error, please report it ({type(error).__name__}: {error})"
    return Failure(path, index, "internal_error", reason)
