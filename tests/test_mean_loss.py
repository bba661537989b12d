"""The loss of a whole text: every target counted once, whatever the lengths."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from conftest import random_folder, random_tensors
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_models import brute_force

from mlx_tinylm.backend.choose import load
from mlx_tinylm.errors import TinyLMError
from mlx_tinylm.mean_loss import Evaluation, evaluate
from mlx_tinylm.model_folder.config import GPT2Config, Qwen3Config
from mlx_tinylm.model_folder.folder import WEIGHTS
from mlx_tinylm.model_folder.tensor_files import write_tensors

GPT2 = GPT2Config(vocab_size=97, context=8, width=16, layers=1, heads=2)
QWEN3 = Qwen3Config(vocab_size=97, context=8, width=16, layers=1, heads=2, kv_heads=1, head_dim=8, hidden=20)


class Told:
    """A model whose losses are told by a function of inputs and targets, and that records both."""

    def __init__(self, context: int, vocab_size: int, loss: Callable[..., npt.NDArray[Any]]) -> None:
        self.config = GPT2Config(vocab_size, context, width=1, layers=1, heads=1)
        self.loss = loss
        self.asked: list[tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]]] = []

    def losses(self, inputs: npt.NDArray[np.int32], targets: npt.NDArray[np.int32]) -> npt.NDArray[np.float32]:
        self.asked.append((inputs.copy(), targets.copy()))
        return self.loss(inputs, targets).astype(np.float32)


def pair_loss(inputs: npt.NDArray[Any], targets: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """A loss that depends on both ids and is different for each pair."""
    return np.sqrt(1 + inputs.astype(np.float64) * 1000 + targets)


@settings(max_examples=200, deadline=None)
@given(st.integers(2, 300), st.integers(1, 12), st.sampled_from([None, 1, 5]))
def test_every_target_counts_once(length: int, context: int, window: int | None) -> None:
    """The mean is that over all neighbouring pairs; windows are the text in order, one after the other."""
    ids = np.random.default_rng(length).integers(1, 50, length).astype(np.uint16)
    model = Told(context, 64, pair_loss)
    result = evaluate(model, ids, window)
    assert result.loss == pytest.approx(pair_loss(ids[:-1], ids[1:]).mean(), rel=1e-6)
    assert result.targets == result.characters == length - 1
    for told, meant in zip(np.concatenate(model.asked, axis=1), (ids[:-1], ids[1:]), strict=True):
        assert told.shape[1] == min(window or context, length - 1)
        assert told.dtype == np.int32
        assert told.reshape(-1)[: length - 1].tolist() == meant.tolist()


def test_every_batch_has_one_shape() -> None:
    """A large vocabulary makes the batch smaller, and a context that a stranger claims makes no endless window."""
    for context, vocab_size, length, window, shape in (
        (8, 64, 1000, None, (16, 8)),
        (8, 64, 5, None, (16, 4)),
        (8, 64, 1000, 3, (16, 3)),
        (1024, 50_000, 3000, None, (1, 1024)),
        (10**7, 64, 20_000, None, (16, 4096)),
        (10**7, 64, 20_000, 5000, (16, 5000)),
    ):
        model = Told(context, vocab_size, lambda inputs, targets: np.ones(inputs.shape))
        assert evaluate(model, np.zeros(length, np.uint16), window).loss == 1
        assert {asked.shape for pair in model.asked for asked in pair} == {shape}


@pytest.mark.parametrize("backend", ["numpy", "mlx"])
@pytest.mark.parametrize("config", [GPT2, QWEN3], ids=lambda config: config.family)
def test_against_brute_force(config: GPT2Config | Qwen3Config, backend: str, tmp_path: Path) -> None:
    """A loss is the sum done by hand from the logits, on both back ends, also where exponentials overflow."""
    folder = random_folder(tmp_path / "model", config)
    norm = "ln_f.weight" if config is GPT2 else "model.norm.weight"
    for scale in (1, 300):
        tensors = random_tensors(config)
        write_tensors(folder / WEIGHTS, tensors | {norm: tensors[norm] * np.float32(scale)})
        model, by_hand = load(folder, backend)[0], load(folder, "numpy")[0]
        for length in (2, 5, 8, 9, 10, 17, 150):
            ids = np.random.default_rng(length).integers(0, 97, length)
            found = evaluate(model, ids.astype(np.uint16)).loss
            assert found == pytest.approx(brute_force(by_hand, ids.tolist(), 8), rel=1e-4 if scale > 1 else 1e-5)


def test_a_loss_in_other_units() -> None:
    """A uniform guess has perplexity V and log2 V bits a character; bits count by character or byte, nats by id."""
    model = Told(8, 64, lambda inputs, targets: np.full(inputs.shape, math.log(64)))
    for characters, size, bits, bits_per_byte in ((None, None, 6, 6), (400, 600, 1.5, 1)):
        result = evaluate(model, np.zeros(101, np.uint16), characters=characters, bytes=size)
        assert (result.perplexity, result.bits_per_char) == (pytest.approx(64), pytest.approx(bits))
        assert result.bits_per_byte == pytest.approx(bits_per_byte)
    assert math.isfinite(Evaluation(1e6, 10, 10, 10).perplexity)


def test_a_loss_that_is_not_finite() -> None:
    """It is returned as it is, for the caller to say what it means; in the padding it does not count."""
    for target, finite in ((29, False), (0, True)):
        model = Told(8, 97, lambda inputs, targets, target=target: np.where(targets == target, np.inf, 1.0))
        assert math.isfinite(evaluate(model, np.arange(1, 31)).loss) == finite


def test_a_long_evaluation_is_watched() -> None:
    """After every batch it is said how many targets are done, the padding left out; what is raised there stops it."""
    model = Told(8, 64, pair_loss)
    seen: list[tuple[int, int]] = []
    evaluate(model, np.zeros(300, np.uint16), watch=lambda done, total: seen.append((done, total)))
    assert seen == [(128, 299), (256, 299), (299, 299)]

    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        evaluate(model, np.zeros(300, np.uint16), watch=stop)
    assert len(model.asked) == 3 + 1


def test_nothing_to_predict() -> None:
    """A text without a second character has no loss."""
    for ids in ([], [5]):
        with pytest.raises(TinyLMError, match="the text is too short to evaluate"):
            evaluate(Told(8, 97, pair_loss), np.array(ids, np.uint16))


# A model folder and a text
