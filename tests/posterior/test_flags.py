"""One table of flags: what code raises, what it means, from where on."""

import json
import re
from pathlib import Path

import pytest

from maury.errors import MauryError
from maury.posterior.flags import (
    FLAGS,
    SEVERITIES,
    UNKNOWN,
    Severity,
    find_flag,
    read_flag,
    split_flags,
    table,
    verdict_of,
)

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("flag", FLAGS.values(), ids=FLAGS)
def test_each_says_what_it_means(flag):
    text = flag.meaning("teff")
    assert text.endswith(".")
    assert not re.search(r"[{}]", text)
    assert flag.severity in SEVERITIES
    assert ("teff" in text) == flag.of_label


def test_every_flag_that_code_raises_is_known():
    """By name in the source: quoted after ``flag``, or as the second argument of an `InferenceError`."""
    raised = set()
    for path in (ROOT / "src" / "maury").rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        raised |= set(re.findall(r'\bflag = "(\w+)"', text))
        raised |= set(re.findall(r'FLAGS\["(\w+)"\]', text))
        raised |= set(re.findall(r'found \+?= \["(\w+)"\] \*', text))
    assert len(raised) > 12
    assert raised <= set(FLAGS)


def test_severities_choose_the_column():
    assert {flag.severity.column for flag in FLAGS.values()} == {"flag_warn", "flag_bad"}
    assert Severity.note.column == "flag_warn"
    assert Severity.failed.column == "flag_bad"


def test_flags_as_they_are_written():
    found = read_flag("at_bound:teff_2[3]")
    assert (found.flag.name, found.label, found.visit) == ("at_bound", "teff_2", 3)
    assert found.meaning.startswith("Visit 3: More than 10% of the posterior of teff_2 ")
    for odd in ("nonsense", "khat[x]", "", "khat]", "a b"):
        assert read_flag(odd).flag is UNKNOWN
    assert split_flags("a,b:c") == ("a", "b:c")
    assert split_flags(None) == split_flags("") == ()


def test_one_that_is_meant_is_suggested():
    with pytest.raises(MauryError, match="no flag 'mysfit'; did you mean 'misfit'"):
        find_flag("mysfit")


@pytest.mark.parametrize(
    ("bad", "warn", "method", "kind"),
    [
        ((), ("novel[2]",), "nested", "verified"),
        ((), ("novel", "misfit"), "refined", "flagged"),
        ((), ("of_tomorrow",), "refined", "flagged"),
        ((), (), "flow", "unverified"),
        (("no_star",), (), "flow", "unusable"),
    ],
)
def test_verdicts(bad, warn, method, kind):
    assert verdict_of(bad, warn, method) == kind


def test_the_docs_have_the_table():
    assert table() in (ROOT / "docs" / "flags.md").read_text(encoding="utf-8"), (
        "run python docs/tools/tables.py"
    )


def test_explain(run):
    code, out, _ = run("explain", "misfit,at_bound:teff", "khat[2]")
    assert code == 0
    assert "at_bound:teff" in out
    assert "Visit 2" in out
    code, out, _ = run("explain", "--json")
    assert code == 0
    told = [json.loads(text) for text in out.splitlines()]
    assert [entry["flag"] for entry in told] == list(FLAGS)
    assert next(entry for entry in told if entry["flag"] == "low_snr")["threshold"] == {"snr": 10.0}
    code, _, err = run("explain", "[/red]")
    assert code == 2
    assert "[/red]" in err
