"""The real visit and the real combined spectrum: labels with independent pixels, with correlated residuals, and with a companion beside.

Usage: python benchmarks/real.py OUTPUT
"""

from __future__ import annotations

import json
import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

import maury
from maury.posterior.predictive import checked, stretches
from maury.report.plots import draw_picture
from maury.spectra.instrument import apogee, apstar_grid
from maury.spectra.spectrum import Spectrum

SHARED = Path(os.environ.get("MAURY_SHARED", Path(__file__).parents[1] / ".." / "shared")) / "data" / "real"
OPTIONS: dict[str, dict[str, Any]] = {
    "independent": {"noise": "independent"},
    "auto": {"noise": "auto"},
    "companion": {"noise": "auto", "companion": "auto"},
}
# Pixels of the chips in data releases 11 and 12, of which the combined spectrum is.
DR12 = ((322, 3242), (3648, 6048), (6412, 8306))


def combined() -> Spectrum:
    """Return the combined spectrum, on apStar pixels."""
    data = np.load(SHARED / "combined_2M13012770+5754582.npz", allow_pickle=False)
    grid = apstar_grid()
    flux, ivar = np.ones(grid.n_pixels), np.zeros(grid.n_pixels)
    place = np.concatenate([np.arange(start, stop) for start, stop in DR12])
    error = np.asarray(data["spec_err"], dtype=np.float64)
    good = np.isfinite(data["spectrum"]) & np.isfinite(error) & (error > 0) & (error < 1)
    flux[place] = np.where(good, data["spectrum"], 1.0)
    ivar[place[good]] = error[good] ** -2
    return Spectrum(grid, flux, ivar, id="2M13012770+5754582", frame="rest", lsf=apogee().grid_lsf)


def main(output: Path) -> None:
    """Infer both, write real.json and the pictures."""
    output.mkdir(parents=True, exist_ok=True)
    found = {}
    spectra = {
        "visit": maury.read_spectrum(SHARED / "apVisit-r13-9518-57729-104.fits"),
        "combined": combined(),
    }
    for name, spectrum in spectra.items():
        for options, chosen in OPTIONS.items():
            posterior = maury.infer(spectrum, seed=1, **chosen)
            if options == "companion" and not posterior.diagnostics.companion.used:
                found[f"{name}, {options}"] = asdict(posterior.diagnostics.companion)
                continue
            line = posterior.to_json()
            fit, v_rad = posterior.fit, posterior.quantile("v_rad", 0.5)
            checks = checked(fit, stretches(fit, spectrum.grid, v_rad))
            line["checks"] = {
                c.name: {"chi2": round(c.chi2, 2), "correlation": round(c.correlation, 2)} for c in checks
            }
            found[f"{name}, {options}"] = {
                k: line[k]
                for k in (
                    "labels", "v_bary", "v_sini_ul95", "jitter", "rchi2", "rchi2_jitter", "khat", "ess", "log_evidence", "method",
                    "flag_warn", "flag_bad", "residuals", "companion", "checks",
                )
                if k in line
            }  # fmt: skip
            if options == "companion":
                draw_picture(output / f"{name}_{options}_corner.png", posterior.plot_corner)
            draw_picture(output / f"{name}_{options}.png", posterior.plot_fit)
    (output / "real.json").write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
