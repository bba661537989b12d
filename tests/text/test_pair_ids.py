"""Pairs as ids: windows of one pair each, and which of their targets count."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from pair_files import numbered, opened, pair, write

from mlx_tinylm.errors import TinyLMError
from mlx_tinylm.text.ids import UnknownCharactersError
from mlx_tinylm.text.pair_ids import AT_ONCE, PairDataset, Pairs, check_pairs, encode_pairs, encode_part_of_pairs
from mlx_tinylm.text.tokenizer import Tokenizer

RECORDS = [pair("ab", "cde"), pair("abc", "d"), pair("a", "")]


def all_pairs(folder: Path, tokenizer: Tokenizer | None = None, records: list[dict[str, str]] = RECORDS) -> Pairs:
    corpus = opened(write(folder / "a.jsonl", *records))
    return encode_part_of_pairs(corpus, tokenizer or Tokenizer.from_alphabet(corpus.alphabet, pads=True), "all")


def test_a_window_is_a_pair(tmp_path: Path, own_cache: Path) -> None:
    """Prompt, completion and end of text, padded behind by an id of its own; ids of completions and ends count."""
    pairs = all_pairs(tmp_path)  # ids: abcde, end of text, pad
    windows, counts = pairs.windows(np.array([2, 0, 1]), pairs.longest - 1)
    assert windows.tolist() == [[0, 5, 6, 6, 6, 6], [0, 1, 2, 3, 4, 5], [0, 1, 2, 3, 5, 6]]
    assert counts.astype(int).tolist() == [[1, 0, 0, 0, 0], [0, 1, 1, 1, 1], [0, 0, 1, 1, 0]]
    assert (pairs.targets, pairs.characters, pairs.bytes) == (7, 4, 4)
    assert pairs.first(2).targets == 6


def test_prompts_may_count(tmp_path: Path, own_cache: Path) -> None:
    """Unmasked, every id of a pair counts but the first, which nothing predicts; what pads never does."""
    pairs = all_pairs(tmp_path)
    _, counts = pairs.windows(np.arange(3), pairs.longest - 1, prompts=True)
    assert counts.sum(axis=1).tolist() == [5, 4, 1]


def test_pads_with_the_end_of_text_for_want_of_another(tmp_path: Path, own_cache: Path) -> None:
    """A tokenizer without a token that pads can be used: what pads counts for nothing."""
    pairs = all_pairs(tmp_path, Tokenizer.from_alphabet("abcde"))
    windows, counts = pairs.windows(np.array([2]), 5)
    assert (windows.tolist(), int(counts.sum())) == ([[0, 5, 5, 5, 5, 5]], 1)


def test_prompt_and_completion_are_encoded_apart(tmp_path: Path, own_cache: Path) -> None:
    """No subword reaches over the end of a prompt, which would never come when the prompt is all there is."""
    tokenizer = Tokenizer.from_texts(["abab" * 50, "ab " * 50], 300)
    assert len(tokenizer.encode("abab")) < 4
    pairs = all_pairs(tmp_path, tokenizer, [pair("aba", "b"), pair("ab", "ab é")])
    wanted = [*tokenizer.encode("aba"), *tokenizer.encode("b"), tokenizer.eos_id]
    assert pairs.windows(np.array([0]), pairs.longest - 1)[0][0, : len(wanted)].tolist() == wanted
    assert (pairs.characters, pairs.bytes) == (5, 6)


def test_encoded_once_in_constant_memory(tmp_path: Path, own_cache: Path) -> None:
    """Pairs of many batches come back from a file that is written once, each in its place."""
    corpus = opened(write(tmp_path / "a.jsonl", *numbered(AT_ONCE + 50)))
    tokenizer = Tokenizer.from_alphabet(corpus.alphabet, pads=True)
    calls: list[tuple[int, int]] = []
    pairs = encode_part_of_pairs(corpus, tokenizer, "all", lambda *progress: calls.append(progress))
    assert len(pairs) == AT_ONCE + 50
    assert isinstance(pairs.ids.base, np.memmap) or isinstance(pairs.ids, np.memmap)
    windows, counts = pairs.windows(np.array([AT_ONCE + 1]), pairs.longest - 1)
    assert tokenizer.decode(windows[0].tolist()) == f"number {AT_ONCE + 1}={AT_ONCE + 1}"
    assert int(counts.sum()) == 5
    assert calls[-1] == (AT_ONCE + 50, AT_ONCE + 50)
    again: list[tuple[int, int]] = []
    encode_part_of_pairs(corpus, tokenizer, "all", lambda *progress: again.append(progress))
    assert again == []
    dataset = encode_pairs(corpus, tokenizer)
    assert len(dataset.train) + len(dataset.validation) == len(pairs)


def test_what_is_unknown(tmp_path: Path, own_cache: Path) -> None:
    """Characters that a tokenizer lacks are refused by name, in prompts and completions; so is a want of an end."""
    with pytest.raises(UnknownCharactersError, match="does not know: 'e'"):
        all_pairs(tmp_path, Tokenizer.from_alphabet("abcd"))
    endless = Tokenizer(Tokenizer.from_alphabet("abcde").inner, eos_token="none")
    with pytest.raises(TinyLMError, match="the tokenizer has no id that ends a text"):
        all_pairs(tmp_path, endless)


def test_figures_of_a_dataset(tmp_path: Path, own_cache: Path) -> None:
    """Bits a byte are those of completions; ids that no pair to train on has are known."""
    pairs = all_pairs(tmp_path)
    dataset = PairDataset(pairs.first(2), pairs)
    assert dataset.longest == 6
    assert math.isclose(dataset.bits_per_byte(math.log(2)), 7 / 4)
    assert dataset.unseen(8) == (6, 7)


def test_pairs_that_cannot_be_trained_on(tmp_path: Path, own_cache: Path) -> None:
    """Too few, or longer than the model sees at once: said with the numbers and the way out."""
    pairs = all_pairs(tmp_path)
    check_pairs("a.jsonl", PairDataset(pairs, pairs), 5)
    with pytest.raises(TinyLMError, match=r"^a\.jsonl: the longest pair has 6 ids .* the 5 of a context of 4"):
        check_pairs("a.jsonl", PairDataset(pairs, pairs), 4)
    with pytest.raises(TinyLMError, match=r"^a\.jsonl: has 0 pairs to train on and 3 to validate with"):
        check_pairs("a.jsonl", PairDataset(pairs.first(0), pairs), 5)
