"""What is done for a run: read, infer, and write the report and the draws. A process of its own does it (`maury.serve.worker`)."""

from __future__ import annotations

import json
import sys
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from maury.errors import MauryError
from maury.files import finite, writing
from maury.inference.infer import AUTO, infer
from maury.models import Model, load_model
from maury.posterior.result import Posterior
from maury.priors import Prior
from maury.quantities import quantity
from maury.serve.child import Message, answer
from maury.serve.jobs import Progress
from maury.serve.reading import LIMITS, File
from maury.serve.results import DRAWS, FIT, NUMBERS, REPORT, ROW, wanted_json
from maury.serve.wanted import Choice, Wanted, choices
from maury.spectra.formats import isolated
from maury.spectra.spectrum import Spectrum


@dataclass(frozen=True)
class Job:
    """A run, as the process is told it: the file, what is wanted of it, and the folder for the results."""

    file: File
    wanted: Wanted
    folder: Path

    @classmethod
    def of(cls, message: Message) -> Job:
        """Read what the server sends."""
        file = File(Path(message["path"]), message["name"])
        return cls(file, Wanted.model_validate(message["wanted"]), Path(message["folder"]))


def do(job: Job, models: Mapping[str, Choice], progress: Progress) -> dict[str, Any]:
    """Do a run with one of some models; return its numbers.

    Raises
    ------
    MauryError
        If the spectrum cannot be read or inferred.
    """
    progress("reading")
    wanted = job.wanted
    spectrum = job.file.read(wanted.index).without(wanted.regions)
    path = models[wanted.model].folder
    priors = wanted.prepare(models)
    posterior = infer(
        spectrum,
        AUTO if path is None else load_model(path),
        draws=wanted.draws,
        seed=wanted.seed,
        priors=priors,
        noise=wanted.noise,
        companion=wanted.companion,
        labels=wanted.labels,
        progress=progress,
    )
    progress("report")
    return _write(job, priors, posterior)


def _write(job: Job, priors: Mapping[str, Prior], posterior: Posterior) -> dict[str, Any]:
    from maury.report.star import star_page
    from maury.report.verdict import upper_limits, verdict

    numbers: dict[str, Any] = finite(posterior.to_json())
    found = verdict(posterior)
    numbers["limits"] = upper_limits(posterior)
    shown = (*posterior.summary(), "v_bary")
    numbers["names"] = {name: quantity(name).short or name for name in shown}
    numbers["said"] = {
        "title": found.title,
        "sentence": found.sentence,
        "advice": found.advice,
        "reasons": [[flag, text] for flag, text in found.brief],
    }
    numbers["wanted"] = wanted_json(job.wanted, priors)
    job.folder.mkdir(mode=0o700)
    texts = {
        REPORT: star_page(posterior),
        NUMBERS: json.dumps(numbers, indent=1) + "\n",
        FIT: json.dumps(fit_to_plot(posterior)),
        ROW: json.dumps(finite(posterior.row())),
    }
    for name, text in texts.items():
        with writing(job.folder / name) as temporary:
            temporary.write_text(text, encoding="utf-8")
    posterior.save(job.folder / DRAWS)
    return numbers


def fit_to_plot(posterior: Posterior) -> dict[str, Any]:
    """Return the model spectrum on the used pixels, and the pictures of the windows that tell most.

    Wavelengths are in Angstrom, fluxes over the median of the usable pixels.
    """
    from maury.report.panels import panels

    spectrum, fit = posterior.spectrum, posterior.fit
    good = spectrum.good
    scale = float(np.median(np.abs(spectrum.flux[good]))) if good.any() else 1.0
    return {
        "wavelength": np.round(spectrum.grid.wavelength[fit.pixels], 4).tolist(),
        "flux": np.round(fit.flux / (scale or 1.0), 5).tolist(),
        "scale": scale,
        "panels": [panel.to_json() for panel in panels(posterior)],
    }


def warm_up(model: Model) -> None:
    """Infer a simulated star: what is loaded and compiled at first use is there when the first file comes."""
    from maury.report.star import star_page
    from maury.training.demo import TRUTH, simulate_visit

    # Of a model with other labels there is no demonstration.
    if set(model.labels.names) <= set(TRUTH):
        middle = {label.name: 0.5 * (label.prior.low + label.prior.high) for label in model.labels}
        spectrum: Spectrum = simulate_visit(model, middle, snr=80, seed=0, v_correction=None)
        star_page(infer(spectrum, model, draws=300, noise="independent"))


class _Unwanted(Exception):
    """Ends a run that nobody waits for."""


def main() -> None:
    """Load the model that the first argument names, warm up, and do runs as they come; the server is told of each step."""
    models: dict[str, Choice] = {}
    unwanted: set[str] = set()

    def urgent(message: Message) -> bool:
        if message["do"] == "cancel":
            unwanted.add(message["run"])
        return bool(message["do"] == "cancel")

    def handle(message: Message, tell: Callable[[Message], None]) -> None:
        if message["do"] == "load":
            _load(sys.argv[1], models, tell)
        else:
            _run(message, models, unwanted, tell)

    answer(handle, urgent)


def _load(name: str, models: dict[str, Choice], tell: Callable[[Message], None]) -> None:
    try:
        models.update(choices(name))
        own = next(iter(models.values()))
        model = load_model(own.folder or own.name)
    except MauryError as error:
        tell({"refused": str(error)})
        return
    tell({"loaded": True})
    isolated.prepare(1, LIMITS)
    trouble = ""
    try:
        warm_up(model)
    except Exception:
        trouble = traceback.format_exc()
    tell({"ready": True, "trouble": trouble})


def _run(
    message: Message, models: Mapping[str, Choice], unwanted: set[str], tell: Callable[[Message], None]
) -> None:
    said = ""

    def progress(stage: str) -> None:
        nonlocal said
        if message["run"] in unwanted:
            raise _Unwanted
        if stage != said:
            said = stage
            tell({"stage": stage})

    try:
        tell({"result": do(Job.of(message), models, progress)})
    except _Unwanted:
        tell({"ended": True})
    except MauryError as error:
        tell({"error": str(error)})
    except MemoryError:
        tell({"error": "there was not enough memory for this run"})
    except Exception:
        tell({"failed": traceback.format_exc()})
    unwanted.discard(message["run"])


if __name__ == "__main__":
    main()
