"""A model that learned more characters, and to end a text, is one folder like any other to other tools."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tokenizers
from conftest import random_folder
from other_tools import (
    GPT2,
    QWEN3,
    check_close,
    mlx_lm,
    mlx_lm_logits,
    mlx_lm_model,
    torch_logits,
    torch_model,
    transformers,
)

from mlx_tinylm.backend.choose import load
from mlx_tinylm.export.folder import export
from mlx_tinylm.model_folder.extended import extended
from mlx_tinylm.model_folder.folder import WEIGHTS, open_folder, write_folder
from mlx_tinylm.model_folder.tensor_files import write_tensors
from mlx_tinylm.text.tokenizer import END_OF_TEXT, PAD, Tokenizer

TEXTS = ["12+34=46", "café\n\n9é ~", " ", "}é|0"]
NEW = "é\n\x7f日😀"  # what random_folder has is ASCII


@pytest.fixture(params=[GPT2, QWEN3], ids=lambda config: config.family)
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """An export of a model that was extended; of its ids, the first 95 are old, then comes the end of a text."""
    source = extended(open_folder(random_folder(tmp_path / "source", request.param)), NEW, pads=True)
    (tmp_path / "extended").mkdir()
    write_folder(tmp_path / "extended", dataclasses.replace(source.config, suppressed=(101,)), source.tokenizer)
    write_tensors(tmp_path / "extended" / WEIGHTS, source.tensors())
    return export(tmp_path / "extended", tmp_path / "out").folder


def theirs_of(folder: Path) -> list[Any]:
    return [mlx_lm.load(str(folder))[1], transformers.AutoTokenizer.from_pretrained(folder)]


def test_ids_of_an_extended_alphabet(folder: Path) -> None:
    """Old and new characters have our ids in tokenizers, transformers and mlx-lm, and come back from each."""
    ours, library = load(folder, "numpy")[1], tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    assert ours.encode("!~é") == [1, 94, 98]
    for text in [*TEXTS, NEW, "日😀日"]:
        ids = ours.encode(text)
        assert len(ids) == len(text)
        assert (library.encode(text).ids, library.decode(ids), ours.decode(ids)) == (ids, text, text)
        for tokenizer in theirs_of(folder):
            assert (list(tokenizer.encode(text)), tokenizer.decode(ids)) == (ids, text)
    for tokenizer in theirs_of(folder):
        special = (tokenizer.eos_token, tokenizer.eos_token_id, tokenizer.pad_token, tokenizer.pad_token_id)
        assert special == (END_OF_TEXT, 95, PAD, 101)
        assert tokenizer.decode([98, 95, 1, 101], skip_special_tokens=True) == "é!"


def test_logits_of_an_extended_model(folder: Path) -> None:
    """New rows of the table are read as ours in transformers and mlx-lm."""
    ids = np.array([load(folder, "numpy")[1].encode("1é日+😀 \n~") * 3])
    expected = load(folder, "numpy")[0].logits(ids)
    assert expected.shape[-1] == 102
    check_close(torch_logits(torch_model(folder), ids), expected)
    check_close(mlx_lm_logits(mlx_lm_model(folder), ids), expected)


def test_a_chat_is_the_prompt_of_a_pair(folder: Path) -> None:
    """What is typed into a chat arrives as it stands in a pair, so a model answers as it was trained to."""
    ours = load(folder, "numpy")[1]
    for tokenizer in theirs_of(folder):
        asked = [{"role": "user", "content": "12+34="}]
        found = tokenizer.apply_chat_template(asked, add_generation_prompt=True, tokenize=False)
        assert list(tokenizer.encode(found)) == ours.encode("12+34=")


def test_an_end_is_trained_by_other_tools(folder: Path) -> None:
    """Padding is masked by transformers, and the end of an answer is not."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    collate = transformers.DataCollatorForLanguageModeling(tokenizer, mlm=False)
    batch = collate([{"input_ids": [*tokenizer.encode(text), 95]} for text in ("1+1=2", "é")])
    assert batch["labels"][1].tolist() == [98, 95, -100, -100, -100, -100]


def test_saved_again_by_transformers(folder: Path, tmp_path: Path) -> None:
    """A tokenizer that transformers wrote again is a character tokenizer still, with the same ids."""
    transformers.AutoTokenizer.from_pretrained(folder).save_pretrained(tmp_path / "again")
    ours, again = Tokenizer.load(folder), Tokenizer.load(tmp_path / "again")
    assert again.alphabet == ours.alphabet is not None
    assert (again.eos_id, again.pad_id) == (ours.eos_id, ours.pad_id)
    for text in TEXTS:
        assert again.encode(text) == ours.encode(text)
