"""Posteriors on disk: all that a report needs, in one netCDF file, and back again.

::

    /posterior, /sample_stats          equally weighted draws and their densities, as ArviZ and everybody takes them
    /weighted                          the draws as they are, with log_weight and the densities
    /flow                              draws of the flow, equally weighted
    /spectrum                          wavelength, flux, ivar, good, bitmask where known
    /fit                               pixels, model flux, continuum, residual, sigma, whitened, predicted
    attribute "record"                 JSON: labels with priors, what ``to_json`` tells, diagnostics, provenance

Of one star from several visits (`JointPosterior`) ``posterior``, ``sample_stats`` and ``weighted`` hold the draws from all visits, and

::

    /visits/1 ..                       each visit's own posterior, with all of the groups above
    /fits/1 ..                         model and residual of each visit at the best joint draw

Files of format 1 held the weighted draws in ``posterior`` and their weights in ``sample_stats``; they are read as well.
"""

from __future__ import annotations

import json
import platform
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, replace
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from maury.errors import InferenceError, MauryError
from maury.files import first_line, sha256, writing
from maury.forward.doppler import add_velocities
from maury.labels import LabelSet
from maury.likelihood.fit import Fit
from maury.likelihood.pixels import DEGREE
from maury.posterior.diagnostics import Diagnostics
from maury.posterior.draws import chain, draws_of, groups, origin
from maury.posterior.flags import split_flags
from maury.posterior.joint import JointPosterior
from maury.posterior.predictive import checked, stretches
from maury.posterior.result import Posterior
from maury.spectra.spectrum import PixelGrid, Spectrum
from maury.text import readable

if TYPE_CHECKING:
    import xarray as xr

    from maury.models import Model


FORMAT = 2
_FIT = ("flux", "continuum", "residual", "sigma", "whitened", "predicted")
# What files of earlier versions call a column.
_FORMERLY = {"predicted": "foretold"}
_STATS = ("log_weight", "log_likelihood", "log_prior", "log_proposal")
_NOTE = "posterior: equally weighted draws; weighted: all draws with exp(log_weight); record: labels, priors and all the rest, as JSON"
_JOINT_NOTE = (
    "posterior: equally weighted draws from all visits; weighted: all draws with exp(log_weight); "
    "visits: each visit's own posterior; joint: labels, priors and all the rest, as JSON"
)
_PACKAGES = ("maury", "torch", "zuko", "numpy", "scipy", "astropy")
_CARD = ("library", "reference", "resolution", "flux", "source", "source_sha256")


def versions() -> dict[str, str]:
    """Versions of what a posterior depends on."""
    found = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


@lru_cache(maxsize=16)
def _weights_version(folder: Path) -> str:
    return sha256(folder / "estimator.safetensors")[:12]


@lru_cache(maxsize=16)
def _card(folder: Path) -> dict[str, Any]:
    """Return what an emulator's card and an estimator's say of their origin; nothing where there are none."""
    from maury.weights import read_card

    try:
        card = read_card(folder / "emulator.safetensors")
        network = read_card(folder / "estimator.safetensors")["network"]
        return {key: card[key] for key in _CARD if key in card} | {"flow": network["flow"]["kind"]}
    except (MauryError, OSError, KeyError, TypeError):
        return {}


def provenance(model: Model, seed: int) -> dict[str, Any]:
    """Return what a posterior came from, as plain values: seed, versions, and the model's card.

    Parameters
    ----------
    model
        Whose forward model and flow were used.
    seed
        Of the draws.
    """
    from maury.models import shipped

    folder = model.folder or shipped().get(model.name)
    known: dict[str, Any] = {"seed": seed, "versions": versions()}
    if folder is None:
        return known
    with suppress(OSError):
        known["model_version"] = _weights_version(folder)
    return known | _card(folder)


def provenance_of(posterior: Posterior) -> dict[str, Any]:
    """Return a posterior's provenance; of one that does not keep it, what is known of its model today."""
    if posterior.provenance:
        return dict(posterior.provenance)
    from maury.models import shipped

    folder = shipped().get(posterior.model)
    return _card(folder) if folder else {}


def _plain(value: Any) -> Any:
    """Turn header values into what JSON can hold."""
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, np.ndarray):
        return _plain(value.tolist())
    if value is None or isinstance(value, int | float):
        return value
    return readable(str(value))


def datatree(posterior: Posterior) -> xr.DataTree:
    """Return a posterior as groups of arrays, with all that `load` needs."""
    import xarray as xr

    spectrum = posterior.spectrum
    kept = draws_of(posterior, weighted=True)
    weighted = chain({**kept.values, **kept.stats})
    weighted.attrs.update(origin(posterior), draws=kept.note)
    columns = {
        "wavelength": ("pixel", spectrum.grid.wavelength),
        "flux": ("pixel", spectrum.flux),
        "ivar": ("pixel", spectrum.ivar),
        "good": ("pixel", spectrum.good.astype(np.uint8)),
    }
    if spectrum.bitmask is not None:
        columns["bitmask"] = ("pixel", np.asarray(spectrum.bitmask))
    observed = xr.Dataset(columns)
    observed["wavelength"].attrs.update(units="Angstrom", description="vacuum")
    named = groups(posterior, draws_of(posterior)) | {
        "weighted": weighted,
        "spectrum": _compressed(observed),
        "fit": _fitted(posterior.fit),
    }
    tree = xr.DataTree.from_dict({f"/{name}": dataset for name, dataset in named.items()})
    record = {
        "format": FORMAT,
        "labels": posterior.labels.to_list(),
        "chips": [[int(a), int(b)] for a, b in spectrum.grid.chips],
        "frame": spectrum.frame,
        "v_correction": spectrum.v_correction,
        "index": spectrum.index,
        "meta": spectrum.meta,
        "held": posterior.held,
        "diagnostics": replace(posterior.diagnostics, windows=posterior.windows).to_record(),
        "seconds": posterior.seconds,
        "evaluations": posterior.evaluations,
        "summary": posterior.to_json(),
        "provenance": provenance_of(posterior),
    }
    tree.attrs.update(
        id=spectrum.id,
        file=readable(spectrum.path),
        model=posterior.model,
        flag_warn=",".join(posterior.flag_warn),
        flag_bad=",".join(posterior.flag_bad),
        note=_NOTE,
        record=json.dumps(_plain(record)),
    )
    return tree


def joint_datatree(star: JointPosterior) -> xr.DataTree:
    """Return one star from several visits as groups of arrays, with all that `load_joint` needs."""
    import xarray as xr

    n = len(star.draws)
    about = origin(star.visits[0]) | {
        "inference_time": star.seconds,
        "file": ", ".join(readable(visit.spectrum.path) for visit in star.visits),
    }
    rows = star.rows(n)
    equal, weighted = (
        chain(_with_v_bary(star, rows), star.labels),
        chain({**_with_v_bary(star, np.arange(n)), "log_weight": star.log_weights}, star.labels),
    )
    equal.attrs.update(
        about, draws=f"equally weighted: {n} resampled with replacement from {n} weighted draws, seed 0; "
        f"effective sample size {star.ess:.0f}, k-hat {star.khat:.2f}"
    )  # fmt: skip
    weighted.attrs.update(
        about, draws="weighted: use exp(log_weight); what takes draws as equally weighted will be wrong"
    )
    stats = chain({"log_weight": np.full(n, -np.log(n))})
    stats.attrs.update(
        about, khat=star.khat, ess=star.ess, log_evidence=star.log_evidence,
        flag_warn=",".join(star.flag_warn), flag_bad=",".join(star.flag_bad),
    )  # fmt: skip
    tree = xr.DataTree.from_dict({"/posterior": equal, "/sample_stats": stats, "/weighted": weighted})
    tree["visits"] = xr.DataTree(
        children={f"{i}": datatree(visit) for i, visit in enumerate(star.visits, start=1)}
    )
    tree["fits"] = xr.DataTree.from_dict({f"/{i}": _fitted(fit) for i, fit in enumerate(star.fits, start=1)})
    record = {
        "format": FORMAT,
        "labels": star.labels.to_list(),
        "log_evidence_constant": star.log_evidence_constant,
        "khat_constant": star.khat_constant,
        "corrections": star.corrections,
        "seconds": star.seconds,
        "evaluations": star.evaluations,
        "left_out": star.left_out,
        "summary": star.to_json(),
    }
    tree.attrs.update(note=_JOINT_NOTE, model=star.visits[0].model, joint=json.dumps(_plain(record)))
    return tree


def _with_v_bary(star: JointPosterior, rows: NDArray[np.int64]) -> dict[str, NDArray[np.float64]]:
    """Draws of the labels by name, and each visit's velocity at the barycentre where its correction is known."""
    values = {name: star.draws[rows, i] for i, name in enumerate(star.labels.names)}
    moved = {
        f"v_bary_{i}": np.asarray(add_velocities(values[f"v_rad_{i}"], correction))
        for i, correction in enumerate(star.corrections, start=1)
        if correction is not None
    }
    return values | moved


def _fitted(fit: Fit) -> xr.Dataset:
    import xarray as xr

    columns = {"pixels": ("used", fit.pixels), **{name: ("used", getattr(fit, name)) for name in _FIT}}
    return _compressed(xr.Dataset(columns, attrs={"rchi2": fit.rchi2}))


def _compressed(dataset: xr.Dataset) -> xr.Dataset:
    for name in dataset.variables:
        dataset[name].encoding.update(zlib=True, complevel=4, shuffle=True)
    return dataset


def write(tree: xr.DataTree, path: str | Path) -> None:
    """Write groups as netCDF; the file appears whole or not at all.

    Raises
    ------
    InferenceError
        If it cannot be written.
    """
    try:
        with writing(path) as temporary:
            tree.to_netcdf(temporary, engine="h5netcdf")
    except OSError as error:
        raise InferenceError(f"{path}: cannot be written ({error.strerror or error})") from None


def load(path: str | Path) -> Posterior:
    """Read a posterior that `Posterior.save` wrote.

    The exact likelihood is not stored: ``target`` is None, and so is the spectrum's line-spread function.

    Parameters
    ----------
    path
        A netCDF file.

    Raises
    ------
    InferenceError
        If there is no such file, it is damaged, none of maury's, or of a version that kept no spectrum.

    Examples
    --------
    >>> posterior = load("results/apVisit-r13-9518-57729-104.nc")  # doctest: +SKIP
    """
    path = Path(path)
    tree = _opened(path)
    if "joint" in tree.attrs:
        raise InferenceError(f"{path}: holds one star from several visits; read it with maury.load_joint")
    if not {"posterior", "sample_stats", "flow"} <= set(tree.children):
        raise InferenceError(f"{path}: holds no posterior of maury's")
    if "record" not in tree.attrs or not {"spectrum", "fit"} <= set(tree.children):
        raise InferenceError(
            f"{path}: was written by a version that kept draws only; infer the spectrum again for a report"
        )
    with _damage_told(path, "spectrum"):
        return _read(tree, str(tree.attrs["record"]))


def load_joint(path: str | Path) -> JointPosterior:
    """Read one star from several visits, as `JointPosterior.save` wrote it.

    The exact likelihoods are not stored.

    Parameters
    ----------
    path
        A netCDF file.

    Raises
    ------
    InferenceError
        If there is no such file, it is damaged, or of one spectrum.

    Examples
    --------
    >>> star = load_joint("results/joint.nc")  # doctest: +SKIP
    >>> star.velocity_variation > 5  # doctest: +SKIP
    """
    path = Path(path)
    tree = _opened(path)
    if "joint" not in tree.attrs:
        kind = (
            "a posterior of one spectrum; read it with maury.load"
            if "record" in tree.attrs
            else "no posterior of maury's"
        )
        raise InferenceError(f"{path}: holds {kind}")
    with _damage_told(path, "visits"):
        return _read_joint(tree, str(tree.attrs["joint"]))


def _opened(path: Path) -> xr.DataTree:
    import xarray as xr

    if not path.is_file():
        raise InferenceError(f"{path}: no such file")
    try:
        with xr.open_datatree(path, engine="h5netcdf") as opened:
            return opened.load()
    except Exception as error:
        # HDF5 raises many kinds on damaged files.
        raise InferenceError(
            f"{path}: cannot be read as netCDF ({first_line(error)}); infer the spectrum again"
        ) from None


@contextmanager
def _damage_told(path: Path, what: str) -> Iterator[None]:
    """Tell a file of which something is missing or is what it cannot be; ``what`` is to be inferred again."""
    try:
        yield
    except (KeyError, TypeError, ValueError, IndexError, MauryError) as error:
        raise InferenceError(
            f"{path}: is damaged or of another version ({type(error).__name__}: {first_line(error)}); "
            f"infer the {what} again"
        ) from None


def _record(text: str) -> dict[str, Any]:
    record: dict[str, Any] = json.loads(text)
    if record["format"] > FORMAT:
        raise ValueError(f"format {record['format']} is newer than this maury")
    return record


def _read_joint(tree: xr.DataTree, text: str) -> JointPosterior:
    record = _record(text)
    labels = LabelSet.from_list(record["labels"])
    draws, stats = tree["weighted"].to_dataset(), tree["sample_stats"].to_dataset()
    numbers = range(1, len(record["corrections"]) + 1)
    visits = tree.children["visits"].children
    posteriors = [_read(visits[f"{i}"], str(visits[f"{i}"].attrs["record"])) for i in numbers]
    return JointPosterior(
        labels=labels,
        draws=np.column_stack([draws[name].values[0] for name in labels.names]),
        log_weights=draws["log_weight"].values[0],
        khat=float(stats.attrs["khat"]),
        ess=float(stats.attrs["ess"]),
        log_evidence=float(stats.attrs["log_evidence"]),
        log_evidence_constant=record["log_evidence_constant"],
        khat_constant=record["khat_constant"],
        visits=posteriors,
        fits=[
            _fit(tree[f"fits/{i}"].to_dataset(), posterior.spectrum.grid.n_pixels)
            for i, posterior in zip(numbers, posteriors, strict=True)
        ],
        corrections=record["corrections"],
        seconds=float(record["seconds"]),
        evaluations=int(record["evaluations"]),
        left_out=tuple(record["left_out"]),
    )


def _fit(fitted: xr.Dataset, n_pixels: int) -> Fit:
    pixels = fitted["pixels"].values.astype(np.int64)
    if pixels.size and not 0 <= pixels.min() <= pixels.max() < n_pixels:
        raise ValueError("the fit's pixels leave the spectrum")
    return Fit(pixels=pixels, rchi2=float(fitted.attrs["rchi2"]), **{k: _column(fitted, k) for k in _FIT})


def _read(tree: xr.DataTree, text: str) -> Posterior:
    record = _record(text)
    old = record["format"] == 1
    observed, fitted, stats = (tree[name].to_dataset() for name in ("spectrum", "fit", "sample_stats"))
    labels = LabelSet.from_list(record["labels"])
    grid = PixelGrid(observed["wavelength"].values, tuple((a, b) for a, b in record["chips"]))
    v_correction = record["v_correction"]
    spectrum = Spectrum(
        grid,
        observed["flux"].values,
        observed["ivar"].values,
        id=str(tree.attrs["id"]),
        frame=record["frame"],
        v_correction=None if v_correction is None else float(v_correction),
        bitmask=observed["bitmask"].values if "bitmask" in observed else None,
        path=str(tree.attrs["file"]),
        index=int(record["index"]),
        meta=record["meta"],
    )
    fit = _fit(fitted, grid.n_pixels)
    draws, flow = tree["posterior" if old else "weighted"].to_dataset(), tree["flow"].to_dataset()
    stellar = [name for name in labels.names if name in flow]
    weight, likelihood, prior, proposal = ((stats if old else draws)[name].values[0] for name in _STATS)
    return Posterior(
        labels=labels,
        draws=np.column_stack([draws[name].values[0] for name in labels.names]),
        log_weights=weight,
        log_likelihood=likelihood,
        log_prior=prior,
        log_proposal=proposal,
        flow_draws=np.column_stack([flow[name].values[0] for name in stellar]),
        khat=float(stats.attrs["khat"]),
        ess=float(stats.attrs["ess"]),
        log_evidence=float(stats.attrs["log_evidence"]),
        method=str(stats.attrs["method"]),
        fit=fit,
        spectrum=spectrum,
        model=str(tree.attrs["model"]),
        flag_warn=split_flags(tree.attrs["flag_warn"]),
        flag_bad=split_flags(tree.attrs["flag_bad"]),
        seconds=float(record["seconds"]),
        evaluations=int(record["evaluations"]),
        held=record["held"],
        diagnostics=_from_format_1(record["extra"], fit, spectrum, labels, record["summary"])
        if old
        else Diagnostics.from_record(record["diagnostics"]),
        provenance=record["provenance"],
    )


def _from_format_1(
    extra: Mapping[str, Any], fit: Fit, spectrum: Spectrum, labels: LabelSet, summary: Mapping[str, Any]
) -> Diagnostics:
    """Read what files of format 1 told; their p-values by chip and line, which they did not hold, are computed again."""
    known = {key: value for key, value in extra.items() if key != "misfit"}
    if "misfit" in extra:
        told = extra["misfit"]
        v_rad = summary["labels"].get("v_rad", {"p50": 0.0})["p50"]
        taken = len(labels) + (DEGREE + 1) * len(spectrum.grid.chips)
        checks = checked(fit, stretches(fit, spectrum.grid, v_rad), taken)
        known["misfit"] = {key: told[key] for key in ("p_predictive", "p_novelty", "false_alarm")}
        known["misfit"]["checks"] = [asdict(check) for check in checks]
    return Diagnostics.from_record(known)


def _column(fitted: xr.Dataset, name: str) -> NDArray[np.float64]:
    values: NDArray[np.float64] = fitted[name if name in fitted else _FORMERLY[name]].values
    return values
