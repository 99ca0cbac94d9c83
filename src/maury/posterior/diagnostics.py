"""What speaks for and against a posterior besides its weights: residuals, novelty, other models, other libraries, a second star."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from enum import StrEnum
from typing import Any

from pydantic import TypeAdapter

from maury.posterior.flags import FLAGS
from maury.posterior.predictive import Check


class Grade(StrEnum):
    """How far labels move, in total errors, when the stretches that do not fit are left out one by one."""

    none = "none"
    """Everything fits."""
    negligible = "negligible"
    moderate = "moderate"
    severe = "severe"


@dataclass(frozen=True)
class Misfit:
    """Evidence for and against the model of one spectrum.

    Attributes
    ----------
    checks
        Posterior predictive checks, by chip and by line.
    p_predictive
        Smallest of their p-values, corrected for their number.
    p_novelty
        Share of simulations that lie as far out in feature space; None where the model has no such score.
    false_alarm
        The rate below which a p-value is flagged.
    """

    checks: tuple[Check, ...]
    p_predictive: float
    p_novelty: float | None
    false_alarm: float

    @property
    def grade(self) -> Grade:
        """How much what the checks found matters to the labels."""
        if self.p_predictive >= self.false_alarm:
            return Grade.none
        moves = max(check.moves for check in self.checks)
        if moves < FLAGS["misfit"]["moves"]:
            return Grade.negligible
        return Grade.moderate if moves < FLAGS["severe_misfit"]["moves"] else Grade.severe

    def flags(self) -> list[str]:
        """Return ``misfit`` or ``severe_misfit``, and ``novel``, where they apply."""
        found = {Grade.moderate: ["misfit"], Grade.severe: ["severe_misfit"]}.get(self.grade, [])
        novel = self.p_novelty is not None and self.p_novelty < self.false_alarm
        return found + ["novel"] * novel

    def to_json(self) -> dict[str, Any]:
        """Return p-values and, of each check, chi-squared, correlation, and what it does to labels."""
        return {
            "p_predictive": self.p_predictive,
            "p_novelty": self.p_novelty,
            "false_alarm": self.false_alarm,
            "grade": str(self.grade),
            "checks": {
                c.name: {"chi2": c.chi2, "correlation": c.correlation, "moves": c.moves, "label": c.label}
                for c in self.checks
            },
        }


@dataclass(frozen=True)
class ResidualProcess:
    """Correlated residuals: an Ornstein-Uhlenbeck process in ln wavelength, at its most likely.

    Attributes
    ----------
    amplitude
        Standard deviation, of the continuum.
    in_lines
        The same inside lines, of their depth.
    scale
        Length over which they are correlated, km/s.
    gain
        Nats of log likelihood above independent pixels.
    used
        Whether the posterior takes it into account.
    """

    amplitude: float
    in_lines: float
    scale: float
    gain: float
    used: bool


@dataclass(frozen=True)
class NuisanceFound:
    """What a spectrum tells of a nuisance that was integrated out; see `maury.likelihood.nuisances`.

    Attributes
    ----------
    name, of
        Which, and of what: a chip, a label.
    width
        Standard deviation of its prior.
    unit
        Of all numbers.
    mean, std
        With the labels at their best draw, relative to what the model takes.
    """

    name: str
    of: str
    width: float
    unit: str
    mean: float
    std: float


@dataclass(frozen=True)
class BetweenLibraries:
    """A label with the library's error added, in the label's unit: its total error.

    Attributes
    ----------
    p16, p50, p84, std
        Percentiles and standard deviation of the draws with that error.
    sigma
        Of the library: how far the label moves with the choice of it (68 % of the offsets are smaller), where that was measured, and what
        chips of real stars disagree by.
    """

    p16: float
    p50: float
    p84: float
    std: float
    sigma: float


@dataclass(frozen=True)
class Tried:
    """A model that was tried.

    Attributes
    ----------
    model
        Its name.
    log_evidence
        ln evidence on the pixels that all models cover.
    probability
        Of the model, if all that were not left out were as likely before.
    left_out
        Why its evidence does not count: the star is none of its library's.
    """

    model: str
    log_evidence: float
    probability: float
    left_out: str = ""


@dataclass(frozen=True)
class SecondStar:
    """What a second star in the spectrum explains.

    Attributes
    ----------
    gain
        Nats of evidence above one star.
    used
        Whether the posterior is that of two stars.
    khat
        Shape of the weights of two stars.
    """

    gain: float
    used: bool
    khat: float


@dataclass(frozen=True)
class Abundance:
    """An element, in dex relative to the Sun.

    Attributes
    ----------
    element
        Its symbol.
    label
        The label that was inferred.
    fe_p16, fe_p50, fe_p84, fe_std
        Of [X/Fe].
    h_p16, h_p50, h_p84, h_std
        Of [X/H], whose error knows how the element goes with the metallicity.
    fe_ul95
        95 % upper limit of [X/Fe].
    share
        Of the prior's standard deviation that is left: near 1 the spectrum has told nothing.
    measured
        Whether it has told enough.
    fe_total, h_total
        Errors of [X/Fe] and [X/H] with that of the library's zero point, where it was measured.
    zero_point_fe, zero_point_h
        What the library gives standards beyond the literature, where that was measured: it is not subtracted unless ``corrected``.
    corrected
        Whether the zero points are subtracted.
    """

    element: str
    label: str
    fe_p16: float
    fe_p50: float
    fe_p84: float
    fe_std: float
    h_p16: float
    h_p50: float
    h_p84: float
    h_std: float
    fe_ul95: float
    share: float
    measured: bool
    fe_total: float | None = None
    h_total: float | None = None
    zero_point_fe: float | None = None
    zero_point_h: float | None = None
    corrected: bool = False

    def without_zero_point(self) -> Abundance:
        """Subtract the zero point, if there is one and it still stands."""
        if self.zero_point_fe is None or self.zero_point_h is None or self.corrected:
            return self
        fe, h = self.zero_point_fe, self.zero_point_h
        return replace(
            self,
            fe_p16=self.fe_p16 - fe, fe_p50=self.fe_p50 - fe, fe_p84=self.fe_p84 - fe, fe_ul95=self.fe_ul95 - fe,
            h_p16=self.h_p16 - h, h_p50=self.h_p50 - h, h_p84=self.h_p84 - h, corrected=True,
        )  # fmt: skip


@dataclass(frozen=True)
class ElementLine:
    """A line that tells of an element.

    Attributes
    ----------
    label
        The label that was inferred.
    wavelength
        Vacuum Angstrom, at rest.
    share
        Of all that the spectrum says of the label.
    value, std
        Of the label, from this line alone, all other labels as of the whole spectrum, in its unit.
    """

    label: str
    wavelength: float
    share: float
    value: float
    std: float


@dataclass(frozen=True)
class Window:
    """A stretch of the spectrum that tells much of some labels; see `maury.posterior.windows`.

    Attributes
    ----------
    low, high
        Vacuum Angstrom, in the frame of the file.
    told
        Labels that it tells of, and its share of all that the spectrum says of each, all other labels left free; the largest first.
    """

    low: float
    high: float
    told: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True)
class Compared:
    """A label beside what a survey's pipeline made of it; see `maury.posterior.compared`.

    Attributes
    ----------
    pipeline
        Whose result it is.
    label
        Name of the label; ``fe_h`` and the like are [X/H].
    theirs, their_error
        The pipeline's, in the label's unit; None where it states no error.
    value, total
        Median and total error here.
    difference
        ``value - theirs``.
    sigmas
        The difference over both errors together.
    flags
        The pipeline's own bits for what was wrong; 0 for nothing.
    """

    pipeline: str
    label: str
    theirs: float
    their_error: float | None
    value: float
    total: float
    difference: float
    sigmas: float
    flags: int = 0


@dataclass(frozen=True)
class SecondLight:
    """What a little light of a second star would gain, by a linear test; see `maury.inference.second_light`.

    Attributes
    ----------
    gain
        Nats of log likelihood, at the best velocity.
    elsewhere
        What nine in ten velocities gain no more than: the library's errors gain a little anywhere.
    velocity
        Relative to the star, km/s.
    share
        Of the light, beside the star's.
    """

    gain: float
    elsewhere: float
    velocity: float
    share: float


@dataclass(frozen=True)
class Diagnostics:
    """What was found out beside the draws; None, or nothing, of what was not asked or cannot be known.

    Attributes
    ----------
    misfit
        Residuals, and whether the spectrum looks like those that the flow was trained on.
    residuals
        The correlated part of the residuals.
    systematic
        Labels with the library's error added, by name; nothing where none is known.
    models
        The models that were tried, with ``model="auto"``.
    companion
        What a second star explains, if one was looked for.
    second_light
        A first look for one, where something is left unexplained.
    nuisances
        Those that were integrated out.
    abundances
        Elements, by atomic number, if they were inferred.
    lines
        Lines that tell most of the elements that were inferred.
    outliers
        Pixels that were left out since nothing in a star explains them.
    windows
        Stretches that tell most of the labels, for pictures. Filled where a posterior is saved; `maury.Posterior.windows` has them always.
    compared
        Labels beside what a survey's pipeline made of them, if that was asked for.
    """

    misfit: Misfit | None = None
    residuals: ResidualProcess | None = None
    systematic: Mapping[str, BetweenLibraries] = field(default_factory=dict)
    models: tuple[Tried, ...] = ()
    companion: SecondStar | None = None
    second_light: SecondLight | None = None
    nuisances: tuple[NuisanceFound, ...] = ()
    abundances: tuple[Abundance, ...] = ()
    lines: tuple[ElementLine, ...] = ()
    outliers: int = 0
    windows: tuple[Window, ...] = ()
    compared: tuple[Compared, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return what the JSON line tells of it, and nothing of what is not known."""
        told: dict[str, Any] = {
            "misfit": self.misfit and self.misfit.to_json(),
            "residuals": self.residuals and asdict(self.residuals),
            "systematic": {name: asdict(entry) for name, entry in self.systematic.items()},
            "models": [asdict(entry) for entry in self.models],
            "companion": self.companion and asdict(self.companion),
            "second_light": self.second_light and asdict(self.second_light),
            "nuisances": [asdict(entry) for entry in self.nuisances],
            "abundances": [asdict(entry) for entry in self.abundances],
            "lines": [asdict(entry) for entry in self.lines],
            "outliers": self.outliers,
            "compared": [asdict(entry) for entry in self.compared],
        }
        return {key: value for key, value in told.items() if value}

    def to_record(self) -> dict[str, Any]:
        """Return plain values that `from_record` reads again."""
        plain: dict[str, Any] = _ADAPTER.dump_python(self, mode="json")
        return plain

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> Diagnostics:
        """Read what `to_record` returned.

        Raises
        ------
        ValueError
            If a field is missing or of another type.
        """
        return _ADAPTER.validate_python(record)


_ADAPTER: TypeAdapter[Diagnostics] = TypeAdapter(Diagnostics)
