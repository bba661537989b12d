"""A corpus as ids: encoded once, kept on disk, and split."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlx_tinylm.errors import TinyLMError
from mlx_tinylm.text.corpus import Corpus, Reading, open_corpus
from mlx_tinylm.text.ids import Dataset, Ids, UnknownCharactersError, check_length, encode, encode_part
from mlx_tinylm.text.tokenizer import Tokenizer


def corpus_of(folder: Path, text: str, name: str = "text.txt") -> Corpus:
    (folder / name).write_text(text, encoding="utf-8", newline="")
    return open_corpus([str(folder / name)], Reading(raw=True))


def all_ids(corpus: Corpus, tokenizer: Tokenizer) -> Ids:
    return encode_part(corpus, tokenizer, "all").ids


def encoded(corpus: Corpus) -> list[int]:
    found: list[int] = all_ids(corpus, Tokenizer.from_alphabet(corpus.alphabet)).tolist()
    return found


# Encoding


def test_text_comes_back(tmp_path: Path, own_cache: Path, english: str) -> None:
    """English of several pieces, emoji, marks, right-to-left text, CRLF and NUL decode from two bytes an id."""
    text = english * 3 + "👩‍👩‍👧 e\u0301\r\nשלום\0\ufeff"
    corpus = corpus_of(tmp_path, text)
    assert len(list(corpus.chunks("all"))) > 2
    tokenizer = Tokenizer.from_alphabet(corpus.alphabet)
    ids = all_ids(corpus, tokenizer)
    assert (ids.dtype, ids.flags.writeable) == (np.uint16, False)
    assert isinstance(ids, np.memmap)
    assert tokenizer.decode(ids.tolist()) == text


def test_large_vocabularies_take_four_bytes(tmp_path: Path, own_cache: Path) -> None:
    """Beyond 65,536 ids two bytes no longer hold one, so they take four."""
    text = "".join(map(chr, range(0x10000, 0x20000)))
    for count, dtype in ((1 << 16, np.uint32), ((1 << 16) - 1, np.uint16)):
        ids = all_ids(corpus_of(tmp_path, text[:count]), Tokenizer.from_alphabet(text[:count]))
        assert ids.dtype == dtype
        assert ids.tolist() == list(range(count))


def test_encoded_once(tmp_path: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second time the ids come from the cache, which knows a text by its content and its tokenizer."""
    corpus = corpus_of(tmp_path, "abab")
    assert all_ids(corpus, Tokenizer.from_alphabet("ab")).tolist() == [0, 1, 0, 1]
    assert all_ids(corpus, Tokenizer.from_alphabet("Xab")).tolist() == [1, 2, 1, 2]
    assert all_ids(corpus_of(tmp_path, "baba"), Tokenizer.from_alphabet("ab")).tolist() == [1, 0, 1, 0]
    copy = corpus_of(tmp_path, "abab", "copy.txt")
    monkeypatch.setattr(Corpus, "chunks", lambda self, part: pytest.fail("the text was read again"))
    assert encoded(copy) == [0, 1, 0, 1]
    assert len(list((own_cache / "ids").iterdir())) == 3


@pytest.mark.parametrize("damage", [b"", b"\0\0\0", b"\0" * 28, b"\xff" * 28, b"\0" * 29])
def test_damaged_cache_is_made_again(damage: bytes, tmp_path: Path, own_cache: Path) -> None:
    """A cached file that a power cut cut short, or with another id in it, is never trained on but replaced."""
    corpus = corpus_of(tmp_path, "abcd")
    encoded(corpus)
    (cached,) = (own_cache / "ids").iterdir()
    whole = cached.read_bytes()
    assert len(whole) == 8 + 16 + 4
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
    monkeypatch.setattr(Corpus, "chunks", lambda self, part: iter(["aa", "bab", None]))
    assert all_ids(corpus, Tokenizer(inner)).tolist() == [0, 2, 2]


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


# The parts


def test_nine_tenths_and_one(tmp_path: Path, own_cache: Path) -> None:
    """Training reads the beginning of a text, validation its last tenth, whose size behind its first id is known."""
    corpus = corpus_of(tmp_path, "abcdefghijklmnopqrstuvwxé")
    dataset = encode(corpus, Tokenizer.from_alphabet(corpus.alphabet))
    assert dataset.train.tolist() == list(range(22))
    assert dataset.validation.tolist() == [22, 23, 24]
    assert (dataset.validation_characters, dataset.validation_bytes) == (2, 3)


def test_documents_end(tmp_path: Path, own_cache: Path) -> None:
    """Where there are several documents each ends in an end-of-text id, in both parts; a single one does not."""
    for number in range(20):
        (tmp_path / f"{number:02}.txt").write_text("ab" * (number + 1))
    corpus = open_corpus([str(tmp_path)])
    tokenizer = Tokenizer.from_alphabet("ab", pads=True)
    dataset = encode(corpus, tokenizer)
    parts = [dataset.train, dataset.validation]
    lengths = [sorted(map(len, bytes(part.astype(np.uint8)).split(b"\2")))[1:] for part in parts]
    assert all(part[-1] == tokenizer.eos_id == 2 for part in parts)
    assert sorted(lengths[0] + lengths[1]) == list(range(2, 42, 2))
    assert len(lengths[1]) == 2
    assert dataset.validation_characters == sum(lengths[1]) - 1


def test_ids_that_the_training_part_lacks(tmp_path: Path, own_cache: Path) -> None:
    """They are told, end-of-text among them where a text is a single document."""
    corpus = corpus_of(tmp_path, "aabbaabbaabbaabbaabc")
    dataset = encode(corpus, Tokenizer.from_alphabet("abcd"))
    assert dataset.unseen(5) == (2, 3, 4)


def test_ids_that_the_cache_has_let_go_of(tmp_path: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both parts are whole, and what one lacks is found, though the cache has room for neither."""
    monkeypatch.setenv("MLX_TINYLM_CACHE_GB", "0")
    dataset = encode(corpus_of(tmp_path, "ab" * 50), Tokenizer.from_alphabet("abc"))
    assert (len(dataset.train), len(dataset.validation), dataset.unseen(4)) == (90, 10, (2, 3))
    assert len(list((own_cache / "ids").iterdir())) == 1


def test_tokens_of_any_size(tmp_path: Path, own_cache: Path, english: str) -> None:
    """Subwords of a text in many pieces are those of the whole, and its bytes are all counted but the first token's."""
    text = english * 2 + "👩‍👩‍👧 é\r\n" * 50
    tokenizer = Tokenizer.from_texts([english], 500)
    found = encode_part(corpus_of(tmp_path, text), tokenizer, "all")
    assert found.ids.tolist() == tokenizer.encode(text)
    first = tokenizer.decode(found.ids[:1].tolist())
    assert (found.characters, found.bytes) == (len(text) - len(first), len(text.encode()) - len(first.encode()))


def test_encoding_is_watched(tmp_path: Path, own_cache: Path, english: str) -> None:
    """It is said how many characters are done, up to all of them."""
    corpus = corpus_of(tmp_path, english * 4)
    seen: list[tuple[int, int]] = []
    encode_part(corpus, Tokenizer.from_alphabet(corpus.alphabet), "all", lambda *told: seen.append(told))
    assert len(seen) > 1
    assert seen == sorted(seen)
    assert seen[-1] == (corpus.characters, corpus.characters)


def test_too_short_text_is_refused_with_the_numbers() -> None:
    """Text is too short exactly where training has no whole window or validation no target; what it needs is said."""
    for train, validation, context, enough in (
        (5, 2, 4, True),
        (4, 2, 4, False),
        (5, 1, 4, False),
        (900, 9, 899, True),
    ):
        dataset = Dataset(np.zeros(train, np.uint16), np.zeros(validation, np.uint16), 1, 1)
        if enough:
            check_length("a text", dataset, context)
            continue
        with pytest.raises(TinyLMError) as error:
            check_length("a text", dataset, context)
        assert str(error.value) == (
            f"a text: has {train} ids to train on and {validation} to validate with; a context of 4 needs 5 and 2. "
            "Add text, or lower --context"
        )


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
