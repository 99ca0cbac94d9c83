"""What to make of a result, in words."""

import pytest

from maury.report.verdict import judge, meaning


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
