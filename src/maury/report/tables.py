"""Tables: on the terminal, and on disk."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.table import Table
from rich.text import Text

from maury.files import write_ecsv
from maury.posterior.abundances import DISAGREE, agreement
from maury.posterior.columns import column_named
from maury.posterior.diagnostics import Compared
from maury.posterior.flags import Kind
from maury.posterior.result import Posterior
from maury.quantities import quantity
from maury.report.elements import is_element
from maury.report.verdict import Verdict, upper_limits
from maury.text import readable

if TYPE_CHECKING:
    from maury.posterior.joint import JointPosterior


def summary_table(posterior: Posterior, truth: Mapping[str, float] | None = None) -> Table:
    """Rich table of one posterior: medians with total and statistical 68 % errors, and what to make of it."""
    spectrum = posterior.spectrum
    table = Table(title=f"{spectrum.id}  (S/N {spectrum.snr:.0f}, {posterior.model})", title_justify="left")
    between = posterior.systematic
    for column in ("label", "unit", "median", *(("total", "statistical") if between else ("error",)), "MC"):
        table.add_column(column, justify="left" if column in ("label", "unit") else "right")
    if truth is not None:
        table.add_column("truth", justify="right")
    limits = upper_limits(posterior)
    # Elements have a table of their own.
    rows = {name: entry for name, entry in posterior.summary().items() if not is_element(posterior, name)}
    if posterior.v_bary is not None:
        rows = rows | {"v_bary": posterior.v_bary | {"unit": quantity("v_bary").unit}}
    for name, entry in rows.items():
        digits = quantity(name).digits
        own = interval(entry["p16"], entry["p50"], entry["p84"], digits)
        written = [f"{entry['p50']:.{digits}f}", own]
        # An error of the weights shows in its first digit.
        of_label = posterior.certificate.get("v_rad" if name == "v_bary" else name)
        if between:
            wide = between.get(name)
            # Without an error between libraries the statistical one is all that is known.
            written.insert(1, own if wide is None else interval(wide.p16, entry["p50"], wide.p84, digits))
        if name in limits:
            written = [f"< {limits[name]:.1f}", *("" for _ in written[1:])]
        written.append(f"{of_label.mcse['p50']:.1g}" if of_label and name not in limits else "")
        if truth is not None and name in truth:
            written.append(f"{truth[name]:.{digits}f}")
        table.add_row(name, entry["unit"], *written)
    table.caption = (
        f"chi2/n {posterior.fit.rchi2:.2f}, with jitter {posterior.fit.rchi2_jitter:.2f}\n"
        f"{posterior.method}: k-hat {posterior.khat:.2f}, ESS {posterior.ess:.0f} of {len(posterior.draws)} draws, "
        f"ln Z {posterior.log_evidence:.1f}; {posterior.seconds:.1f} s"
    )
    if not (posterior.flag_bad or posterior.flag_warn):
        table.caption += "\nno flags"
    table.caption += "\nMC: Monte-Carlo error of the median" + _tails(posterior)
    if limits:
        table.caption += "\n<: upper limit, 95 %"
    for tried in posterior.diagnostics.models:
        what = f"left out, {tried.left_out}" if tried.left_out else f"probability {tried.probability:.3g}"
        table.caption += f"\n{tried.model}: ln Z {tried.log_evidence:.1f}, {what}"
    if between:
        table.caption += (
            "\ntotal: statistical error, and how far the label moves with the choice of the library"
        )
    if second := posterior.diagnostics.companion:
        used = "" if second.used else ", not used"
        table.caption += f"\na second star gains {second.gain:.1f} nats{used}"
    table.caption_justify = "left"
    return table


def elements_table(posterior: Posterior) -> Table | None:
    """Rich table of the elements, by atomic number; None if none was inferred."""
    found = posterior.diagnostics.abundances
    if not found:
        return None
    table = Table(title="Elements, dex relative to the Sun", title_justify="left")
    for column in ("element", "[X/Fe]", "[X/H]", "of the prior", "lines"):
        table.add_column(column, justify="left" if column == "element" else "right")
    for entry in found:
        told = (
            f"{entry.fe_p50:+.2f} ± {entry.fe_total or entry.fe_std:.2f}",
            f"{entry.h_p50:+.2f} ± {entry.h_total or entry.h_std:.2f}",
        )
        if not entry.measured:
            told = (f"< {entry.fe_ul95:+.2f}", "not measured")
        number, p = agreement(posterior.diagnostics.lines, entry.label)
        lines = f"{number}, which disagree (p {p:.1g})" if p < DISAGREE else f"{number}" if number else ""
        table.add_row(entry.element, *told, f"{entry.share:.0%}", lines)
    table.caption = (
        "of the prior: how much of its width is left; above 70 % the spectrum has told next to nothing\n"
        "lines: those that tell most, each by itself (in --json and in the report)"
    )
    if any(entry.fe_total is not None for entry in found):
        corrected = any(entry.corrected for entry in found)
        table.caption += "\nerrors: with those of the library's zero points on standards, which are " + (
            "subtracted" if corrected else "not subtracted (--zero-points does)"
        )
    table.caption_justify = "left"
    return table


def compared_table(posterior: Posterior) -> Table | None:
    """Rich table of labels beside what pipelines made of them; None if none were compared."""
    found = posterior.diagnostics.compared
    if not found:
        return None
    table = Table(title="Beside the survey's pipeline", title_justify="left")
    for column in ("label", "unit", "pipeline", "theirs", "here, total", "difference", "in errors"):
        table.add_column(column, justify="left" if column in ("label", "unit", "pipeline") else "right")
    for row in compared_rows(found):
        table.add_row(*row)
    table.caption = "in errors: difference over both total errors together"
    if flagged := sorted({entry.pipeline for entry in found if entry.flags}):
        table.caption += f"\nflagged by itself: {', '.join(flagged)}"
    table.caption_justify = "left"
    return table


def compared_rows(found: Sequence[Compared]) -> list[tuple[str, ...]]:
    """Label, unit, pipeline, its value, the value here, difference, and difference in errors, in words."""
    rows: list[tuple[str, ...]] = []
    for entry in found:
        about = quantity(entry.label)
        digits = about.digits
        theirs = f"{entry.theirs:.{digits}f}"
        if entry.their_error is not None:
            theirs += f" ± {entry.their_error:.{digits}f}"
        here = f"{entry.value:.{digits}f} ± {entry.total:.{digits}f}"
        difference = f"{entry.difference:+.{digits}f}"
        rows.append(
            (entry.label, about.unit, entry.pipeline, theirs, here, difference, f"{entry.sigmas:+.1f}")
        )
    return rows


def interval(low: float, middle: float, high: float, digits: int) -> str:
    """Write the ends of an interval about its middle, ``+12 -10``."""
    return f"+{max(high - middle, 0):.{digits}f} -{max(middle - low, 0):.{digits}f}"


def _tails(posterior: Posterior) -> str:
    """Name the label with the heaviest tail."""
    known = {name: one.khat for name, one in posterior.certificate.items() if one.khat is not None}
    if not known:
        return ""
    name, khat = max(known.items(), key=lambda item: item[1])
    return f"; the heaviest tail is that of {name}, k-hat {khat:.2f}"


# Colours of verdicts on a terminal.
_STYLES: Mapping[Kind, str] = {
    "verified": "green",
    "flagged": "yellow",
    "unverified": "yellow",
    "unusable": "red",
}


def verdict_line(name: str, found: Verdict) -> Text:
    """Return what to make of a result: the sentence in its colour, what to do next, and a line a flag with what it means in short."""
    line = Text(f"{readable(name)}: ") if name else Text()
    line.append(found.sentence, f"bold {_STYLES[found.kind]}")
    line.append(f" {found.advice}" if found.advice else "")
    for flag, text in found.brief:
        line.append(f"\n  {flag}", _STYLES[found.kind]).append(f": {text}")
    if found.reasons:
        line.append(f"\n  (maury explain {found.reasons[0][0]} says more)", "dim")
    return line


def joint_table(star: JointPosterior) -> Table:
    """Rich table of one star from several visits."""
    title = f"{star.visits[0].spectrum.id}: {len(star.visits)} visits together ({star.visits[0].model})"
    table = Table(title=title, title_justify="left")
    for column in ("label", "unit", "median", "error"):
        table.add_column(column, justify="left" if column in ("label", "unit") else "right")
    rows = star.summary()
    for i, v in enumerate(star.v_bary(), start=1):
        if v is not None:
            entry = rows[f"v_rad_{i}"]
            shift = v - entry["p50"]
            rows[f"v_bary_{i}"] = {k: entry[k] + shift for k in ("p16", "p50", "p84")} | {
                "unit": entry["unit"]
            }
    for name, entry in rows.items():
        digits = quantity(name).digits
        error = interval(entry["p16"], entry["p50"], entry["p84"], digits)
        table.add_row(name, entry["unit"], f"{entry['p50']:.{digits}f}", error)
    variation = star.velocity_variation
    table.caption = (
        f"velocity variation: ln evidence ratio {'unknown' if variation is None else f'{variation:.1f}'}\n"
        f"k-hat {star.khat:.2f}, ESS {star.ess:.0f} of {len(star.draws)} draws, ln Z {star.log_evidence:.1f}; "
        f"{star.seconds:.1f} s"
    )
    table.caption_justify = "left"
    return table


def write_summary(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write one row a spectrum as ECSV, units included; columns that a flagged row lacks are masked."""
    # astropy's tables take half a second to import.
    from astropy.table import MaskedColumn
    from astropy.table import Table as AstroTable

    names = list(dict.fromkeys(name for row in sorted(rows, key=len, reverse=True) for name in row))
    table = AstroTable(masked=True)
    for name in names:
        values = [readable(v) if isinstance(v := row.get(name), str) else v for row in rows]
        missing = [value is None for value in values]
        example = next((value for value in values if value is not None), "")
        filler: Any = "" if isinstance(example, str) else type(example)(0)
        about = column_named(name)
        table[name] = MaskedColumn(
            [filler if value is None else value for value in values],
            mask=missing,
            unit=about.unit or None,
            description=about.description,
        )
    table.meta["comments"] = [
        "maury: percentiles of verified posteriors; v_rad in the frame of the file, v_bary at the barycentre"
    ]
    write_ecsv(path, table)
