"""What to make of a result, in plain words: verified, verified but flagged, or not usable."""

from __future__ import annotations

from collections.abc import Iterable
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
    return read_flag(flag).meaning


def judge(bad: Iterable[str], warn: Iterable[str], method: str) -> Verdict:
    """Return the verdict on some flags and the last stage that was needed (``flow`` is not verified)."""
    bad, warn = tuple(bad), tuple(warn)
    how = "nested sampling" if method == "nested" else "importance weights on the exact likelihood"
    sentences: dict[Kind, str] = {
        "unusable": "Do not use these numbers: the spectrum fails a basic test.",
        "unverified": "The flow's first look, not checked against the exact likelihood.",
        "flagged": f"The posterior is verified by {how}; read why it is flagged before use.",
        "verified": f"The posterior is verified by {how}.",
    }
    kind = verdict_of(bad, warn, method)
    return Verdict(kind, sentences[kind], tuple((flag, meaning(flag)) for flag in (*bad, *warn)))


def verdict(posterior: Posterior) -> Verdict:
    """Return the verdict on a posterior."""
    return judge(posterior.flag_bad, posterior.flag_warn, posterior.method)
