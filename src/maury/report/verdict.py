"""What to make of a result, in plain words: one sentence, what to do next, and the flags behind it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from maury.posterior.flags import Kind, read_flag, verdict_of

if TYPE_CHECKING:
    from maury.posterior.result import Posterior

TITLES: dict[Kind, str] = {
    "verified": "Verified",
    "flagged": "Verified, but flagged",
    "unverified": "Not verified",
    "unusable": "Not usable",
}


@dataclass(frozen=True)
class Verdict:
    """What to make of a result.

    Attributes
    ----------
    kind
        Its class, for colours and filters.
    sentence
        One plain sentence: whether to believe it, or what is wrong.
    advice
        What to do next; empty where there is nothing to do.
    reasons
        Each flag with what it means; the gravest first.
    """

    kind: Kind
    sentence: str
    advice: str = ""
    reasons: tuple[tuple[str, str], ...] = ()

    @property
    def title(self) -> str:
        """Return the verdict in a few words."""
        return TITLES[self.kind]

    @property
    def brief(self) -> tuple[tuple[str, str], ...]:
        """Return each flag with the first sentence of what it means."""
        return tuple((flag, text.split(". ")[0].rstrip(".") + ".") for flag, text in self.reasons)

    @property
    def text(self) -> str:
        """Return sentence and advice."""
        return f"{self.sentence} {self.advice}".rstrip()


# What to say first where a flag is up, and what to do next. Of several flags the first here speaks; {label} is what it is raised for.
_SAID: Mapping[str, tuple[str, str]] = {
    "no_star": (
        "No star is seen in this spectrum: a continuum without lines explains it as well.",
        "Check the file; the labels are those of the prior.",
    ),
    "emission": (
        "Emission lines dominate this spectrum, and the models have none.",
        "Mask them (--mask LOW:HIGH) and infer it again.",
    ),
    "wrong_frame": (
        "The wavelengths of this spectrum look wrong.",
        "Check air or vacuum, the frame and the unit that the file states; for a very fast star, widen the prior of v_rad.",
    ),
    "not_converged": (
        "This answer is not final: the budget was spent before its weights could be trusted.",
        "Infer it again with --budget 200000.",
    ),
    "companion": (
        "Two stars are in this spectrum; labels that end in _2 are the second one's.",
        "Another visit would show whether they move.",
    ),
    "severe_misfit": (
        "Parts of this spectrum contradict each other; do not believe it {errors}.",
        "Try --companion auto; look at the checks of the residuals in the report, and mask what is wrong (--mask LOW:HIGH).",
    ),
    "second_light": (
        "There seems to be light of a second star in this spectrum.",
        "Infer it again with --companion auto.",
    ),
    "misfit": (
        "A stretch of this spectrum does not fit, and it matters to the labels.",
        "The checks of the residuals in the report say where; mask it (--mask LOW:HIGH) and see what moves.",
    ),
    "tail": (
        "The tail of {label} is not known: believe its median, not its limits.",
        "Infer it again with --ess 1000.",
    ),
    "poor_fit": (
        "The model does not explain this spectrum within its errors.",
        "Look at the residuals; then try --mask or another --model.",
    ),
    "high_jitter": (
        "The model explains this spectrum only roughly.",
        "Look at the residuals; then try --mask or another --model.",
    ),
    "library_disagreement": (
        "Two libraries disagree about this star by more than the errors.",
        "Compare both answers, and take their difference for an error.",
    ),
    "second_mode": (
        "Two kinds of star explain this spectrum almost equally well.",
        "Look at the corner plot; a prior (--prior logg=2.6+-0.1) may decide.",
    ),
    "at_bound": (
        "This star may lie outside the model: {label} is at the end of its range.",
        "Try --model auto; until then {label} is a limit, and the other labels may be off.",
    ),
    "variable_velocity": (
        "The velocity of this star changes from visit to visit.",
        "Use the velocity of each visit; a companion may be in the spectra (--companion auto, visit by visit).",
    ),
    "khat": (
        "The importance weights could not be trusted by themselves.",
        "Look whether nested sampling took over; otherwise infer it again with --budget 200000.",
    ),
    "rejected_pixels": (
        "Much of this spectrum is masked.",
        "Check the mask; the errors are right for the pixels that are left.",
    ),
    "low_snr": (
        "This spectrum is noisy; believe its errors, which may be lopsided.",
        "Look at the corner plot.",
    ),
    "average_lsf": (
        "Believe it {errors}, but take v_sini as an upper limit.",
        "",
    ),
}
_ORDER = list(_SAID)


def meaning(flag: str) -> str:
    """Say what a flag means; ``at_bound:teff`` and ``khat[2]`` (of the second visit) are understood."""
    return read_flag(flag).meaning


def judge(bad: Iterable[str], warn: Iterable[str], method: str, total: bool = False) -> Verdict:
    """Return the verdict on some flags.

    Parameters
    ----------
    bad, warn
        Flags as written.
    method
        The last stage that was needed; ``"flow"`` is not verified.
    total
        Whether there are errors of the library beside the statistical ones.
    """
    bad, warn = tuple(bad), tuple(warn)
    errors = "within the total errors" if total else "within its errors"
    sentences: dict[Kind, tuple[str, str]] = {
        "unusable": ("Do not use these numbers: the spectrum fails a basic test.", "Read why below."),
        "unverified": (
            "This is the network's first look, not checked against the exact likelihood.",
            "Infer it without --flow-only to know.",
        ),
        "flagged": ("The numbers are verified, but something is flagged.", "Read what before you use them."),
        "verified": (f"Believe it {errors}.", ""),
    }
    kind = verdict_of(bad, warn, method)
    sentence, advice = sentences[kind]
    if kind in ("unusable", "flagged"):
        # Of the gravest column; a flag without words of its own leaves the general ones.
        raised = [read_flag(flag) for flag in (bad or warn)]
        spoken = [one for one in raised if one.flag.name in _SAID]
        if spoken:
            first = min(spoken, key=lambda one: _ORDER.index(one.flag.name))
            words = {"label": first.label or "a label", "errors": errors}
            sentence, advice = (text.format(**words) for text in _SAID[first.flag.name])
    return Verdict(kind, sentence, advice, tuple((flag, meaning(flag)) for flag in (*bad, *warn)))


def verdict(posterior: Posterior) -> Verdict:
    """Return the verdict on a posterior."""
    return judge(posterior.flag_bad, posterior.flag_warn, posterior.method, bool(posterior.systematic))


# A velocity of rotation is a limit where the lower end of the 95 % interval is below this share of the median.
_LIMIT_SHARE = 0.25


def upper_limits(posterior: Posterior) -> dict[str, float]:
    """Return, by label, the 95 % upper limits of rotations that are limits, not values; km/s.

    A rotation is a limit where its posterior reaches down towards 0, or where the library holds an average line-spread function of its own
    (``average_lsf``).
    """
    average = "average_lsf" in posterior.flag_warn
    found = {}
    for name in posterior.stellar.names:
        if name.startswith("v_sini") and name not in posterior.held:
            low, middle = posterior.quantile(name, 0.025), posterior.quantile(name, 0.5)
            if average or low < _LIMIT_SHARE * middle:
                found[name] = posterior.quantile(name, 0.95)
    return found
