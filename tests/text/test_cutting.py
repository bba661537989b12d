"""Text is cut only where that changes no id, and often enough that memory stays small."""

from __future__ import annotations

from functools import cache

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mlx_tinylm.text import cutting
from mlx_tinylm.text.byte_level import trained
from mlx_tinylm.text.cutting import cut
from mlx_tinylm.text.tokenizer import Tokenizer

TEXTS = st.text(st.sampled_from("ab. \n\n\n"), max_size=40) | st.text(st.sampled_from("ab.'s 1\n\r\t\u00a0\u2028é中👩"))


@cache
def subwords() -> Tokenizer:
    """Merges over everything: ends of lines, spaces, signs and letters."""
    texts = ["ab ab a.\n\nab's 11\n b\n\n\n  a\n ab.\nb  é中\nab\r\nab", "\n\n", "\n\n\n", "\n ", " \n", "  "] * 5
    return Tokenizer(trained(texts, 400, ("<|endoftext|>",)))


@settings(max_examples=300, deadline=None)
@given(st.lists(TEXTS, max_size=6), st.integers(1, 3), st.integers(1, 20))
@example(["a\n", "b"], 1, 1)
@example(["a\n", "\nb\n b"], 1, 1)
@example(["a\n\n\n  b"], 1, 1)
@example(["a ", " b  c d"], 1, 1)
def test_no_id_changes(pieces: list[str], lines: int, long: int) -> None:
    """The ids of the pieces, one after the other, are those of the whole text, however it came and is cut."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cutting, "LINES", lines)
        patch.setattr(cutting, "LONG", long)
        parts = list(cut(pieces))
    text = "".join(pieces)
    assert "".join(part for part in parts if part is not None) == text
    assert all(parts)
    ids = [id for part in parts if part is not None for id in subwords().encode(part)]
    assert ids == subwords().encode(text)


def test_documents_stay_apart() -> None:
    """A document ends where it ended, also an empty one; what follows it is another piece."""
    assert list(cut(["ab", None, "c", "d", None, None])) == ["ab", None, "cd", None, None]


@pytest.mark.parametrize(("line", "most"), [("a line of words\n", 101 * 16), ("word " * 20_000 + "end\n", 1 << 17)])
def test_pieces_are_small(line: str, most: int) -> None:
    """About a hundred lines, and no more than some spaces allow where lines are long."""
    parts = list(cut([line * 30] * 20))
    assert "".join(part or "" for part in parts) == line * 600
    assert max(len(part or "") for part in parts) <= most
