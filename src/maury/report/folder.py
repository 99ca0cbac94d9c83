"""Reports of folders: what ``maury infer --output`` or ``maury survey`` left there, as pages."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import quote

from maury.display import digits_for, number
from maury.errors import ConfigError, InferenceError, MauryError
from maury.files import disk_errors, distinct, first_line, open_table, writing
from maury.quantities import quantity
from maury.report.html import render
from maury.report.kiel import Star, kiel
from maury.report.star import star_page
from maury.report.svg import short
from maury.report.verdict import TITLES, Verdict, judge, meaning, upper_limits, verdict

if TYPE_CHECKING:
    from maury.posterior.result import Posterior

Kind = Literal["stars", "joint", "survey"]
# Labels that an index of stars shows, as far as the model has them.
_SHOWN = ("teff", "logg", "m_h", "alpha_m", "v_rad", "v_sini")


@dataclass(frozen=True)
class Entry:
    """A star in an index.

    Attributes
    ----------
    name
        Of the star.
    page
        File of its page; empty if it has none.
    verdict
        What to make of it.
    file
        Of the spectrum.
    snr, labels
        As text; labels of `_SHOWN`, with total errors where they are known.
    place
        Effective temperature, surface gravity, their total errors, and metallicity, for the Kiel diagram; None where there are none.
    """

    name: str
    page: str
    verdict: Verdict
    file: str = ""
    snr: str = ""
    labels: tuple[str, ...] = ()
    place: tuple[float, float, float, float, float] | None = None

    @property
    def link(self) -> str:
        """Address of the page, by the bytes of its name: a name may be no text in the user's language."""
        return quote(os.fsencode(self.page))


def recognise(folder: Path) -> Kind:
    """Tell what a folder holds.

    Raises
    ------
    ConfigError
        If there is no such folder, or nothing in it that a report could be made of.
    """
    if not folder.is_dir():
        raise ConfigError(f"{folder}: {'is no folder' if folder.exists() else 'no such folder'}")
    if (folder / "survey.json").exists():
        return "survey"
    if _of_stars(folder):
        return "stars"
    if (folder / "joint.json").exists():
        return "joint"
    if not any(folder.iterdir()):
        raise ConfigError(
            f"{folder}: is empty; maury infer FILE --output {folder} writes what a report needs"
        )
    raise ConfigError(
        f"{folder}: holds neither posteriors (*.nc, of maury infer --output) nor a survey (survey.json)"
    )


def report(
    folder: Path,
    output: Path | None = None,
    stars: Path | None = None,
    progress: Callable[[str], None] = lambda _: None,
    fault: Callable[[str], None] = lambda _: None,
) -> list[Path]:
    """Write the report of a folder; return the pages, the first to open first.

    Parameters
    ----------
    folder
        Of ``maury infer --output`` or ``maury survey``.
    output
        The page's file; by default ``index.html`` in the folder, with a page a star beside it.
    stars
        For a survey: folder with the pages of its stars; by default ``stars`` in the survey's.
    progress, fault
        Told which star is drawn, and which file could not be.

    Raises
    ------
    ConfigError
        If the folder holds nothing to report on.
    InferenceError
        If none of its posteriors can be read.
    MauryError
        If a page cannot be written.
    """
    kind = recognise(folder)
    page = output or folder / "index.html"
    if kind == "survey":
        from maury.report.survey import survey_page

        progress("survey")
        write(page, survey_page(folder, stars or folder / "stars", page.parent))
        return [page]
    if kind == "joint":
        write(page, joint_page(folder / "joint.json"))
        return [page]
    return _stars(folder, page, output is not None, progress, fault)


def _of_stars(folder: Path) -> list[Path]:
    """Return the files that hold the posterior of one spectrum each."""
    joint = {"joint.nc"} if (folder / "joint.json").exists() else set()
    return sorted(path for path in folder.glob("*.nc") if path.name not in joint)


def write(path: Path, text: str) -> None:
    """Write a page; it appears whole or not at all."""
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with writing(path) as temporary:
            temporary.write_text(text, encoding="utf-8", errors="surrogateescape")


def _stars(
    folder: Path, page: Path, named: bool, progress: Callable[[str], None], fault: Callable[[str], None]
) -> list[Path]:
    from maury.posterior.store import load

    files = _of_stars(folder)
    entries, pages, failures = [], [], []
    # One star and a name for its page: that page is the report.
    alone = named and len(files) == 1
    # A star's file may have the index's name.
    names = distinct([file.stem for file in files], [page.stem])
    for file, name in zip(files, names, strict=True):
        progress(file.name)
        try:
            posterior = load(file)
            text = star_page(posterior)
        except Exception as error:
            # A star that cannot be drawn takes no other with it.
            failure = (
                error
                if isinstance(error, MauryError)
                else InferenceError(f"{file}: cannot be drawn ({type(error).__name__}: {first_line(error)})")
            )
            failures.append(failure)
            fault(str(failure))
            entries.append(Entry(file.stem, "", Verdict("unusable", str(failure))))
            continue
        own = page if alone else page.parent / f"{name}.html"
        write(own, text)
        pages.append(own)
        entries.append(_entry(posterior, own.name))
    if len(failures) == len(files):
        raise failures[0]
    if alone:
        return pages
    entries += _failed(folder / "summary.ecsv")
    joint = folder / "joint.json"
    write(page, index_page(folder.resolve().name, entries, joint.exists()))
    return [page, *pages]


def _entry(posterior: Posterior, page: str) -> Entry:
    summary, total, limits = posterior.summary(), posterior.systematic, upper_limits(posterior)
    errors = {name: total[name].std if name in total else entry["std"] for name, entry in summary.items()}
    labels = []
    for name in _SHOWN:
        if name not in summary:
            labels.append("")
        elif name in limits:
            labels.append(f"< {number(limits[name], 1)}")
        else:
            digits = digits_for(errors[name])
            labels.append(f"{number(summary[name]['p50'], digits)} ± {number(errors[name], digits)}")
    spectrum, found = posterior.spectrum, verdict(posterior)
    file = Path(spectrum.path).name + (f" [{spectrum.index}]" if spectrum.index else "")
    place = None
    if {"teff", "logg"} <= set(summary) and found.kind != "unusable":
        metals = summary["m_h"]["p50"] if "m_h" in summary else float("nan")
        place = (summary["teff"]["p50"], summary["logg"]["p50"], errors["teff"], errors["logg"], metals)
    return Entry(
        spectrum.id or file or page, page, found, file, number(spectrum.snr, 0), tuple(labels), place
    )


def _failed(summary: Path) -> list[Entry]:
    """Spectra that the table of ``infer --output`` lists without a posterior."""
    if not summary.exists():
        return []
    table = open_table(summary, ConfigError)
    if "reason" not in table.colnames:
        return []
    entries = []
    for row in table.filled("") if table.masked else table:
        if str(row["reason"]):
            name = Path(str(row["file"])).name
            reason = ((str(row["flag_bad"]), f"{meaning(str(row['flag_bad']))} {row['reason']}"),)
            entries.append(Entry(name, "", Verdict("unusable", "No posterior.", reasons=reason), name))
    return entries


def index_page(title: str, entries: Sequence[Entry], joint: bool = False) -> str:
    """Return a page that lists stars with their verdicts and links to their own.

    Parameters
    ----------
    title
        What the stars have in common.
    entries
        The stars.
    joint
        Whether the folder also has a joint result, which is said.
    """
    counts = {kind: sum(e.verdict.kind == kind for e in entries) for kind in TITLES}
    used = [i for i in range(len(_SHOWN)) if any(len(e.labels) > i and e.labels[i] for e in entries)]
    from markupsafe import Markup

    return render(
        "index.html",
        f"{title}: maury",
        {},
        ("table.js",),
        name=title,
        entries=entries,
        used=used,
        header=[(short(_SHOWN[i]), quantity(_SHOWN[i]).unit) for i in used],
        kiel=Markup(
            kiel(
                [Star(e.name, e.link if e.page else "", e.verdict.kind, *e.place) for e in entries if e.place]
            )
        ),
        counts=[(TITLES[kind], kind, n) for kind, n in counts.items() if n],
        joint=joint,
    )


def joint_page(path: Path) -> str:
    """Return the page of ``infer --joint``: shared labels, and each visit's velocity.

    Raises
    ------
    ConfigError
        If the file cannot be read.
    """
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        rows = [_joint_row(name, entry, entry["unit"]) for name, entry in found["labels"].items()]
        visits = [
            {
                "file": Path(str(v["file"])).name,
                "v_rad": _joint_row("v_rad", v["v_rad"], "km/s"),
                "v_bary": "" if v["v_bary"] is None else number(v["v_bary"], 3),
                "chi2": number(v["rchi2_jitter"], 2),
            }
            for v in found["visits"]
        ]
        bad, warn = tuple(found["flag_bad"]), tuple(found["flag_warn"])
        facts = [
            ("Visits", str(len(visits))),
            ("k-hat", number(found["khat"], 2)),
            ("Effective draws", f"{found['ess']:.0f} of {found['draws']}"),
            ("ln evidence for variation", number(found["velocity_variation"], 1)),
            ("Model", str(found["model"])),
        ]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(
            f"{path}: cannot be read as a joint result ({type(error).__name__}: {error}); infer the visits again"
        ) from None
    kind = judge(bad, warn, "refined")
    return render(
        "joint.html", "Joint result: maury", {}, (), name="One star from several visits",
        verdict=kind, facts=facts, labels=rows, visits=visits,
    )  # fmt: skip


def _joint_row(name: str, entry: dict[str, Any], unit: str) -> dict[str, str]:
    digits = digits_for(entry["std"])
    plus, minus = entry["p84"] - entry["p50"], entry["p50"] - entry["p16"]
    return {
        "name": name,
        "short": short(name),
        "unit": unit,
        "median": number(entry["p50"], digits),
        "plus": number(plus, digits),
        "minus": number(minus, digits),
    }
