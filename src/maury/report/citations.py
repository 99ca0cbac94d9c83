"""What to cite for a result: maury, the library behind the model, and the methods that were used."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import maury

if TYPE_CHECKING:
    from maury.posterior.result import Posterior


@dataclass(frozen=True)
class Citation:
    """A reference, what it is cited for, and its address (empty if it has none)."""

    what: str
    text: str
    link: str = ""


MAURY = Citation(
    "this software",
    f"The maury developers, maury: calibrated and verified posteriors of stellar spectra, version {maury.__version__} (CITATION.cff)",
)
PSIS = Citation(
    "importance weights and k-hat",
    "Vehtari, Simpson, Gelman, Yao & Gabry 2024, Pareto smoothed importance sampling, JMLR 25, 72",
    "https://arxiv.org/abs/1507.02646",
)
NAUTILUS = Citation(
    "nested sampling", "Lange 2023, nautilus, MNRAS 525, 3181", "https://arxiv.org/abs/2306.16923"
)
ZUKO = Citation(
    "the flow's code",
    "Rozet et al. 2022, Zuko: normalizing flows in PyTorch",
    "https://doi.org/10.5281/zenodo.7625672",
)
SPLINES = Citation(
    "the flow",
    "Durkan, Bekasov, Murray & Papamakarios 2019, Neural spline flows, NeurIPS 32",
    "https://arxiv.org/abs/1906.04032",
)
LINES = Citation(
    "the lines drawn",
    "Smith et al. 2013, ApJ 765, 16; Shetrone et al. 2015, ApJS 221, 24",
    "https://arxiv.org/abs/1502.04080",
)


def citations(posterior: Posterior, origin: dict[str, Any]) -> list[Citation]:
    """Return what a posterior rests on.

    Parameters
    ----------
    posterior
        The posterior.
    origin
        Its provenance, see `maury.posterior.store.provenance_of`.
    """
    found = [MAURY]
    if origin.get("reference"):
        found.append(Citation("the model library", str(origin["reference"])))
    found.append(PSIS)
    if posterior.method == "nested":
        found.append(NAUTILUS)
    if origin.get("flow") in ("nsf", "coupling"):
        found.append(SPLINES)
    return [*found, ZUKO, LINES]
