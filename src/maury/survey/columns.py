"""What a catalogue's columns are: names as SDSS's astra has them, types, units, UCDs and descriptions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

import maury
from maury.forward.doppler import add_velocities
from maury.posterior.result import QUANTILES, Posterior
from maury.quantities import quantity
from maury.spectra.spectrum import Spectrum

if TYPE_CHECKING:
    from astropy.io.votable.tree import VOTableFile
    from astropy.table import Table

HEALPIX = "_healpix_29"
_WHAT = {"p16": "16th percentile", "p50": "median", "p84": "84th percentile"}
_STAT = {"p16": ";stat.min", "p50": ";stat.median", "p84": ";stat.max"}


@dataclass(frozen=True)
class Column:
    """A column: name, type (as Arrow and numpy call it), unit (VOUnit), UCD and description."""

    name: str
    kind: str
    unit: str = ""
    ucd: str = ""
    description: str = ""


WHERE = (
    Column(HEALPIX, "int64", "", "pos.healpix", "HEALPix pixel, order 29, nested; -1 where the position is not known"),
    Column("ra", "float64", "deg", "pos.eq.ra;meta.main", "right ascension, ICRS"),
    Column("dec", "float64", "deg", "pos.eq.dec;meta.main", "declination, ICRS"),
    Column("id", "string", "", "meta.id;meta.main", "the object's name in the file"),
    Column("file", "string", "", "meta.ref", "file of the spectrum"),
    Column("hdu", "int16", "", "meta.number", "its HDU"),
    Column("row", "int32", "", "meta.number", "its place in the file"),
    Column("sha256", "string", "", "meta.checksum", "of the file"),
)  # fmt: skip
HOW = (
    Column("snr", "float32", "", "stat.snr", "median signal-to-noise ratio a pixel"),
    Column("v_sini_ul95", "float32", "km/s", "phys.veloc.rotat;stat.max", "95 % upper limit"),
    Column("rchi2", "float32", "", "stat.fit.chi2", "mean squared residual over the file's variance"),
    Column("rchi2_jitter", "float32", "", "stat.fit.chi2", "the same with all of the noise model"),
    Column("p_predictive", "float64", "", "stat.probability", "smallest p-value of the residuals' checks"),
    Column("p_novelty", "float64", "", "stat.probability", "share of simulations as far out in feature space"),
    Column("ess", "float32", "", "stat.value", "effective sample size"),
    Column("khat", "float32", "", "stat.param", "Pareto shape of the importance weights; below 0.7 they hold"),
    Column("log_evidence", "float64", "", "stat.likelihood", "ln of the evidence"),
    Column("method", "string", "", "meta.code", "last stage that was needed: flow, refined or nested"),
    Column("flag_warn", "string", "", "meta.code.qual", "what to be careful about, separated by commas"),
    Column("flag_bad", "string", "", "meta.code.error", "why the numbers mean nothing"),
    Column("seconds", "float32", "s", "time.duration", "time that the inference took"),
    Column("model", "string", "", "meta.id", "name of the model"),
    Column("model_version", "string", "", "meta.version", "first characters of the SHA-256 of its weights"),
    Column("maury_version", "string", "", "meta.version", "of the code"),
    Column("seed", "int64", "", "meta.number", "of all draws"),
)  # fmt: skip
ERRORS = (
    Column("file", "string", "", "meta.ref", "file"),
    Column("row", "int32", "", "meta.number", "place in the file"),
    Column("sha256", "string", "", "meta.checksum", "of the file; empty where it cannot be read"),
    Column("flag_bad", "string", "", "meta.code.error", "kind of failure"),
    Column("reason", "string", "", "meta.note", "what was wrong"),
    Column("traceback", "string", "", "meta.note", "of internal errors"),
)


def of_label(name: str) -> list[Column]:
    """Return the columns of a label's percentiles."""
    known = quantity(name)
    return [
        Column(f"{name}_{q}", "float64", known.unit, known.ucd + _STAT[q], f"{_WHAT[q]} of {name}")
        for q in QUANTILES
    ]


def of_catalogue(labels: Iterable[str]) -> list[Column]:
    """Return all columns of the catalogue of some labels, nuisance included."""
    return [*WHERE, *(c for name in labels for c in of_label(name)), *of_label("v_bary"), *HOW]


def where(spectrum: Spectrum) -> dict[str, Any]:
    """Return what is known of where a spectrum comes from."""
    ra, dec = (float(spectrum.meta.get(key, np.nan)) for key in ("ra", "dec"))
    return {
        "ra": ra,
        "dec": dec,
        "id": spectrum.id,
        "file": spectrum.path,
        "hdu": int(spectrum.meta.get("hdu", 1)),
        "row": spectrum.index,
        "snr": spectrum.snr,
        "maury_version": maury.__version__,
    }


def quantiles(summary: Mapping[str, Mapping[str, Any]], correction: float | None) -> dict[str, Any]:
    """Return the percentiles of all labels, and of the barycentric velocity where its correction (km/s) is known."""
    out = {f"{name}_{q}": entry[q] for name, entry in summary.items() for q in QUANTILES}
    for q in QUANTILES:
        known = correction is not None and "v_rad" in summary
        out[f"v_bary_{q}"] = add_velocities(summary["v_rad"][q], float(correction or 0)) if known else None
    return out


def values(posterior: Posterior) -> dict[str, Any]:
    """Return the values of a verified posterior by column; the HEALPix index is missing."""
    misfit = posterior.extra.get("misfit", {})
    return {
        **where(posterior.spectrum),
        **quantiles(posterior.summary(), posterior.spectrum.v_correction),
        "v_sini_ul95": posterior.quantile("v_sini", 0.95),
        "rchi2": posterior.fit.rchi2,
        "rchi2_jitter": posterior.fit.rchi2_jitter,
        "p_predictive": misfit.get("p_predictive"),
        "p_novelty": misfit.get("p_novelty"),
        "ess": posterior.ess,
        "khat": posterior.khat,
        "log_evidence": posterior.log_evidence,
        "method": posterior.method,
        "flag_warn": ",".join(posterior.flag_warn),
        "flag_bad": ",".join(posterior.flag_bad),
        "seconds": posterior.seconds,
        "model": posterior.model,
    }


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
