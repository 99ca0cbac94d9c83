"""What to make of a result, in words."""

from types import SimpleNamespace

import numpy as np
import pytest

from maury.posterior.flags import FLAGS, Severity
from maury.report.tables import verdict_line
from maury.report.verdict import _SAID, judge, meaning, upper_limits


def test_label_and_visit_are_named():
    assert "posterior of teff" in meaning("at_bound:teff")
    assert meaning("khat[2]").startswith("Visit 2: ")
    assert "does not know" in meaning("no_such_flag")


@pytest.mark.parametrize(
    ("bad", "warn", "method", "kind"),
    [
        ((), (), "refined", "verified"),
        ((), ("outliers",), "nested", "verified"),
        ((), ("novel[1]", "novel[2]"), "refined", "verified"),
        ((), ("novel", "misfit"), "refined", "flagged"),
        ((), ("flag_of_tomorrow",), "refined", "flagged"),
        ((), ("low_snr",), "flow", "unverified"),
        (("emission",), ("misfit",), "refined", "unusable"),
    ],
)
def test_kinds(bad, warn, method, kind):
    found = judge(bad, warn, method)
    assert found.kind == kind
    assert [flag for flag, _ in found.reasons] == [*bad, *warn]
    assert found.sentence
    assert found.title


def test_every_flag_that_matters_has_a_sentence_and_what_to_do_next():
    of_numbers = {n for n, flag in FLAGS.items() if flag.severity in (Severity.warn, Severity.bad)}
    assert set(_SAID) == of_numbers
    for name in of_numbers:
        bad = (name,) if FLAGS[name].severity == Severity.bad else ()
        found = judge(bad, () if bad else (f"{name}:teff" if FLAGS[name].of_label else name,), "refined")
        assert found.sentence.endswith(".")
        assert "{" not in found.text
    assert "teff is at the end of its range" in judge((), ("at_bound:teff",), "refined").sentence


def test_the_gravest_flag_speaks():
    assert judge((), ("average_lsf", "novel", "misfit"), "refined").sentence.startswith(
        "A stretch of this spectrum does not fit"
    )
    assert judge(("wrong_frame",), ("misfit",), "refined").sentence.startswith("The wavelengths")
    assert judge((), ("flag_of_tomorrow",), "refined").advice == "Read what before you use them."


def test_errors_are_total_where_the_library_has_some():
    assert judge((), (), "refined").text == "Believe it within its errors."
    assert judge((), (), "refined", total=True).text == "Believe it within the total errors."
    assert "total errors, but take v_sini" in judge((), ("average_lsf",), "refined", total=True).sentence


def test_the_terminal_says_it_first():
    line = verdict_line("[b]star", judge((), ("misfit", "novel"), "refined"))
    assert line.plain.startswith(
        "[b]star: A stretch of this spectrum does not fit, and it matters to the labels. The checks"
    )
    # Each flag with what it means, and where more is said.
    said = line.plain.splitlines()
    assert [text.split(":")[0].strip() for text in said[1:-1]] == ["misfit", "novel"]
    assert "the network was not trained" in said[2].lower()
    assert said[-1].strip() == "(maury explain misfit says more)"
    assert "\n" not in verdict_line("star", judge((), (), "refined")).plain


def draws_of(v_sini, warn=()):
    return SimpleNamespace(
        stellar=SimpleNamespace(names=("teff", "v_sini")),
        held={},
        flag_warn=warn,
        quantile=lambda _, q: float(np.quantile(v_sini, q)),
    )


def test_a_rotation_that_reaches_zero_is_a_limit():
    rng = np.random.default_rng(1)
    slow, fast = np.abs(rng.normal(0, 3, 20_000)), rng.normal(9, 2, 20_000)
    assert upper_limits(draws_of(slow))["v_sini"] == pytest.approx(5.9, abs=0.2)
    assert upper_limits(draws_of(fast)) == {}
    assert upper_limits(draws_of(fast, ("average_lsf",)))["v_sini"] == pytest.approx(12.3, abs=0.2)
