"""``maury.infer``: from a spectrum to its verified posterior."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Unpack

from maury.constants import BUDGET, DRAWS, FALSE_ALARM
from maury.errors import Failure, InferenceError, failure_of
from maury.inference.arguments import one_spectrum
from maury.inference.batch import infer_single
from maury.inference.choose import choose, stage_of
from maury.inference.companion import with_companion
from maury.inference.options import Companion, Keywords, Options
from maury.likelihood.nuisances import DEFAULT as NUISANCES
from maury.likelihood.nuisances import Choice
from maury.likelihood.residuals import Noise
from maury.models import DEFAULT, Model, load_model
from maury.posterior.result import Posterior
from maury.priors import ANY_PRIOR, PriorLike
from maury.spectra.formats.isolated import read_all as read_all_isolated
from maury.spectra.formats.registry import read_all, read_spectrum
from maury.spectra.instrument import Instrument
from maury.spectra.spectrum import Spectrum

AUTO = "auto"


def infer(
    spectrum: Spectrum | str | Path,
    model: Model | str | Path = DEFAULT,
    *,
    draws: int = DRAWS,
    seed: int = 0,
    priors: Mapping[str, PriorLike] | None = None,
    noise: Noise = "auto",
    companion: Companion = "no",
    false_alarm: float = FALSE_ALARM,
    masks: Sequence[tuple[float, float]] = (),
    budget: int = BUDGET,
    nuisances: Choice = NUISANCES,
    ess: int | None = None,
    labels: str | Sequence[str] = "basic",
    progress: Callable[[str], None] = lambda _: None,
) -> Posterior:
    """Infer a star's labels from its spectrum.

    Parameters
    ----------
    spectrum
        A spectrum or the path of a file, of which the first spectrum is taken.
    model
        Name, folder, or a loaded model. ``"auto"`` runs the default model and that of cool stars and lets the evidence choose.
    draws
        Importance draws a round; more rounds are added while the weights are uneven, or too few draws effective.
    ess
        Effective draws that are wanted: rounds go on until they are counted, or the budget is spent (``not_converged``). By default 200, or
        four fifths of fewer draws than 220.
    seed
        The same seed gives the same draws on the same device.
    priors
        Priors that replace the model's, by label: ``(low, high)``, or one of `maury.priors`, of which ``Normal(mean, sigma)`` needs no
        bounds. One that reaches beyond the range of the model's is cut to it, with a `MauryWarning`. A spectrum at rest gets ``v_rad``
        within 30 km/s of 0 unless this says otherwise.
    noise
        ``"independent"`` pixels; ``"correlated"`` residuals, an Ornstein-Uhlenbeck process whose amplitude and length are fitted; or
        ``"auto"``: correlated where that gains more than 5 nats, as on real spectra it does.
    companion
        ``"auto"`` looks for a second star in the spectrum where a flag says that one does not explain it, and adds its labels where that
        gains more than 20 nats of evidence; ``"yes"`` adds them in any case. See `maury.inference.companion`.
    false_alarm
        Share of good spectra that may be flagged ``misfit``, and ``novel``.
    masks
        Ranges of wavelength to leave out, vacuum Angstrom in the spectrum's own frame, ``(from, to)`` each.
    budget
        Likelihoods that the spectrum may take. After them the best answer so far is given, with ``not_converged`` among ``flag_bad``. The
        default ends within half a minute of a core; nested sampling, where the weights fail, needs 100,000.
    nuisances
        What else the model is uncertain of, integrated out: ``"default"``, all that the model has (`maury.likelihood.nuisances`);
        ``"none"``; or names and nuisances of one's own.
    labels
        Which are inferred: ``"basic"``, those that the model infers by itself; ``"cno"``, ``"elements"``, or names of any that its library
        has, separated by commas or one by one, beside those. Abundances are inferred about what they follow in other stars, with twice
        the scatter of those: see `Posterior.abundances`.
    progress
        Told what stage begins, and now and then that it goes on; what it raises ends the inference.

    Returns
    -------
    Posterior

    Raises
    ------
    SpectrumError, ModelError
        If a file cannot be used.
    LabelError
        If a prior is none, is of no label of the model, or lies outside its range.
    InferenceError
        If the spectrum cannot be inferred: no usable pixels, none inside the model's wavelengths, or no line-spread function; or if a
        companion is asked of a model that holds labels.

    Examples
    --------
    >>> posterior = maury.infer("apVisit-r13-9518-57729-104.fits")  # doctest: +SKIP
    >>> posterior.summary()["teff"]  # doctest: +SKIP
    """
    spectrum = one_spectrum(spectrum)
    if not isinstance(model, Model) and model != AUTO:
        model = load_model(model)
    if not isinstance(spectrum, Spectrum):
        spectrum = read_spectrum(spectrum, instrument=model.instrument if isinstance(model, Model) else None)
    options = Options(
        draws, seed, priors or {}, noise, companion, false_alarm, masks, budget, nuisances, ess, labels
    )
    return infer_with(spectrum, model, options, progress)


def infer_with(
    spectrum: Spectrum,
    model: Model | str,
    options: Options,
    progress: Callable[[str], None] = lambda _: None,
) -> Posterior:
    """Infer one spectrum with a loaded model or ``"auto"``; see `infer`."""
    if isinstance(model, Model):
        single = infer_single(spectrum, model, options, progress)
    else:
        single = choose(spectrum, options, progress)
        model = load_model(single.model)
    return with_companion(single, model, options, progress)


def infer_files(
    files: Iterable[str | Path] | str | Path,
    model: Model | str | Path = DEFAULT,
    options: Options | None = None,
    *,
    isolated: bool = False,
    instrument: Instrument | None = None,
    progress: Callable[[str], None] = lambda _: None,
    **keywords: Unpack[Keywords],
) -> Iterator[Posterior | Failure]:
    """Infer every spectrum of some files; one that fails does not stop the others.

    Parameters
    ----------
    files
        Files of any format, each with one spectrum or many.
    model
        Name, folder, a loaded model, or ``"auto"``: the default model and that of cool stars, of which the evidence chooses.
    options
        What may be chosen; or as keywords, which are those of `infer`.
    isolated
        Whether another process reads the files, with limits of time and memory, as those of strangers should be read
        (`maury.spectra.formats.isolated`).
    instrument
        Whose tables are read: it tells what they leave open. The model's by default.
    progress
        Told of each spectrum what stage begins; what it raises ends that inference.

    Yields
    ------
    Posterior or Failure
        In the order of the files and of the spectra in them.

    Raises
    ------
    ReaderError
        If that process cannot be started.
    """
    chosen = Options.of(options, keywords)
    if not isinstance(model, Model) and model != AUTO:
        model = load_model(model)
    # A path is a sequence of letters too.
    files = [files] if isinstance(files, str | Path) else files
    read = read_all_isolated if isolated else read_all
    if instrument is None and isinstance(model, Model):
        instrument = model.instrument
    for spectrum in read(files, instrument):
        if isinstance(spectrum, Failure):
            yield spectrum
            continue
        file, index = Path(spectrum.path), spectrum.index
        stage = partial(stage_of, progress, f"{file}" + (f" [{index}]" if index else ""))
        try:
            yield infer_with(spectrum, model, chosen, stage)
        except Exception as error:
            yield failure_of(file, index, error)


def infer_again(
    posterior: Posterior,
    *,
    model: Model | str | Path | None = None,
    progress: Callable[[str], None] = lambda _: None,
    **changes: Unpack[Keywords],
) -> Posterior:
    """Infer a posterior's spectrum again, with the choices that it was inferred with, some of them changed.

    Parameters
    ----------
    posterior
        From `infer`; of one from `maury.load` the spectrum is read again from its own file.
    model
        Another model; by default the one of the posterior, which must be named if it is not one of those that come with maury.
    progress
        As of `infer`.
    **changes
        Keywords of `infer` that replace what was chosen. ``masks`` are left out beside those from before, and ``priors`` replace label by
        label.

    Returns
    -------
    Posterior

    Raises
    ------
    SpectrumError, ModelError, LabelError, InferenceError
        As of `infer`.

    Examples
    --------
    >>> quiet = posterior.again(masks=[(15900, 15950)])  # doctest: +SKIP
    >>> posterior.moves(quiet)  # doctest: +SKIP
    """
    before: Keywords = {**posterior.provenance.get("options", {})}
    if before.get("nuisances") == "own":
        del before["nuisances"]
    priors = {name: ANY_PRIOR.validate_python(value) for name, value in before.get("priors", {}).items()}
    before["priors"] = {**priors, **changes.pop("priors", {})}
    spectrum, masks = posterior.spectrum, list(before.get("masks", []))
    chosen = posterior.model if model is None else model
    if not isinstance(chosen, Model) and chosen != AUTO:
        chosen = load_model(chosen)
    if posterior.target is None:
        spectrum = _read_again(spectrum, chosen)
    before["masks"] = [*masks, *changes.pop("masks", ())]
    options = Options.of(None, {**before, **changes})
    return infer_with(spectrum, chosen, options, progress)


def _read_again(spectrum: Spectrum, model: Model | str) -> Spectrum:
    """Read a spectrum's own file: saved posteriors do not keep its line-spread function."""
    if not spectrum.path or not Path(spectrum.path).exists():
        raise InferenceError(
            f"{spectrum.path or 'a spectrum in memory'}: is not there to be inferred again, and a saved posterior does not keep its "
            "line-spread function; infer the spectrum itself with maury.infer"
        )
    return read_spectrum(
        spectrum.path, spectrum.index, instrument=model.instrument if isinstance(model, Model) else None
    )
