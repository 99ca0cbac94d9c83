"""What to be careful about: the one table of flags, which code, reports, ``maury explain`` and docs/flags.md go by."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Literal

from maury.constants import FALSE_ALARM
from maury.errors import MauryError
from maury.likelihood.pixels import MIN_PIXELS
from maury.names import meant
from maury.sampling.verification import KHAT_LIMIT


class Severity(StrEnum):
    """How grave a flag is, from a remark to a spectrum without numbers."""

    note = "note"
    warn = "warn"
    bad = "bad"
    failed = "failed"

    @property
    def column(self) -> str:
        """Column of tables in which such flags stand."""
        return "flag_warn" if self in (Severity.note, Severity.warn) else "flag_bad"


SEVERITIES: Mapping[Severity, str] = {
    Severity.note: "worth knowing, but no reason to doubt: the errors account for it",
    Severity.warn: "the numbers stand, but look at the pictures",
    Severity.bad: "there are numbers, but they mean nothing",
    Severity.failed: "there are no numbers; the reason is given beside the flag",
}


@dataclass(frozen=True)
class Flag:
    """A flag.

    Attributes
    ----------
    name
        As tables have it.
    severity
        How grave it is.
    text
        What it means, in plain sentences; thresholds stand in it by their names, and ``{label}`` for the label that it is raised for.
    threshold
        The numbers that decide, by name.
    of_label
        Whether it is raised for a label, and written ``name:label``.
    """

    name: str
    severity: Severity
    text: str
    threshold: Mapping[str, float] = field(default_factory=dict)
    of_label: bool = False

    def __getitem__(self, name: str) -> float:
        """Return a threshold."""
        return self.threshold[name]

    def meaning(self, label: str = "the label") -> str:
        """Say what it means, thresholds filled in."""
        return self.text.format(label=label, **self.threshold)


_N, _W, _B, _F = Severity.note, Severity.warn, Severity.bad, Severity.failed
_TABLE = (
    Flag(
        "at_bound",
        _W,
        "More than {share:.0%} of the posterior of {label} lies in the outermost {margin:.0%} of its prior: the star may be "
        "outside the model, and the interval is cut off there. Not raised for v_sini near 0 or small jitter, where many good "
        "stars lie.",
        {"share": 0.1, "margin": 0.01},
        of_label=True,
    ),
    Flag(
        "second_mode",
        _W,
        "Another maximum of the posterior holds more than one part in {parts:g} of its mass ({nats:g} nats below the best): look for "
        "two islands in the corner plot. The cause may be a companion, or a spectrum that two kinds of star explain.",
        {"nats": 5.0, "parts": 150.0},
    ),
    Flag(
        "second_light",
        _W,
        "Light of a second star would gain {nats:g} nats more than what nine in ten velocities gain (a linear test at every "
        "velocity apart from the star's own; `second_light` says where): labels of one star are then wrong by more than their "
        "errors. --companion auto looks closer, and gives it labels of its own.",
        {"nats": 10.0},
    ),
    Flag(
        "companion",
        _W,
        "A second star was found in the spectrum (asked for by --companion): it gains more than {nats:g} nats and moves apart "
        "by {kms:g} km/s and {sigma:g} errors or more. Labels that end in _2 are its own; flux_ratio is its light over the "
        "first star's.",
        {"nats": 20.0, "kms": 5.0, "sigma": 3.0},
    ),
    Flag(
        "high_jitter",
        _W,
        "The model explains the spectrum to no better than {error:.0%} of the continuum, jitter and correlated residuals "
        "together.",
        {"error": 0.05},
    ),
    Flag(
        "poor_fit",
        _W,
        "The mean squared residual is above {rchi2:g} even with the model error that was fitted.",
        {"rchi2": 1.5},
    ),
    Flag(
        "misfit",
        _W,
        "Residuals are too large for their errors, or correlated, in a chip or around the lines of a species, and this matters: "
        "leaving those pixels out moves a label by more than {moves:g} of its total error (beyond twice what chance would do). "
        "`misfit.checks` and the report say where and by how much. A misfit counts if chance produces it in fewer than "
        "--false-alarm of good spectra (default {rate:.0%}); one that moves labels by less is listed there without a flag.",
        {"rate": FALSE_ALARM, "moves": 0.5},
    ),
    Flag(
        "severe_misfit",
        _W,
        "As `misfit`, but leaving those pixels out moves a label by more than {moves:g} of its total error: parts of the spectrum "
        "contradict each other. Possible causes: a second star (--companion auto looks for one), a wrong calibration, or a star "
        "unlike any in the library.",
        {"moves": 2.0},
    ),
    Flag(
        "novel",
        _N,
        "The network was not trained on spectra like this one: fewer than --false-alarm of the simulations at this S/N (default "
        "{rate:.0%}) lie as far out in feature space. The verified posterior does not depend on the network; `misfit` says whether "
        "what is unusual about the spectrum matters to it.",
        {"rate": FALSE_ALARM},
    ),
    Flag(
        "rejected_pixels",
        _W,
        "More than {share:.0%} of the pixels inside the model's wavelengths are masked.",
        {"share": 0.4},
    ),
    Flag(
        "library_disagreement",
        _W,
        "Another library with an evidence within {nats:g} nats puts a label more than {sigma:g} errors away (asked for by "
        "--model auto): the choice of library matters more than the errors say.",
        {"nats": 20.0, "sigma": 5.0},
    ),
    Flag("low_snr", _W, "The median signal-to-noise ratio of a pixel is below {snr:g}.", {"snr": 10.0}),
    Flag(
        "average_lsf",
        _W,
        "The library contains an average line-spread function, and the rotation found is below {kms:g} km/s: read v_sini as an "
        "upper limit.",
        {"kms": 10.0},
    ),
    Flag(
        "assumed_lsf",
        _N,
        "The file has no line-spread function; the instrument's nominal one was taken (of APOGEE that of a usual fibre), "
        "with an error of 10 % in its width on each chip; v_sini depends on it.",
    ),
    Flag(
        "khat",
        _W,
        "The importance weights could not be trusted (Pareto k-hat above {khat:g}): nested sampling took over, or the answer is "
        "`not_converged`.",
        {"khat": KHAT_LIMIT},
    ),
    Flag(
        "tail",
        _W,
        "The weights as a whole can be trusted, but not the tail of {label} (Pareto k-hat of weights times the distance from the "
        "mean above {khat:g}): its mean and standard deviation may be off by more than their Monte-Carlo errors. --ess 1000 draws more.",
        {"khat": KHAT_LIMIT},
        of_label=True,
    ),
    Flag(
        "hits",
        _N,
        "Pixels hit by cosmic rays (peaks far above the level and narrower than the line-spread function) were left out, with the "
        "pixel on each side.",
    ),
    Flag(
        "outliers",
        _N,
        "Pixels that no star can produce, such as peaks narrower than the line-spread function or emission above the continuum, were "
        "left out (`outliers` says how many).",
    ),
    Flag(
        "variable_velocity",
        _W,
        "The visits' velocities differ: a velocity for each gains more than {nats:g} nats of evidence over one for all.",
        {"nats": 5.0},
    ),
    Flag(
        "no_star",
        _B,
        "A continuum without lines explains the spectrum just as well: the star's evidence is less than {nats:g} nats above its "
        "likelihood. The draws are then those of the prior: nothing was learned about the labels.",
        {"nats": 5.0},
    ),
    Flag(
        "not_converged",
        _B,
        "The budget of likelihoods (--budget) was spent before the weights could be trusted; the numbers are the best so far. "
        "--budget 200000 allows nested sampling to finish the job.",
    ),
    Flag(
        "emission",
        _B,
        "Emission lines above the model cover more area than its absorption lines; a pixel counts from {sigma:g} errors and "
        "{height:.0%} of the continuum.",
        {"sigma": 5.0, "height": 0.1},
    ),
    Flag(
        "wrong_frame",
        _B,
        "The wavelength scale looks wrong: the chips' velocities differ by more than {sigma:g} errors (which count how stretches "
        "of a chip disagree) and {kms:g} km/s, or a star matches much better at a velocity outside the prior, within {far:g} km/s.",
        {"sigma": 5.0, "kms": 2.0, "far": 3000.0, "ratio": 1.5, "gain": 200.0},
    ),
    Flag("unreadable", _F, "The file is missing, damaged, or of no known format."),
    Flag("all_masked", _F, "No pixel is usable."),
    Flag(
        "few_pixels",
        _F,
        "Fewer than {pixels:g} usable pixels lie inside the model's wavelengths.",
        {"pixels": MIN_PIXELS},
    ),
    Flag("outside_wavelengths", _F, "The spectrum and the model share no wavelengths."),
    Flag("missing_lsf", _F, "The model needs the line-spread function, and the file does not give one."),
    Flag("failed", _F, "The inference failed; the reason is given beside it."),
    Flag("internal_error", _F, "The inference failed because of an error in maury itself: please report it."),
)
UNKNOWN = Flag("unknown", Severity.warn, "A flag that this version does not know.")
FLAGS: Mapping[str, Flag] = {flag.name: flag for flag in _TABLE}
_WRITTEN = re.compile(r"(?P<name>\w+)(:(?P<label>\w+))?(\[(?P<visit>\d+)\])?")


@dataclass(frozen=True)
class Raised:
    """A flag as a table has it: ``at_bound:teff``, or ``khat[2]`` of the second visit.

    Attributes
    ----------
    flag
        The flag; `UNKNOWN` of one that this version does not know.
    written
        As it was written.
    label, visit
        What it is of, if that is told.
    """

    flag: Flag
    written: str
    label: str = ""
    visit: int | None = None

    @property
    def meaning(self) -> str:
        """Say what it means."""
        text = self.flag.meaning(self.label or "the label")
        return text if self.visit is None else f"Visit {self.visit}: {text}"

    def to_json(self) -> dict[str, Any]:
        """Return what there is to know, as plain values."""
        return {
            "flag": self.written,
            "severity": str(self.flag.severity),
            "column": self.flag.severity.column,
            "meaning": self.meaning,
            "threshold": dict(self.flag.threshold),
        }


def read_flag(written: str) -> Raised:
    """Read a flag as a table has it."""
    found = _WRITTEN.fullmatch(written)
    if found is None or found["name"] not in FLAGS:
        return Raised(UNKNOWN, written)
    return Raised(
        FLAGS[found["name"]], written, found["label"] or "", int(found["visit"]) if found["visit"] else None
    )


def find_flag(written: str) -> Raised:
    """As `read_flag`, of one that somebody asks for.

    Raises
    ------
    MauryError
        If there is no such flag; suggests the nearest.
    """
    found = read_flag(written)
    if found.flag is UNKNOWN:
        raise MauryError(f"no flag {written!r}; {meant(written, FLAGS, 'the flags are')}")
    return found


def split_flags(text: str | None) -> tuple[str, ...]:
    """Return the flags of a column, which are separated by commas."""
    return tuple(flag for flag in (text or "").split(",") if flag)


def table() -> str:
    """Return the tables of docs/flags.md: one of each severity, the least grave first."""
    parts = []
    for severity, means in SEVERITIES.items():
        rows = [
            f"## {severity}: {means}",
            "",
            f"In `{severity.column}`.",
            "",
            "| flag | meaning |",
            "|---|---|",
        ]
        for flag in _TABLE:
            if flag.severity == severity:
                name = f"{flag.name}:<label>" if flag.of_label else flag.name
                rows.append(f"| `{name}` | {flag.meaning()} |")
        parts.append("\n".join(rows))
    return "\n\n".join(parts)


Kind = Literal["verified", "flagged", "unverified", "unusable"]


def verdict_of(bad: Iterable[str], warn: Iterable[str], method: str) -> Kind:
    """Return what some flags and the last stage that was needed make of a result.

    Parameters
    ----------
    bad, warn
        Flags as written.
    method
        ``"flow"`` or ``"flow, conformal"``, which are not verified, ``"refined"`` or ``"nested"``.
    """
    if tuple(bad):
        return "unusable"
    if method.startswith("flow"):
        return "unverified"
    grave = [flag for flag in map(read_flag, warn) if flag.flag.severity != Severity.note]
    return "flagged" if grave else "verified"
