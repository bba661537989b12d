"""A corpus as ids: encoded once, kept on disk, and split."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlx_tinylm.errors import TinyLMError
from mlx_tinylm.text.corpus import Corpus, open_corpus
from mlx_tinylm.text.ids import Dataset, UnknownCharactersError, check_length, encode
from mlx_tinylm.text.tokenizer import Tokenizer


def corpus_of(folder: Path, text: str, name: str = "text.txt") -> Corpus:
    (folder / name).write_text(text, encoding="utf-8", newline="")
    return open_corpus([str(folder / name)])


def encoded(corpus: Corpus) -> list[int]:
    found: list[int] = encode(corpus, Tokenizer.from_alphabet(corpus.alphabet)).tolist()
    return found


# Encoding


def test_text_comes_back(tmp_path: Path, own_cache: Path, english: str) -> None:
    """English of several pieces, emoji, marks, right-to-left text, CRLF and NUL decode from two bytes an id."""
    text = english * 3 + "👩‍👩‍👧 e\u0301\r\nשלום\0\ufeff"
    corpus = corpus_of(tmp_path, text)
    assert len(list(corpus.chunks())) > 1
    tokenizer = Tokenizer.from_alphabet(corpus.alphabet)
    ids = encode(corpus, tokenizer)
    assert (ids.dtype, ids.flags.writeable) == (np.uint16, False)
    assert isinstance(ids, np.memmap)
    assert tokenizer.decode(ids.tolist()) == text


def test_large_vocabularies_take_four_bytes(tmp_path: Path, own_cache: Path) -> None:
    """Beyond 65,536 ids two bytes no longer hold one, so they take four."""
    text = "".join(map(chr, range(0x10000, 0x20000)))
    for count, dtype in ((1 << 16, np.uint32), ((1 << 16) - 1, np.uint16)):
        ids = encode(corpus_of(tmp_path, text[:count]), Tokenizer.from_alphabet(text[:count]))
        assert ids.dtype == dtype
        assert ids.tolist() == list(range(count))


def test_encoded_once(tmp_path: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second time the ids come from the cache, which knows a text by its content and its tokenizer."""
    corpus = corpus_of(tmp_path, "abab")
    assert encode(corpus, Tokenizer.from_alphabet("ab")).tolist() == [0, 1, 0, 1]
    assert encode(corpus, Tokenizer.from_alphabet("Xab")).tolist() == [1, 2, 1, 2]
    assert encode(corpus_of(tmp_path, "baba"), Tokenizer.from_alphabet("ab")).tolist() == [1, 0, 1, 0]
    copy = corpus_of(tmp_path, "abab", "copy.txt")
    monkeypatch.setattr(Corpus, "chunks", lambda self: pytest.fail("the text was read again"))
    assert encoded(copy) == [0, 1, 0, 1]
    assert len(list((own_cache / "ids").iterdir())) == 3


@pytest.mark.parametrize("damage", [b"", b"\0\0\0", b"\0" * 12, b"\xff" * 12, b"\0" * 13])
def test_damaged_cache_is_made_again(damage: bytes, tmp_path: Path, own_cache: Path) -> None:
    """A cached file that a power cut cut short, or with another id in it, is never trained on but replaced."""
    corpus = corpus_of(tmp_path, "abcd")
    encoded(corpus)
    (cached,) = (own_cache / "ids").iterdir()
    whole = cached.read_bytes()
    assert len(whole) == 12
    for content in (damage, b"\1" + whole[1:]):
        cached.write_bytes(content)
        assert encoded(corpus) == [0, 1, 2, 3]
        assert list((own_cache / "ids").iterdir()) == [cached]


def test_what_a_killed_process_left_goes(tmp_path: Path, own_cache: Path) -> None:
    """Half a file that is a day old is nobody's any more; a young one may be another process's."""
    (own_cache / "ids").mkdir(parents=True)
    old, young = own_cache / "ids" / ".a.uint16.1.tmp", own_cache / "ids" / ".b.uint16.2.tmp"
    for path in (old, young):
        path.write_bytes(b"half")
    os.utime(old, (0, 0))
    encoded(corpus_of(tmp_path, "abcd"))
    assert (old.exists(), young.exists()) == (False, True)


def test_a_tokenizer_of_another_kind(tmp_path: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tokens that span characters are found across pieces of the text."""
    import tokenizers
    from tokenizers import decoders, models

    inner = tokenizers.Tokenizer(models.BPE({"a": 0, "b": 1, "ab": 2}, merges=[("a", "b")]))
    inner.decoder = decoders.Fuse()
    corpus = corpus_of(tmp_path, "aabab")
    monkeypatch.setattr(Corpus, "chunks", lambda self: iter(["aa", "bab"]))
    assert encode(corpus, Tokenizer(inner)).tolist() == [0, 2, 2]


def test_a_cache_that_cannot_be_written(tmp_path: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file in the cache's place, and a full disk, end in one line; no part of a cached file stays behind."""
    corpus = corpus_of(tmp_path, "abcd")
    own_cache.write_text("in the way")
    with pytest.raises(TinyLMError, match=re.escape(f"{own_cache / 'ids'}: cannot be created")):
        encoded(corpus)
    own_cache.unlink()

    def full(*args: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", full)
        with pytest.raises(TinyLMError, match=r"make room on its disk. MLX_TINYLM_CACHE names another folder for it$"):
            encoded(corpus)
    assert list((own_cache / "ids").iterdir()) == []


def test_unknown_characters_are_listed(tmp_path: Path, own_cache: Path) -> None:
    """Text with characters the tokenizer lacks is refused with the text's name and their list, also for the caller."""
    corpus = corpus_of(tmp_path, "abc\x1bé")
    with pytest.raises(UnknownCharactersError) as error:
        encode(corpus, Tokenizer.from_alphabet("abx"))
    assert str(error.value) == rf"{corpus.name}: has characters that the model does not know: '\x1bcé'"
    assert error.value.characters == "\x1bcé"


# The split


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 10**7))
def test_split(length: int) -> None:
    """The first nine tenths are for training, the last tenth for validation, and nothing for both or neither."""
    dataset = Dataset(np.broadcast_to(np.uint16(0), length))
    assert len(dataset.train) == length * 9 // 10
    assert len(dataset.train) + len(dataset.validation) == length


def test_split_keeps_the_order() -> None:
    """Training reads the beginning of the text, validation its end."""
    dataset = Dataset(np.arange(25, dtype=np.uint16))
    assert dataset.train.tolist() == list(range(22))
    assert dataset.validation.tolist() == [22, 23, 24]


@pytest.mark.parametrize("context", [2, 3, 8, 17, 100])
def test_too_short_text_is_refused_with_the_numbers(context: int) -> None:
    """Text is too short exactly where training has no whole window or validation no target; what it needs is said."""
    enough = []
    for length in range(1, 2 * context + 30):
        train = length * 9 // 10
        try:
            check_length("a text", Dataset(np.zeros(length, np.uint16)), context)
        except TinyLMError as error:
            message = str(error)
            assert train < context + 1 or length - train < 2
            start = f"a text: {length} characters leave {train} to train on and {length - train} to validate with"
            assert message.startswith(start)
            needed = int(message.split("needs about ")[1].split(".")[0])
        else:
            assert train >= context + 1
            assert length - train >= 2
            enough.append(length)
    assert enough[0] <= needed <= enough[0] + 10


def test_a_text_too_long_for_its_offsets_is_refused() -> None:
    """Offsets that would wrap around are refused in one line."""
    longest = Dataset(np.broadcast_to(np.uint16(0), 2**31 - 1))
    check_length("a text", longest, 4)
    with pytest.raises(TinyLMError, match=r"a text: 2,147,483,648 characters; more than 2,147,483,647 cannot be"):
        check_length("a text", Dataset(np.broadcast_to(np.uint16(0), 2**31)), 4)


def test_the_cache_is_held_to_its_limit(tmp_path: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A text that is encoded makes the longest unused one go, and stays itself."""
    encoded(corpus_of(tmp_path, "abcd"))
    monkeypatch.setenv("MLX_TINYLM_CACHE_GB", "0.00000002")
    assert encoded(corpus_of(tmp_path, "dcba", "other.txt")) == [3, 2, 1, 0]
    assert len(list((own_cache / "ids").iterdir())) == 1
    assert encoded(corpus_of(tmp_path, "abcd")) == [0, 1, 2, 3]


def test_a_text_that_changes_while_it_is_read(tmp_path: Path, own_cache: Path) -> None:
    """What is encoded is what was described, or nothing is kept: the cache never has other ids under a text's name."""
    corpus = corpus_of(tmp_path, "abcd")
    (tmp_path / "text.txt").write_text("abcdabcd")
    with pytest.raises(TinyLMError, match=r"text\.txt: changed while it was read; try again when it is at rest$"):
        encoded(corpus)
    assert list((own_cache / "ids").iterdir()) == []
    assert encoded(corpus_of(tmp_path, "abcd")) == [0, 1, 2, 3]
