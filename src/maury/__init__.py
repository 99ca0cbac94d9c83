"""maury: a stellar spectrum in, a calibrated and verified posterior over the star's parameters out.

>>> posterior = maury.infer("apVisit-r13-9518-57729-104.fits")  # doctest: +SKIP
>>> posterior.summary()["teff"]  # doctest: +SKIP
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from maury.display import Progress
    from maury.errors import MauryError
    from maury.inference.batch import infer_batch
    from maury.inference.infer import infer, infer_files
    from maury.inference.visits import infer_visits
    from maury.labels import LabelSet
    from maury.models import Model, load_model
    from maury.posterior.joint import JointPosterior
    from maury.posterior.result import Posterior
    from maury.posterior.store import load, load_joint
    from maury.priors import LogUniform, Normal, TruncatedNormal, Uniform
    from maury.spectra import PixelGrid, Spectrum, read_spectra, read_spectrum

# Where each name lives: it is imported on first use, since torch and astropy take seconds and ``maury --help`` needs neither.
_PUBLIC = {
    # spectra
    "read_spectrum": "maury.spectra",
    "read_spectra": "maury.spectra",
    "Spectrum": "maury.spectra",
    "PixelGrid": "maury.spectra",
    # models and priors
    "load_model": "maury.models",
    "Model": "maury.models",
    "LabelSet": "maury.labels",
    "Uniform": "maury.priors",
    "LogUniform": "maury.priors",
    "Normal": "maury.priors",
    "TruncatedNormal": "maury.priors",
    # inference
    "infer": "maury.inference.infer",
    "infer_files": "maury.inference.infer",
    "infer_batch": "maury.inference.batch",
    "infer_visits": "maury.inference.visits",
    "Progress": "maury.display",
    # results
    "Posterior": "maury.posterior.result",
    "JointPosterior": "maury.posterior.joint",
    "load": "maury.posterior.store",
    "load_joint": "maury.posterior.store",
    # errors
    "MauryError": "maury.errors",
}
__all__ = [
    "JointPosterior",
    "LabelSet",
    "LogUniform",
    "MauryError",
    "Model",
    "Normal",
    "PixelGrid",
    "Posterior",
    "Progress",
    "Spectrum",
    "TruncatedNormal",
    "Uniform",
    "infer",
    "infer_batch",
    "infer_files",
    "infer_visits",
    "load",
    "load_joint",
    "load_model",
    "read_spectra",
    "read_spectrum",
]


def __getattr__(name: str) -> Any:
    """Import on first use."""
    if name in _PUBLIC:
        return getattr(import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module 'maury' has no attribute {name!r}")


def __dir__() -> list[str]:
    """Return the public names, imported or not, so that they complete."""
    return sorted([*__all__, "__version__"])
