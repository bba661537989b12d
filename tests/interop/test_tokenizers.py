"""An exported tokenizer does the same in mlx-lm and in transformers as here."""

from __future__ import annotations

import string
from dataclasses import replace
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

import pytest
import tokenizers
from conftest import random_folder, random_tensors
from hypothesis import given, settings
from hypothesis import strategies as st
from other_tools import GPT2, QWEN3, mlx_lm, torch, torch_model, transformers

from mlx_tinylm.backend.choose import load
from mlx_tinylm.export.folder import export
from mlx_tinylm.generation import generate_ids
from mlx_tinylm.model_folder.config import ModelConfig
from mlx_tinylm.model_folder.folder import write_folder
from mlx_tinylm.model_folder.tensor_files import write_tensors
from mlx_tinylm.sample_config import SampleConfig
from mlx_tinylm.text.tokenizer import END_OF_TEXT, PAD, Tokenizer

SHAKESPEARE = "\n !$&',-.3:;?" + string.ascii_letters  # the 65 characters of Tiny Shakespeare
TEXTS = ["Hello", "\n", "\n\nROMEO:\n  O, speak  again, bright angel!\n\n", " ", " . , ? ! 's n't", "a" * 1000]


@pytest.fixture(scope="module", params=[GPT2, QWEN3], ids=lambda config: config.family)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An exported model with the alphabet of Tiny Shakespeare."""
    parent = tmp_path_factory.mktemp("shakespeare")
    config: ModelConfig = replace(request.param, vocab_size=66, eos_ids=(65,))
    write_folder(parent, config, Tokenizer.from_alphabet(SHAKESPEARE))
    write_tensors(parent / "model.safetensors", random_tensors(config))
    return export(parent, parent / "exported").folder


def mlx_lm_tokenizer(folder: Path) -> Any:
    return mlx_lm.load(str(folder))[1]


def transformers_tokenizer(folder: Path) -> Any:
    return transformers.AutoTokenizer.from_pretrained(folder)


@pytest.mark.parametrize("theirs", [mlx_lm_tokenizer, transformers_tokenizer])
def test_ids_and_text(folder: Path, theirs: Any) -> None:
    """Other tools encode text to our ids and decode them to the same text, with every newline and space."""
    tokenizer = theirs(folder)
    _, ours = load(folder, "numpy")
    assert tokenizer.encode("Hello") == [20, 43, 50, 50, 53]
    for text in TEXTS:
        assert tokenizer.encode(text) == ours.encode(text)
        assert tokenizer.decode(ours.encode(text)) == text
    assert (tokenizer.eos_token, tokenizer.eos_token_id) == (END_OF_TEXT, 65)
    assert tokenizer.decode([20, 43, 65], skip_special_tokens=True) == "He"


@pytest.fixture(scope="module", params=[GPT2, QWEN3], ids=lambda config: config.family)
def subwords(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An exported model with subwords."""
    parent = tmp_path_factory.mktemp("subwords")
    config: ModelConfig = replace(request.param, vocab_size=700, eos_ids=(698,), suppressed=(699,))
    write_folder(parent, config, Tokenizer.from_texts((topics[name] for name in sorted(topics)), 700))
    write_tensors(parent / "model.safetensors", random_tensors(config))
    return export(parent, parent / "exported").folder


def test_subwords(subwords: Path) -> None:
    """Any text has the same ids in tokenizers, transformers and mlx-lm as here, and comes back exactly from each."""
    ours, library = load(subwords, "numpy")[1], tokenizers.Tokenizer.from_file(str(subwords / "tokenizer.json"))
    theirs = [mlx_lm_tokenizer(subwords), transformers_tokenizer(subwords)]
    fixed = [
        "two  spaces   ",
        "😀 👩‍👩‍👧 naïve e\u0301",
        "\r\n\t\x00 don't 1234 .,! 日本語",
        " . , ? ! 's n't",
        "\ufffd\ufeff",
    ]

    def check(text: str) -> None:
        ids = ours.encode(text)
        assert (library.encode(text).ids, ours.decode(ids), library.decode(ids)) == (ids, text, text)
        for tokenizer in theirs:
            assert (list(tokenizer.encode(text)), tokenizer.decode(ids)) == (ids, text)

    for text in [*fixed, *TEXTS]:
        check(text)
    arbitrary = st.text(st.characters(exclude_categories=["Cs"]), max_size=30).filter(lambda text: "<|" not in text)
    settings(max_examples=200, deadline=None)(given(arbitrary)(check))()
    for tokenizer in theirs:
        special = (tokenizer.eos_token, tokenizer.eos_token_id, tokenizer.pad_token, tokenizer.pad_token_id)
        assert special == (END_OF_TEXT, 698, PAD, 699)
        assert tokenizer.encode(f"a{END_OF_TEXT}") == ours.encode(f"a{END_OF_TEXT}") == [*ours.encode("a"), 698]


def test_subwords_streamed_by_mlx_lm(subwords: Path) -> None:
    """mlx-lm's streaming detokenizer, too, gives text whose characters are of several tokens."""
    tokenizer, text = mlx_lm_tokenizer(subwords), "the 😀  naïve\n\n日本語."
    detokenizer, pieces = tokenizer.detokenizer, []
    for id in tokenizer.encode(text):
        detokenizer.add_token(id)
        pieces.append(detokenizer.last_segment)
    detokenizer.finalize()
    assert "".join(pieces) + detokenizer.last_segment == text


def test_padding_is_no_end_of_text(subwords: Path) -> None:
    """What pads a batch of transformers is not what ends a text, which is therefore trained there as well."""
    transformers_own = transformers_tokenizer(subwords)
    texts = [f"a{END_OF_TEXT}", "the end of a longer text"]
    collate = transformers.DataCollatorForLanguageModeling(transformers_own, mlm=False)
    labels = collate([{"input_ids": transformers_own.encode(text)} for text in texts])["labels"][0].tolist()
    ids = transformers_own.encode(texts[0])
    assert labels == [*ids, *[-100] * (len(labels) - len(ids))]
    assert len(labels) > len(ids)


def test_streamed_by_mlx_lm(folder: Path) -> None:
    """mlx-lm's streaming detokenizer gives every character at once, newlines included."""
    tokenizer = mlx_lm_tokenizer(folder)
    detokenizer, pieces = tokenizer.detokenizer, []
    for id in tokenizer.encode(TEXTS[2]):
        detokenizer.add_token(id)
        pieces.append(detokenizer.last_segment)
    detokenizer.finalize()
    assert "".join(pieces) + detokenizer.last_segment == TEXTS[2]
    assert pieces[2:7] == list("ROMEO")


def test_suppressed_in_transformers(tmp_path: Path) -> None:
    """The ids that a folder rules out are not written by transformers either: greedy text without them is ours."""
    ids, suppressed = [1, 2], (95,)  # the end of a text
    for turn in range(3):
        source = random_folder(tmp_path / f"source-{turn}", replace(GPT2, suppressed=suppressed))
        out = export(source, tmp_path / f"exported-{turn}").folder
        model = torch_model(out)
        theirs = model.generate(torch.tensor([ids]), max_new_tokens=40, do_sample=False)[0, 2:].tolist()
        assert theirs == list(generate_ids(load(out, "numpy")[0], ids, SampleConfig(temperature=0, max_tokens=40)))
        assert not set(suppressed) & set(theirs)
        suppressed = (*suppressed, theirs[0], theirs[-1])  # what it would write is ruled out in its turn
