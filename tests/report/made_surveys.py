"""Surveys of any size with made-up rows, as `maury survey` would have left them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa

from maury.forward.doppler import add_velocities
from maury.survey import catalogue
from maury.survey.store import Commit, Store, SurveySettings

LABELS = ("teff", "logg", "m_h", "alpha_m", "v_rad", "v_sini", "jitter")
FLAGS = (
    "",
    "novel",
    "novel,average_lsf",
    "novel,misfit",
    "low_snr",
    "at_bound:teff,novel",
)
SHARES = (0.3, 0.38, 0.2, 0.06, 0.04, 0.02)
HOSTILE = "<img src=x onerror=document.title=1>"


def columns(n: int, seed: int = 0) -> dict[str, np.ndarray | list]:
    """Rows of dwarfs and giants over a band of the sky; the first has HTML for a name, the last no position."""
    rng = np.random.default_rng(seed)
    giant = rng.random(n) < 0.6
    age = rng.random(n)
    m_h = np.clip(rng.normal(-0.15, 0.22, n), -0.94, 0.44)
    teff = np.where(giant, 3700 + 1500 * age + 250 * m_h, 3900 + 2800 * age**1.3)
    logg = np.where(
        giant, 0.6 + 2.9 * age**0.9 + rng.normal(0, 0.12, n), 4.75 - 0.6 * age**2 + rng.normal(0, 0.06, n)
    )
    snr = 10 ** rng.uniform(0.9, 2.5, n)
    middle = {
        "teff": teff, "logg": logg, "m_h": m_h, "alpha_m": 0.25 * rng.random(n) * (m_h < -0.3) + rng.normal(0.02, 0.03, n),
        "v_rad": rng.normal(0, 45, n), "v_sini": rng.exponential(6, n), "jitter": 10 ** rng.normal(-2.4, 0.2, n),
    }  # fmt: skip
    at_100 = {
        "teff": 14,
        "logg": 0.035,
        "m_h": 0.013,
        "alpha_m": 0.015,
        "v_rad": 0.04,
        "v_sini": 0.5,
        "jitter": 3e-4,
    }
    out: dict[str, np.ndarray | list] = {}
    for name in LABELS:
        error = at_100[name] * np.hypot(100 / snr, 0.5) * np.exp(rng.normal(0, 0.25, n))
        for q, sign in (("p16", -1), ("p50", 0), ("p84", 1)):
            out[f"{name}_{q}"] = middle[name] + sign * error
    for q in ("p16", "p50", "p84"):
        out[f"v_bary_{q}"] = add_velocities(out[f"v_rad_{q}"], 11.0)
    ra, dec = rng.uniform(0, 360, n), np.degrees(np.arcsin(rng.triangular(-1, 0.4, 1, n)))
    ra[-1] = dec[-1] = np.nan
    bad = np.where(rng.random(n) < 0.01, "no_star", "")
    return out | {
        catalogue.HEALPIX: np.full(n, -1), "ra": ra, "dec": dec, "snr": snr,
        "id": [HOSTILE if i == 0 else f"2M{i:07d}" for i in range(n)],
        "file": [f"/visits/apVisit-{i}.fits" for i in range(n)], "hdu": np.ones(n, int), "row": np.zeros(n, int),
        "sha256": ["0" * 64] * n, "v_sini_ul95": middle["v_sini"] + 1, "rchi2": np.full(n, 3.0),
        "rchi2_jitter": rng.normal(1, 0.03, n), "p_predictive": rng.random(n), "p_novelty": rng.random(n),
        "ess": rng.uniform(100, 300, n), "khat": rng.normal(0.3, 0.1, n), "log_evidence": rng.normal(-4e4, 1e3, n),
        "method": ["refined"] * n, "flag_warn": rng.choice(FLAGS, n, p=SHARES).tolist(), "flag_bad": bad.tolist(),
        "seconds": rng.uniform(0.8, 3, n), "model": ["kurucz-apogee"] * n, "model_version": ["abc"] * n,
        "maury_version": ["0.1.0"] * n, "seed": np.zeros(n, int),
    }  # fmt: skip


def make_survey(folder: Path, n: int, failures: int = 3) -> Path:
    """Write a survey of one task with ``n`` rows and some failures."""
    store = Store(folder)
    settings = SurveySettings(
        model="kurucz-apogee", model_version="abc", maury_version="0.1.0", files_per_task=n + failures
    )
    store.begin(settings, [Path(f"/visits/apVisit-{i}.fits") for i in range(n + failures)])
    (task,) = store.tasks()
    schema = catalogue.schema(LABELS)
    made = columns(n)
    table = pa.table({f.name: pa.array(made[f.name]).cast(f.type) for f in schema}, schema=schema)
    errors = [
        {
            "file": f"/visits/apVisit-{n + i}.fits",
            "row": 0,
            "sha256": "",
            "flag_bad": "unreadable" if i else "few_pixels",
            "reason": "not a FITS file <b>at all</b>",
            "traceback": "",
        }
        for i in range(failures)
    ]
    parts = {"catalogue": store.write_part("catalogue", task, table)}
    if errors:
        parts["errors"] = store.write_part("errors", task, pa.Table.from_pylist(errors, catalogue.ERRORS))
    flagged = sum(map(bool, made["flag_bad"]))
    store.commit(task, Commit(0, (), n, failures, flagged, 1.5 * n, parts))
    store.publish(task, store.who)
    return folder
