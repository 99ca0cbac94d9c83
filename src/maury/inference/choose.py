"""Which library explains a spectrum? The default model and the one of cool stars are tried on the same pixels, and the evidence chooses."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import numpy as np

from maury.constants import COOL_MODEL, DEFAULT_MODEL
from maury.errors import InferenceError, LabelError
from maury.inference.batch import infer_single, labels_for
from maury.inference.flagging import disagreement
from maury.inference.options import Options
from maury.inference.refine import NESTED
from maury.likelihood.pixels import usable_pixels
from maury.models import DEFAULT, load_model
from maury.posterior.diagnostics import Tried
from maury.posterior.result import Posterior
from maury.sampling.verification import KHAT_LIMIT
from maury.spectra.spectrum import Spectrum

# Models whose evidences differ by more than this (nats) need no better ones to be told apart.
_CLOSE = 20.0


def choose(spectrum: Spectrum, options: Options, progress: Callable[[str], None]) -> Posterior:
    """Infer with the default model and that of cool stars, on the same pixels; return the one of the highest evidence: see `likeliest`."""
    began = time.perf_counter()
    models, inside, refused = [], {}, []
    for name in (COOL_MODEL, DEFAULT_MODEL):
        m = load_model(name)
        try:
            labels = labels_for(spectrum, m, options.priors)
        except LabelError as error:
            # Of another model's range, perhaps.
            refused.append(error)
            continue
        inside[m.name] = usable_pixels(spectrum, m.forward, labels)
        if inside[m.name].any():
            models.append(m)
    if not inside:
        raise refused[0]
    if not models:
        return infer_single(spectrum, load_model(DEFAULT), options, progress)
    common = np.logical_and.reduce([inside[m.name] for m in models])
    found, failures = [], {}
    for m in models:
        try:
            stage = partial(stage_of, progress, m.name)
            found.append(infer_single(spectrum, m, options, stage, common, nested=False))
        except InferenceError as error:
            failures[m.name] = error
    if not found:
        raise next(iter(failures.values()))
    best = likeliest(found)
    # Where the winner's weights are poor, or a rival is near, the exact evidence decides.
    close = [p for p in found if p.khat > KHAT_LIMIT and p.log_evidence > best.log_evidence - _CLOSE]
    if options.budget < NESTED:
        close = []
    for rough in close:
        m = next(m for m in models if m.name == rough.model)
        found[found.index(rough)] = infer_single(spectrum, m, options, progress, common)
    best = likeliest(found)
    counted = eligible(found)
    reasons = ["" if any(p is one for one in counted) else left_out(p) for p in found]
    evidence = np.array([-np.inf if why else p.log_evidence for p, why in zip(found, reasons, strict=True)])
    share = np.exp(evidence - evidence.max())
    tried = tuple(
        Tried(p.model, p.log_evidence, float(s), why)
        for p, s, why in zip(found, share / share.sum(), reasons, strict=True)
    )
    return replace(
        best,
        diagnostics=replace(best.diagnostics, models=tried),
        flag_warn=(*best.flag_warn, *disagreement(found)),
        seconds=time.perf_counter() - began,
    )


def eligible(found: Sequence[Posterior]) -> Sequence[Posterior]:
    """Return those of which the star is inside of their library's temperatures; if there are none, those that see a star; or all.

    A star that is cooler than all of a library is fitted at its end, with abundances and a rotation to match, or as a continuum with much
    noise, and may have more evidence so than with the library that has such stars and fewer labels.
    """
    stars = [p for p in found if "no_star" not in p.flag_bad]
    return [p for p in stars if not left_out(p)] or stars or found


def left_out(posterior: Posterior) -> str:
    """Return why a star is none of a library's; empty if it may be."""
    if "no_star" in posterior.flag_bad:
        return "sees no star"
    return "at the end of its temperatures" if "at_bound:teff" in posterior.flag_warn else ""


def likeliest(found: Sequence[Posterior]) -> Posterior:
    """Return the posterior of the highest evidence among the `eligible`."""
    return max(eligible(found), key=lambda posterior: posterior.log_evidence)


def stage_of(progress: Callable[[str], None], what: str, stage: str) -> None:
    """Tell a stage, and of what."""
    progress(f"{what}: {stage}")
