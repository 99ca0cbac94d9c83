"""The errors that maury raises on purpose.

A message says what was wrong, where (file, HDU, field, label), and what to do.
The command line prints it in one line and exits with 2.
"""


class MauryError(Exception):
    """Base class of every error that bad input can cause."""


class SpectrumError(MauryError):
    """A file or an array is not a usable spectrum."""


class LabelError(MauryError):
    """A label, its prior or its value is not what the model knows."""


class ModelError(MauryError):
    """A model (emulator, estimator or its card) is missing, unknown or unfit for the task."""


class ConfigError(MauryError):
    """A configuration file has an unknown key or an impossible value."""


class InferenceError(MauryError):
    """No posterior could be computed for a spectrum."""
