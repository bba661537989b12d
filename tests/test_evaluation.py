"""The loss of a whole split: every target counted once, whatever the lengths."""

from __future__ import annotations

import hashlib
import json
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

from mlx_tinylm.backend.choose import LanguageModel, load
from mlx_tinylm.backend.numpy_model import NumpyModel
from mlx_tinylm.errors import TinyLMError
from mlx_tinylm.evaluation import Evaluation, cross_entropy, evaluate, evaluate_model, evaluate_text, recorded_data
from mlx_tinylm.model_folder.config import GPT2Config, Qwen3Config
from mlx_tinylm.model_folder.folder import WEIGHTS
from mlx_tinylm.model_folder.tensor_files import write_tensors

GPT2 = GPT2Config(vocab_size=97, context=8, width=16, layers=1, heads=2)
QWEN3 = Qwen3Config(vocab_size=97, context=8, width=16, layers=1, heads=2, kv_heads=1, head_dim=8, hidden=20)
ALPHABET = "".join(map(chr, range(32, 32 + 96)))  # what random_folder gives a vocabulary of 97


def pair_loss(inputs: npt.NDArray[Any], targets: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """A loss that depends on both ids and is different for each pair."""
    return np.sqrt(1 + inputs.astype(np.float64) * 1000 + targets).astype(np.float32)


@settings(max_examples=200, deadline=None)
@given(st.integers(2, 70), st.integers(1, 12), st.integers(1, 5))
def test_every_target_counts_once(length: int, context: int, batch_size: int) -> None:
    """The mean is that over all neighbouring pairs, for every length, context and batch size."""
    ids = np.random.default_rng(length).integers(0, 50, length).astype(np.uint16)
    expected = np.mean([pair_loss(ids[i : i + 1], ids[i + 1 : i + 2])[0] for i in range(length - 1)], dtype=np.float64)
    result = evaluate(pair_loss, ids, context, batch_size)
    assert result.loss == pytest.approx(expected, rel=1e-6)
    assert result.targets == result.characters == length - 1


def test_windows_do_not_overlap_and_shapes_are_fixed() -> None:
    """Inputs are the text in order, targets one further, padding only at the end, all calls of one shape."""
    seen = []

    def record(inputs: npt.NDArray[Any], targets: npt.NDArray[Any]) -> npt.NDArray[Any]:
        assert inputs.shape == targets.shape == (2, 4)
        assert inputs.dtype == targets.dtype == np.int32
        seen.append((inputs.reshape(-1).tolist(), targets.reshape(-1).tolist()))
        return np.ones((2, 4), np.float32)

    ids = np.arange(1, 12, dtype=np.uint16)
    assert evaluate(record, ids, 4, 2).loss == 1
    assert seen[0] == ([1, 2, 3, 4, 5, 6, 7, 8], [2, 3, 4, 5, 6, 7, 8, 9])
    assert seen[1] == ([9, 10, 11, 0, 0, 0, 0, 0], [10, 11, 0, 0, 0, 0, 0, 0])
    assert len(seen) == 2


def brute_force(model: LanguageModel, ids: list[int], context: int) -> float:
    """Each target by itself, in float64, from the logits of what precedes it in its window."""
    losses = []
    for target in range(1, len(ids)):
        start = (target - 1) // context * context
        logits = model.logits(np.array([ids[start:target]]))[0, -1].astype(np.float64)
        losses.append(math.log(np.exp(logits - logits.max()).sum()) + logits.max() - logits[ids[target]])
    return math.fsum(losses) / len(losses)


@pytest.mark.parametrize("length", [2, 5, 8, 9, 10, 17, 33, 150])
@pytest.mark.parametrize("config", [GPT2, QWEN3], ids=lambda config: config.family)
def test_against_brute_force(config: GPT2Config | Qwen3Config, length: int) -> None:
    """A model's loss over texts shorter than, as long as and longer than its windows is the sum done by hand."""
    model = NumpyModel(config, random_tensors(config))
    ids = np.random.default_rng(3).integers(0, 97, length)
    result = evaluate_model(model, ids.astype(np.uint16))
    assert result.loss == pytest.approx(brute_force(model, ids.tolist(), 8), rel=1e-5)
    assert result.targets == length - 1


def test_both_back_ends_measure_the_same(tmp_path: Path) -> None:
    """MLX and NumPy give one loss to float32 rounding."""
    folder = random_folder(tmp_path / "model", GPT2)
    ids = np.random.default_rng(4).integers(0, 97, 200).astype(np.uint16)
    mlx_side, numpy_side = (evaluate_model(load(folder, backend)[0], ids) for backend in ("mlx", "numpy"))
    assert mlx_side.loss == pytest.approx(numpy_side.loss, rel=1e-5)


@pytest.mark.parametrize("length", [0, 1])
def test_nothing_to_predict(length: int) -> None:
    """A text without a second character has no loss."""
    with pytest.raises(TinyLMError, match="the text is too short to evaluate"):
        evaluate_model(NumpyModel(GPT2, random_tensors(GPT2)), np.zeros(length, np.uint16))


class Uniform:
    """A model that finds all ids equally likely, and records what it is asked."""

    backend = "numpy"

    def __init__(self, context: int, vocab_size: int) -> None:
        self.config = GPT2Config(vocab_size, context, width=1, layers=1, heads=1)
        self.shapes: list[tuple[int, ...]] = []

    def new_cache(self, capacity: int) -> Any:
        raise NotImplementedError

    next_logits: Callable[..., Any] = new_cache

    def logits(self, ids: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        self.shapes.append(ids.shape)
        return np.zeros((*ids.shape, self.config.vocab_size), np.float32)


def test_a_uniform_guess() -> None:
    """A model that knows nothing has loss ln V, perplexity V and log2 V bits a character."""
    result = evaluate_model(Uniform(8, 64), np.zeros(100, np.uint16))
    assert result.loss == pytest.approx(math.log(64))
    assert result.perplexity == pytest.approx(64)
    assert result.bits_per_char == pytest.approx(6)


@pytest.mark.parametrize(
    ("context", "vocab_size", "length", "shape"),
    [(8, 64, 1000, (16, 8)), (8, 64, 5, (16, 4)), (1024, 50_000, 3000, (1, 1024)), (10**7, 64, 20_000, (16, 4096))],
)
def test_memory_is_bounded(context: int, vocab_size: int, length: int, shape: tuple[int, int]) -> None:
    """A large vocabulary makes the batch smaller, and a context that a stranger claims makes no endless window."""
    model = Uniform(context, vocab_size)
    model.logits = lambda ids: model.shapes.append(ids.shape) or np.zeros((*ids.shape, 1), np.float32)  # type: ignore[method-assign, func-returns-value]
    evaluate_model(model, np.zeros(length, np.uint16))
    assert set(model.shapes) == {shape}


def test_bits_are_shared_among_characters() -> None:
    """Where an id stands for several characters, bits count by character, nats by id."""
    result = Evaluation(loss=math.log(2), targets=10, characters=40)
    assert result.bits_per_char == pytest.approx(0.25)
    assert result.perplexity == pytest.approx(2)
    assert math.isfinite(Evaluation(1e6, 10, 10).perplexity)


def test_cross_entropy() -> None:
    """Minus the log of the target's softmax, also for logits whose exponentials overflow."""
    random = np.random.default_rng(0)
    logits = random.normal(0, 3, (2, 3, 5)).astype(np.float32)
    targets = random.integers(0, 5, (2, 3)).astype(np.int32)
    chances = np.exp(logits.astype(np.float64))
    chances /= chances.sum(-1, keepdims=True)
    expected = [[-math.log(chances[b, t, targets[b, t]]) for t in range(3)] for b in range(2)]
    np.testing.assert_allclose(cross_entropy(logits, targets), expected, rtol=1e-5)
    np.testing.assert_allclose(cross_entropy(logits + 1000, targets), expected, rtol=1e-3)
    far = np.array([[[0, 3e38, -3e38]]], np.float32)
    assert cross_entropy(far, np.array([[1]], np.int32))[0, 0] == 0


def test_damaged_weights_are_reported(tmp_path: Path) -> None:
    """Weights that are finite but make infinite logits end in one line, on both back ends."""
    folder = random_folder(tmp_path / "model", GPT2)
    huge = random_tensors(GPT2)
    huge["ln_f.weight"] = huge["ln_f.weight"] * np.float32(3e38)
    write_tensors(folder / WEIGHTS, huge)
    for backend in ("numpy", "mlx"):
        with pytest.raises(TinyLMError, match="the model's output is not a finite number; its weights are damaged"):
            evaluate_model(load(folder, backend)[0], np.arange(30, dtype=np.uint16))


# A model folder and a text


@pytest.fixture
def folder(tmp_path: Path, own_cache: Path) -> Path:
    return random_folder(tmp_path / "model", GPT2)


def plain(english: str) -> str:
    return "".join(character for character in english if character in ALPHABET)[:400]


@pytest.mark.parametrize("backend", ["numpy", "mlx"])
def test_a_given_text_counts_as_a_whole(folder: Path, tmp_path: Path, english: str, backend: str) -> None:
    """A file counts from its first to its last character, and the result is plain JSON."""
    text = plain(english)
    (tmp_path / "text.txt").write_text(text)
    result = evaluate_text(folder, [str(tmp_path / "text.txt")], backend)
    model, tokenizer = load(folder, "numpy")
    expected = brute_force(model, tokenizer.encode(text), 8)
    assert result["loss"] == pytest.approx(expected, rel=1e-5)
    assert result["perplexity"] == pytest.approx(math.exp(expected), rel=1e-4)
    assert result["bits_per_char"] == pytest.approx(expected / math.log(2), rel=1e-5)
    assert (result["targets"], result["part"], result["backend"]) == (len(text) - 1, "all", backend)
    assert json.loads(json.dumps(result)) == result


def test_the_training_text_counts_by_its_held_out_tenth(folder: Path, tmp_path: Path, english: str) -> None:
    """Without a text it is the one the model was trained on, and of that the last tenth."""
    text = plain(english)
    (tmp_path / "text.txt").write_text(text)
    (folder / "train.json").write_text(json.dumps({"data": [str(tmp_path / "text.txt")]}))
    result = evaluate_text(folder, [], "numpy")
    model, tokenizer = load(folder, "numpy")
    held_out = tokenizer.encode(text[len(text) * 9 // 10 :])
    assert result["loss"] == pytest.approx(brute_force(model, held_out, 8), rel=1e-5)
    assert (result["targets"], result["part"]) == (len(held_out) - 1, "held-out tenth")


def test_a_tokenizer_of_several_characters(tmp_path: Path, own_cache: Path) -> None:
    """With tokens of several characters the loss is that by id, and bits count the predicted characters."""
    import tokenizers
    from tokenizers import decoders, models

    config = GPT2Config(vocab_size=3, context=8, width=16, layers=1, heads=2)
    folder = random_folder(tmp_path / "model", config)
    inner = tokenizers.Tokenizer(models.BPE({"a": 0, "b": 1, "ab": 2}, merges=[("a", "b")]))
    inner.decoder = decoders.Fuse()
    (folder / "tokenizer.json").write_text(inner.to_str())
    (tmp_path / "text.txt").write_text("ab" * 5 + "a")  # the first id stands for 2 of the 11 characters
    result = evaluate_text(folder, [str(tmp_path / "text.txt")], "numpy")
    expected = brute_force(load(folder, "numpy")[0], [2, 2, 2, 2, 2, 0], 8)
    assert result["targets"] == 5
    assert result["loss"] == pytest.approx(expected, rel=1e-5)
    assert result["bits_per_char"] == pytest.approx(expected * 5 / 9 / math.log(2), rel=1e-5)


def test_unknown_characters_in_the_text(folder: Path, tmp_path: Path) -> None:
    """Text the model cannot read is refused with the file and the characters."""
    (tmp_path / "text.txt").write_text("abc é 😀", encoding="utf-8")
    with pytest.raises(TinyLMError) as error:
        evaluate_text(folder, [str(tmp_path / "text.txt")], "numpy")
    assert str(error.value) == f"{tmp_path / 'text.txt'}: has characters that the model does not know: 'é😀'"


def test_what_a_model_was_trained_on(tmp_path: Path) -> None:
    """The recorded text is taken where it is recorded, the default where train.json says nothing sensible."""
    (tmp_path / "text.txt").write_text("x")
    cases: list[tuple[str, list[str]]] = [
        (
            json.dumps({"data": [str(tmp_path / "text.txt"), str(tmp_path)]}),
            [str(tmp_path / "text.txt"), str(tmp_path)],
        ),
        (json.dumps({"data": ["tinyshakespeare"]}), ["tinyshakespeare"]),
        *((content, ["tinyshakespeare"]) for content in ("{", "[]", "{}", "3", '{"data": null}', '{"data": 3}')),
    ]
    assert recorded_data(tmp_path) == ["tinyshakespeare"]
    for content, expected in cases:
        (tmp_path / "train.json").write_text(content)
        assert recorded_data(tmp_path) == expected


def test_a_text_that_has_changed_is_not_measured(folder: Path, tmp_path: Path) -> None:
    """Without --data, the held-out tenth is that of the very text the model was trained on, or there is none."""
    path = tmp_path / "book.txt"
    path.write_text("abc" * 40)
    (folder / "train.json").write_text(json.dumps({"data": [str(path)], "corpus": {"sha256": "0" * 64}}))
    with pytest.raises(TinyLMError, match=r"book\.txt: has changed since the model in .* give a text with --data$"):
        evaluate_text(folder, [], "numpy")
    recorded = {"sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
    (folder / "train.json").write_text(json.dumps({"data": [str(path)], "corpus": recorded}))
    assert evaluate_text(folder, [], "numpy")["part"] == "held-out tenth"


@pytest.mark.parametrize("item", ["-", "/dev/zero", "no such file", "\0", "\ud800", "x" * 9999])
def test_a_recorded_text_that_is_not_here(item: str, tmp_path: Path) -> None:
    """Standard input, a device or a lost file, recorded by whomever, is never opened: a text is asked for."""
    (tmp_path / "train.json").write_text(json.dumps({"data": [item]}))
    with pytest.raises(TinyLMError) as error:
        recorded_data(tmp_path)
    assert "is not here; give a text with --data" in str(error.value)
    assert len(str(error.value)) < 500
