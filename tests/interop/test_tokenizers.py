"""An exported character tokenizer does the same in mlx-lm and in transformers as here."""

from __future__ import annotations

import string
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from conftest import random_folder, random_tensors
from other_tools import GPT2, QWEN3, mlx_lm, torch, torch_model, transformers

from mlx_tinylm.backend.choose import load
from mlx_tinylm.export.folder import export
from mlx_tinylm.generation import generate_ids
from mlx_tinylm.model_folder.config import ModelConfig
from mlx_tinylm.model_folder.folder import write_folder
from mlx_tinylm.model_folder.tensor_files import write_tensors
from mlx_tinylm.sample_config import SampleConfig
from mlx_tinylm.text.tokenizer import END_OF_TEXT, Tokenizer

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
