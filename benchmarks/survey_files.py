"""Simulated visits as files of all formats: what surveys are measured and tried with. The truth lies beside them.

Run: ``.venv/bin/python benchmarks/survey_files.py FOLDER --spectra 20000``: thirteen formats in turn, one star a file, a tenth as
many files as spectra. ``FOLDER/files`` holds the files, ``FOLDER/truth.parquet`` a row for each spectrum.
"""

import argparse
import json
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import cycle, islice
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from astropy.io import fits

from maury.models import Model, load_model
from maury.spectra import (
    Spectrum,
    apstar_grid,
    nominal_visit_grid,
    write_apstar,
    write_apvisit,
    write_aspcapstar,
    write_mwm,
)
from maury.spectra.barycentric import barycentric_correction
from maury.spectra.instrument import nominal_visit_lsf
from maury.spectra.linespread import APOGEE_RESOLUTION, NOMINAL_VISIT, GaussHermite, Gaussian, Tabulated
from maury.training.simulations import Observing, Simulator

# Name, and whether the file holds many spectra.
FORMATS = (
    ("apVisit-dr16", False),
    ("apStar-dr17", True),
    ("apVisit-dr17", False),
    ("mwmVisit-apo", True),
    ("apVisit-dr19", False),
    ("apStar-or", True),
    ("apVisit-2048", False),
    ("mwmVisit-lco", True),
    ("apStar-1", False),
    ("apStar-dr19", True),
    ("aspcapStar", False),
    ("mwmStar-both", True),
    ("mwmVisit-datasum", False),
)
# Spectra that are simulated together.
_BATCH = 64
_LEVEL = 500.0


@dataclass(frozen=True)
class Plan:
    """One file: its format, and how many spectra are simulated for it (apStar adds their combination)."""

    number: int
    form: str
    visits: int

    @property
    def combined(self) -> bool:
        """Whether reading gives one spectrum more."""
        return self.form.startswith("apStar") and self.visits > 1

    @property
    def spectra(self) -> int:
        """What reading gives."""
        return self.visits + self.combined

    @property
    def detector(self) -> str:
        """Name of its pixels."""
        return (
            self.form if self.form == "apVisit-2048" else self.form.split("-")[0].replace("apVisit", "visit")
        )


def plans(spectra: int, per_file: float, rng: np.random.Generator) -> Iterator[Plan]:
    """Yield files until they hold so many spectra; single ones, and such that the mean is ``per_file``."""
    many = sum(m for _, m in FORMATS)
    mean = max(2.0, (per_file * len(FORMATS) - (len(FORMATS) - many)) / many)
    for number, (form, multi) in enumerate(cycle(FORMATS)):
        if spectra <= 0:
            return
        visits = 1
        if multi and per_file > 1:
            visits = int(min(rng.integers(round(0.5 * mean), round(1.5 * mean) + 1), max(1, spectra - 1)))
        plan = Plan(number, form, visits)
        spectra -= plan.spectra
        yield plan


def simulators(model: Model) -> dict[str, tuple[Simulator, GaussHermite | None]]:
    """Detectors of all formats."""
    coarse = np.array(NOMINAL_VISIT, dtype=float)
    # Half as many pixels, of twice the width.
    coarse[[1, 9, -1]] *= 0.5
    average = Gaussian(APOGEE_RESOLUTION, integrate=False)
    visit = Observing(masked=(0.02, 0.15))
    fine, wide = nominal_visit_lsf(), GaussHermite(np.tile(coarse, (3, 1)))
    return {
        "visit": (Simulator(model.problem, nominal_visit_grid(), visit, fine), fine),
        "apVisit-2048": (Simulator(model.problem, nominal_visit_grid(2048), visit, wide), wide),
        "rest": (Simulator(model.problem, apstar_grid(), Observing(masked=(0.0, 0.1)), average), None),
    }


def simulate(
    simulator: Simulator, lsf: GaussHermite | None, labels: torch.Tensor, seed: int
) -> Iterator[tuple[Spectrum, float]]:
    """Yield spectra of some labels, and their signal-to-noise ratios."""
    rest = simulator.grid.n_pixels == apstar_grid().n_pixels
    for number, rows in enumerate(labels.split(_BATCH)):
        found = simulator.observe(rows, torch.Generator().manual_seed(seed * 100_003 + number))
        for flux, ivar, snr in zip(found.flux.double(), found.ivar.double(), found.snr, strict=True):
            level = 1.0 if rest else _LEVEL
            spectrum = Spectrum(
                simulator.grid,
                level * flux.numpy(),
                ivar.numpy() / level**2,
                frame="rest" if rest else "observatory",
                lsf=lsf,
            )
            yield spectrum, float(snr)


def write(path: Path, plan: Plan, spectra: Sequence[Spectrum]) -> None:
    """Write a file."""
    match plan.form:
        case "apVisit-2048":
            write_apvisit(path, spectra[0], release="dr16")
        case "apVisit-dr16" | "apVisit-dr17" | "apVisit-dr19":
            write_apvisit(path, spectra[0], release=plan.form[-4:])  # type: ignore[arg-type]
        case "apStar-or":
            width = np.exp(-0.5 * (np.arange(-7, 8) / 1.4) ** 2)
            kernels = Tabulated(np.tile(width / width.sum(), (spectra[0].grid.n_pixels, 1)))
            write_apstar(path, [replace(s, lsf=kernels) for s in spectra], release="dr16")
        case "aspcapStar":
            write_aspcapstar(path, spectra[0])
        case form if form.startswith("apStar"):
            write_apstar(path, spectra, release="dr19" if form.endswith("dr19") else "dr17")
        case "mwmVisit-apo":
            write_mwm(path, apo=spectra)
        case "mwmStar-both":
            half = (len(spectra) + 1) // 2
            write_mwm(path, apo=spectra[:half], lco=spectra[half:], kind="star")
        case form:
            write_mwm(path, lco=spectra, wrong_datasum=form.endswith("datasum"))


def make(folder: Path, spectra: int, per_file: float, seed: int, model: Model) -> dict[str, float]:
    """Write files and truth; return what was written."""
    began = time.perf_counter()
    rng = np.random.default_rng(seed)
    (folder / "files").mkdir(parents=True, exist_ok=True)
    detectors = simulators(model)
    names, rows, size, files = model.labels.names, [], 0, 0
    todo = plans(spectra, per_file, np.random.default_rng(seed + 1))
    while group := list(islice(todo, 2 * len(FORMATS))):
        stars = model.problem.sample(len(group), torch.Generator().manual_seed(seed * 1009 + group[0].number))
        for detector, (simulator, lsf) in detectors.items():
            some = [
                (plan, star)
                for plan, star in zip(group, stars, strict=True)
                if (plan.detector if plan.detector in detectors else "rest") == detector
            ]
            if not some:
                continue
            if detector == "rest":
                # What the survey's velocity missed, the same for all visits: the combination is then one more spectrum.
                for _, star in some:
                    star[names.index("v_rad")] = rng.normal() * 2
            labels = torch.stack([star for plan, star in some for _ in range(plan.visits)])
            made = simulate(simulator, lsf, labels, seed + group[0].number)
            for plan, star in some:
                visits, snrs = zip(*islice(made, plan.visits), strict=True)
                path = folder / "files" / f"{plan.number // 1000:03d}" / f"{plan.form}-{plan.number:06d}.fits"
                _write_star(path, plan, visits, rng)
                size += path.stat().st_size
                files += 1
                known = dict(zip(names, star.tolist(), strict=True)) | {"format": plan.form}
                known |= {"file": str(path.absolute())}
                if plan.combined:
                    rows.append(known | {"row": 0, "snr": float(np.linalg.norm(snrs)), "combined": True})
                for i, snr in enumerate(snrs):
                    rows.append(known | {"row": i + plan.combined, "snr": snr, "combined": False})
    pq.write_table(pa.Table.from_pylist(rows), folder / "truth.parquet")
    seconds = time.perf_counter() - began
    found = {"files": files, "spectra": len(rows), "bytes": size, "seconds": round(seconds, 1)}
    (folder / "made.json").write_text(json.dumps(found | {"seed": seed}, indent=1) + "\n")
    return found


def _write_star(path: Path, plan: Plan, visits: Sequence[Spectrum], rng: np.random.Generator) -> None:
    """Place a star in the sky and write it."""
    ra, dec = rng.uniform(0, 360), np.degrees(np.arcsin(rng.uniform(-0.5, 1)))
    jd = 2457729.7 + rng.uniform(0, 300)
    meta = {"ra": round(ra, 6), "dec": round(dec, 6), "jd_mid": jd, "telescope": "apo25m"}
    corrections = rng.normal(0, 15, len(visits))
    if plan.form == "apVisit-dr19":
        corrections[0] = barycentric_correction(ra, dec, jd, "apo25m")
    if plan.detector != "visit":
        corrections[:] = corrections[0] + rng.normal(0, 0.1, len(visits))
    name = f"star-{plan.number}"
    spectra = [
        replace(s, id=name, v_correction=float(v), meta=meta)
        for s, v in zip(visits, corrections, strict=True)
    ]
    path.parent.mkdir(exist_ok=True)
    write(path, plan, spectra)
    if not plan.form.startswith("apVisit"):
        hdu = 4 if plan.form == "aspcapStar" else 0
        fits.setval(path, "RA", value=meta["ra"], ext=hdu)
        fits.setval(path, "DEC", value=meta["dec"], ext=hdu)


def corrupt(folder: Path, share: float, seed: int = 0) -> dict[str, str]:
    """Damage a share of the files below a folder in five ways; return which, and how."""
    rng = np.random.default_rng(seed)
    files = sorted((folder / "files").rglob("*.fits"))
    chosen = rng.choice(len(files), math.ceil(share * len(files)), replace=False)
    ways = ("empty", "garbage", "page", "cut", "header")
    found = {}
    for number, which in enumerate(sorted(chosen)):
        path, way = files[which], ways[number % len(ways)]
        content = path.read_bytes()
        match way:
            case "empty":
                content = b""
            case "garbage":
                content = rng.bytes(5000)
            case "page":
                content = b"<html><body>404 not found</body></html>"
            case "cut":
                content = content[: len(content) // 2]
            case "header":
                content = content[:80] + b"\xff" * 800 + content[880:]
        path.write_bytes(content)
        found[str(path)] = way
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--spectra", type=int, default=20_000)
    parser.add_argument("--per-file", type=float, default=9.0, help="mean number of spectra a file")
    parser.add_argument("--corrupt", type=float, default=0.0, help="share of the files that is damaged")
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    torch.set_num_threads(1)
    found = make(given.folder, given.spectra, given.per_file, given.seed, load_model())
    damaged = corrupt(given.folder, given.corrupt, given.seed)
    print(json.dumps(found | {"damaged": len(damaged)}))


if __name__ == "__main__":
    main()
