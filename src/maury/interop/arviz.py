"""A posterior as ArviZ has it: ``InferenceData`` (0.x) or xarray's ``DataTree`` (1.x)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from maury.posterior.draws import Draws, chain, draws_of, origin
from maury.posterior.draws import groups as common_groups

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
    known = {"prior": chain({name: prior[:, i] for i, name in enumerate(labels.names)}), **_data(posterior)}
    for dataset in known.values():
        dataset.attrs.update(origin(posterior))
    return common_groups(posterior, draws) | known


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
