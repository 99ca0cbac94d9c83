"""What a run leaves in its folder."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from maury.priors import Prior
from maury.serve.wanted import Wanted

REPORT, DRAWS, NUMBERS, FIT, ROW = "report.html", "draws.nc", "result.json", "fit.json", "row.json"


def wanted_json(wanted: Wanted, priors: Mapping[str, Prior]) -> dict[str, Any]:
    """Return what was asked for: model, draws, seed, noise, companion, priors and regions left out."""
    out = wanted.model_dump(exclude={"upload", "index", "priors"})
    return out | {"priors": {name: prior.model_dump() for name, prior in priors.items()}}
