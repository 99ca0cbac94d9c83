"""maury: a stellar spectrum in, a calibrated and verified posterior out."""

__version__ = "0.1.0"
