"""Spectra as specutils has them, which jdaviz opens: the observed one, and the model beside it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from maury.errors import MauryError
from maury.spectra.linespread import Gaussian
from maury.spectra.spectrum import Spectrum

if TYPE_CHECKING:
    from maury.posterior.result import Posterior


class SpecutilsPair(NamedTuple):
    """Two ``specutils.Spectrum``.

    Attributes
    ----------
    observed
        Flux, inverse variance, and a mask that is true where a pixel was not used.
    model
        Model times continuum at the best draw; its uncertainty is what the noise model adds to the file's errors (jitter, emulator,
        library). Masked, and nan, where no pixel was used.
    """

    observed: Any
    model: Any


def spectrum_to_specutils(spectrum: Spectrum, unit: str | None = None) -> Any:
    """Turn a spectrum into a ``specutils.Spectrum``; `maury.spectra.from_specutils` reads it back.

    Parameters
    ----------
    spectrum
        The spectrum.
    unit
        Of its flux; by default the file's, or none where that is not known.

    Raises
    ------
    MauryError
        If specutils is not installed, or there is no such unit.
    """
    return _specutils(spectrum, spectrum.flux, _ivar(spectrum.ivar), ~spectrum.good, unit, _meta(spectrum))


def to_specutils(posterior: Posterior, unit: str | None = None) -> SpecutilsPair:
    """Return the observed spectrum and the model at the best draw.

    Parameters
    ----------
    posterior
        The posterior.
    unit
        Of the flux; by default the file's, or none where that is not known.

    Raises
    ------
    MauryError
        If specutils is not installed, or there is no such unit.
    """
    from astropy.nddata import StdDevUncertainty

    spectrum, fit = posterior.spectrum, posterior.fit
    unused = np.ones(spectrum.grid.n_pixels, bool)
    unused[fit.pixels] = False
    flux, error = (np.full(spectrum.grid.n_pixels, np.nan) for _ in range(2))
    flux[fit.pixels] = fit.flux
    error[fit.pixels] = np.sqrt(np.clip(fit.sigma**2 - 1 / spectrum.ivar[fit.pixels], 0, None))
    meta = _meta(spectrum)
    summary = {name: entry["p50"] for name, entry in posterior.summary().items()}
    described = {"model": posterior.model, "rchi2": fit.rchi2, "labels": summary}
    return SpecutilsPair(
        _specutils(spectrum, spectrum.flux, _ivar(spectrum.ivar), unused, unit, meta),
        _specutils(
            spectrum,
            flux,
            StdDevUncertainty(error),
            unused,
            unit,
            meta | described | {"id": f"{spectrum.id} model"},
        ),
    )


def _ivar(ivar: NDArray[np.float64]) -> Any:
    from astropy.nddata import InverseVariance

    return InverseVariance(ivar)


def _meta(spectrum: Spectrum) -> dict[str, Any]:
    """Return what `maury.spectra.from_specutils` asks for, and what the header told."""
    known: dict[str, Any] = {
        "id": spectrum.id,
        "medium": "vacuum",
        "frame": spectrum.frame,
        "file": spectrum.path,
    }
    if spectrum.v_correction is not None:
        known["v_correction"] = spectrum.v_correction
    if isinstance(spectrum.lsf, Gaussian):
        known["resolution"] = spectrum.lsf.resolution
    return {**spectrum.meta, **known}


def _specutils(
    spectrum: Spectrum,
    flux: NDArray[np.float64],
    uncertainty: Any,
    mask: NDArray[np.bool_],
    unit: str | None,
    meta: dict[str, Any],
) -> Any:
    from astropy import units

    try:
        import specutils
    except ImportError:
        raise MauryError("specutils is not installed: pip install 'maury[interop]'") from None
    name = unit if unit is not None else str(spectrum.meta.get("flux_unit", ""))
    try:
        flux_unit = units.Unit(name)
    except (TypeError, ValueError) as error:
        raise MauryError(f"unit {name!r}: {error}") from None
    # Before specutils 2 the class had a number.
    make = getattr(specutils, "Spectrum", None) or specutils.Spectrum1D
    return make(
        flux=flux * flux_unit,
        spectral_axis=spectrum.grid.wavelength * units.AA,
        uncertainty=uncertainty,
        mask=mask,
        meta=meta,
    )
