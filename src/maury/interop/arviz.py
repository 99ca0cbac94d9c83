"""A posterior as ArviZ has it: ``InferenceData`` (0.x) or xarray's ``DataTree`` (1.x)."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

import maury
from maury.interop.draws import Draws, draws_of
from maury.quantities import quantity

if TYPE_CHECKING:
    import xarray as xr

    from maury.posterior.result import Posterior


def to_arviz(
    posterior: Posterior, *, weighted: bool = False, number: int | None = None, seed: int = 0
) -> Any:
    """Return the groups posterior, sample_stats, prior, observed_data, constant_data and flow.

    The draws are equally weighted, as ArviZ's functions take them; ``posterior.attrs["draws"]`` says how they were taken.

    Parameters
    ----------
    posterior
        The posterior.
    weighted
        Keep the draws with their weights, ``sample_stats.log_weight``, instead of resampling.
    number
        Draws to resample, by default as many as there are.
    seed
        Of resampling and of the prior's draws.

    Returns
    -------
    arviz.InferenceData or xarray.DataTree
        The first with ArviZ 0.x, the second with ArviZ 1.x or without ArviZ.
    """
    datasets = groups(posterior, draws_of(posterior, weighted=weighted, number=number, seed=seed), seed)
    try:
        from arviz import InferenceData
    except ImportError:
        # ArviZ 1.x, or none.
        pass
    else:
        # It knows no group "flow"; that is no reason to warn.
        return InferenceData(**datasets, warn_on_custom_groups=False)
    import xarray as xr

    return xr.DataTree.from_dict({f"/{name}": dataset for name, dataset in datasets.items()})


def groups(posterior: Posterior, draws: Draws, seed: int) -> dict[str, xr.Dataset]:
    """Return the groups as datasets with units and origin."""
    labels = posterior.labels
    generator = torch.Generator().manual_seed(seed)
    prior = labels.sample(len(draws.log_weight), generator).numpy()
    stats = {
        "lp": draws.log_likelihood + draws.log_prior,
        "log_weight": draws.log_weight,
        "log_likelihood": draws.log_likelihood,
        "log_prior": draws.log_prior,
        "log_proposal": draws.log_proposal,
    }
    out = {
        "posterior": _chain(draws.values, _units(posterior)),
        "sample_stats": _chain(stats, {}),
        "prior": _chain({name: prior[:, i] for i, name in enumerate(labels.names)}, _units(posterior)),
        "flow": _chain(
            dict(zip(posterior.stellar.names, posterior.flow_draws.T, strict=False)),
            _units(posterior),
        ),
        **_data(posterior),
    }
    origin = {
        "created_at": datetime.now(UTC).isoformat(),
        "creation_library": "maury",
        "creation_library_version": maury.__version__,
        "inference_library": "maury",
        "inference_library_version": maury.__version__,
        "inference_time": posterior.seconds,
        "model": posterior.model,
        "id": posterior.spectrum.id,
        "file": posterior.spectrum.path,
    }
    for dataset in out.values():
        dataset.attrs.update(origin)
    out["posterior"].attrs["draws"] = draws.note
    out["flow"].attrs["draws"] = "equally weighted: of the amortised posterior, before verification"
    out["sample_stats"].attrs.update(
        khat=posterior.khat,
        ess=posterior.ess,
        log_evidence=posterior.log_evidence,
        method=posterior.method,
        flag_warn=",".join(posterior.flag_warn),
        flag_bad=",".join(posterior.flag_bad),
    )
    return out


def _units(posterior: Posterior) -> dict[str, str]:
    known = (*(label.quantity for label in posterior.labels), quantity("v_bary"))
    return {each.name: each.unit for each in known}


def _chain(columns: dict[str, Any], units: dict[str, str]) -> xr.Dataset:
    import xarray as xr

    n = len(next(iter(columns.values())))
    dataset = xr.Dataset(
        {name: (("chain", "draw"), np.asarray(values)[None]) for name, values in columns.items()},
        coords={"chain": [0], "draw": np.arange(n)},
    )
    for name in columns:
        if units.get(name):
            dataset[name].attrs["units"] = units[name]
    return dataset


def _data(posterior: Posterior) -> dict[str, xr.Dataset]:
    import xarray as xr

    spectrum = posterior.spectrum
    used = np.zeros(spectrum.grid.n_pixels, bool)
    used[posterior.fit.pixels] = True
    wavelength = {
        "wavelength": ("wavelength", spectrum.grid.wavelength, {"units": "Angstrom", "medium": "vacuum"})
    }
    observed = xr.Dataset({"flux": ("wavelength", spectrum.flux)}, coords=wavelength)
    constant = xr.Dataset(
        {"ivar": ("wavelength", spectrum.ivar), "used": ("wavelength", used)}, coords=wavelength
    )
    observed["flux"].attrs["units"] = str(spectrum.meta.get("flux_unit", ""))
    return {"observed_data": observed, "constant_data": constant}
