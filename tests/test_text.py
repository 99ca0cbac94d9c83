"""Names and messages of others are text, whatever is in them."""

import pytest
from matplotlib.figure import Figure

from maury.text import for_picture, readable


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ("[/HD] 1", "[/HD] 1"),
        ("β Cephei", "β Cephei"),
        ("a\tb\nc", "a b c"),
        ("\x1b[2Jgone", "\N{REPLACEMENT CHARACTER}[2Jgone"),
        ("nul\x00", "nul\N{REPLACEMENT CHARACTER}"),
        ("\u202eevil", "\N{REPLACEMENT CHARACTER}evil"),
        # The bytes of an umlaut, as a C locale decodes a file's name.
        ("s\udcc3\udca4n", "sän"),
        ("s\udcff", "s\N{REPLACEMENT CHARACTER}"),
        ("no\u200bwidth", "no\N{REPLACEMENT CHARACTER}width"),
        ("no-break\u00a0space", "no-break space"),
        ("half \ud83d", "half \N{REPLACEMENT CHARACTER}"),
    ],
)
def test_what_can_be_shown_stays(given, shown):
    assert readable(given) == shown
    assert readable(shown) == shown
    shown.encode("utf-8")


@pytest.mark.parametrize("name", ["$x_1$", r"$\frac", "cost $5", r"\$", "a^b_c%&#{}", "$", "$$", r"\\$\x$"])
def test_a_picture_shows_a_name_as_it_stands(name, tmp_path):
    figure = Figure()
    title = figure.suptitle(for_picture(name))
    figure.savefig(tmp_path / "a.png")
    # What matplotlib makes of it: text and no mathematics.
    text, is_math = title._preprocess_math(title.get_text())
    assert not is_math
    assert text == name
