"""A model that learned more ids: what it was stays what it was."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from conftest import random_folder, random_tensors
from tiny_models import GPT2, QWEN3, every_family

from mlx_tinylm.backend.numpy_model import NumpyModel
from mlx_tinylm.model_folder.config import ModelConfig
from mlx_tinylm.model_folder.extended import extended
from mlx_tinylm.model_folder.folder import WEIGHTS, ModelFolder, open_folder, write_folder
from mlx_tinylm.model_folder.layout import tensor_shapes
from mlx_tinylm.model_folder.tensor_files import write_tensors
from mlx_tinylm.text.tokenizer import Tokenizer

IDS = np.array([[1, 5, 2, 11, 0]])


def logits(folder: ModelFolder) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    return NumpyModel(folder.config, folder.tensors()).logits(IDS)


@every_family
@pytest.mark.parametrize("tied", [True, False])
def test_old_ids_and_logits_stay(config: ModelConfig, tied: bool, tmp_path: Path) -> None:
    """New characters and what pads come behind all ids there were, whose logits stay, up to rounding."""
    source = open_folder(random_folder(tmp_path / "model", dataclasses.replace(config, tied=tied)))
    found = extended(source, "é9", pads=True)
    assert (found.config.vocab_size, found.config.eos_ids) == (16, (12,))
    assert found.tokenizer.encode("+é9") == [11, 14, 13]
    assert (found.tokenizer.eos_id, found.tokenizer.pad_id) == (12, 15)
    assert {name: tensor.shape for name, tensor in found.tensors().items()} == tensor_shapes(found.config)
    np.testing.assert_allclose(logits(found)[..., :13], logits(source), rtol=0, atol=2e-6)
    assert np.ptp(logits(found)[..., 13:], axis=-1).min() > 0  # new ones are not all the same
    assert open_folder(source.path).config == source.config


def test_new_ids_are_as_likely_as_others(tmp_path: Path) -> None:
    """Before it has learned them, a new id has neither all of the probability nor none of it."""
    large = dataclasses.replace(GPT2, vocab_size=90)
    source = open_folder(random_folder(tmp_path / "model", large))
    found = logits(extended(source, "éèêëàâ", pads=False))
    assert abs(found[..., 90:].mean() - found[..., :90].mean()) < found.std()


def test_ids_that_nothing_showed(tmp_path: Path) -> None:
    """New ids are never drawn until they are learned, nor are those that were not before; the same at every call."""
    source = open_folder(random_folder(tmp_path / "model", dataclasses.replace(QWEN3, suppressed=(3, 12))))
    found = extended(source, "é", pads=True)
    assert found.config.suppressed == (3, 12, 13, 14)
    tensors, again = found.tensors(), found.tensors()
    assert all(np.array_equal(tensors[name], again[name]) for name in tensors)


def test_nothing_new(tmp_path: Path) -> None:
    """Where nothing is missing the folder is what it was; a token that pads is not added twice."""
    source = open_folder(random_folder(tmp_path / "model", GPT2))
    assert extended(source, "", pads=False) is source
    (tmp_path / "pads").mkdir()
    write_folder(
        tmp_path / "pads", dataclasses.replace(GPT2, vocab_size=14), Tokenizer.from_alphabet(" !\"#$%&'()*+", pads=True)
    )
    pads = open_folder(tmp_path / "pads")
    assert extended(pads, "", pads=True) is pads


def test_a_table_with_rows_to_spare(tmp_path: Path) -> None:
    """Ids for which the table has rows already make it no larger."""
    config = dataclasses.replace(GPT2, vocab_size=64, eos_ids=(3,))
    write_folder(tmp_path, config, Tokenizer.from_alphabet("abc"))
    write_tensors(tmp_path / WEIGHTS, random_tensors(config))
    found = extended(open_folder(tmp_path), "xy", pads=True)
    assert (found.config.vocab_size, found.tokenizer.vocab_size) == (64, 7)
    assert found.tensors().keys() == tensor_shapes(config).keys()


def test_written_and_read_again(tmp_path: Path) -> None:
    """The folder that comes of it opens as any other, with the same ids, and can be extended again."""
    once = extended(open_folder(random_folder(tmp_path / "model", QWEN3)), "é", pads=True)
    (tmp_path / "once").mkdir()
    write_folder(tmp_path / "once", once.config, once.tokenizer)
    write_tensors(tmp_path / "once" / WEIGHTS, once.tensors())
    read = open_folder(tmp_path / "once")
    assert (read.config, read.tokenizer.alphabet) == (once.config, once.tokenizer.alphabet)
    assert (read.tokenizer.eos_id, read.tokenizer.pad_id) == (12, 14)
    np.testing.assert_array_equal(logits(read), logits(once))
    twice = extended(read, "a9", pads=True)
    assert twice.tokenizer.encode("é9a") == [13, 15, 16]
    assert twice.tokenizer.decode([13, 15, 12, 14, 16]) == "é9a"
    assert "".join(map(twice.tokenizer.detokenizer().add, [13, 15, 12, 14, 16])) == "é9a"
