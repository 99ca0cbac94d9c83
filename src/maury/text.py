"""Text of others (names of stars, paths, messages) as what it is: text, on a terminal, in a picture and in a file."""

from __future__ import annotations

from contextlib import suppress


def readable(text: str) -> str:
    r"""Return text in which every character can be written in UTF-8, and none moves a cursor or hides another.

    Bytes that a file name brought (PEP 383) become the characters that they are in UTF-8; blanks of all kinds become spaces, and what
    cannot be shown (control characters, marks that turn the direction of writing or have no width, lone surrogates) becomes U+FFFD.

    Examples
    --------
    >>> readable("HD 1\tA\x1b[31m")
    'HD 1 A�[31m'
    """
    if any("\ud800" <= character <= "\udfff" for character in text):
        # Half of a pair that stands for no byte stays, for now.
        with suppress(UnicodeEncodeError):
            text = text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    if text.isprintable():
        return text
    return "".join(
        c if c.isprintable() else " " if c.isspace() else "\N{REPLACEMENT CHARACTER}" for c in text
    )


def for_picture(text: str) -> str:
    r"""Return text that matplotlib draws as it stands, and does not read as mathematics.

    Examples
    --------
    >>> for_picture("$x_1$")
    '\\$x_1\\$'
    """
    return readable(text).replace("$", r"\$")
