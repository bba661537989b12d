"""Ids on disk, the split, and which windows a step reads."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlx_tinylm.errors import TinyLMError
from mlx_tinylm.text.corpus import Corpus, open_corpus
from mlx_tinylm.text.ids import Dataset, encode_corpus, load_dataset
from mlx_tinylm.text.tokenizer import Tokenizer
from mlx_tinylm.training.batches import batch_offsets


def corpus_of(folder: Path, text: str, name: str = "text.txt") -> Corpus:
    (folder / name).write_text(text, encoding="utf-8", newline="")
    return open_corpus([str(folder / name)])


def encoded(corpus: Corpus) -> tuple[np.ndarray[Any, Any], Tokenizer]:
    tokenizer = Tokenizer.from_alphabet(corpus.alphabet)
    return encode_corpus(corpus, tokenizer), tokenizer


# Encoding


def test_real_text_comes_back(tmp_path: Path, own_cache: Path, english: str) -> None:
    """The ids of half a million characters of English, in two bytes each, decode to that very text."""
    ids, tokenizer = encoded(corpus_of(tmp_path, english))
    assert ids.dtype == np.uint16
    assert isinstance(ids, np.memmap)
    assert not ids.flags.writeable
    assert tokenizer.decode(ids.tolist()) == english


def test_any_alphabet_comes_back(tmp_path: Path, own_cache: Path) -> None:
    """Emoji, combining marks, right-to-left text, CRLF and NUL are kept exactly."""
    text = "👩‍👩‍👧 e\u0301\r\nשלום\0\ufeff"
    ids, tokenizer = encoded(corpus_of(tmp_path, text))
    assert tokenizer.decode(ids.tolist()) == text


def test_ids_do_not_depend_on_the_piece_size(
    tmp_path: Path, own_cache: Path, english: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Text that is read in several pieces gives the ids of the whole."""
    text = english[:5000] + "é😀" * 50
    monkeypatch.setattr(Corpus, "chunks", lambda self: (text[i : i + 7] for i in range(0, len(text), 7)))
    ids, tokenizer = encoded(corpus_of(tmp_path, text))
    assert ids.tolist() == tokenizer.encode(text)


def test_large_vocabularies_take_four_bytes(tmp_path: Path, own_cache: Path) -> None:
    """Beyond 65,536 ids two bytes no longer hold one, so they take four."""
    text = "".join(map(chr, range(0x10000, 0x20000)))
    ids, _ = encoded(corpus_of(tmp_path, text))
    assert ids.dtype == np.uint32
    assert ids.tolist() == list(range(1 << 16))
    ids, _ = encoded(corpus_of(tmp_path, text[:-1]))
    assert ids.dtype == np.uint16
    assert ids.tolist() == list(range((1 << 16) - 1))


def test_encoded_once(tmp_path: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second time, the ids are read from the cache and the text is not."""
    corpus = corpus_of(tmp_path, "some text")
    first, _ = encoded(corpus)
    monkeypatch.setattr(Corpus, "chunks", lambda self: pytest.fail("the text was read again"))
    second, _ = encoded(corpus)
    assert second.tolist() == first.tolist()


def test_cache_is_keyed_by_text_and_tokenizer(tmp_path: Path, own_cache: Path) -> None:
    """Another text of the same name, or another tokenizer for the same text, gets ids of its own."""
    corpus = corpus_of(tmp_path, "abab")
    assert encode_corpus(corpus, Tokenizer.from_alphabet("ab")).tolist() == [0, 1, 0, 1]
    assert encode_corpus(corpus, Tokenizer.from_alphabet("Xab")).tolist() == [1, 2, 1, 2]
    assert encode_corpus(corpus_of(tmp_path, "baba"), Tokenizer.from_alphabet("ab")).tolist() == [1, 0, 1, 0]
    assert len(list((own_cache / "ids").iterdir())) == 3
    encode_corpus(corpus_of(tmp_path, "abab", "copy.txt"), Tokenizer.from_alphabet("ab"))
    assert len(list((own_cache / "ids").iterdir())) == 3


@pytest.mark.parametrize("damage", [b"", b"\0", b"\0" * 4, b"\0" * 8, b"\0" * 12, b"\xff" * 12, b"\0" * 13])
def test_damaged_cache_is_made_again(damage: bytes, tmp_path: Path, own_cache: Path) -> None:
    """A cached file that a power cut cut short, or with other ids in it, is replaced."""
    corpus = corpus_of(tmp_path, "abcd")
    encoded(corpus)
    (cached,) = (own_cache / "ids").iterdir()
    assert cached.stat().st_size == 12
    cached.write_bytes(damage)
    ids, _ = encoded(corpus)
    assert ids.tolist() == [0, 1, 2, 3]
    assert list((own_cache / "ids").iterdir()) == [cached]


def test_each_flipped_bit_of_the_cache_is_noticed(tmp_path: Path, own_cache: Path) -> None:
    """An id that has changed on the disk is never trained on."""
    corpus = corpus_of(tmp_path, "abcd")
    encoded(corpus)
    (cached,) = (own_cache / "ids").iterdir()
    content = cached.read_bytes()
    for bit in range(8 * len(content)):
        flipped = int.from_bytes(content, "little") ^ 1 << bit
        cached.write_bytes(flipped.to_bytes(len(content), "little"))
        assert encoded(corpus)[0].tolist() == [0, 1, 2, 3]


def test_what_a_killed_process_left_goes(tmp_path: Path, own_cache: Path) -> None:
    """Half a file that is a day old is nobody's any more; a young one may be another process's."""
    (own_cache / "ids").mkdir(parents=True)
    old, young = own_cache / "ids" / ".a.uint16.1.tmp", own_cache / "ids" / ".b.uint16.2.tmp"
    for path in (old, young):
        path.write_bytes(b"half")
    os.utime(old, (0, 0))
    encoded(corpus_of(tmp_path, "abcd"))
    assert not old.exists()
    assert young.exists()


def test_a_text_too_long_for_its_offsets_is_refused(
    tmp_path: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Offsets that would wrap around are refused in one line."""
    monkeypatch.setattr("mlx_tinylm.text.ids.LONGEST", 99)
    corpus = corpus_of(tmp_path, "ab" * 50)
    with pytest.raises(TinyLMError, match=r"100 characters; more than 99 cannot be trained on"):
        load_dataset(corpus, Tokenizer.from_alphabet("ab"), 4)


def test_a_tokenizer_of_another_kind(tmp_path: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tokens that span characters are found across pieces, and a file cut inside an id is made again."""
    import tokenizers
    from tokenizers import decoders, models

    inner = tokenizers.Tokenizer(models.BPE({"a": 0, "b": 1, "ab": 2}, merges=[("a", "b")]))
    inner.decoder = decoders.Fuse()
    tokenizer = Tokenizer(inner)
    corpus = corpus_of(tmp_path, "aabab")
    monkeypatch.setattr(Corpus, "chunks", lambda self: iter(["aa", "bab"]))
    assert encode_corpus(corpus, tokenizer).tolist() == [0, 2, 2]
    (cached,) = (own_cache / "ids").iterdir()
    for damage in (b"", b"\0\0\0"):
        cached.write_bytes(damage)
        assert encode_corpus(corpus, tokenizer).tolist() == [0, 2, 2]


@pytest.mark.parametrize("broken", ["replace", "open"])
def test_a_write_that_fails_leaves_nothing(
    broken: str, tmp_path: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full disk ends in one line, and neither a cached file nor a part of one stays behind."""
    corpus = corpus_of(tmp_path, "abcd")

    def fail(*args: Any, **more: Any) -> Any:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        if broken == "replace":
            patch.setattr(os, "replace", fail)
        else:
            patch.setattr("mlx_tinylm.text.ids.open", fail, raising=False)
        with pytest.raises(TinyLMError, match=r"cannot be written \(No space left on device\)$"):
            encoded(corpus)
    assert list((own_cache / "ids").iterdir()) == []
    assert encoded(corpus)[0].tolist() == [0, 1, 2, 3]


def test_a_cache_folder_that_cannot_be(tmp_path: Path, own_cache: Path) -> None:
    """A file where the cache folder should be is named."""
    own_cache.write_text("in the way")
    with pytest.raises(TinyLMError, match="cache/ids: cannot be created"):
        encoded(corpus_of(tmp_path, "abcd"))


def test_unknown_characters_are_listed(tmp_path: Path, own_cache: Path) -> None:
    """Text with characters the tokenizer lacks is refused with the text's name and their list."""
    corpus = corpus_of(tmp_path, "abc\x1bé")
    with pytest.raises(TinyLMError) as error:
        encode_corpus(corpus, Tokenizer.from_alphabet("abx"))
    assert str(error.value) == rf"{corpus.name}: has characters that the model does not know: '\x1bcé'"


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
def test_too_short_text_is_refused_with_the_numbers(context: int, tmp_path: Path, own_cache: Path) -> None:
    """Text is too short exactly where training has no whole window or validation no target; what it needs is said."""
    tokenizer = Tokenizer.from_alphabet("ab")
    enough = None
    for length in range(1, 2 * context + 30):
        corpus = corpus_of(tmp_path, "ab" * (length // 2) + "a" * (length % 2))
        train = length * 9 // 10
        try:
            dataset = load_dataset(corpus, tokenizer, context)
        except TinyLMError as error:
            message = str(error)
            assert train < context + 1 or length - train < 2
            assert f"{length} characters leave {train} to train on and {length - train} to validate with" in message
            needed = int(message.split("needs about ")[1].split(".")[0])
        else:
            assert len(dataset.train) >= context + 1
            assert len(dataset.validation) >= 2
            enough = enough or length
    assert enough is not None
    assert enough <= needed <= enough + 10


# Which windows

shapes = st.tuples(st.integers(2, 40), st.integers(1, 200), st.integers(1, 7)).map(
    lambda drawn: (drawn[0], drawn[0] + drawn[1], drawn[2])  # context, length, batch size
)


@settings(max_examples=100, deadline=None)
@given(shapes, st.integers(0, 2**31 - 1), st.integers(0, 10**6))
def test_batches_are_pure_and_in_range(shape: tuple[int, int, int], seed: int, step: int) -> None:
    """The batch of a step depends on its arguments alone, and every window lies in the text."""
    context, length, batch = shape
    offsets = batch_offsets(seed, step, length, batch, context)
    assert offsets.dtype == np.int32
    assert offsets.shape == (batch,)
    assert offsets.min() >= 0
    assert offsets.max() + context + 1 <= length
    for other in (0, 3, step + 1, 10**6):  # what was asked in between does not matter
        batch_offsets(seed + 1, other, length, batch, context)
    assert batch_offsets(seed, step, length, batch, context).tolist() == offsets.tolist()


@settings(max_examples=50, deadline=None)
@given(shapes, st.integers(0, 5))
def test_an_epoch_visits_neighbouring_windows_once(shape: tuple[int, int, int], epoch: int) -> None:
    """Each epoch cuts the text into neighbouring windows and visits each once: no target is read twice in it."""
    context, length, _ = shape
    windows = max(1, (length - 1) // context - 1)
    steps = range(epoch * windows, (epoch + 1) * windows)
    offsets = sorted(int(batch_offsets(5, step, length, 1, context)[0]) for step in steps)
    assert offsets == list(range(offsets[0], offsets[0] + windows * context, context))


@settings(max_examples=50, deadline=None)
@given(shapes, st.integers(2, 5))
def test_batch_size_only_cuts_the_same_sequence(shape: tuple[int, int, int], count: int) -> None:
    """Windows come in the same order whatever the batch size is, epochs' ends inside a batch included."""
    context, length, batch = shape
    one_by_one = [int(batch_offsets(9, i, length, 1, context)[0]) for i in range(count * batch)]
    batches = [batch_offsets(9, i, length, batch, context).tolist() for i in range(count)]
    assert [offset for batch in batches for offset in batch] == one_by_one


def test_every_character_is_seen_equally_often() -> None:
    """Over many epochs each target but those near the ends of the text is read in every single one."""
    context, length, epochs = 4, 50, 300
    windows = 11
    seen = Counter[int]()
    for step in range(windows * epochs):
        start = int(batch_offsets(0, step, length, 1, context)[0])
        seen.update(range(start + 1, start + context + 1))
    edge = 2 * context
    assert {seen[target] for target in range(edge, length - edge)} == {epochs}
    assert min(seen[target] for target in range(1, length)) > 0


def test_epochs_and_seeds_differ() -> None:
    """Another epoch and another seed cut the text at another place and go through it in another order."""

    def epoch(seed: int, number: int) -> list[int]:
        return [int(batch_offsets(seed, number * 48 + i, 500, 1, 10)[0]) for i in range(48)]

    orders = [epoch(0, 0), epoch(0, 1), epoch(0, 2), epoch(1, 0), epoch(2, 0)]
    assert len({min(order) for order in orders}) > 2
    assert len({tuple(start - min(order) for start in order) for order in orders}) == 5
    assert all(order != sorted(order) for order in orders)


def test_too_few_ids_for_a_window() -> None:
    """A text that holds no window is the caller's mistake."""
    assert batch_offsets(0, 0, 9, 2, 8).tolist() == [0, 0]
    with pytest.raises(ValueError, match="8 ids are too few for a window of 9"):
        batch_offsets(0, 0, 8, 2, 8)
