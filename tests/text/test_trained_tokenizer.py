"""The tokenizer of a new model: of its own text, from no more of it than needed, or that of another model."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tiny_runs import write_text

from mlx_tinylm.errors import TinyLMError
from mlx_tinylm.text.corpus import open_corpus
from mlx_tinylm.text.tokenizer import PAD, Tokenizer
from mlx_tinylm.text.trained_tokenizer import sample, trained_tokenizer


def of(*pieces: str | None, **more: Any) -> Any:
    """A text in pieces, as a corpus hands it out; only its training part is ever asked for."""
    asked: list[str] = []

    def chunks(part: str) -> Any:
        asked.append(part)
        assert part == "train"
        return iter(pieces)

    size = sum(len(piece.encode()) for piece in pieces if piece)
    text = {"alphabet": "".join(sorted({*"".join(piece or "" for piece in pieces)})), "documents": 1, "bytes": size}
    return SimpleNamespace(**{**text, "chunks": chunks, "asked": asked, **more})


def test_characters() -> None:
    """Of one document, its characters and what ends a text; of several, where that is trained, what pads as well."""
    assert trained_tokenizer(of("ba"), "char", 4096).json == Tokenizer.from_alphabet("ab").json
    several = trained_tokenizer(of("b", None, "a", None, documents=2), "char", 4096)
    assert (several.alphabet, several.eos_id, several.pad_id, several.vocab_size) == ("ab", 2, 3, 4)
    assert several.inner.id_to_token(3) == PAD


def test_subwords_come_from_the_training_part(tmp_path: Path) -> None:
    """What is held out teaches no subword."""
    (tmp_path / "text.txt").write_text("the cat " * 910 + "zebra " * 134)  # 804 of 8,084 characters
    made = trained_tokenizer(open_corpus([str(tmp_path / "text.txt")]), "bpe", 300)
    assert [made.decode([id]) for id in made.encode(" cat")] == [" cat"]
    assert len(made.encode("zebra")) == 5


def test_as_many_subwords_as_asked(tmp_path: Path) -> None:
    """The vocabulary is as large as asked, and the same at every call; progress is told up to its end."""
    corpus, told = open_corpus([str(write_text(tmp_path / "text.txt", 20_000))]), []
    made = trained_tokenizer(corpus, "bpe", 400, lambda *progress: told.append(progress))
    assert made.vocab_size == 400
    assert made.json == trained_tokenizer(corpus, "bpe", 400).json
    assert told[-1] == ("learning the subwords", told[-1][1], corpus.bytes)
    assert 0 < told[-1][1] <= corpus.bytes


def test_a_long_text_is_sampled() -> None:
    """Of a text beyond the limit the same share of each piece is taken, from first to last."""
    pieces = ["a" * 1000, "b" * 1000, None, "c" * 500, None]
    assert list(sample(of(*pieces), most=5000)) == ["a" * 1000, "b" * 1000, "c" * 500]
    assert list(sample(of(*pieces), most=250)) == ["a" * 100, "b" * 100, "c" * 50]


def test_of_another_model(tmp_path: Path) -> None:
    """It is read as it stands, with the token that ends a text there; what is no such folder is refused in a line."""
    folder = tmp_path / "theirs"
    folder.mkdir()
    tokenizer = Tokenizer.from_texts(["low lower lowest"], 262)
    (folder / "tokenizer.json").write_text(tokenizer.json.replace("<|endoftext|>", "<|im_end|>"))
    said = {"eos_token": {"content": "<|im_end|>", "lstrip": False}, "pad_token": "<|pad|>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(said))
    found = trained_tokenizer(of("any"), str(folder), 4096)
    assert found.eos_id == found.inner.token_to_id("<|im_end|>") == tokenizer.eos_id
    assert found.pad_id == tokenizer.pad_id
    (folder / "tokenizer_config.json").write_text("{")
    with pytest.raises(TinyLMError, match=r"^\S*tokenizer_config\.json: not valid JSON"):
        trained_tokenizer(of("any"), str(folder), 4096)
    with pytest.raises(TinyLMError, match=r"'bpee': no tokenizer; give char, bpe, or the folder of a model with a tok"):
        trained_tokenizer(of("any"), "bpee", 4096)
    with pytest.raises(TinyLMError, match=r"no tokenizer\.json here"):
        trained_tokenizer(of("any"), str(tmp_path), 4096)
