"""Pairs of prompt and completion: how they are read, and which of them are held out."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import pytest
from pair_files import lines, numbered, opened, pair, write

from mlx_tinylm.errors import TinyLMError
from mlx_tinylm.text.corpus import Corpus, open_corpus
from mlx_tinylm.text.pairs import Pair, PairCorpus


def parts(corpus: PairCorpus) -> tuple[list[Pair], list[Pair]]:
    return list(corpus.pairs("train")), list(corpus.pairs("held_out"))


# Reading


def test_the_forms_of_mlx_lm(tmp_path: Path) -> None:
    """A line holds prompt and completion, or messages: the last is wanted of all before it, joined as they are."""
    messages = [
        {"role": "system", "content": "Be brief. "},
        {"role": "user", "content": "1+1="},
        {"role": "assistant", "content": "2"},
    ]
    path = write(tmp_path / "a.jsonl", pair("é\r\n", "\n"), "\n", {"messages": messages}, pair("x", "") | {"id": 7})
    assert list(opened(path).pairs()) == [("é\n", "\n"), ("Be brief. 1+1=", "2"), ("x", "")]


def test_what_is_known_of_pairs(tmp_path: Path) -> None:
    """Pairs are documents of a corpus: their size, alphabet and hash are known, packed or not, in any files."""
    path = write(tmp_path / "a.jsonl", *numbered(30))
    corpus = opened(path)
    assert (corpus.documents, corpus.characters, corpus.bytes) == (30, 30 * 8 + 2 * 50, 30 * 8 + 2 * 50)
    assert corpus.alphabet == "".join(sorted(set("number 0123456789=")))
    assert list(corpus.chunks())[:4] == ["number 0=0", None, "number 1=1", None]
    packed = tmp_path / "b.jsonl.gz"
    packed.write_bytes(gzip.compress(path.read_bytes()))
    assert (opened(packed).sha256, opened(packed).key) == (corpus.sha256, corpus.key)
    two = write(tmp_path / "c.jsonl", *numbered(10)), write(tmp_path / "d.jsonl", *numbered(20, 10))
    assert opened(*two).sha256 == corpus.sha256
    assert opened(write(tmp_path / "e.jsonl", *numbered(29), pair("number 29", "=29"))).sha256 != corpus.sha256


@pytest.mark.parametrize(
    ("record", "problem"),
    [
        ({"prompt": "a"}, r"line 2 is a pair without 'completion'$"),
        ({"completion": "a"}, r"line 2 is a pair without 'prompt'$"),
        (pair(""), r"line 2 has an empty prompt; a model needs something to go on, such as a newline$"),
        ({"prompt": "a", "completion": 5}, r"line 2 has no text in its field 'completion' but 5$"),
        ({"text": "a"}, r"line 2 is no pair of 'prompt' and 'completion', and no 'messages'; its fields are 'text'$"),
        ({"messages": "a"}, r"line 2 has no list of messages in its field 'messages' but 'a'$"),
        ({"messages": [{"role": "assistant", "content": "a"}]}, r"line 2 needs two messages or more, the last of them"),
        ({"messages": [{"role": "user", "content": "a"}] * 2}, r"line 2 needs two .* with the role 'assistant'$"),
        (
            {"messages": [{"role": "user"}, {"role": "assistant", "content": "a"}]},
            r"line 2 has no text in the content of message 1 but None$",
        ),
        (pair("a", "\ud800"), r"line 2 has half of a surrogate pair, which is no character$"),
        ('{"prompt": "a", "comp', r"line 2 is not JSON \(.*\); it is the last one: was the file cut short\?$"),
    ],
)
def test_what_is_no_pair(record: Any, problem: str, tmp_path: Path) -> None:
    """What is wrong with a pair is said in a line, with its file and its line."""
    path = write(tmp_path / "a.jsonl", pair("a"), record)
    with pytest.raises(TinyLMError, match=problem) as raised:
        open_corpus([str(path)])
    assert str(raised.value).startswith(f"{path}: line 2 ")


def test_a_file_cut_short(tmp_path: Path) -> None:
    """Half a .gz is no set of pairs."""
    path = tmp_path / "a.jsonl.gz"
    path.write_bytes(gzip.compress(lines(*numbered(5000)).encode())[:-2000])
    with pytest.raises(TinyLMError, match=r"a\.jsonl\.gz: broken gzip file"):
        open_corpus([str(path)])


def test_pairs_and_text_are_kept_apart(tmp_path: Path) -> None:
    """Text in records stays text; pairs beside text, or held out for text, are refused."""
    pairs, text = (
        write(tmp_path / "a.jsonl", *numbered(9)),
        write(tmp_path / "b.jsonl", {"text": "hello", "prompt": ""}),
    )
    assert type(open_corpus([str(text)])) is Corpus
    with pytest.raises(TinyLMError, match=r"a\.jsonl holds pairs, .*b\.jsonl text; train on one of them, then on the"):
        open_corpus([str(text), str(pairs)])
    with pytest.raises(TinyLMError, match=r"one holds pairs, the other text; hold out the same kind$"):
        open_corpus([str(text)], val_data=[str(pairs)])


def test_an_empty_file_beside_pairs(tmp_path: Path) -> None:
    """A file without a byte holds neither pairs nor text, whatever it lies beside."""
    for name in ("a.jsonl", "c.txt"):
        (tmp_path / name).touch()
    write(tmp_path / "b.jsonl", *numbered(9))
    assert opened(tmp_path).documents == 9


# Holding out


def test_one_pair_in_ten_is_held_out(tmp_path: Path) -> None:
    """About a tenth of many pairs is held out, and none is both learned from and tested."""
    corpus = opened(write(tmp_path / "a.jsonl", *numbered(2000)))
    train, held_out = parts(corpus)
    assert 150 < len(held_out) < 250
    assert sorted([*train, *held_out]) == sorted(corpus.pairs())
    assert corpus.held_out == sum(len(prompt) + len(completion) for prompt, completion in held_out)
    assert corpus.held_out_rule == f"{len(held_out):,} pairs, one in ten by their prompts"


def test_a_prompt_decides(tmp_path: Path) -> None:
    """Whatever the order, and whatever is added: a prompt stays where it was, on one side, whichever its completion."""
    train, held_out = parts(opened(write(tmp_path / "a.jsonl", *numbered(300))))
    other = [pair(each["prompt"], "other") for each in numbered(300)]
    more = opened(write(tmp_path / "b.jsonl", *numbered(300, 300), *reversed(numbered(300)), *other))
    more_train, more_held_out = ({each.prompt for each in part} for part in parts(more))
    assert {each.prompt for each in train} <= more_train
    assert {each.prompt for each in held_out} <= more_held_out
    assert not more_train & more_held_out


def test_few_pairs_hold_out_one(tmp_path: Path) -> None:
    """Where chance would hold out nothing, one prompt is held out, with all that is wanted of it."""
    for count in range(2, 8):
        records = numbered(count)
        corpus = opened(write(tmp_path / "a.jsonl", *records, *records))
        train, held_out = parts(corpus)
        assert {each.prompt for each in held_out} < {record["prompt"] for record in records}
        assert held_out
        assert len(train) + len(held_out) == 2 * count
        assert corpus.held_out_pairs == len(held_out) == 2
        assert corpus.held_out == sum(len(prompt) + len(completion) for prompt, completion in held_out)


def test_other_pairs_held_out(tmp_path: Path) -> None:
    """With pairs of its own to validate with, all others are trained on, and the alphabet is that of both."""
    ours, theirs = write(tmp_path / "a.jsonl", *numbered(50)), write(tmp_path / "b.jsonl", pair("ü"), pair("v"))
    corpus = opened(ours, val_data=(theirs,))
    assert len(list(corpus.pairs("train"))) == 50
    assert list(corpus.pairs("held_out")) == [("ü", "b"), ("v", "b")]
    assert "ü" in corpus.alphabet
    assert corpus.key != opened(ours).key
    assert corpus.held_out_rule == f"2 pairs, all of {theirs}"


def test_pairs_that_change(tmp_path: Path) -> None:
    """Pairs that are others now than when they were read are told at the end of a part, whichever it is."""
    path = write(tmp_path / "a.jsonl", *numbered(50))
    corpus = opened(path)
    write(path, *numbered(49), pair("number 49=", "50"))
    for part in ("all", "train", "held_out"):
        with pytest.raises(TinyLMError, match="changed while it was read"):
            list(corpus.pairs(part))


def test_a_prompt_for_examples(tmp_path: Path) -> None:
    """Examples of commands begin with a prompt that is held out, unless a shell would read something into it."""
    corpus = opened(write(tmp_path / "a.jsonl", *numbered(300)))
    assert corpus.first_words() == next(corpus.pairs("held_out")).prompt
    for prompt in ("$HOME {}", "two\nlines {}", "{} " * 40):
        records = [pair(prompt.replace("{}", str(number))) for number in range(9)]
        assert opened(write(tmp_path / "b.jsonl", *records)).first_words() == ""
