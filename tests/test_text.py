"""Text from elsewhere: escaped, bounded, and written as CSV so that no spreadsheet takes it for a formula."""

from __future__ import annotations

import csv
import io
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ddn_core.tables import csv_text
from ddn_core.text import is_unicode, printable, printable_lines, shortened

ANYTHING = st.text(st.characters(exclude_categories=()))
"""Texts of all characters: controls, surrogates, marks of direction."""


@given(ANYTHING)
def test_no_control_character_survives(text):
    shown = printable(text)
    assert not {unicodedata.category(character) for character in shown} & {"Cc", "Cf", "Cs", "Zl", "Zp"}
    assert is_unicode(shown)
    if text.isprintable():
        assert shown == text
    if "\\" not in text:
        original = shown.encode("latin-1", "backslashreplace").decode("unicode_escape")
        assert original == text


@given(ANYTHING)
def test_lines_stay_lines(text):
    assert printable_lines(text).split("\n") == [printable(line) for line in text.split("\n")]


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[31mred", r"\x1b[31mred"),
        ("a\r\nb\a\t", r"a\r\nb\x07\t"),
        ("evil\u202etxt.exe", r"evil\u202etxt.exe"),
        ("\x9b31m\u2028", r"\x9b31m\u2028"),
        ("name\udcff", r"name\udcff"),
        ("δ² ≤ 1, größer, 数", "δ² ≤ 1, größer, 数"),
    ],
)
def test_what_cannot_be_printed_is_escaped(text, shown):
    assert printable(text) == shown


@given(ANYTHING, st.integers(1, 20))
def test_shortened_text_is_bounded(text, most):
    short = shortened(text, most)
    assert len(short) <= most
    assert short == text or (len(text) > most and short == text[: most - 1] + "…")


def read(text):
    return list(csv.reader(io.StringIO(text, newline="")))


@given(st.lists(st.tuples(ANYTHING, st.floats(allow_nan=False), st.integers(), ANYTHING), min_size=1, max_size=5))
def test_csv_comes_back_and_holds_no_formula(rows):
    text = csv_text([dict(zip(("text", "number", "whole", "other"), row, strict=True)) for row in rows])
    assert not {unicodedata.category(character) for character in text if character != "\n"} & {"Cc", "Cf", "Cs"}
    names, *cells = read(text)
    assert names == ["text", "number", "whole", "other"]
    assert len(cells) == len(rows) == text.count("\n") - 1
    for (first, number, whole, second), row in zip(rows, cells, strict=True):
        assert [float(row[1]), int(row[2])] == [number, whole]
        for given_text, cell in ((first, row[0]), (second, row[3])):
            assert cell.removeprefix("'") == printable(given_text).removeprefix("'")
            assert not cell.startswith(("=", "@"))


@pytest.mark.parametrize("text", ["=1+1", "+cmd|'/C calc'!A0", "-2+3", "@SUM(A1)", "-x", "--"])
def test_a_formula_becomes_text(text):
    assert read(csv_text([{"=name": text}])) == [["'=name"], [f"'{text}"]]


@pytest.mark.parametrize("text", ["-0.5", "+1e-3", "-inf", "-3", "1=2", "a-b", "", "'=1"])
def test_a_number_and_other_text_stay(text):
    assert read(csv_text([{"name": text, "other": -0.5}])) == [["name", "other"], [text, "-0.5"]]


@pytest.mark.parametrize("text", ["\t=1", "\r=1"])
def test_a_cell_that_begins_with_white_space_is_escaped(text):
    (_, (cell,)) = read(csv_text([{"name": text}]))
    assert cell == printable(text)
