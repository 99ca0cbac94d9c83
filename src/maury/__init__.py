"""maury: a stellar spectrum in, a calibrated and verified posterior over the star's parameters out."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from maury.errors import MauryError
    from maury.inference.infer import infer
    from maury.models import load_model
    from maury.posterior.result import Posterior
    from maury.spectra import PixelGrid, Spectrum, read_spectrum

_PUBLIC = {
    "MauryError": "maury.errors",
    "PixelGrid": "maury.spectra",
    "Posterior": "maury.posterior.result",
    "Spectrum": "maury.spectra",
    "infer": "maury.inference.infer",
    "load_model": "maury.models",
    "read_spectrum": "maury.spectra",
}
__all__ = ["MauryError", "PixelGrid", "Posterior", "Spectrum", "infer", "load_model", "read_spectrum"]


def __getattr__(name: str) -> Any:
    """Import on first use: torch and astropy take seconds, ``maury --help`` needs neither."""
    if name in _PUBLIC:
        return getattr(import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module 'maury' has no attribute {name!r}")
