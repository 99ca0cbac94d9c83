"""Every flag has its plain words."""

import re
from pathlib import Path

import pytest

from maury.report.verdict import FAULTS, WARNINGS, judge, meaning

DOCS = Path(__file__).parents[2] / "docs" / "flags.md"


def test_every_flag_of_the_docs_has_a_text():
    for line in DOCS.read_text().splitlines():
        if not line.startswith("| `"):
            continue
        for flag in re.findall(r"`([a-z_]+)(?::<label>)?`", line.split("|")[1]):
            assert flag in FAULTS | WARNINGS, flag


def test_label_and_visit_are_named():
    assert "posterior of teff" in meaning("at_bound:teff")
    assert meaning("khat[2]").startswith("Visit 2: ")
    assert "does not know" in meaning("no_such_flag")


@pytest.mark.parametrize(
    ("bad", "warn", "method", "kind"),
    [
        ((), (), "refined", "verified"),
        ((), ("correlated",), "nested", "verified"),
        ((), ("correlated", "misfit"), "refined", "flagged"),
        ((), ("low_snr",), "flow", "unverified"),
        (("emission",), ("misfit",), "refined", "unusable"),
    ],
)
def test_kinds(bad, warn, method, kind):
    found = judge(bad, warn, method)
    assert found.kind == kind
    assert [flag for flag, _ in found.reasons] == [*bad, *warn]
