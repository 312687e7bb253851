"""Text from elsewhere, such as messages of plugins, names and values of configs, made safe to show."""

from __future__ import annotations


def printable(text: str) -> str:
    r"""Return a text with everything that cannot be printed escaped as in Python: an escape character becomes `\x1b`.

    Control characters, line breaks, marks that reverse the direction of text, and bytes of a file name that are not
    UTF-8 are escaped. A text without them is returned as it is.
    """
    return text if text.isprintable() else "".join(map(_escaped, text))


def printable_lines(text: str) -> str:
    """Return a text with everything but its line feeds made printable."""
    return "\n".join(map(printable, text.split("\n")))


def shortened(text: str, most: int) -> str:
    """Return a text of at most `most` characters, with an ellipsis at its end if it was longer."""
    return text if len(text) <= most else f"{text[: most - 1]}…"


def is_unicode(text: str) -> bool:
    """Return whether a text can be written to a file; bytes of the command line that are not UTF-8 cannot."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _escaped(character: str) -> str:
    return character if character.isprintable() else character.encode("unicode_escape", "surrogatepass").decode("ascii")
