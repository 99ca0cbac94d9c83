"""What to make of a result, in plain words: verified, verified but flagged, or not usable."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from maury.posterior.result import Posterior

Kind = Literal["verified", "flagged", "unverified", "unusable"]
TITLES: dict[Kind, str] = {
    "verified": "Verified",
    "flagged": "Verified, but flagged",
    "unverified": "Not verified",
    "unusable": "Not usable",
}
# Under which the numbers stand.
WARNINGS = {
    "at_bound": (
        "More than a tenth of the posterior of {label} lies at the very end of its prior. "
        "The star may be outside the model, and the interval is cut off there."
    ),
    "second_mode": (
        "A second solution explains the spectrum almost as well: look at the corner plot for two islands. "
        "A companion, or a spectrum that two kinds of star explain."
    ),
    "companion": (
        "A second star was found in the spectrum: labels named (2) are the companion's, and the first star's are those "
        "beside it."
    ),
    "high_jitter": "The model explains the spectrum to no better than 5 % of the continuum.",
    "poor_fit": "The residuals are larger than all errors together, even with the model error that was fitted.",
    "correlated": (
        "The residuals of neighbouring pixels hang together, so a correlated part was added to the noise and "
        "the errors account for it. Real spectra usually have this flag."
    ),
    "misfit": (
        "Residuals are too large, or hang together, in a chip or around the lines of a species, more than chance "
        "allows. The checks below say where."
    ),
    "novel": (
        "The network was not trained on spectra like this one. The verified posterior does not rest on the network, "
        "but an unusual spectrum deserves a look."
    ),
    "rejected_pixels": "More than 40 % of the pixels inside the model's wavelengths are masked.",
    "library_disagreement": (
        "Another library explains the spectrum about as well and puts a label more than 5 errors away: "
        "the choice of library matters more than the errors say."
    ),
    "low_snr": "The median signal-to-noise ratio is below 10.",
    "average_lsf": (
        "The library contains an average line-spread function, and the rotation found is below 10 km/s: "
        "read v sin i as an upper limit."
    ),
    "assumed_lsf": (
        "The file has no line-spread function; a Gaussian of R = 22,500 was assumed. v sin i depends on it."
    ),
    "khat": (
        "The importance weights could not be trusted (k-hat above 0.7): nested sampling took over, unless the budget ended it."
    ),
    "hits": "Pixels that cosmic rays have hit, narrower than the line-spread function, were left out.",
    "variable_velocity": "The visits' velocities differ by more than one velocity for all allows.",
}
# Under which there are numbers that mean nothing, or none.
FAULTS = {
    "no_star": "A continuum without lines explains the spectrum as well as a star does: the labels are the prior's.",
    "not_converged": "The budget of likelihoods ended before the posterior was found: these are the best weights so far.",
    "emission": "Emission lines above the model take up more area than the model's absorption lines.",
    "wrong_frame": (
        "The wavelength scale looks wrong: the chips disagree about the velocity, or a star matches far outside "
        "the velocities that were searched."
    ),
    "unreadable": "The file is missing, damaged, or of no known format.",
    "all_masked": "No pixel is usable.",
    "few_pixels": "Fewer than 200 usable pixels lie inside the model's wavelengths.",
    "outside_wavelengths": "The spectrum and the model share no wavelengths.",
    "missing_lsf": "The model needs the detector's line-spread function, and the file states none.",
    "failed": "The inference failed.",
    "internal_error": "The inference failed for a reason that is an error of maury's: please report it.",
}


@dataclass(frozen=True)
class Verdict:
    """What to make of a result.

    Attributes
    ----------
    kind
        Its class, for colours and filters.
    sentence
        One plain sentence.
    reasons
        Each flag with what it means; the gravest first.
    """

    kind: Kind
    sentence: str
    reasons: tuple[tuple[str, str], ...] = ()

    @property
    def title(self) -> str:
        """Return the verdict in a few words."""
        return TITLES[self.kind]


def meaning(flag: str) -> str:
    """Say what a flag means; ``at_bound:teff`` and ``khat[2]`` (of the second visit) are understood."""
    stem, _, visit = flag.partition("[")
    stem, _, label = stem.partition(":")
    text = (FAULTS | WARNINGS).get(stem, "A flag that this version does not know.").replace("{label}", label)
    return f"Visit {visit.rstrip(']')}: {text}" if visit else text


def judge(bad: Iterable[str], warn: Iterable[str], method: str) -> Verdict:
    """Return the verdict on some flags and the last stage that was needed (``flow`` is not verified)."""
    bad, warn = tuple(bad), tuple(warn)
    reasons = tuple((flag, meaning(flag)) for flag in (*bad, *warn))
    if bad:
        return Verdict("unusable", "Do not use these numbers: the spectrum fails a basic test.", reasons)
    if method == "flow":
        return Verdict(
            "unverified", "The flow's first look, not checked against the exact likelihood.", reasons
        )
    how = "nested sampling" if method == "nested" else "importance weights on the exact likelihood"
    # Where residuals are correlated the errors already say so: worth telling, no reason to doubt.
    if set(warn) - {"correlated"}:
        return Verdict(
            "flagged", f"The posterior is verified by {how}; read why it is flagged before use.", reasons
        )
    return Verdict("verified", f"The posterior is verified by {how}.", reasons)


def verdict(posterior: Posterior) -> Verdict:
    """Return the verdict on a posterior."""
    return judge(posterior.flag_bad, posterior.flag_warn, posterior.method)
