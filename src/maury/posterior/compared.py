"""A posterior beside what a survey's pipeline made of the same star: label by label, in total errors."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import replace

from maury.errors import LabelError
from maury.posterior.diagnostics import Compared
from maury.posterior.result import Posterior
from maury.spectra.formats.astra import PipelineFit

__all__ = ["compare", "fits_of"]


def fits_of(posterior: Posterior, fits: Iterable[PipelineFit]) -> list[PipelineFit]:
    """Return the results that are of a posterior's star: of the same telescope's spectrum, where there is one.

    A result without a star's number, or a spectrum without one, is taken as the same star's.
    """
    meta = posterior.spectrum.meta
    star, hdu = meta.get("sdss_id"), meta.get("hdu")
    of_star = [fit for fit in fits if star is None or fit.sdss_id is None or fit.sdss_id == int(star)]
    chosen = []
    for pipeline in dict.fromkeys(fit.pipeline for fit in of_star):
        mine = [fit for fit in of_star if fit.pipeline == pipeline]
        chosen.append(next((fit for fit in mine if fit.hdu == hdu), mine[0]))
    return chosen


def compare(posterior: Posterior, fits: Iterable[PipelineFit]) -> Posterior:
    """Return the posterior with what pipelines made of its star in ``diagnostics.compared``.

    Parameters
    ----------
    posterior
        Medians and total errors of its labels are compared; of elements, [X/H].
    fits
        From `maury.spectra.formats.astra.read_pipeline_fits`; those of other stars are passed over.

    Raises
    ------
    LabelError
        If none is of this star.

    Examples
    --------
    >>> posterior = compare(posterior, read_pipeline_fits("astraStarASPCAP-0.6.0-12345.fits"))  # doctest: +SKIP
    >>> posterior.diagnostics.compared[0].sigmas  # doctest: +SKIP
    -0.4
    """
    fits = list(fits)
    chosen = fits_of(posterior, fits)
    if not chosen:
        stars = ", ".join(str(fit.sdss_id) for fit in fits) or "none"
        raise LabelError(
            f"{posterior.spectrum.path or posterior.spectrum.id}: is of the star {posterior.spectrum.meta.get('sdss_id')}, "
            f"and the results to compare with are of {stars} (SDSS_ID)"
        )
    ours = _ours(posterior)
    found = tuple(
        _beside(fit, label, *ours[label]) for fit in chosen for label in ours if label in fit.labels
    )
    return replace(posterior, diagnostics=replace(posterior.diagnostics, compared=found))


def _ours(posterior: Posterior) -> Mapping[str, tuple[float, float]]:
    """Median and total error of each label, and of each element that was measured."""
    between = posterior.systematic
    ours = {
        name: (entry["p50"], between[name].std if name in between else entry["std"])
        for name, entry in posterior.summary().items()
    }
    elements = {
        f"{entry.element.lower()}_h": (entry.h_p50, entry.h_std)
        for entry in posterior.diagnostics.abundances
        if entry.measured
    }
    return ours | elements


def _beside(fit: PipelineFit, label: str, value: float, total: float) -> Compared:
    theirs, error = fit.labels[label]
    difference = value - theirs
    return Compared(
        fit.pipeline, label, theirs, error, value, total, difference, difference / math.hypot(total, error or 0.0), fit.flags
    )  # fmt: skip
