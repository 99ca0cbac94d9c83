"""What every real spectrum takes of a core, with the default budget.

Run: ``.venv/bin/python benchmarks/real_seconds.py --output docs/results/real/seconds.json`` (again to go on where it stopped). All
spectra of ``data/real`` beside the repository, M dwarfs for the most part, are inferred by each model that can; ``--model auto`` takes the
sum of both. Time is the processor's, of one thread. It ends with 1 if a spectrum takes more than `LIMIT` seconds with a model.
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from real import SHARED, combined

import maury
from maury.errors import MauryError
from maury.models import Model, load_model
from maury.spectra import read_spectra
from maury.spectra.spectrum import Spectrum

LIMIT = 30.0
# The M dwarf that once took minutes.
FIRST = "apogee_dr13/apStar-r6-2M13564148+4342587.fits"
NAMES = ("*.fits", "apogee_dr13/*.fits", "atlas/*.ecsv", "gj281/*.ecsv")


def spectra() -> Iterator[tuple[str, Spectrum]]:
    """Yield all, named by file and place: combinations before single visits, so that a part is of many stars."""
    files = sorted(path for pattern in NAMES for path in SHARED.glob(pattern))
    files.sort(key=lambda path: not path.match(FIRST))
    found = [(path, spectrum) for path in files for spectrum in read_spectra(path)]
    found.sort(key=lambda one: (not one[0].match(FIRST), one[1].index))
    for path, spectrum in found:
        yield f"{path.relative_to(SHARED)} [{spectrum.index}]", spectrum
    yield "combined_2M13012770+5754582.npz [0]", combined()


def measure(name: str, spectrum: Spectrum, model: Model) -> dict[str, Any]:
    """Infer one spectrum; tell what it took and how it ended."""
    began = time.process_time()
    entry: dict[str, Any] = {"spectrum": name, "model": model.name, "snr": round(float(spectrum.snr), 1)}
    try:
        found = maury.infer(spectrum, model)
    except MauryError as error:
        return entry | {"refused": str(error)}
    return entry | {
        "core_seconds": round(time.process_time() - began, 2),
        "evaluations": found.evaluations,
        "method": found.method,
        "khat": round(float(found.khat), 3),
        "flag_bad": list(found.flag_bad),
        "flag_warn": list(found.flag_warn),
    }


def summary(results: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the longest, the median, and how many ended how."""
    inferred = [entry for entry in results if "core_seconds" in entry]
    seconds = np.array([entry["core_seconds"] for entry in inferred])
    both: dict[str, float] = {}
    for entry in inferred:
        both[entry["spectrum"]] = both.get(entry["spectrum"], 0.0) + entry["core_seconds"]
    longest = inferred[int(seconds.argmax())]
    return {
        "spectra": len({entry["spectrum"] for entry in results}),
        "inferences": len(inferred),
        "refused": len(results) - len(inferred),
        "core_seconds": {q: round(float(np.quantile(seconds, p)), 2) for q, p in (("median", 0.5), ("p90", 0.9), ("longest", 1))},
        "longest": f"{longest['spectrum']}, {longest['model']}",
        "longest_both_models": round(max(both.values()), 2),
        "over_limit": [f"{e['spectrum']}, {e['model']}" for e in inferred if e["core_seconds"] > LIMIT],
        "not_converged": [f"{e['spectrum']}, {e['model']}" for e in inferred if "not_converged" in e["flag_bad"]],
        "most_evaluations": max(entry["evaluations"] for entry in inferred),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", nargs="+", default=["btsettl-apogee", "kurucz-apogee"])
    parser.add_argument("--number", type=int, help="of inferences; all by default")
    parser.add_argument("--output", type=Path, required=True)
    given = parser.parse_args()
    torch.set_num_threads(1)
    models = [load_model(name) for name in given.models]
    known = json.loads(given.output.read_text(encoding="utf-8"))["results"] if given.output.exists() else []
    done = {(entry["spectrum"], entry["model"]) for entry in known}
    for name, spectrum in spectra():
        for model in models:
            if (name, model.name) in done or (given.number and len(known) >= given.number):
                continue
            known.append(measure(name, spectrum, model))
            print(json.dumps(known[-1]), flush=True)
            figures = {
                "cores": os.cpu_count(),
                "load": round(os.getloadavg()[0], 1),
                **summary(known),
                "results": known,
            }
            given.output.parent.mkdir(parents=True, exist_ok=True)
            given.output.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    sys.exit(bool(summary(known)["over_limit"]))


if __name__ == "__main__":
    main()
