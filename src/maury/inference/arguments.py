"""What callers hand to inference, made sure of: whole numbers, seeds, priors, one spectrum or several."""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from maury.errors import InferenceError, LabelError
from maury.priors import Prior, as_prior
from maury.spectra.spectrum import Spectrum

MOST_DRAWS = 10_000_000


def whole_number(value: Any, name: str, low: int, high: int) -> int:
    """Return a whole number of any kind (numpy's too) as Python's.

    Raises
    ------
    InferenceError
        If it is none, or outside ``low`` to ``high``.
    """
    try:
        number = operator.index(value)
    except TypeError:
        raise InferenceError(f"{name} must be a whole number, not {value!r}") from None
    if not low <= number <= high:
        raise InferenceError(f"{name} must lie between {low} and {high}, not {number}")
    return number


def as_seed(value: Any) -> int:
    """Return a seed as torch's generators take it; an `InferenceError` says what is none."""
    return whole_number(value, "seed", -(2**63), 2**64 - 1)


def one_each(seeds: Any, number: int) -> list[int]:
    """Return one seed for each of ``number`` spectra, of as many or of one for all.

    Raises
    ------
    InferenceError
        If they are as many as neither.
    """
    if not isinstance(seeds, Sequence | np.ndarray) or isinstance(seeds, str):
        return [as_seed(seeds)] * number
    if len(seeds) != number:
        raise InferenceError(
            f"seeds: needs one for all, or one for each of {number} spectra, not {len(seeds)}"
        )
    return [as_seed(seed) for seed in seeds]


def as_priors(priors: Any) -> dict[str, Prior]:
    """Return priors by label, of what `maury.priors.as_prior` understands.

    Raises
    ------
    LabelError
        If they are no mapping of labels to priors.
    """
    if not isinstance(priors, Mapping):
        raise LabelError(f'priors: needs a mapping such as {{"logg": (2.0, 3.0)}}, not {priors!r}')
    return {str(name): as_prior(prior, str(name)) for name, prior in priors.items()}


def one_spectrum(value: Any) -> Spectrum | str | Path:
    """Return a spectrum or the path of one.

    Raises
    ------
    InferenceError
        If it is neither; says what takes several.
    """
    if isinstance(value, Spectrum | str | Path):
        return value
    if isinstance(value, Sequence | np.ndarray):
        raise InferenceError(
            f"infer takes one spectrum, not {len(value)}: infer_batch takes several stars, infer_visits several visits of one"
        )
    raise InferenceError(f"infer takes a Spectrum or a path, not {type(value).__name__}")


def several_spectra(value: Any) -> list[Spectrum]:
    """Return spectra as a list.

    Raises
    ------
    InferenceError
        If it is one spectrum, or something among them is none.
    """
    if isinstance(value, Spectrum | str | Path):
        raise InferenceError("several spectra are wanted: put the one into a list, or use infer")
    try:
        spectra = list(value)
    except TypeError:
        raise InferenceError(f"several spectra are wanted, not {type(value).__name__}") from None
    for i, spectrum in enumerate(spectra):
        if not isinstance(spectrum, Spectrum):
            raise InferenceError(
                f"spectrum {i} is of type {type(spectrum).__name__}: read files with read_spectrum first"
            )
    return spectra
