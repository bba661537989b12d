"""Text to ids and back: exact for every character there is, and no silent loss."""

from __future__ import annotations

import json
import os
import string
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import decoders, models, pre_tokenizers, processors, trainers

from mlx_tinylm.errors import TinyLMError
from mlx_tinylm.text.tokenizer import END_OF_TEXT, Tokenizer, quoted

# Tiny Shakespeare's 65 characters
SHAKESPEARE = "\n !$&',-.3:;?" + string.ascii_uppercase + string.ascii_lowercase
# Anything UTF-8 can hold: no lone surrogates.
texts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=40)


def byte_level() -> Tokenizer:
    """What GPT-2 and Qwen use: merges of bytes, so that one character may take several ids."""
    inner = tokenizers.Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=270,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    inner.train_from_iterator(["the cat and the dog and the bird"], trainer)
    return Tokenizer(inner)


def saved(folder: Path, content: str | bytes | dict[str, Any]) -> Path:
    data = json.dumps(content) if isinstance(content, dict) else content
    (folder / "tokenizer.json").write_bytes(data.encode() if isinstance(data, str) else data)
    return folder


def test_hello() -> None:
    """The worked example: with Tiny Shakespeare's alphabet, Hello is 20 43 50 50 53, and 65 ends a text."""
    tokenizer = Tokenizer.from_alphabet(SHAKESPEARE)
    assert tokenizer.encode("Hello") == [20, 43, 50, 50, 53]
    assert tokenizer.decode([20, 43, 50, 50, 53]) == "Hello"
    assert (tokenizer.vocab_size, tokenizer.eos_id) == (66, 65)


@settings(max_examples=100, deadline=None)
@given(texts, st.data())
def test_any_alphabet(alphabet: str, data: st.DataObject) -> None:
    """Ids are places in code-point order, decode(encode(x)) is x for every text, and a saved tokenizer is the same."""
    tokenizer = Tokenizer.from_alphabet(alphabet)
    characters = sorted(set(alphabet))
    assert tokenizer.alphabet == "".join(characters)
    assert tokenizer.encode("".join(characters)) == list(range(len(characters)))
    assert tokenizer.eos_id == len(characters) == tokenizer.vocab_size - 1
    text = data.draw(st.text(st.sampled_from(alphabet), max_size=60))
    assert tokenizer.decode(tokenizer.encode(text)) == text
    # The `tokenizers` library itself, which other tools use, agrees.
    assert tokenizer.inner.encode(text).ids == tokenizer.encode(text) == tokenizer.encode_array(text).tolist()
    again = Tokenizer(tokenizers.Tokenizer.from_str(tokenizer.json))
    assert (again.alphabet, again.json) == (tokenizer.alphabet, tokenizer.json)


@pytest.mark.parametrize(
    "text",
    ["a\r\nb\0c", "👩‍👩‍👧 é e\u0301", "שלום עולם", "\ufeffx\u2028", "<|endoftext|>", "  \t two  ", "\U0010ffff"],
)
@pytest.mark.parametrize("kind", ["characters", "bytes"])
def test_streamed_pieces_join_to_the_whole(text: str, kind: str) -> None:
    """Ids handed over one at a time give the same text as all at once, and no half characters."""
    tokenizer = Tokenizer.from_alphabet(text) if kind == "characters" else byte_level()
    ids = tokenizer.encode(text)
    detokenizer = tokenizer.detokenizer()
    pieces = [detokenizer.add(id) for id in ids]
    assert "".join(pieces) == tokenizer.decode(ids)
    if END_OF_TEXT not in text or kind == "characters":
        assert "".join(pieces) == text
    if kind == "characters":
        assert pieces == list(text)
    assert not any("\ufffd" in piece for piece in pieces)


@settings(max_examples=50, deadline=None)
@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=20).filter(lambda text: END_OF_TEXT not in text))
def test_streamed_bytes_join_to_the_whole(text: str) -> None:
    """A byte-level tokenizer streams any text but its special token, though its ids end inside of characters."""
    tokenizer = byte_level()
    assert "".join(map(tokenizer.detokenizer().add, tokenizer.encode(text))) == text


@pytest.mark.parametrize("kind", ["characters", "bytes"])
def test_ids_that_write_nothing(kind: str) -> None:
    """The special id, and ids past the tokenizer that a model may have, write nothing and break nothing."""
    tokenizer = Tokenizer.from_alphabet("ab" + END_OF_TEXT) if kind == "characters" else byte_level()
    assert tokenizer.eos_id is not None
    (a,), detokenizer = tokenizer.encode("a"), tokenizer.detokenizer()
    ids = [a, 5000, tokenizer.eos_id, a]
    assert [detokenizer.add(id) for id in ids] == ["a", "", "", "a"]
    assert tokenizer.decode(ids) == "aa"
    # The name of the special id may stand in a text letter by letter.
    assert kind == "bytes" or tokenizer.eos_id not in tokenizer.encode(END_OF_TEXT)


UNKNOWN = [
    ("abé", "'é'", 3),
    ("\nab", r"'\n'", 1),
    ("ab\x1b", r"'\x1b'", 3),
    ("a😀", "'😀'", 2),
    ("a\udc80", r"'\udc80'", 2),
]


@pytest.mark.parametrize(("text", "shown", "place"), UNKNOWN)
def test_unknown_characters_are_named(text: str, shown: str, place: int) -> None:
    """The first character the model does not know is named, with its place and the ones it does know."""
    with pytest.raises(TinyLMError) as error:
        Tokenizer.from_alphabet("ab c").encode(text)
    expected = f"the model does not know {shown} (character {place} of the text); it knows ' abc'"
    assert str(error.value) == expected


def test_unknown_characters_of_an_alphabet() -> None:
    """Before fine-tuning, the characters a tokenizer lacks are listed in order; bytes lack none."""
    assert Tokenizer.from_alphabet("abc").unknown_characters("cébax") == "xé"
    assert Tokenizer.from_alphabet("abc").unknown_characters("cab") == ""
    assert byte_level().unknown_characters("é😀") == ""


def test_long_lists_are_cut() -> None:
    """A large alphabet fills no screen, and nothing in it moves the cursor."""
    assert quoted("a\tb") == r"'a\tb'"
    assert quoted("x" * 200) == f"'{'x' * 200}'"
    assert quoted("x" * 201) == f"'{'x' * 200}' and more"


def test_arrays_are_compact() -> None:
    """A whole text is encoded to one int32 array, empty for no text."""
    tokenizer = Tokenizer.from_alphabet("ab")
    assert tokenizer.encode_array("").dtype == tokenizer.encode_array("ab").dtype == np.int32
    assert tokenizer.encode_array("").shape == (0,)
    assert byte_level().encode_array("the").dtype == np.int32


def test_foreign_settings_do_not_cut_texts(tmp_path: Path) -> None:
    """Truncation and padding that another tool left in tokenizer.json do not touch a text."""
    inner = byte_level().inner
    inner.enable_truncation(max_length=3)
    inner.enable_padding(length=40)
    text = "the cat and the dog"
    assert len(inner.encode(text).ids) == 40
    tokenizer = Tokenizer.load(saved(tmp_path, inner.to_str()))
    assert tokenizer.decode(tokenizer.encode(text)) == text
    assert tokenizer.encode("x") == byte_level().encode("x")


CHARACTERS: dict[str, Any] = json.loads(Tokenizer.from_alphabet("abc").json)


def template(single: str, pair: str, *special: str) -> dict[str, Any]:
    """Changes to a tokenizer.json: the post-processor of a template, with `special` tokens of id 0."""
    made = processors.TemplateProcessing(single=single, pair=pair, special_tokens=[(token, 0) for token in special])
    return {"post_processor": json.loads(made.__getstate__())}


@pytest.mark.parametrize(
    "changes",
    [
        template("a $A", "$A $B", "a"),
        template("$A", "$A a $B", "a"),
        template("$A", "$A $B", "a"),
        template("$A", "$B $A"),
        template("$A $A", "$A $B"),
        {"post_processor": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True}},
        {"normalizer": {"type": "Lowercase"}},
        {"pre_tokenizer": {"type": "Whitespace"}},
        {"decoder": None},
        {"decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True}},
        {"model": CHARACTERS["model"] | {"vocab": {"a": 0, "b": 1, "c": 5}}},
        {"model": CHARACTERS["model"] | {"vocab": {"a": 0, "b": 1, "ab": 2}, "merges": [["a", "b"]]}},
        {"added_tokens": [CHARACTERS["added_tokens"][0] | {"special": False}]},
        {"added_tokens": [CHARACTERS["added_tokens"][0] | {"id": 1, "content": "b"}]},
        {"model": {"type": "WordLevel", "vocab": {"a": 0, "b": 1, "c": 2}, "unk_token": "a"}},
    ],
    ids=str,
)
def test_other_tokenizers_are_not_taken_for_characters(changes: dict[str, Any], tmp_path: Path) -> None:
    """The fast path is for tokenizers whose ids are characters, all in order, decoded as they are."""
    assert Tokenizer.load(saved(tmp_path, CHARACTERS)).alphabet == "abc"
    assert Tokenizer.load(saved(tmp_path, CHARACTERS | changes)).alphabet is None


@pytest.mark.parametrize("types", [("$A", "$A $B"), ("$A:0", "$A:0 $B:1")], ids=["plain", "with types"])
def test_a_template_that_adds_nothing(types: tuple[str, str], tmp_path: Path) -> None:
    """What transformers 5 makes of tokenizer.json when it saves it again is a character tokenizer as before."""
    tokenizer = Tokenizer.load(saved(tmp_path, CHARACTERS | template(*types)))
    assert tokenizer.alphabet == "abc"
    assert tokenizer.encode("cab") == [2, 0, 1]
    with pytest.raises(TinyLMError, match="the model does not know 'z'"):
        tokenizer.encode("cazb")


@pytest.mark.parametrize("last", [7, 4_000_000_000])
def test_vocabulary_ends_with_the_largest_id(last: int, tmp_path: Path) -> None:
    """A vocabulary with gaps is as large as its largest id demands, not as it has tokens."""
    model = CHARACTERS["model"] | {"vocab": {"a": 0, "b": last}}
    tokenizer = Tokenizer.load(saved(tmp_path, CHARACTERS | {"model": model, "added_tokens": []}))
    assert tokenizer.vocab_size == last + 1


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"\xff\xfe",
        b"[]",
        b"{}",
        b"[" * 100_000,
        {**CHARACTERS, "model": None},
        {**CHARACTERS, "model": {"type": "BPE"}},
        {**CHARACTERS, "model": {"type": "Evil", "vocab": {}}},
        {**CHARACTERS, "model": CHARACTERS["model"] | {"vocab": {"a": -1}}},
        {**CHARACTERS, "model": CHARACTERS["model"] | {"vocab": {"a": 10**30}}},
        {**CHARACTERS, "model": CHARACTERS["model"] | {"vocab": {"a": "b"}}},
        {**CHARACTERS, "model": CHARACTERS["model"] | {"merges": [["x", "y"]]}},
        {**CHARACTERS, "added_tokens": [{"id": 1}]},
        {**CHARACTERS, "version": "9"},
    ],
    ids=lambda content: str(content)[:40] if isinstance(content, bytes) else "",
)
def test_malformed_files(content: str | dict[str, Any], tmp_path: Path) -> None:
    """Whatever is wrong with tokenizer.json, one line names the file."""
    with pytest.raises(TinyLMError) as error:
        Tokenizer.load(saved(tmp_path, content))
    message = str(error.value)
    assert message.startswith(f"{tmp_path / 'tokenizer.json'}: not a tokenizer (")
    assert len(message.splitlines()) == 1
    assert len(message) < 300 + len(str(tmp_path))


def test_missing_files(tmp_path: Path) -> None:
    """No tokenizer.json, a folder or a device in its place: said in one line."""
    path = tmp_path / "tokenizer.json"
    with pytest.raises(TinyLMError, match=r"no tokenizer.json here; copy it from where the model came$"):
        Tokenizer.load(tmp_path)
    path.mkdir()
    with pytest.raises(TinyLMError, match=r"tokenizer.json: cannot be read"):
        Tokenizer.load(tmp_path)
    path.rmdir()
    path.symlink_to(os.devnull)
    with pytest.raises(TinyLMError, match=r"tokenizer.json: not a file$"):
        Tokenizer.load(tmp_path)


@pytest.mark.parametrize("text", ["z", "a\udcffb"], ids=["no unknown token", "half a surrogate pair"])
def test_what_the_library_cannot_read(text: str) -> None:
    """Text on which the library fails, with whatever it raises then, is refused as any other."""
    tokenizer = Tokenizer(
        tokenizers.Tokenizer(models.BPE({"a": 0, "b": 1, "ab": 2}, merges=[("a", "b")], unk_token="?"))
    )
    assert tokenizer.encode("aba") == [2, 0]
    with pytest.raises(TinyLMError, match=r"the tokenizer cannot read this text \("):
        tokenizer.encode(text)


def test_two_tokens_with_one_id(tmp_path: Path) -> None:
    """A file in which two tokens have the same id is refused: one of them could never be written."""
    model = CHARACTERS["model"] | {"vocab": {"a": 0, "b": 1, "c": 1}}
    with pytest.raises(TinyLMError, match=r"tokenizer\.json: two tokens have the same id$"):
        Tokenizer.load(saved(tmp_path, CHARACTERS | {"model": model}))


letters = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)


@settings(max_examples=50, deadline=None)
@given(letters.filter(len), letters, st.booleans(), st.booleans())
def test_an_extended_alphabet(old: str, more: str, padded: bool, pads: bool) -> None:
    """All ids keep their meaning, each new character has one behind them, and so has what pads, if it is wanted."""
    before = Tokenizer.from_alphabet(old, pads=padded)
    after = before.extended(more, pads=pads)
    assert (after.alphabet or "")[: len(before.alphabet or "")] == before.alphabet
    assert sorted(after.alphabet or "") == sorted({*old, *more})
    assert (after.encode(old), after.eos_id) == (before.encode(old), before.eos_id)
    new = sorted({*more} - {*old})
    assert after.encode("".join(new)) == list(range(before.vocab_size, before.vocab_size + len(new)))
    added = pads and not padded
    assert after.vocab_size == before.vocab_size + len(new) + added
    assert after.pad_id == (after.vocab_size - 1 if added else before.pad_id)
    text = "".join(character for pair in zip(old, [*more] * len(old), strict=False) for character in pair)
    ids = after.encode(text)
    assert after.decode([*ids, after.eos_id or 0]) == text
    assert after.inner.encode(text).ids == ids
    assert "".join(map(after.detokenizer().add, ids)) == text


def test_subwords_that_pad() -> None:
    """A tokenizer of subwords, which knows every character, may get a token that pads, behind all others."""
    before = Tokenizer.from_texts(["a rose is a rose"] * 9, 300)
    assert before.extended("", pads=True).vocab_size == before.vocab_size
    inner = before.inner.from_str(before.json.replace("<|pad|>", "<|other|>"))
    after = Tokenizer(inner).extended("", pads=True)
    assert (after.vocab_size, after.pad_id) == (before.vocab_size + 1, before.vocab_size)
    assert after.encode("a rose é") == before.encode("a rose é")
