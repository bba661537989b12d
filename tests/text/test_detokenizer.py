"""Ids into text one at a time: the pieces join to what the library makes of all at once."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlx_tinylm.text.tokenizer import Tokenizer

BYTES = Tokenizer.from_texts([], 258)  # an id a byte


def ids_of(content: bytes) -> list[int]:
    """The ids of bytes, which need not be UTF-8."""
    from mlx_tinylm.text.byte_level import visible

    return [BYTES.inner.token_to_id(visible()[byte]) for byte in content]


@pytest.mark.parametrize("character", ["é", "€", "😀", "\ufffd", "\x00"])
def test_a_character_comes_when_it_is_whole(character: str) -> None:
    """Nothing is written of a character before its last byte, and then all of it."""
    ids = ids_of(character.encode())
    detokenizer = BYTES.detokenizer()
    assert [detokenizer.add(id) for id in ids] == [*[""] * (len(ids) - 1), character]


@settings(max_examples=300, deadline=None)
@given(st.lists(st.binary(max_size=3) | st.sampled_from(["é".encode(), "😀".encode()[:3], b"\xff", b"\xe2\x82"])))
def test_bytes_that_are_no_text(parts: list[bytes]) -> None:
    """Whatever bytes a model writes, the pieces are the beginning of what the library makes of them."""
    ids = ids_of(b"".join(parts) + b"a")  # so that nothing is held back
    detokenizer = BYTES.detokenizer()
    assert "".join(map(detokenizer.add, ids)) == BYTES.decode(ids)


def test_what_is_cut_off_is_left_out() -> None:
    """A text that ends within a character ends before it."""
    detokenizer = BYTES.detokenizer()
    assert "".join(map(detokenizer.add, ids_of("a😀".encode()[:-1]))) == "a"
