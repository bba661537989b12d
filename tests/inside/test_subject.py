"""The model that is looked at, with its text or without, of characters or of tokens."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import random_folder, random_tensors
from pair_files import numbered, opened, write
from tiny_models import GPT2, QWEN3, with_run
from tiny_runs import PLAIN, train, write_text

from mlx_tinylm.errors import TinyLMError
from mlx_tinylm.inside.subject import MOST_WEIGHTS, Subject, token_texts
from mlx_tinylm.model_folder.folder import write_folder
from mlx_tinylm.model_folder.tensor_files import write_tensors
from mlx_tinylm.text.tokenizer import Tokenizer


def byte_level(texts: Sequence[str], size: int) -> Tokenizer:
    """A BPE tokenizer of bytes, as GPT-2's."""
    from tokenizers import Tokenizer as Inner
    from tokenizers import decoders, models, pre_tokenizers, trainers

    inner = Inner(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    every_byte = pre_tokenizers.ByteLevel.alphabet()
    known: Any = {"special_tokens": ["<|endoftext|>"], "initial_alphabet": every_byte, "show_progress": False}
    inner.train_from_iterator(texts, trainers.BpeTrainer(vocab_size=size, **known))
    return Tokenizer(inner)


@pytest.fixture
def tokens(tmp_path: Path, english: str) -> Path:
    """A model folder whose ids are tokens."""
    tokenizer = byte_level([english[:50_000]], 300)
    config = dataclasses.replace(GPT2, vocab_size=tokenizer.vocab_size + 3, context=32)
    folder = tmp_path / "tokens"
    folder.mkdir()
    write_folder(folder, config, tokenizer)
    write_tensors(folder / "model.safetensors", random_tensors(config))
    return folder


def test_facts(tmp_path: Path, own_cache: Path) -> None:
    """A model is called by its folder's name, never its path, with the best loss of its run."""
    folder = with_run(random_folder(tmp_path / "mine", QWEN3))
    subject = Subject.open(folder, "numpy")
    assert subject.facts == {
        **{"name": "mine", "family": "qwen3", "layers": 2, "heads": 2, "width": 16, "context": 8},
        **{"vocabulary": 13, "parameters": 3384, "backend": "numpy", "unit": "character"},
        **{"loss": 1.25, "text": 'my "book" | <b>\n---'},
    }
    assert str(tmp_path) not in str(subject.look([1, 2]).meta)
    assert Subject.open(random_folder(tmp_path / "bare", QWEN3), "mlx").facts["loss"] is None


def test_a_run_brings_its_text(tmp_path: Path, own_cache: Path) -> None:
    """Where the training text is here, its counter counts what the model learned from, and not what was held out."""
    text = write_text(tmp_path / "text.txt")
    train(tmp_path / "run", dataclasses.replace(PLAIN, steps=1), text)
    subject = Subject.open(tmp_path / "run", "numpy")
    assert subject.dataset is not None
    assert subject.counter is not None
    assert subject.why_no_counter == ""
    assert subject.facts["text"] == "text.txt"  # not where it lies
    assert subject.text == str(text)
    payload = subject.look([1, 2, 3])
    np.testing.assert_array_equal(payload.tensors["counter"], subject.counter.probabilities([1, 2, 3]))
    assert sum(subject.counter.grams[0][1]) == len(subject.dataset.train) == 1800
    assert "counter" not in subject.look([1, 2, 3], counter=False).tensors
    held_out = subject.held_out(60)
    assert len(held_out) <= 8  # the context
    assert subject.tokenizer.decode(held_out) in text.read_text()[1800:]
    text.unlink()
    gone = Subject.open(tmp_path / "run", "numpy")
    assert (gone.corpus, gone.dataset, gone.counter) == (None, None, None)
    assert gone.why_no_counter == f"No 3-gram counter beside it: the training text, {text}, is not here."
    assert gone.held_out(60) == gone.encode(gone.tokenizer.example)
    assert "counter" not in gone.look([1, 2]).tensors


def test_nothing_is_fetched(tmp_path: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A named corpus that is not kept stays where it is; the reader is told how to get it."""
    from mlx_tinylm.model_folder.folder import shipped_weights

    monkeypatch.setenv("MLX_TINYLM_DATA", str(tmp_path / "data"))
    monkeypatch.setattr("socket.socket.connect", lambda *_: pytest.fail("reached for the network"))
    subject = Subject.open(shipped_weights(), "numpy")
    kept = subject.corpus is not None  # beside a checkout it may lie in data/
    assert kept == (subject.why_no_counter == "")
    if not kept:
        assert subject.why_no_counter.endswith("is not here; fetch it with: mlx-tinylm data tinyshakespeare.")


def test_tokens_have_texts(tokens: Path) -> None:
    """Tokens are shown as what they write; the end of a text by its name, part of a character as bytes."""
    subject = Subject.open(tokens, "numpy")
    assert subject.unit == "token"
    prompt = "the naïve 日\n"
    ids = subject.encode(prompt)
    texts = [subject.vocabulary[id] for id in ids]
    assert len(ids) < len(prompt.encode())
    assert "".join(texts) == "the na\\xc3\\xafve \\xe6\\x97\\xa5\n"
    assert subject.look(ids).meta["prompt"] == prompt
    assert subject.vocabulary[0] == "<|endoftext|>"
    assert subject.vocabulary[-3:] == ("", "", "")  # the model has more ids than its tokenizer
    assert len(subject.vocabulary) == subject.model.config.vocab_size
    assert subject.vocabulary[ids[-1]] == "\n"
    assert subject.look(ids).meta["newlines"] == [id for id, text in enumerate(subject.vocabulary) if "\n" in text]


def test_every_byte_has_a_text(tokens: Path) -> None:
    """The 256 bytes are told apart: a byte that is a character is that, another one is its escape."""
    tokenizer = Subject.open(tokens, "numpy").tokenizer
    singles = token_texts(tokenizer, tokenizer.vocab_size)[1:257]
    expected = {bytes([byte]).decode(errors="backslashreplace") for byte in range(256)}
    assert set(singles) == expected


def test_how_much_can_be_looked_at(tmp_path: Path) -> None:
    """The context is the limit, or what memory allows of a model with many heads and a long context."""
    subject = Subject.open(random_folder(tmp_path / "a", QWEN3), "numpy")
    assert subject.longest == 8
    large = dataclasses.replace(QWEN3, context=100_000)
    subject = Subject.open(random_folder(tmp_path / "b", large), "numpy")
    assert subject.longest == int((MOST_WEIGHTS // 4) ** 0.5)


@pytest.mark.parametrize(("prompt", "message"), [("", "the prompt is empty"), ("é", "the model does not know 'é'")])
def test_prompts_that_cannot_be_read(prompt: str, message: str, tmp_path: Path) -> None:
    """An empty prompt and unknown characters end in one line."""
    with pytest.raises(TinyLMError, match=message):
        Subject.open(random_folder(tmp_path, QWEN3), "numpy").encode(prompt)


def test_a_model_of_pairs_begins_with_a_held_out_prompt(tmp_path: Path, own_cache: Path) -> None:
    """A model that learned from pairs is shown with a prompt of theirs; why nothing is counted is said truly."""
    text = write(tmp_path / "pairs.jsonl", *numbered(60))
    train(tmp_path / "run", dataclasses.replace(PLAIN, steps=1, context=16), text)
    subject = Subject.open(tmp_path / "run", "numpy")
    prompts = [pair.prompt for pair in opened(text).pairs("held_out")]
    assert subject.tokenizer.decode(subject.held_out(60)) == prompts[0]
    assert "learned from pairs" in subject.why_no_counter
