"""Byte-level BPE: any text has ids and comes back, split as GPT-2 does, and may be cut at the ends of lines."""

from __future__ import annotations

import json
import re
from pydoc_data.topics import topics
from typing import Any

import pytest
import tokenizers
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import Regex, decoders, models, normalizers, pre_tokenizers, trainers

from mlx_tinylm.text.byte_level import cuts_at_lines, split_like, token_bytes, visible_bytes
from mlx_tinylm.text.tokenizer import END_OF_TEXT, PAD, Tokenizer

ENGLISH = "\n\n".join(topics[name] for name in sorted(topics))[:60_000]
# What makes splitting hard: line ends, spaces of every kind, apostrophes, digits, marks, and all the rest.
awkward = st.sampled_from(
    ["\n", "\r\n", " ", "  ", "\t", "\u3000", "'s", "'LL", "don't", "12", "٣", "é", "e\u0301", ".", "!?\n"]
)
words = st.sampled_from(["the", "The", " the", "日本", "😀", "👩‍👩‍👧", "\x00", "\ufffd", "ſ", "\u0301", "a"])
texts = st.lists(awkward | words | st.text(max_size=3), max_size=20).map("".join).filter(lambda t: "<|" not in t)
texts = texts.filter(lambda text: not any("\ud800" <= character <= "\udfff" for character in text))

GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"  # openai/gpt-2, encoder.py
QWEN2 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
LLAMA3 = QWEN2.replace(r"|\p{N}|", r"|\p{N}{1,3}|")


def by_pattern(pattern: str) -> Any:
    by_regex = pre_tokenizers.Split(Regex(pattern), behavior="isolated", invert=False)
    return pre_tokenizers.Sequence([by_regex, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


GPT2_S = pre_tokenizers.ByteLevel(add_prefix_space=False)
SMOLLM_S = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), GPT2_S])
KNOWN = {"gpt-2": GPT2_S, "smollm": SMOLLM_S, "qwen2": by_pattern(QWEN2), "llama-bpe": by_pattern(LLAMA3)}


def learned(pre_tokenizer: Any, normalizer: Any = None, vocab_size: int = 400) -> tokenizers.Tokenizer:
    """Another tool's tokenizer, with merges that have line ends and spaces in them wherever its pieces have."""
    inner = tokenizers.Tokenizer(models.BPE())
    inner.pre_tokenizer, inner.decoder = pre_tokenizer, decoders.ByteLevel()
    if normalizer:
        inner.normalizer = normalizer
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=vocab_size, initial_alphabet=alphabet, show_progress=False)
    inner.train_from_iterator([ENGLISH[:20_000], "a.\n\nb\n\n\n c!?\n\r\n\t x" * 200], trainer)
    return inner


@pytest.fixture(scope="module")
def subwords() -> Tokenizer:
    return Tokenizer.from_texts([ENGLISH], 600)


def test_what_is_made(subwords: Tokenizer) -> None:
    """As many ids as asked for: all bytes, merges, then what ends a text and what pads; nothing is normalised."""
    raw = json.loads(subwords.json)
    assert (subwords.vocab_size, subwords.eos_id, subwords.pad_id, subwords.alphabet) == (600, 598, 599, None)
    assert [(token["content"], token["special"]) for token in raw["added_tokens"]] == [(END_OF_TEXT, True), (PAD, True)]
    assert set(pre_tokenizers.ByteLevel.alphabet()) <= raw["model"]["vocab"].keys()
    assert len(raw["model"]["merges"]) == 600 - 256 - 2
    assert (raw["normalizer"], raw["post_processor"]) == (None, None)
    assert raw["pre_tokenizer"].items() >= {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True}.items()
    assert raw["decoder"]["type"] == "ByteLevel"
    assert len(subwords.encode(ENGLISH)) < 0.6 * len(ENGLISH)


def test_the_same_texts_make_the_same_tokenizer(subwords: Tokenizer) -> None:
    """Learning has no chance in it, and how a text is handed over in pieces of whole words makes no difference."""
    assert Tokenizer.from_texts(iter([ENGLISH]), 600).json == subwords.json


def test_a_text_too_short_for_the_vocabulary() -> None:
    """Where there is nothing more to merge, there are fewer ids; without any text there are the bytes."""
    assert Tokenizer.from_texts(["aaaa"], 600).vocab_size == 258 + 2  # aa, aaaa
    assert Tokenizer.from_texts([], 600).vocab_size == 258


@settings(max_examples=300, deadline=None)
@given(texts)
@example("two  spaces, 😀\n\n\tand 👩‍👩‍👧 \r\n end ")
@example("\ufffd")
def test_every_text_comes_back(subwords: Tokenizer, text: str) -> None:
    """Any text is its ids' text, at once and streamed, and many texts have the ids that each has."""
    ids = subwords.encode(text)
    assert subwords.decode(ids) == text
    assert "".join(map(subwords.detokenizer().add, ids)) == text
    assert [each.tolist() for each in subwords.encode_many([text, "", text + "x"])] == [
        ids,
        [],
        subwords.encode(text + "x"),
    ]


@settings(max_examples=300, deadline=None)
@given(texts)
def test_split_as_gpt2(subwords: Tokenizer, text: str) -> None:
    """Texts are split by the very expression that GPT-2 published."""
    ours = [piece for piece, _ in subwords.inner.pre_tokenizer.pre_tokenize_str(text)]
    assert ours == [piece for piece, _ in by_pattern(GPT2).pre_tokenize_str(text)]


@pytest.mark.parametrize("name", KNOWN)
def test_known_ways_to_split(name: str) -> None:
    """Other tools' ways to split are known by their names in llama.cpp."""
    assert split_like(json.loads(learned(KNOWN[name]).to_str())) == name
    assert split_like(json.loads(learned(KNOWN[name], normalizers.NFC()).to_str())) == name


UNKNOWN: dict[str, Any] = {
    "space before": pre_tokenizers.ByteLevel(add_prefix_space=True),
    "not split": pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    "another pattern": by_pattern(r"\s+"),
    "spaces marked": pre_tokenizers.Metaspace(),
    "nothing": None,
}


@pytest.mark.parametrize("name", UNKNOWN)
def test_unknown_ways_to_split(name: str) -> None:
    """What is not known is not taken for what is, and is not cut."""
    inner = tokenizers.Tokenizer(models.BPE({"a": 0, "b": 1}, []))
    if UNKNOWN[name]:
        inner.pre_tokenizer = UNKNOWN[name]
    raw = json.loads(inner.to_str())
    assert (split_like(raw), cuts_at_lines(raw)) == (None, False)


def test_other_normalisers() -> None:
    """A tokenizer that changes a text more than to NFC is none of the known ones."""
    raw = json.loads(learned(GPT2_S, normalizers.Lowercase()).to_str())
    assert (split_like(raw), cuts_at_lines(raw)) == (None, False)


@pytest.mark.parametrize(
    ("content", "more", "cuts"),
    [("<a>", {}, True), ("<a>", {"lstrip": True}, False), ("<a>", {"rstrip": True}, True), ("a\nb", {}, False)],
)
def test_added_tokens_across_a_cut(content: str, more: dict[str, bool], cuts: bool) -> None:
    """A token that reaches across the end of a line forbids to cut there."""
    inner = learned(GPT2_S)
    inner.add_special_tokens([tokenizers.AddedToken(content, **more)])
    tokenizer = Tokenizer(inner)
    assert tokenizer.cuts_at_lines is cuts
    same = tokenizer.encode("x\n") + tokenizer.encode(content) == tokenizer.encode("x\n" + content)
    assert same or not cuts


@pytest.mark.parametrize("name", KNOWN)
def test_cut_at_the_ends_of_lines(name: str) -> None:
    """The ids of a text are those of its parts, cut between a line's end behind no space, and no space."""
    tokenizer = Tokenizer(learned(KNOWN[name], normalizers.NFC() if name == "qwen2" else None, 1000))
    assert tokenizer.cuts_at_lines

    @settings(max_examples=300, deadline=None)
    @given(texts, texts)
    @example("a.\n", "b")
    @example("a\n", "\u0301b")
    def same(before: str, after: str) -> None:
        text = before.rstrip() + "\n" + after.lstrip()
        parts = re.split(r"(?<=\S\n)(?=\S)", text)
        assert [id for part in parts for id in tokenizer.encode(part)] == tokenizer.encode(text)

    same()


def test_bytes_of_tokens(subwords: Tokenizer) -> None:
    """Every id stands for bytes, a special one for none; another decoder has no such table."""
    found = token_bytes(subwords.inner)
    assert found is not None
    assert found.keys() == set(range(600))
    assert (found[598], found[599]) == (b"", b"")
    (id,) = subwords.encode(" the")
    assert found[id] == b" the"
    assert sorted(token for token in found.values() if len(token) == 1) == [bytes([byte]) for byte in range(256)]
    assert token_bytes(Tokenizer.from_alphabet("ab").inner) is None


@pytest.mark.parametrize(("text", "visible"), [("aZ~", "aZ~"), (" \n\x00", "ĠĊĀ"), ("é\xad", "Ã©ÂŃ"), ("😀", "ðŁĺĢ")])
def test_visible_bytes(text: str, visible: str) -> None:
    """Bytes are written as GPT-2's vocab.json writes them: a space is Ġ, a newline Ċ."""
    assert visible_bytes(text) == visible
