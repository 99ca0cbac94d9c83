"""The one definition of what is told of a result, whatever writes it: ``--json``, ``summary.ecsv``, a survey's catalogue, and failures.

Names are as SDSS's astra has them; each column has a type, a unit, a UCD and a description.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from enum import Flag, auto
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

import maury
from maury.errors import Failure, LabelError
from maury.forward.doppler import add_velocities
from maury.posterior.diagnostics import BetweenLibraries
from maury.posterior.summary import QUANTILES
from maury.quantities import Role, quantity
from maury.spectra.spectrum import Spectrum

if TYPE_CHECKING:
    from astropy.io.votable.tree import VOTableFile
    from astropy.table import Table

    from maury.posterior.result import Posterior

HEALPIX = "_healpix_29"
_WHAT = {"p16": "16th percentile", "p50": "median", "p84": "84th percentile"}
_STAT = {"p16": ";stat.min", "p50": ";stat.median", "p84": ";stat.max"}


class Output(Flag):
    """Where a column is written."""

    line = auto()
    """A line of ``--json``."""
    table = auto()
    """``summary.ecsv``."""
    catalogue = auto()
    """A survey's."""


_ALL = Output.line | Output.table | Output.catalogue


class Result(Protocol):
    """What a row tells of: a verified posterior, or the flow's, of which less is known."""

    @property
    def spectrum(self) -> Spectrum:
        """What was observed."""

    @property
    def method(self) -> str:
        """``"flow"`` of one that was not verified."""

    @property
    def systematic(self) -> Mapping[str, BetweenLibraries]:
        """Labels with the error between libraries."""

    def summary(self) -> dict[str, dict[str, Any]]:
        """Percentiles, mean, standard deviation and unit of each label."""

    def quantile(self, name: str, q: float) -> float:
        """Quantile of one label."""


@dataclass(frozen=True)
class Column:
    """A column: name, type (as Arrow and numpy call it), unit (VOUnit), UCD and description."""

    name: str
    kind: str
    unit: str = ""
    ucd: str = ""
    description: str = ""


@dataclass(frozen=True)
class Told(Column):
    """A column that a result fills.

    Attributes
    ----------
    of
        Its value, of a posterior.
    where
        The outputs that have it.
    by_flow
        Whether the flow's posterior tells it too.
    """

    of: Callable[[Any], Any] = lambda _: None
    where: Output = _ALL
    by_flow: bool = False


_TABLES = Output.table | Output.catalogue
_FILE = Told("file", "string", "", "meta.ref", "file of the spectrum", lambda r: r.spectrum.path, _ALL, True)
_INDEX = Told(
    "index",
    "int32",
    "",
    "meta.number",
    "its place in the file",
    lambda r: r.spectrum.index,
    Output.line | Output.table,
    True,
)
# What the catalogue calls it.
_ROW = Told(
    "row",
    "int32",
    "",
    "meta.number",
    "its place in the file",
    lambda r: r.spectrum.index,
    Output.catalogue,
    True,
)
_SHA256 = Told("sha256", "string", "", "meta.checksum", "of the file", where=Output.catalogue)
_FLAG_BAD = Told(
    "flag_bad",
    "string",
    "",
    "meta.code.error",
    "why the numbers mean nothing",
    lambda r: r.flag_bad,
    _ALL,
    True,
)
_VERDICT = "verified, flagged, unverified (the flow's alone) or unusable"
WHERE = (
    Told(HEALPIX, "int64", "", "pos.healpix", "HEALPix pixel, order 29, nested; -1 without a position", where=Output.catalogue),
    Told("ra", "float64", "deg", "pos.eq.ra;meta.main", "right ascension, ICRS", lambda r: _coordinate(r, "ra"), _TABLES, True),
    Told("dec", "float64", "deg", "pos.eq.dec;meta.main", "declination, ICRS", lambda r: _coordinate(r, "dec"), _TABLES, True),
    Told("id", "string", "", "meta.id;meta.main", "the object's name in the file", lambda r: r.spectrum.id, _ALL, True),
    _FILE,
    Told("hdu", "int16", "", "meta.number", "its HDU", lambda r: int(r.spectrum.meta.get("hdu", 1)), Output.catalogue, True),
    _INDEX,
    _ROW,
    _SHA256,
)  # fmt: skip
HOW = (
    Told("snr", "float32", "", "stat.snr", "median signal-to-noise ratio a pixel", lambda r: r.spectrum.snr, by_flow=True),
    Told("v_sini_ul95", "float32", "km/s", "phys.veloc.rotat;stat.max", "95 % upper limit", lambda r: _limit(r, "v_sini"), by_flow=True),
    Told("rchi2", "float32", "", "stat.fit.chi2", "mean squared residual over the file's variance", lambda r: r.fit.rchi2),
    Told("rchi2_jitter", "float32", "", "stat.fit.chi2", "the same with all of the noise model", lambda r: r.fit.rchi2_jitter),
    Told("p_predictive", "float64", "", "stat.probability", "smallest p-value of the residuals' checks", lambda r: r.p_predictive, _TABLES),
    Told("p_novelty", "float64", "", "stat.probability", "share of simulations as far out", lambda r: r.p_novelty, _TABLES, True),
    Told("ess", "float32", "", "stat.value", "effective sample size", lambda r: r.ess),
    Told("draws", "int32", "", "meta.number", "weighted draws", lambda r: len(r.draws), Output.line),
    Told("efficiency", "float32", "", "stat.value", "effective sample size over draws", lambda r: r.efficiency, Output.line),
    Told("khat", "float32", "", "stat.param", "Pareto shape of the importance weights; below 0.7 they hold", lambda r: r.khat),
    Told("evaluations", "int64", "", "meta.number", "likelihoods that were computed", lambda r: r.evaluations, Output.line),
    Told("log_evidence", "float64", "", "stat.likelihood", "ln of the evidence", lambda r: r.log_evidence),
    Told("method", "string", "", "meta.code", "last stage that was needed: flow, refined or nested", lambda r: r.method, by_flow=True),
    Told("verdict", "string", "", "meta.code.qual", _VERDICT, lambda r: r.verdict, Output.line | Output.table),
    Told("flag_warn", "string", "", "meta.code.qual", "what to be careful about, separated by commas", lambda r: r.flag_warn, by_flow=True),
    _FLAG_BAD,
    Told("seconds", "float32", "s", "time.duration", "time that the inference took", lambda r: r.seconds),
    Told("model", "string", "", "meta.id", "name of the model", lambda r: r.model, by_flow=True),
    Told("model_version", "string", "", "meta.version", "first characters of the SHA-256 of its weights", where=Output.catalogue),
    Told("maury_version", "string", "", "meta.version", "of the code", lambda _: maury.__version__, Output.catalogue, True),
    Told("seed", "int64", "", "meta.number", "of all draws", where=Output.catalogue),
)  # fmt: skip
_REASON = Column("reason", "string", "", "meta.note", "what was wrong")
ERRORS: tuple[Column, ...] = (
    _FILE,
    _ROW,
    _SHA256,
    _FLAG_BAD,
    _REASON,
    Column("traceback", "string", "", "meta.note", "of internal errors"),
)
_KNOWN: Mapping[str, Column] = {column.name: column for column in (*WHERE, *HOW, *ERRORS)}
# What of a result stands first in a line of JSON; the labels come after it.
_HEAD = ("file", "index", "id", "model")


def _coordinate(result: Result, name: str) -> float | None:
    value = float(result.spectrum.meta.get(name, np.nan))
    return value if np.isfinite(value) else None


def _limit(result: Result, name: str) -> float | None:
    try:
        return result.quantile(name, 0.95)
    except LabelError:
        return None


def of_label(name: str) -> list[Column]:
    """Return the columns of a label's percentiles."""
    known = quantity(name)
    return [
        Column(f"{name}_{q}", "float64", known.unit, known.ucd + _STAT[q], f"{_WHAT[q]} of {name}")
        for q in QUANTILES
    ]


def of_catalogue(labels: Iterable[str]) -> list[Column]:
    """Return all columns of the catalogue of some labels, nuisance included."""
    place, how = ([c for c in part if Output.catalogue in c.where] for part in (WHERE, HOW))
    return [*place, *(c for name in labels for c in of_label(name)), *of_label("v_bary"), *how]


def column_named(name: str) -> Column:
    """Return what a column of any table is, by its name: ``teff_2_p50``, ``logg_library``, ``khat``."""
    if name in _KNOWN:
        return _KNOWN[name]
    stem, _, ending = name.rpartition("_")
    if ending in QUANTILES:
        return next(c for c in of_label(stem) if c.name == name)
    if ending == "total":
        return Column(
            name,
            "float64",
            quantity(stem).unit,
            "stat.stdev",
            f"total error of {stem}: statistical, and how far it moves with the choice of the library",
        )
    if ending == "library":
        return Column(
            name,
            "float64",
            quantity(stem).unit,
            "stat.error",
            f"how far {stem} moves with the choice of the library",
        )
    return Column(name, "string")


def _told(result: Result, columns: Iterable[Told], where: Output) -> dict[str, Any]:
    """Values of the columns that an output has; None of what only verification tells."""
    verified = not result.method.startswith("flow")
    return {
        each.name: each.of(result) if verified or each.by_flow else None
        for each in columns
        if where in each.where
    }


def quantiles(summary: Mapping[str, Mapping[str, Any]], correction: float | None) -> dict[str, Any]:
    """Return the percentiles of all labels, and of the barycentric velocity where its correction (km/s) is known."""
    out = {f"{name}_{q}": entry[q] for name, entry in summary.items() for q in QUANTILES}
    for q in QUANTILES:
        known = correction is not None and "v_rad" in summary
        out[f"v_bary_{q}"] = add_velocities(summary["v_rad"][q], float(correction or 0)) if known else None
    return out


def row(result: Result, where: Output = Output.table) -> dict[str, Any]:
    """Return one row of a table: where the spectrum is from, percentiles of its labels, and how good they are.

    Parameters
    ----------
    result
        A posterior, verified or the flow's.
    where
        ``Output.table`` or ``Output.catalogue``; of the latter, file and survey have a few columns to add.
    """
    out = _told(result, WHERE, where) | quantiles(result.summary(), result.spectrum.v_correction)
    if where is Output.table:
        out |= {f"{name}_total": entry.std for name, entry in result.systematic.items()}
        out |= {f"{name}_library": entry.sigma for name, entry in result.systematic.items()}
    out |= _told(result, HOW, where)
    return {name: ",".join(value) if isinstance(value, tuple) else value for name, value in out.items()}


def line(posterior: Posterior) -> dict[str, Any]:
    """Return one line of ``--json``."""
    told = _told(posterior, (*WHERE, *HOW), Output.line)
    told = {name: list(value) if isinstance(value, tuple) else value for name, value in told.items()}
    between, certificate = posterior.systematic, posterior.certificate
    summary: dict[str, dict[str, Any]] = {
        name: entry
        | {"total": between[name].std if name in between else entry["std"]}
        | certificate[name].to_json()
        for name, entry in posterior.summary().items()
    }
    nuisance = {name: summary.pop(name) for name in tuple(summary) if quantity(name).role == Role.nuisance}
    labels = {"labels": summary, "v_bary": posterior.v_bary, "jitter": nuisance.get("jitter")}
    return {name: told.pop(name) for name in _HEAD} | labels | told | posterior.diagnostics.to_json()


def failed_row(failure: Failure, where: Output = Output.table) -> dict[str, Any]:
    """Return the row of a spectrum without a posterior."""
    known = {
        "file": str(failure.path),
        "index": failure.index,
        "row": failure.index,
        "flag_bad": failure.flag,
    }
    named = [each.name for each in (*WHERE, *HOW) if where in each.where]
    return {name: value for name, value in known.items() if name in named} | {_REASON.name: failure.reason}


def failed_line(failure: Failure, model: str) -> dict[str, Any]:
    """Return the line of ``--json`` of a spectrum without a posterior: all keys that every line has, null where they tell nothing."""
    names = [each.name for each in (*WHERE, *HOW) if Output.line in each.where]
    empty = dict.fromkeys((*_HEAD, "labels", "v_bary", "jitter", *names))
    known = {"file": str(failure.path), "index": failure.index, "model": model, "verdict": "unusable"}
    return empty | known | {"flag_warn": [], "flag_bad": [failure.flag], "error": failure.message}


# FITS and VOTable know no dex; the description says that it is a logarithm.
_NO_UNITS = {"dex": ""}


def vo_unit(unit: str) -> str | None:
    """Return a unit as FITS and VOTable write it; None where there is none."""
    return _NO_UNITS.get(unit, unit) or None


def to_votable(table: Table) -> VOTableFile:
    """Turn a table into a VOTable; each column's UCD is ``ucd`` of its metadata."""
    from astropy.io.votable import from_table

    votable: Any = from_table(table)
    for field in votable.get_first_table().fields:
        field.ucd = table[field.name].meta.get("ucd") or None
    return votable
