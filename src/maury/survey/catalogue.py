"""The catalogue's columns: names as SDSS's astra has them, units and UCDs in the schema, a HEALPix index for HATS."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import pyarrow as pa

import maury
from maury.forward.doppler import add_velocities
from maury.labels import UNITS
from maury.posterior.amortised import Amortised
from maury.posterior.flags import LOW_SNR
from maury.posterior.result import QUANTILES, Posterior
from maury.spectra.spectrum import Spectrum

HEALPIX = "_healpix_29"
_ORDER = 29
_UCDS = {
    "teff": "phys.temperature.effective",
    "logg": "phys.gravity",
    "m_h": "phys.abund.Z",
    "alpha_m": "phys.abund",
    "v_rad": "spect.dopplerVeloc.opt",
    "v_bary": "spect.dopplerVeloc.opt",
    "v_sini": "phys.veloc.rotat",
    "jitter": "stat.error",
}
_WHAT = {"p16": "16th percentile", "p50": "median", "p84": "84th percentile"}
_STAT = {"p16": ";stat.min", "p50": ";stat.median", "p84": ";stat.max"}


@dataclass(frozen=True)
class Column:
    """A column: name, type, unit (VOUnit), UCD and description."""

    name: str
    kind: pa.DataType
    unit: str = ""
    ucd: str = ""
    description: str = ""

    @property
    def field(self) -> pa.Field:
        """The column in a schema, with what is known of it as metadata."""
        known = {"unit": self.unit, "ucd": self.ucd, "description": self.description}
        return pa.field(self.name, self.kind, metadata={k: v for k, v in known.items() if v})


_WHERE = (
    Column(HEALPIX, pa.int64(), "", "pos.healpix", "HEALPix pixel, order 29, nested; -1 where the position is not known"),
    Column("ra", pa.float64(), "deg", "pos.eq.ra;meta.main", "right ascension, ICRS"),
    Column("dec", pa.float64(), "deg", "pos.eq.dec;meta.main", "declination, ICRS"),
    Column("id", pa.string(), "", "meta.id;meta.main", "the object's name in the file"),
    Column("file", pa.string(), "", "meta.ref", "file of the spectrum"),
    Column("hdu", pa.int16(), "", "meta.number", "its HDU"),
    Column("row", pa.int32(), "", "meta.number", "its place in the file"),
    Column("sha256", pa.string(), "", "meta.checksum", "of the file"),
)  # fmt: skip
_HOW = (
    Column("snr", pa.float32(), "", "stat.snr", "median signal-to-noise ratio a pixel"),
    Column("v_sini_ul95", pa.float32(), "km/s", "phys.veloc.rotat;stat.max", "95 % upper limit"),
    Column("rchi2", pa.float32(), "", "stat.fit.chi2", "mean squared residual over the file's variance"),
    Column("rchi2_jitter", pa.float32(), "", "stat.fit.chi2", "the same with all of the noise model"),
    Column("p_predictive", pa.float64(), "", "stat.probability", "smallest p-value of the residuals' checks"),
    Column("p_novelty", pa.float64(), "", "stat.probability", "share of simulations as far out in feature space"),
    Column("ess", pa.float32(), "", "stat.value", "effective sample size"),
    Column("khat", pa.float32(), "", "stat.param", "Pareto shape of the importance weights; below 0.7 they hold"),
    Column("log_evidence", pa.float64(), "", "stat.likelihood", "ln of the evidence"),
    Column("method", pa.string(), "", "meta.code", "last stage that was needed: flow, refined or nested"),
    Column("flag_warn", pa.string(), "", "meta.code.qual", "what to be careful about, separated by commas"),
    Column("flag_bad", pa.string(), "", "meta.code.error", "why the numbers mean nothing"),
    Column("seconds", pa.float32(), "s", "time.duration", "time that the inference took"),
    Column("model", pa.string(), "", "meta.id", "name of the model"),
    Column("model_version", pa.string(), "", "meta.version", "first characters of the SHA-256 of its weights"),
    Column("maury_version", pa.string(), "", "meta.version", "of the code"),
    Column("seed", pa.int64(), "", "meta.number", "of all draws"),
)  # fmt: skip
ERRORS = pa.schema(
    [
        Column("file", pa.string(), "", "meta.ref", "file").field,
        Column("row", pa.int32(), "", "meta.number", "place in the file").field,
        Column(
            "sha256", pa.string(), "", "meta.checksum", "of the file; empty where it cannot be read"
        ).field,
        Column("flag_bad", pa.string(), "", "meta.code.error", "kind of failure").field,
        Column("reason", pa.string(), "", "meta.note", "what was wrong").field,
        Column("traceback", pa.string(), "", "meta.note", "of internal errors").field,
    ]
)


def _of_label(name: str) -> list[Column]:
    unit = "km/s" if name.startswith("v_") else UNITS.get(name, "")
    return [
        Column(f"{name}_{q}", pa.float64(), unit, _UCDS.get(name, "phys") + _STAT[q], f"{_WHAT[q]} of {name}")
        for q in QUANTILES
    ]


def schema(labels: Sequence[str]) -> pa.Schema:
    """Arrow schema of the catalogue of some labels, nuisance included."""
    return _schema(tuple(labels))


@lru_cache(maxsize=8)
def _schema(labels: tuple[str, ...]) -> pa.Schema:
    columns = [*_WHERE, *(c for name in labels for c in _of_label(name)), *_of_label("v_bary"), *_HOW]
    return pa.schema([c.field for c in columns], metadata={"table_meta_yaml": _for_astropy(columns)})


def _for_astropy(columns: Sequence[Column]) -> str:
    """Units and descriptions as astropy keeps them in Parquet: it does not look at those of the fields."""
    from astropy.table import Column as AstropyColumn
    from astropy.table import Table, meta

    table = Table()
    for c in columns:
        kind = "str" if c.kind == pa.string() else c.kind.to_pandas_dtype()
        table[c.name] = AstropyColumn(dtype=kind, unit=c.unit or None, description=c.description)
    return "\n".join(meta.get_yaml_from_table(table))


def healpix29(ra: float, dec: float) -> int:
    """Nested HEALPix index of order 29; -1 where the position is not known."""
    from astropy import units
    from astropy_healpix import HEALPix

    if not (np.isfinite(ra) and np.isfinite(dec) and -90 <= dec <= 90):
        return -1
    grid = HEALPix(nside=2**_ORDER, order="nested")
    return int(grid.lonlat_to_healpix(ra * units.deg, dec * units.deg))


def _where(spectrum: Spectrum) -> dict[str, Any]:
    ra, dec = (float(spectrum.meta.get(key, np.nan)) for key in ("ra", "dec"))
    return {
        HEALPIX: healpix29(ra, dec),
        "ra": ra,
        "dec": dec,
        "id": spectrum.id,
        "file": spectrum.path,
        "hdu": int(spectrum.meta.get("hdu", 1)),
        "row": spectrum.index,
        "snr": spectrum.snr,
        "maury_version": maury.__version__,
    }


def _quantiles(summary: Mapping[str, Mapping[str, Any]], correction: float | None) -> dict[str, Any]:
    out = {f"{name}_{q}": entry[q] for name, entry in summary.items() for q in QUANTILES}
    for q in QUANTILES:
        known = correction is not None and "v_rad" in summary
        out[f"v_bary_{q}"] = add_velocities(summary["v_rad"][q], float(correction or 0)) if known else None
    return out


def row_of_flow(found: Amortised) -> dict[str, Any]:
    """Return the catalogue's row of a flow's posterior; what only verification tells is missing."""
    upper = found.draws[:, found.labels.index("v_sini")] if "v_sini" in found.labels.names else None
    return {
        **_where(found.spectrum),
        **_quantiles(found.summary(), found.spectrum.v_correction),
        "v_sini_ul95": None if upper is None else float(np.quantile(upper, 0.95)),
        "p_novelty": found.p_novelty,
        "method": "flow",
        "flag_warn": "low_snr" if found.spectrum.snr < LOW_SNR else "",
        "flag_bad": "",
        "model": found.model,
    }


def row(posterior: Posterior) -> dict[str, Any]:
    """Return the catalogue's row of a verified posterior."""
    misfit = posterior.extra["misfit"]
    return {
        **_where(posterior.spectrum),
        **_quantiles(posterior.summary(), posterior.spectrum.v_correction),
        "v_sini_ul95": posterior.quantile("v_sini", 0.95),
        "rchi2": posterior.fit.rchi2,
        "rchi2_jitter": posterior.fit.rchi2_jitter,
        "p_predictive": misfit["p_predictive"],
        "p_novelty": misfit["p_novelty"],
        "ess": posterior.ess,
        "khat": posterior.khat,
        "log_evidence": posterior.log_evidence,
        "method": posterior.method,
        "flag_warn": ",".join(posterior.flag_warn),
        "flag_bad": ",".join(posterior.flag_bad),
        "seconds": posterior.seconds,
        "model": posterior.model,
    }
