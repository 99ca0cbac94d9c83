"""A survey's report: what was found, how well, what failed, and every star that deserves a look."""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from maury.display import digits_for, number
from maury.files import output_name
from maury.posterior.flags import Kind, split_flags
from maury.quantities import Role, quantity
from maury.report.diagrams import Axis, diagram, sky
from maury.report.html import floats, render
from maury.report.svg import short
from maury.report.verdict import TITLES, judge, meaning

if TYPE_CHECKING:
    import pyarrow as pa

Array = NDArray[np.float64]
# Above so many rows, diagrams show counts, and the table the rows that deserve a look and a sample of the others.
MOST = 3000
_SAMPLE = 1000
_FAILURES = 200
_NUMBERS = (
    "snr", "ra", "dec", "khat", "ess", "rchi2_jitter", "p_predictive", "p_novelty", "v_sini_ul95", "log_evidence", "seconds",
)  # fmt: skip
_KINDS: tuple[Kind, ...] = ("unusable", "flagged", "unverified", "verified")


@dataclass(frozen=True)
class Catalogue:
    """Columns of a survey's catalogue.

    Attributes
    ----------
    table
        Rows as they are stored.
    labels
        Names of the labels.
    kinds
        Place of each row's verdict in ``unusable, flagged, unverified, verified``, shape ``(n,)``.
    """

    table: pa.Table
    labels: tuple[str, ...]
    kinds: NDArray[np.int64]

    @classmethod
    def of(cls, table: pa.Table) -> Catalogue:
        """Judge every row."""
        names = tuple(c[:-4] for c in table.column_names if c.endswith("_p50"))
        keys = zip(*(table[c].to_pylist() for c in ("flag_bad", "flag_warn", "method")), strict=True)
        known: dict[tuple[str, str, str], int] = {}
        kinds = np.empty(len(table), dtype=np.int64)
        for i, key in enumerate(keys):
            if key not in known:
                bad, warn = map(split_flags, key[:2])
                known[key] = _KINDS.index(judge(bad, warn, key[2]).kind)
            kinds[i] = known[key]
        return cls(table, names, kinds)

    def __len__(self) -> int:
        return len(self.table)

    def column(self, name: str) -> Array:
        """Return a column of numbers, NaN where it is missing, shape ``(n,)``."""
        if name not in self.table.column_names:
            return np.full(len(self), np.nan)
        column = self.table[name].to_numpy()
        return np.asarray(column, dtype=np.float64)

    def error(self, name: str) -> Array:
        """Half of a label's 68 % interval, shape ``(n,)``."""
        return 0.5 * (self.column(f"{name}_p84") - self.column(f"{name}_p16"))

    def shown(self) -> NDArray[np.int64]:
        """Rows for the table: all if they are few; else those with a flag that matters, up to a limit, and a sample of the others."""
        n = len(self)
        if n <= MOST:
            return np.arange(n)
        rng = np.random.default_rng(0)
        doubtful = np.flatnonzero(self.kinds < 2)
        # The gravest first where not all have room.
        order = doubtful[np.lexsort((rng.random(len(doubtful)), self.kinds[doubtful]))]
        chosen = order[: MOST - _SAMPLE]
        rest = np.setdiff1d(np.arange(n), doubtful)
        sample = rng.choice(rest, min(len(rest), MOST - len(chosen)), replace=False)
        return np.sort(np.concatenate([chosen, sample]))


def survey_page(folder: Path, stars: Path | None = None, beside: Path | None = None) -> str:
    """Return the report of a survey as a self-contained HTML page.

    Parameters
    ----------
    folder
        Of ``maury survey``.
    stars
        Folder with pages of single stars, named as their files; those that exist are linked.
    beside
        Folder that the page will be in, from which links lead.

    Raises
    ------
    ConfigError
        If the folder holds no survey, or no task of it is done.
    """
    from maury.survey.export import read_rows
    from maury.survey.store import Store

    store = Store(folder)
    settings = store.settings
    found = Catalogue.of(read_rows(folder))
    errors = read_rows(folder, "errors").to_pylist()
    commits = [c for c in map(store.committed, store.tasks()) if c is not None]
    tasks = sum(1 for _ in store.tasks())
    seconds = sum(c.seconds for c in commits)
    total = len(found) + len(errors)
    facts = [
        ("Stars", f"{len(found):,}"),
        ("Failures", f"{len(errors):,}"),
        ("Tasks done", f"{len(commits):,} of {tasks:,}"),
        ("Worker hours", number(seconds / 3600, 2)),
        ("Spectra a second and worker", number(total / seconds, 2) if seconds else "–"),
    ]
    shown = found.shown()
    diagrams = _diagrams(found)
    return render(
        "survey.html",
        f"{folder.resolve().name}: maury",
        {"diagrams": diagrams, "rows": _rows(found, shown, stars, beside), "most": MOST},
        ("survey.js",),
        name=folder.resolve().name,
        stage=settings.stage,
        facts=facts,
        kinds=[(TITLES[k], k, int((found.kinds == i).sum())) for i, k in enumerate(_KINDS)],
        labels=_label_rows(found),
        flags=_flag_rows(found),
        failures=_failure_rows(errors),
        failed=[(str(e["file"]), int(e["row"]), e["flag_bad"], e["reason"]) for e in errors[:_FAILURES]],
        n_failed=len(errors),
        diagrams={d["name"]: d for d in diagrams},
        errors=[d["name"] for d in diagrams if d["name"].startswith("error-")],
        counted=len(found) > MOST,
        total=len(found),
        n_shown=len(shown),
        n_doubtful=int((found.kinds < 2).sum()),
        all_doubtful=bool((found.kinds < 2).sum() <= MOST - _SAMPLE),
        settings=sorted(settings.model_dump().items()),
    )


def _diagrams(found: Catalogue) -> list[dict[str, Any]]:
    axes = {name: Axis(found.column(f"{name}_p50"), quantity(name).title) for name in found.labels}
    out = []
    if {"teff", "logg"} <= set(axes):
        teff = Axis(axes["teff"].values, quantity("teff").title, reverse=True)
        logg = Axis(axes["logg"].values, quantity("logg").title, reverse=True)
        out.append(diagram("kiel", teff, logg, MOST, axes.get("m_h")))
    if {"teff", "m_h"} <= set(axes):
        out.append(diagram("metals", axes["teff"], axes["m_h"], MOST, axes.get("logg")))
    snr = Axis(found.column("snr"), "signal-to-noise ratio", log=True)
    for name in found.labels:
        if name != "v_bary" and quantity(name).role != Role.nuisance:
            error = Axis(found.error(name), f"error of {quantity(name).title}", log=True)
            out.append(diagram(f"error-{name}", snr, error, MOST))
    on_sky = sky(found.column("ra"), found.column("dec"), MOST)
    return [*out, on_sky] if on_sky else out


def _label_rows(found: Catalogue) -> list[dict[str, str]]:
    """Range of each label, and how well it is known."""
    rows = []
    for name in found.labels:
        value, error = found.column(f"{name}_p50"), found.error(name)
        value, error = value[np.isfinite(value)], error[np.isfinite(error)]
        if not value.size or not error.size:
            continue
        low, middle, high = np.quantile(value, [0.16, 0.5, 0.84])
        e16, e50, e84 = np.quantile(error, [0.16, 0.5, 0.84])
        wide, fine = digits_for(max(high - low, 1e-12)), digits_for(max(e50, 1e-12))
        rows.append(
            {
                "name": name,
                "short": short(name),
                "unit": quantity(name).unit,
                "middle": number(middle, wide),
                "range": f"{number(low, wide)} to {number(high, wide)}",
                "error": number(e50, fine),
                "errors": f"{number(e16, fine)} to {number(e84, fine)}",
            }
        )
    return rows


def _flag_rows(found: Catalogue) -> list[dict[str, Any]]:
    """Share of each flag, the gravest and most frequent first."""
    rows = []
    for column, kind in (("flag_bad", "unusable"), ("flag_warn", "flagged")):
        counts: Counter[str] = Counter()
        for entry in found.table[column].value_counts().to_pylist():
            for flag in split_flags(entry["values"]):
                counts[flag] += entry["counts"]
        rows += [
            {
                "flag": flag,
                "kind": kind,
                "n": n,
                "share": round(100 * n / max(len(found), 1), 2),
                "text": meaning(flag),
            }
            for flag, n in counts.most_common()
        ]
    return rows


def _failure_rows(errors: list[dict[str, Any]]) -> list[dict[str, Any]]:
    counts = Counter(str(e["flag_bad"]) for e in errors)
    return [{"flag": flag, "n": n, "text": meaning(flag)} for flag, n in counts.most_common()]


def _rows(
    found: Catalogue, shown: NDArray[np.int64], stars: Path | None, beside: Path | None
) -> dict[str, Any]:
    """Columns of the rows in the table, for the page's script."""
    part = found.table.take(shown)
    files = [str(f) for f in part["file"].to_pylist()]
    places = [int(r or 0) for r in part["row"].to_pylist()]
    numbers = {name: floats(found.column(name)[shown]) for name in _NUMBERS if name in part.column_names}
    for name in found.labels:
        for q in ("p16", "p50", "p84"):
            numbers[f"{name}_{q}"] = floats(found.column(f"{name}_{q}")[shown])
    digits = {}
    for name in found.labels:
        error = found.error(name)
        error = error[np.isfinite(error)]
        digits[name] = digits_for(float(np.median(error))) if error.size else 2
    flags = [
        ",".join(filter(None, pair))
        for pair in zip(part["flag_bad"].to_pylist(), part["flag_warn"].to_pylist(), strict=True)
    ]
    texts = sorted({flag for text in flags for flag in split_flags(text)})
    return {
        "id": [str(i) for i in part["id"].to_pylist()],
        "file": files,
        "row": places,
        "method": part["method"].to_pylist(),
        "flags": flags,
        "kind": found.kinds[shown].tolist(),
        "kinds": [[k, TITLES[k]] for k in _KINDS],
        "meanings": {flag: meaning(flag) for flag in texts},
        "index": shown.tolist(),
        "link": _links(files, places, stars, beside),
        "labels": [[name, short(name), quantity(name).unit, digits[name]] for name in found.labels],
        "numbers": numbers,
    }


def _links(files: list[str], places: list[int], stars: Path | None, beside: Path | None) -> list[str]:
    """Address of each star's own page relative to the survey's; empty where there is none."""
    if stars is None or not stars.is_dir():
        return [""] * len(files)
    from urllib.parse import quote

    there = {p.name for p in stars.glob("*.html")}
    # As `maury infer --output` names them.
    names = [
        output_name(Path(file)) + (f"-{place}" if place else "") + ".html"
        for file, place in zip(files, places, strict=True)
    ]
    # Of stars that share a name it is not known whose page it is.
    count = Counter(names)
    paths = [os.path.relpath(stars / name, beside or stars.parent) for name in names]
    return [
        quote(os.fsencode(Path(path).as_posix())) if name in there and count[name] == 1 else ""
        for name, path in zip(names, paths, strict=True)
    ]
