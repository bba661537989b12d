"""What a person is shown cannot take over the terminal."""

from __future__ import annotations

import sys
import unicodedata

import pytest

from mlx_tinylm.errors import JOINERS, SPACES, TinyLMError, escaped


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain é😀 text\nof two lines", "plain é😀 text\nof two lines"),
        ("a\x1b[2Jb\r\x07\t", r"a\x1b[2Jb\r\x07\t"),
        ("\u202eright to left\u2028\x85", r"\u202eright to left\u2028\x85"),
        ("half a pair \udc80, no-break\xa0space", r"half a pair \udc80, no-break\xa0space"),
        (r"a back\slash", r"a back\slash"),
        ("می\u200cخواهم 👩\u200d👧 \u200e\u2060\ufeff", "می\u200cخواهم 👩\u200d👧 \\u200e\\u2060\\ufeff"),
    ],
)
def test_what_does_not_print_is_an_escape(text: str, shown: str) -> None:
    """A message keeps what prints and its newlines; all else is an escape, and what is shown once stays as it is."""
    assert str(TinyLMError(text)) == escaped(text) == escaped(escaped(text)) == shown


def test_what_is_kept() -> None:
    """The caller says which characters may stay; none, or tabs and spaces of any width."""
    assert escaped("a\n\tb", keep="") == r"a\n\tb"
    assert escaped(f"a\n\t{SPACES}\x1b", keep="\n\t" + SPACES) == f"a\n\t{SPACES}\\x1b"
    assert [unicodedata.name(joiner) for joiner in JOINERS] == ["ZERO WIDTH NON-JOINER", "ZERO WIDTH JOINER"]
    assert list(SPACES) == [c for c in map(chr, range(sys.maxunicode + 1)) if unicodedata.category(c) == "Zs"]
