"""What the worker does for a run: read, infer, and write the report and the draws."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from maury.files import finite, writing
from maury.inference.infer import AUTO, infer
from maury.models import Model, load_model
from maury.posterior.result import Posterior
from maury.serve.jobs import Progress, Run
from maury.serve.wanted import Choice
from maury.spectra.spectrum import Spectrum

REPORT, DRAWS, NUMBERS, FIT = "report.html", "draws.nc", "result.json", "fit.json"


def worker(models: Mapping[str, Choice]) -> Callable[[Run, Progress], Mapping[str, Any]]:
    """Return the function that does a run with one of some models."""

    def work(run: Run, progress: Progress) -> Mapping[str, Any]:
        progress("reading")
        wanted = run.wanted
        spectrum = run.upload.read(wanted.index).without(wanted.regions)
        path = models[wanted.model].folder
        posterior = infer(
            spectrum,
            AUTO if path is None else load_model(path),
            draws=wanted.draws,
            seed=wanted.seed,
            priors=run.priors,
            noise=wanted.noise,
            companion=wanted.companion,
            progress=progress,
        )
        progress("report")
        return _write(run, posterior)

    return work


def _write(run: Run, posterior: Posterior) -> Mapping[str, Any]:
    from maury.report.star import star_page

    numbers: dict[str, Any] = finite(posterior.to_json())
    numbers["wanted"] = wanted_json(run)
    run.folder.mkdir(mode=0o700)
    texts = {
        REPORT: star_page(posterior),
        NUMBERS: json.dumps(numbers, indent=1) + "\n",
        FIT: json.dumps(fit_to_plot(posterior)),
    }
    for name, text in texts.items():
        with writing(run.folder / name) as temporary:
            temporary.write_text(text)
    posterior.save(run.folder / DRAWS)
    return numbers


def wanted_json(run: Run) -> dict[str, Any]:
    """Return what was asked for: model, draws, seed, noise, companion, priors and regions left out."""
    out = run.wanted.model_dump(exclude={"upload", "index", "priors"})
    return out | {"priors": {name: prior.model_dump() for name, prior in run.priors.items()}}


def fit_to_plot(posterior: Posterior) -> dict[str, Any]:
    """Return the model spectrum on the used pixels: wavelength (Angstrom) and flux over the median of the usable pixels."""
    spectrum, fit = posterior.spectrum, posterior.fit
    good = spectrum.good
    scale = float(np.median(np.abs(spectrum.flux[good]))) if good.any() else 1.0
    return {
        "wavelength": np.round(spectrum.grid.wavelength[fit.pixels], 4).tolist(),
        "flux": np.round(fit.flux / (scale or 1.0), 5).tolist(),
        "scale": scale,
    }


def warm_up(model: Model) -> Callable[[], None]:
    """Return a function that infers a simulated star: what is loaded and compiled at first use is there when the first file comes."""

    def prepare() -> None:
        from maury.report.star import star_page
        from maury.training.demo import TRUTH, simulate_visit

        # Of a model with other labels there is no demonstration.
        if set(model.labels.names) <= set(TRUTH):
            middle = {label.name: 0.5 * (label.prior.low + label.prior.high) for label in model.labels}
            spectrum: Spectrum = simulate_visit(model, middle, snr=80, seed=0, v_correction=None)
            star_page(infer(spectrum, model, draws=300, noise="independent"))

    return prepare
