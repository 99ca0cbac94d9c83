"""Standard stars, and the real warm stars at hand, with two libraries: labels, total errors, chi-squared a pixel, flags.

    python benchmarks/standards.py ../shared/data/real --output docs/results/real/standards.json

A file that is there keeps the entries of models that are not asked for.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch

from maury.inference.infer import infer_files
from maury.models import load_model
from maury.posterior.result import Posterior

FILES = (
    "atlas/Sun_R22500_snr200.ecsv", "atlas/Arcturus_R22500_snr200.ecsv", "gj281/GJ281_20170106_AB_0094.ecsv",
    "gj281/GJ281_20170214_AB_0088.ecsv", "apVisit-r13-9518-57729-104.fits",
    "apogee_dr13/aspcapStar-r6-l30e.2-2M17334253-1654573.fits", "apogee_dr13/apStar-r6-2M17334253-1654573.fits",
)  # fmt: skip


def entry(found: Posterior, file: str) -> dict[str, Any]:
    """Return the figures of one spectrum."""
    summary = found.summary()
    return {
        "model": found.model, "file": file, "index": found.spectrum.index, "id": found.spectrum.id,
        "labels": {n: [round(summary[n]["p50"], 4), round(summary[n]["std"], 4)] for n in found.stellar.names},
        "total_error": {name: round(one.std, 4) for name, one in found.systematic.items()},
        "chi2_a_pixel": round(found.fit.rchi2, 2), "khat": round(found.khat, 2), "ess": round(found.ess),
        "evaluations": found.evaluations, "flags": [*found.flag_bad, *found.flag_warn],
    }  # fmt: skip


def main() -> None:
    """Run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--models", nargs="+", default=["marcs-apogee"])
    parser.add_argument("--output", type=Path, required=True)
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    known = json.loads(chosen.output.read_text(encoding="utf-8"))["spectra"] if chosen.output.exists() else []
    spectra: list[dict[str, Any]] = []
    for name in chosen.models:
        model = load_model(name)
        for file in FILES:
            for found in infer_files(chosen.folder / file, model):
                if isinstance(found, Posterior):
                    spectra.append(entry(found, file))
                    print(json.dumps(spectra[-1]), flush=True)
    spectra += [one for one in known if one["model"] not in chosen.models]
    command = "python benchmarks/standards.py ../shared/data/real --models marcs-apogee kurucz-apogee"
    text = json.dumps({"command": command, "spectra": spectra}, indent=1)
    chosen.output.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
